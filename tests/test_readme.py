"""The changes that the README shows to those who fork, made and trained."""

import importlib.util
import re

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import ROOT, train
from gymnasium.spaces import Box, Discrete, MultiDiscrete


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


gym.register("Picture-v0", Picture)
gym.register("Heads-v0", Heads)


def changed(text, diff):
    """The text with each hunk of the diff found, once, and replaced."""
    for hunk in diff.split("@@\n"):
        lines = hunk.splitlines(keepends=True)
        old, new = ("".join(line[1:] for line in lines if line[0] in " " + sign) for sign in "-+")
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


@pytest.mark.parametrize(("number", "env_id"), [(0, "Picture-v0"), (1, "Heads-v0")])
def test_the_changes_for_forks(number, env_id, in_tmp):
    diffs = re.findall(r"```diff\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(diffs) == 2
    path = in_tmp / "fork.py"
    path.write_text(changed((ROOT / "ppo_discrete.py").read_text(), diffs[number]))
    spec = importlib.util.spec_from_file_location("fork", path)
    fork = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fork)
    args = fork.Args(
        env_id=env_id, num_envs=8, num_steps=32, total_timesteps=256 * 8, num_minibatches=4, update_epochs=4,
        hidden_size=32, eval_episodes=20,
    )  # fmt: skip
    agent = train(fork, args)
    assert fork.evaluate(agent, args, 20).mean() == 1
    (checkpoint,) = in_tmp.glob("runs/*/checkpoint.pt")
    assert torch.load(checkpoint, weights_only=True)["args"]["env_id"] == env_id
