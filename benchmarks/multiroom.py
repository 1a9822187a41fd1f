"""MiniGrid's MultiRoom-N4-S5 as numbers: an agent that sees 7 x 7 cells has to open three doors on its way to the goal.

`PYTHONPATH=benchmarks python my_ppo.py --env-id multiroom:MultiRoom-v0` trains on it.
"""

import gymnasium as gym
import minigrid
from minigrid.wrappers import ImgObsWrapper


def make(**kwargs):
    return gym.wrappers.FlattenObservation(ImgObsWrapper(gym.make("MiniGrid-MultiRoom-N4-S5-v0", **kwargs)))


gym.register_envs(minigrid)
gym.register("MultiRoom-v0", make)
