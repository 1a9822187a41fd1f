"""The patches in recipes/: each applies to the main script as it is, and the result learns what the recipe is for."""

import importlib.util
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import ROOT, env_for, refused, scalars, train
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from probes import ObservedReward, Probe, Spaces
from tasks import TorchPendulum

PATCHES = {path.stem: path.read_text() for path in sorted((ROOT / "recipes").glob("*.patch"))}


class Picture(Probe):
    """One half of the picture is bright; the action that names it earns 1."""

    observation_space = Box(0, 255, (36, 40, 3), np.uint8)

    def begin(self):
        self.side = int(self.np_random.integers(2))

    def observe(self):
        obs = np.zeros_like(self.observation_space.low)
        if self.steps == 0:
            half = obs.shape[1] // 2
            obs[:, half * self.side : half * self.side + half] = self.observation_space.high.max()
        return obs

    def reward(self, action):
        return float(self.positive(action) == self.side)


class Planes(Picture):
    """The same on a grid, as MinAtar observes its games."""

    observation_space = Box(0, 1, (20, 10, 4), bool)


class Clock(Probe):
    """A gray image, as bright as the number of steps so far; each earns 1."""

    observation_space = Box(0, 255, (20, 20, 3), np.uint8)

    def observe(self):
        return np.full((20, 20, 3), self.steps, np.uint8)

    def ends(self):
        return False, False


class Heads(ObservedReward):
    """Each of two heads must answer the observation in its own way, and earns half of the reward."""

    action_space = MultiDiscrete([2, 3])

    def reward(self, action):
        return float((action == ((1, 0) if self.sign > 0 else (0, 2))).mean())  # actions are arrays


class Buttons(ObservedReward):
    """MultiBinary actions; only the first counts, and must be pressed where the observation is positive."""

    action_space = MultiBinary(3)

    def reward(self, action):
        return float(bool(action[0]) == (self.sign > 0))


class ForbiddenByMethod(Probe):
    """Three of four actions are forbidden, others at each step; only the mask tells which."""

    action_space = Discrete(4, start=2)

    def __init__(self):
        super().__init__(length=3)

    def observe(self):  # nothing, but it is called once for each step
        self.allowed = int(self.np_random.integers(4))
        return np.float32([0])

    def reward(self, action):
        assert action - 2 == self.allowed, "a forbidden action"
        return 1.0

    def action_masks(self):
        return np.arange(4) == self.allowed


class Forbidden(ForbiddenByMethod):
    def info(self):
        return {"action_mask": self.action_masks().astype(np.int8)}


class Cue(ObservedReward):
    """A cue is shown at the first step only; at the sixth, the action that names it earns 1."""

    def __init__(self, continuous=False):
        super().__init__(length=6, continuous=continuous)

    def observe(self):
        return np.float32([self.sign * (self.steps == 0)])

    def reward(self, action):
        return float(self.steps == 5 and self.positive(action) == (self.sign > 0))


class Leavers:
    """Two agents of PettingZoo's parallel API see a sign each, and earn 1 by naming it. One leaves after a step, the
    other runs into the time limit after three."""

    possible_agents, metadata, render_mode = ["a", "b"], {}, None

    def observation_space(self, agent):
        return gym.spaces.Dict({"sign": Discrete(2)})  # flattened

    def action_space(self, agent):
        return Discrete(2, start=3)

    def observe(self):
        self.signs = {agent: int(self.random.integers(2)) for agent in self.agents}
        return {agent: {"sign": sign} for agent, sign in self.signs.items()}

    def reset(self, seed=None, options=None):
        self.random = self.random if seed is None else np.random.default_rng(seed)
        self.agents, self.steps = ["a", "b"], 0
        return self.observe(), {}

    def step(self, actions):
        assert list(actions) == self.agents
        rewards = {agent: float(action - 3 == self.signs[agent]) for agent, action in actions.items()}
        obs = self.observe()
        self.steps += 1
        terminated = {agent: agent == "b" for agent in actions}
        truncated = {agent: agent == "a" and self.steps == 3 for agent in actions}
        self.agents = [agent for agent in actions if not terminated[agent] and not truncated[agent]]
        self.agents = self.agents or ["a", "b"]  # a common mistake: after the end there should be none
        return obs, rewards, terminated, truncated, {}

    def close(self):
        pass


parallel_env = Leavers


