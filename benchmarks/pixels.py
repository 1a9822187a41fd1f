"""MiniGrid's DoorKey as color images, 40 x 40: an agent has to fetch a key, open a door and go to the goal behind it.

`PYTHONPATH=benchmarks python my_ppo.py --env-id pixels:PixelDoorKey-v0 --env-kwargs {} --frame-skip 1` trains on it;
`recipes.py` adds `--learning-rate 1e-3`.
"""

import gymnasium as gym
import minigrid
from minigrid.wrappers import ImgObsWrapper, RGBImgObsWrapper


def make(**kwargs):
    return ImgObsWrapper(RGBImgObsWrapper(gym.make("MiniGrid-DoorKey-5x5-v0", **kwargs)))


gym.register_envs(minigrid)
gym.register("PixelDoorKey-v0", make, max_episode_steps=250)
