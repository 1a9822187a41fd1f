"""The patches in recipes/: each applies to the main script as it is, and the result learns what the recipe is for."""

import importlib.util
import re
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import ROOT, train
from gymnasium.spaces import Box, Discrete, MultiDiscrete

PATCHES = sorted(path.stem for path in (ROOT / "recipes").glob("*.patch"))


class Picture(gym.Env):
    """One half of the picture is bright; the action that names it earns 1."""

    observation_space, action_space = Box(0, 255, (36, 40, 3), np.uint8), Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.side = int(self.np_random.integers(2))
        picture = np.zeros((36, 40, 3), np.uint8)
        picture[:, 20 * self.side : 20 * self.side + 20] = 255
        return picture, {}

    def step(self, action):
        return np.zeros((36, 40, 3), np.uint8), float(action == self.side), True, False, {}


class Clock(gym.Env):
    """A gray image, as bright as the number of steps so far; each earns 1."""

    observation_space, action_space = Box(0, 255, (20, 20, 3), np.uint8), Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros((20, 20, 3), np.uint8), {}

    def step(self, action):
        self.steps += 1
        return np.full((20, 20, 3), self.steps, np.uint8), 1.0, False, False, {}


class Heads(gym.Env):
    """Each of two heads must answer the observation in its own way, and earns half of the reward."""

    observation_space, action_space = Box(-1, 1, (1,), np.float32), MultiDiscrete([2, 3])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.sign = self.np_random.choice([-1.0, 1.0])
        return np.float32([self.sign]), {}

    def step(self, action):
        best = (1, 0) if self.sign > 0 else (0, 2)
        return np.float32([0]), float(np.mean(np.equal(action, best))), True, False, {}


class Forbidden(gym.Env):
    """Three of four actions are forbidden, others at each step; only the mask tells which."""

    observation_space, action_space = Box(-1, 1, (1,), np.float32), Discrete(4, start=2)
    mask_in_info = True

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.allowed, self.steps = int(self.np_random.integers(4)), 0
        return np.float32([0]), self.info()

    def step(self, action):
        assert action - 2 == self.allowed, "a forbidden action"
        self.steps += 1
        self.allowed = int(self.np_random.integers(4))
        return np.float32([0]), 1.0, self.steps == 3, False, self.info()

    def action_masks(self):
        return np.arange(4) == self.allowed

    def info(self):
        return {"action_mask": self.action_masks().astype(np.int8)} if self.mask_in_info else {}


class ForbiddenByMethod(Forbidden):
    mask_in_info = False


class Cue(gym.Env):
    """A cue is shown at the first step only; at the eleventh, the action that names it earns 1."""

    observation_space, action_space = Box(-1, 1, (1,), np.float32), Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.cue, self.steps = int(self.np_random.integers(2)), 0
        return np.float32([2 * self.cue - 1]), {}

    def step(self, action):
        self.steps += 1
        end = self.steps == 11
        return np.float32([0]), float(end and action == self.cue), end, False, {}


for env in Picture, Clock, Heads, Forbidden, ForbiddenByMethod, Cue:
    gym.register(f"{env.__name__}-v0", env, max_episode_steps=100)


def apply(patch, text):
    """The patched text; every line that the patch names must be where it says."""
    old, new, position = text.splitlines(keepends=True), [], 0
    for first, hunk in re.findall(r"^@@ -(\d+).*? @@.*?\n((?:[ +-].*\n|\n)+)", patch, re.MULTILINE):
        new += old[position : int(first) - 1]
        position = int(first) - 1
        for line in hunk.splitlines(keepends=True):
            if line[0] != "+":
                assert old[position] == line[1:], f"line {position + 1} is {old[position]!r}, but in the patch {line!r}"
                position += 1
            if line[0] != "-":
                new.append(line[1:])
    return "".join(new + old[position:])


