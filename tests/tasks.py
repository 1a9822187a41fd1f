"""Environments of the recipes that are more than a probe; benchmarks/recipes.py measures on them, too."""

from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete


class DeepSea(gym.Env):
    """From "Behaviour Suite for Reinforcement Learning", Osband et al. 2020: a size x size grid, a row down with each
    step, left or right. Each step to the right costs 0.01 / size, and only who always goes right earns 1 in the corner:
    random actions do in one of 2**size episodes. Which action is "right" differs from cell to cell."""

    def __init__(self, size=16, continuous=False):
        self.size = size
        self.observation_space = Box(0, 1, (size * size,), np.float32)  # one-hot
        self.action_space = Box(-1, 1, (1,), np.float32) if continuous else Discrete(2)
        self.right = np.random.default_rng(0).integers(2, size=(size, size))

    def observe(self):
        obs = np.zeros((self.size, self.size), np.float32)
        obs[self.row : self.row + 1, self.column] = 1  # after the last step, no cell
        return obs.ravel()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.row, self.column = 0, 0
        return self.observe(), {}

    def step(self, action):
        number = action if isinstance(self.action_space, Discrete) else action[0] > 0
        to_the_right = number == self.right[self.row, self.column]
        reward = float(self.column == self.size - 1) - 0.01 / self.size if to_the_right else 0.0
        self.column = np.clip(self.column + (1 if to_the_right else -1), 0, self.size - 1)
        self.row += 1
        return self.observe(), reward, self.row == self.size, False, {}


gym.register("DeepSea-v0", DeepSea)


class TorchPendulum:
    """Gymnasium's Pendulum-v1 in tensors, for recipes/batched_simulator: resets in the step that ends an episode.

    `final_obs` is the entry of info for the final observations, or "" for none. All tensors are the simulator's own,
    overwritten by the next step, as in real ones.
    """

    single_action_space = SimpleNamespace(low=-2.0, high=2.0, shape=(1,))  # mjlab's are not Gymnasium's, either

    def __init__(self, num_envs, device, final_obs="final_obs", max_steps=200):
        self.state = torch.zeros(num_envs, 2, device=device)  # angle and speed
        self.steps = torch.zeros(num_envs, device=device)
        self.obs = torch.zeros(num_envs, 3, device=device)
        self.rewards = torch.zeros(num_envs, device=device)
        self.truncated = torch.zeros(num_envs, device=device)  # 0 or 1
        self.final_obs, self.max_steps = final_obs, max_steps

    def observe(self):
        angle, speed = self.state.unbind(1)
        return self.obs.copy_(torch.stack([angle.cos(), angle.sin(), speed], 1))

    def start(self, which):
        start = torch.rand_like(self.state) * 2 - 1
        start[:, 0] *= torch.pi
        self.state[which] = start[which]
        self.steps[which] = 0

    def reset(self, seed=None):
        if seed is not None:
            torch.manual_seed(seed)
        self.start(torch.ones_like(self.steps).bool())
        return {"policy": self.observe()}, {}

    def step(self, actions):
        angle, speed = self.state.unbind(1)
        torque = actions[:, 0]
        from_top = (angle + torch.pi) % (2 * torch.pi) - torch.pi
        self.rewards.copy_(-(from_top**2) - 0.1 * speed**2 - 0.001 * torque**2)
        speed = (speed + 0.05 * (15 * angle.sin() + 3 * torque)).clamp(-8, 8)
        self.state.copy_(torch.stack([angle + 0.05 * speed, speed], 1))
        self.steps += 1
        self.truncated.copy_(self.steps >= self.max_steps)
        info = {self.final_obs: {"policy": self.observe().clone()}} if self.final_obs else {}
        self.start(self.truncated.bool())
        return {"policy": self.observe()}, self.rewards, torch.zeros_like(self.rewards), self.truncated, info

    def close(self):
        pass