class Signs:
    """A simulator of one-step episodes: the action that names the observed sign earns 1."""

    single_action_space = Discrete(2, start=5)

    def __init__(self, num_envs, device):
        self.num_envs = num_envs

    def reset(self, seed=None):
        self.signs = torch.randint(2, (self.num_envs,))
        return self.signs.unsqueeze(1), {}

    def step(self, actions):
        rewards, ends = (actions - 5 == self.signs).float(), torch.ones(self.num_envs)
        return self.reset()[0], rewards, ends, 0 * ends, {}

    def close(self):
        pass


for env in Picture, Planes, Clock, Heads, Buttons, Forbidden, ForbiddenByMethod, Cue:
    gym.register(f"{env.__name__}-v0", env, max_episode_steps=100)
gym.register("Tiny-v0", Spaces, kwargs={"observation_space": Box(0, 1, (3, 3, 2), bool)})


def apply(patch, text):
    """The patched text. What a hunk removes must stand once in the text, in the patch's order, with the line before and
    after it; or without both, `patch`'s fuzz, where the main scripts differ. To add lines alone, both are needed."""
    done = ""
    for hunk in re.findall(r"^@@ .*? @@.*?\n((?:[ +-].*\n|\n)+)", patch, re.MULTILINE):
        lines = hunk.splitlines(keepends=True)
        for fuzz in (0, 1):
            part = lines[fuzz : len(lines) - fuzz]
            old, new = ("".join(line[1:] for line in part if line[0] != sign) for sign in "+-")
            if text.count(old) == 1:
                break
        assert text.count(old) == 1 and old.strip(), hunk
        before, text = text.split(old)
        done += before + new
    return done + text


def fits(name):
    """The main scripts that a patch is for."""
    if name in ("action_masks", "multi_discrete"):
        return ["ppo_discrete"]
    _, _, kind = name.rpartition("_")
    return [f"ppo_{kind}"] if kind in ("discrete", "continuous") else ["ppo_discrete", "ppo_continuous"]