@pytest.fixture
def recipe(in_tmp):
    """Makes the module of a patched script."""

    def recipe(name):
        path = in_tmp / "my_ppo.py"
        path.write_text(apply((ROOT / f"recipes/{name}.patch").read_text(), (ROOT / "ppo_discrete.py").read_text()))
        spec = importlib.util.spec_from_file_location("my_ppo", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return recipe


@pytest.mark.parametrize("name", PATCHES)
def test_the_patched_script_is_formatted_and_short(name, in_tmp):
    patch = (ROOT / f"recipes/{name}.patch").read_text()
    assert len(re.findall(r"^\+(?!\+\+ )", patch, re.MULTILINE)) <= 80
    (in_tmp / "my_ppo.py").write_text(apply(patch, (ROOT / "ppo_discrete.py").read_text()))
    for command in ["format", "--check"], ["check"]:
        command = [sys.executable, "-m", "ruff", *command, "--config", ROOT / "pyproject.toml", "my_ppo.py"]
        assert subprocess.run(command, capture_output=True, cwd=in_tmp).returncode == 0


@pytest.mark.parametrize(
    ("name", "env_id", "best", "flags"),
    [
        ("images", "Picture-v0", 1, {}),
        ("multi_discrete", "Heads-v0", 1, {}),
        ("action_masks", "Forbidden-v0", 3, {}),
        ("action_masks", "ForbiddenByMethod-v0", 3, {}),
        ("lstm", "Cue-v0", 1, {"total_timesteps": 512 * 20, "num_envs": 16, "gamma": 0.95}),
        ("shared_network", "CartPole-v1", 200, {"total_timesteps": 256 * 60, "num_steps": 64}),
    ],
)
def test_the_patched_script_learns_what_it_is_for(recipe, in_tmp, name, env_id, best, flags):
    my_ppo = recipe(name)
    defaults = {"num_envs": 8, "num_steps": 32, "total_timesteps": 256 * 8, "num_minibatches": 4, "update_epochs": 4}
    args = my_ppo.Args(env_id=env_id, env_kwargs="{}", hidden_size=32, eval_episodes=20, **(defaults | flags))
    agent = train(my_ppo, args)
    returns = my_ppo.evaluate(agent, args, 20)
    assert returns.mean() >= best
    (checkpoint,) = in_tmp.glob("runs/*/checkpoint.pt")
    other = my_ppo.Agent(my_ppo.make_envs(args, 1, "sync"), args)
    my_ppo.load_checkpoint(str(checkpoint), agent=other)
    assert (my_ppo.evaluate(other, args, 20) == returns).all()


@pytest.mark.parametrize(("frame_skip", "seen"), [(1, [0, 1, 2, 3]), (4, [0, 4, 8, 12])])
def test_images_shows_the_last_four_frames(recipe, frame_skip, seen):
    my_ppo = recipe("images")
    envs = my_ppo.make_envs(my_ppo.Args(env_id="Clock-v0", env_kwargs="{}", frame_skip=frame_skip), 1, "sync")
    envs.reset(seed=0)
    for _ in range(3):
        obs, rewards, *_ = envs.step(np.zeros(1, int))
    assert obs.shape == (1, 4, 20, 20) and obs.dtype == np.uint8
    assert (obs.max((0, 2, 3)) == seen).all() and rewards == frame_skip


def test_the_networks_of_lstm_agree_step_by_step_and_over_a_sequence(recipe):
    """What acts, one step after the other, and what learns, a whole sequence at once, are the same function."""
    my_ppo = recipe("lstm")
    args = my_ppo.Args(env_id="Cue-v0", hidden_size=8)
    agent = my_ppo.Agent(my_ppo.make_envs(args, 3, "sync"), args)
    obs, starts, state = torch.randn(20, 3, 1), torch.rand(20, 3) < 0.2, torch.randn(3, 16)
    outputs, last = agent.critic(obs, starts, state)
    for t in range(20):
        output, state = agent.critic(obs[t : t + 1], starts[t : t + 1], state)
        torch.testing.assert_close(output[0], outputs[t])
    torch.testing.assert_close(state, last)
    t = 1 + starts[1:, 0].nonzero()[-1].item()  # nothing of what was before an episode's start remains
    fresh, _ = agent.critic(obs[t:, :1], starts[t:, :1], torch.zeros(1, 16))
    torch.testing.assert_close(fresh[:, 0], outputs[t:, 0])


def test_lstm_learns_from_the_states_that_it_acted_with(recipe, monkeypatch):
    """Over several rollouts, of which none ends with an episode, and with the resets among their steps."""
    my_ppo = recipe("lstm")
    act, ppo_update, states, compared = my_ppo.Agent.act, my_ppo.ppo_update, [], []

    def act_and_keep(agent, obs, starts, *args, **kwargs):
        assert (starts == (obs[:, 0] != 0)).all()  # the first observation is a cue, the others are 0
        action, state = act(agent, obs, starts, *args, **kwargs)
        states.append(state)
        return action, state

    def compare_and_update(agent, optimizer, batch, *args):
        for steps in 2, 35:
            with torch.no_grad():
                _, state = agent.actor(
                    batch["normalized_obs"][:steps], batch["starts"][:steps], batch["actor_state"][0]
                )
            torch.testing.assert_close(state, states[steps - 36])
        assert (~batch["valid"]).any()
        assert batch["critic_state"].any() == bool(compared)  # 0 at first, and carried from rollout to rollout
        compared.append(batch)
        return ppo_update(agent, optimizer, batch, *args)

    monkeypatch.setattr(my_ppo.Agent, "act", act_and_keep)
    monkeypatch.setattr(my_ppo, "ppo_update", compare_and_update)
    args = my_ppo.Args(
        env_id="Cue-v0", num_envs=4, num_steps=35, total_timesteps=140 * 3, num_minibatches=2, norm_obs=False
    )
    train(my_ppo, args)
    assert len(compared) == 3


def test_envpool_resets_at_the_step_after_an_end(recipe):
    pytest.importorskip("envpool")
    my_ppo = recipe("envpool")
    envs = my_ppo.EnvPool("CartPole-v1", 4)
    first, _ = envs.reset(seed=3)
    again, _ = envs.reset(seed=3)
    assert (first == again).all() and (envs.reset(seed=4)[0] != first).any()
    ends = 0
    for _ in range(200):
        done = envs.done
        _, rewards, *_ = envs.step(np.ones(4, np.int32))
        assert (rewards == ~done).all()
        ends += done.sum()
    assert ends > 10


def test_envpool_learns(recipe):
    pytest.importorskip("envpool")
    my_ppo = recipe("envpool")
    args = my_ppo.Args(env_id="CartPole-v1", num_steps=64, total_timesteps=1024 * 20, eval_episodes=20)
    agent = train(my_ppo, args)
    assert my_ppo.evaluate(agent, args, 20).mean() > 200
