"""Trains with Stable-Baselines3; peers.py starts it in a virtual environment of its own, and reads what it prints.

python benchmarks/peers_sb3.py LunarLander-v3 500000 11 '{"num_envs": 16, "n_steps": 1024}'
"""

import json
import sys
import time

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env


def main():
    env_id, steps, seed, settings = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4])
    torch.set_num_threads(1)
    envs = make_vec_env(env_id, settings.pop("num_envs", 1), seed=seed)
    model = PPO("MlpPolicy", envs, device="cpu", seed=seed, **settings)
    episodes = []

    def keep_episodes(local_variables, global_variables):
        for info in local_variables["infos"]:
            if "episode" in info:
                episodes.append([model.num_timesteps, time.time(), info["episode"]["r"]])
        return True  # go on

    start = time.perf_counter()
    model.learn(steps, callback=keep_episodes)
    speed = model.num_timesteps / (time.perf_counter() - start)
    print(json.dumps({"steps_per_second": speed, "episodes": episodes}))


if __name__ == "__main__":
    main()