@pytest.fixture
def recipe(in_tmp):
    """Makes the module of a patched script."""

    def recipe(name, script="ppo_discrete"):
        path = in_tmp / "my_ppo.py"
        path.write_text(apply(PATCHES[name], (ROOT / f"{script}.py").read_text()))
        spec = importlib.util.spec_from_file_location("my_ppo", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return recipe


@pytest.mark.parametrize(("name", "script"), [(name, script) for name in PATCHES for script in fits(name)])
def test_the_patched_script_is_formatted(name, script, in_tmp):
    """And it is what `patch` makes of the main script, where there is a `patch`."""
    Path("my_ppo.py").write_text(apply(PATCHES[name], (ROOT / f"{script}.py").read_text()))
    if shutil.which("patch"):
        files = [ROOT / f"{script}.py", ROOT / f"recipes/{name}.patch"]
        assert subprocess.run(["patch", "-so", "real.py", *files], stdout=subprocess.DEVNULL).returncode == 0
        assert Path("real.py").read_text() == Path("my_ppo.py").read_text()
    for command in ["format", "--check"], ["check"]:
        command = [sys.executable, "-m", "ruff", *command, "--config", ROOT / "pyproject.toml", "my_ppo.py"]
        result = subprocess.run(command, capture_output=True, cwd=in_tmp, text=True)
        assert result.returncode == 0, result.stdout


def test_the_patches_are_short_and_the_table_counts_their_lines():
    page = (ROOT / "recipes/README.md").read_text()
    assert set(re.findall(r"\]\((\w+)\.patch\)", page)) == PATCHES.keys()
    for name, patch in PATCHES.items():
        added = len(re.findall(r"^\+(?!\+\+ )", patch, re.MULTILINE))
        (counts,) = re.findall(rf"(?m)^\| [^|]*`{name}.patch`[^|]* \| .+? \| ([\d, ]+) \|", page)
        assert added <= 85 and str(added) in counts.split(", "), name
    names = ("action_masks", "envpool", "images_discrete", "lstm_discrete", "multi_discrete", "shared_network")
    assert sum(len(PATCHES[name].splitlines()) for name in names) <= 500


def evaluate(my_ppo, agent, args):
    if hasattr(my_ppo, "BatchedSimulator"):
        return my_ppo.evaluate(agent, my_ppo.make_envs(args, args.eval_episodes), args)
    return my_ppo.evaluate(agent, my_ppo.make_envs(args, 1), args, Path("videos"))


LONG = {"total_timesteps": 512 * 12, "num_envs": 16, "gamma": 0.95}
CONTINUOUS = '{"continuous": true}'
SEA = {"total_timesteps": 512 * 30, "num_envs": 16, "env_kwargs": '{"size": 8}'}
CONTINUOUS_SEA = SEA | {"env_kwargs": '{"size": 8, "continuous": true}', "learning_rate": 2e-3}
MANY = {"num_envs": 4096, "num_steps": 8, "total_timesteps": 4096 * 8 * 20, "num_minibatches": 8}
MANY |= {"learning_rate": 3e-3, "gamma": 0.9, "gae_lambda": 0.9}


@pytest.mark.parametrize(
    ("name", "script", "env_id", "best", "flags"),
    [
        ("images_discrete", "ppo_discrete", "Picture-v0", 1, {"env_kwargs": "{}"}),
        ("images_discrete", "ppo_discrete", "Planes-v0", 1, {"env_kwargs": "{}"}),
        ("images_continuous", "ppo_continuous", "Picture-v0", 1, {"env_kwargs": CONTINUOUS, "learning_rate": 2e-3}),
        ("multi_discrete", "ppo_discrete", "Heads-v0", 1, {}),
        ("multi_discrete", "ppo_discrete", "Buttons-v0", 1, {}),
        ("action_masks", "ppo_discrete", "Forbidden-v0", 3, {}),
        ("action_masks", "ppo_discrete", "ForbiddenByMethod-v0", 3, {}),
        ("lstm_discrete", "ppo_discrete", "Cue-v0", 1, LONG),
        ("lstm_continuous", "ppo_continuous", "Cue-v0", 1, LONG | {"env_kwargs": CONTINUOUS, "learning_rate": 2e-3}),
        ("shared_network", "ppo_discrete", "probes:ObservedActionReward-v0", 1, {}),
        ("shared_network", "ppo_continuous", "Cue-v0", 0.2, {"env_kwargs": CONTINUOUS}),
        ("kl_penalty", "ppo_discrete", "probes:ObservedActionReward-v0", 1, {"adaptive_kl": 0.01}),
        ("several_agents", "ppo_discrete", "test_recipes", 2, {}),
        ("curiosity", "ppo_discrete", "tasks:DeepSea-v0", 0.9, SEA),
        ("curiosity", "ppo_continuous", "tasks:DeepSea-v0", 0.9, CONTINUOUS_SEA),
        ("compiled", "ppo_discrete", "probes:ObservedActionReward-v0", 1, {}),
        ("batched_simulator_discrete", "ppo_discrete", "test_recipes:Signs", 1, {}),
        ("batched_simulator_continuous", "ppo_continuous", "tasks:TorchPendulum", -400, MANY),
        ("envpool", "ppo_discrete", "CartPole-v1", 100, {"num_steps": 64, "total_timesteps": 512 * 20}),
        ("envpool", "ppo_continuous", "Pendulum-v1", -1700, {"num_steps": 64, "total_timesteps": 512 * 5}),
    ],
)
def test_the_patched_script_learns_what_it_is_for(recipe, in_tmp, name, script, env_id, best, flags):
    """And evaluates alike from its checkpoint."""
    if name == "compiled" and (torch.backends.cpu.get_cpu_capability() == "DEFAULT" or not shutil.which("g++")):
        pytest.skip("torch.compile needs g++, and writes C++ that does not compile with ATEN_CPU_CAPABILITY=default")
    if name == "envpool":
        pytest.importorskip("envpool")
    my_ppo = recipe(name, script)
    defaults = {"num_envs": 8, "num_steps": 32, "total_timesteps": 256 * 8, "num_minibatches": 4, "update_epochs": 4}
    args = my_ppo.Args(env_id=env_id, hidden_size=32, eval_episodes=20, **(defaults | flags))
    agent = train(my_ppo, args)
    returns = evaluate(my_ppo, agent, args)
    assert returns.mean() >= best
    (path,) = in_tmp.glob("runs/*/checkpoint.pt")
    other = my_ppo.Agent(my_ppo.make_envs(args, 1), args)
    my_ppo.restore(torch.load(path, weights_only=True), other)
    assert (evaluate(my_ppo, other, args) == returns).all()


@pytest.mark.parametrize(("frame_skip", "seen"), [(1, [0, 1, 2, 3]), (4, [0, 4, 8, 12])])
def test_images_shows_the_last_four_frames(recipe, frame_skip, seen):
    my_ppo = recipe("images_discrete")
    envs = my_ppo.make_envs(my_ppo.Args(env_id="Clock-v0", env_kwargs="{}", frame_skip=frame_skip), 1)
    envs.reset(seed=0)
    for _ in range(3):
        obs, rewards, *_ = envs.step(np.zeros(1, int))
    assert obs.shape == (1, 4, 20, 20) and obs.dtype == np.uint8
    assert (obs.max((0, 2, 3)) == seen).all() and rewards == frame_skip


@pytest.mark.parametrize(("target", "betas"), [(1e9, [0.5, 0.25, 0.125]), (1e-12, [2, 4, 8])])
@pytest.mark.parametrize("script", ["ppo_discrete", "ppo_continuous"])
def test_the_weight_of_the_kl_penalty(recipe, script, in_tmp, target, betas):
    """It halves below two thirds of the target, doubles above one and a half, and goes on after --resume."""
    my_ppo = recipe("kl_penalty", script)
    sizes = {"num_envs": 2, "num_steps": 64, "total_timesteps": 256, "num_minibatches": 2, "update_epochs": 2}
    args = my_ppo.Args(env_id=env_for(script), adaptive_kl=target, eval_episodes=1, **sizes)
    train(my_ppo, args)
    args.resume, args.total_timesteps = next(in_tmp.glob("runs/*/checkpoint.pt")), 384
    time.sleep(1)  # the names of TensorBoard's files order them by the second
    agent = train(my_ppo, args, torch.load(args.resume, weights_only=True))
    assert [value for _, value in scalars(args.resume.parent)["losses/beta"]] == betas
    assert agent.beta == betas[-1]


def test_the_kl_penalty_in_the_loss(recipe):
    """Equation 8 of the PPO paper: the loss is larger by beta times the KL divergence."""
    my_ppo = recipe("kl_penalty")
    args = my_ppo.Args(env_id="CartPole-v1", adaptive_kl=0.01)
    agent = my_ppo.Agent(my_ppo.make_envs(args, 1), args)
    names = ("old_log_probs", "old_values", "advantages", "returns")
    batch = {name: torch.randn(50) for name in names} | {"obs": torch.randn(50, 4), "actions": torch.arange(50) % 2}
    losses = [my_ppo.ppo_loss(agent, batch, beta, args) for beta in (0.0, 3.0)]
    kl = losses[0][1]["losses/approx_kl"]
    torch.testing.assert_close(losses[1][0] - losses[0][0], 3 * kl, rtol=1e-4, atol=1e-4)


def test_lstm_acts_and_learns_with_the_same_states(recipe, in_tmp):
    """What acts, one step after the other, and what learns, a whole sequence at once, are the same function."""
    my_ppo = recipe("lstm_discrete")
    args = my_ppo.Args(
        env_id="Cue-v0", num_envs=4, num_steps=35, total_timesteps=140, num_minibatches=2, norm_obs=False, hidden_size=8
    )
    agent = my_ppo.Agent(my_ppo.make_envs(args, 4), args)
    obs, done, state = torch.randn(20, 3, 1), torch.rand(20, 3) < 0.2, torch.randn(3, 32)
    with torch.no_grad():
        policy, values, states = agent(obs, state, done)
        for t in range(20):
            _, step_values, step_states = agent(obs[t : t + 1], state)
            torch.testing.assert_close(step_values[0], values[t])
            state = step_states[0] * ~done[t].unsqueeze(-1)
    assert states.shape == (20, 3, 32)


def test_an_agent_that_left_teaches_nothing(recipe, in_tmp):
    """In 90 steps of Leavers, 30 episodes, 120 actions were taken, in episodes of one and of three steps."""
    my_ppo = recipe("several_agents")
    args = my_ppo.Args(
        env_id="test_recipes", num_envs=1, num_steps=90, total_timesteps=90, num_minibatches=2, eval_episodes=50
    )
    agent = train(my_ppo, args)
    assert evaluate(my_ppo, agent, args).max() == 2  # of 3 and 1
    assert (agent.obs_statistics.totals[0] == 120).all()
    assert [value for _, value in scalars(next(in_tmp.glob("runs/*")))["charts/episodic_length"]] == [2]
    envs = my_ppo.make_envs(args, 2)
    envs.reset(seed=[1, 1, 2, 2])
    obs, _ = envs.reset()  # everywhere, as in one's own code
    rollout, _ = my_ppo.collect_trajectories(envs, agent, obs, 3)
    assert rollout["acted"].tolist() == [[True] * 4, [True, False] * 2, [True, False] * 2]
    batch = my_ppo.make_batch(agent, rollout, args)
    assert {len(tensor) for tensor in batch.values()} == {8}
    assert batch["advantages"].mean().abs() < 1e-6


def test_what_is_new_is_worth_something_until_it_is_known(recipe):
    """Novelty is part of the advantages, does not end with an episode, and wears off."""
    my_ppo = recipe("curiosity")
    args = my_ppo.Args(env_id="tasks:DeepSea-v0", env_kwargs='{"size": 8}', num_envs=4, num_minibatches=4)
    envs = my_ppo.make_envs(args, 4)
    agent = my_ppo.Agent(envs, args)
    obs, _ = envs.reset(seed=[1, 2, 3, 4])
    rollout, _ = my_ppo.collect_trajectories(envs, agent, obs, 64)
    agent.obs_statistics.update(rollout["obs"].flatten(0, 1))
    batch = my_ppo.make_batch(agent, rollout, args)
    args.intrinsic_coef = 0.0
    assert not torch.allclose(batch["advantages"], my_ppo.make_batch(agent, rollout, args)["advantages"], atol=0.1)
    ended = rollout | dict.fromkeys(("terminated", "done"), torch.ones_like(rollout["done"]))
    same = batch["returns"] == my_ppo.make_batch(agent, ended, args)["returns"]
    assert same[:, 1].all() and not same[:, 0].all()
    before = agent.novelty(rollout["next_obs"]).mean()
    my_ppo.ppo_update(agent, torch.optim.Adam(agent.parameters(), lr=1e-3), batch, args)
    assert agent.novelty(rollout["next_obs"]).mean() < 0.7 * before


@pytest.mark.parametrize("final_obs", ["final_obs", "final_observation", ""])
def test_what_a_step_led_to_where_the_simulator_has_reset(recipe, final_obs):
    """The final observation; without one, the observation before it."""
    my_ppo = recipe("batched_simulator_continuous", "ppo_continuous")
    short, long = (
        my_ppo.BatchedSimulator(TorchPendulum(3, "cpu", final_obs, max_steps), 3, "policy") for max_steps in (2, 9)
    )
    seen = []
    for envs in short, long:
        envs.reset(seed=1)
        steps = [envs.step(torch.full((3, 1), 0.5)) for _ in range(2)]
        assert torch.stack([step[3] for step in steps]).sum() == (3 if envs is short else 0)
        seen.append([step[0] for step in steps])
        assert (steps[0][1] != steps[1][1]).all()  # rewards
    assert torch.equal(seen[0][0], seen[1][0])  # unchanged by the next step
    assert torch.equal(seen[0][1], seen[1][1] if final_obs else seen[1][0])
    assert not (short.obs == long.obs).any() and torch.equal(long.obs, seen[1][1])


@pytest.mark.parametrize(
    ("name", "flags", "words"),
    [
        ("images_discrete", "--env-id Tiny-v0", "planes of bool from 5 x 5"),
        ("several_agents", "--env-id LunarLander-v3", "parallel_env"),
        ("several_agents", "--env-id json", "parallel_env"),
        ("batched_simulator_discrete", "--env-id LunarLander-v3", "module:function"),
        ("batched_simulator_discrete", "--env-id tasks:Nothing", "module:function"),
        ("batched_simulator_discrete", "--env-id tasks:TorchPendulum", "batched_simulator_continuous.patch"),
        ("batched_simulator_discrete", "--env-id tasks:TorchPendulum --obs-key actor", "--obs-key"),
    ],
)
def test_what_is_no_such_environment_is_refused(recipe, monkeypatch, name, flags, words):
    assert words in refused(recipe(name), monkeypatch, *flags.split())


def test_without_a_compiler(recipe, monkeypatch):
    my_ppo = recipe("compiled")
    monkeypatch.setattr(torch, "compile", None)
    assert "C++ compiler" in refused(my_ppo, monkeypatch)
