"""Trains the minimal script with a seed. Prints losses, ten episodes' return now and then, 100 episodes' at the end.

PYTHONPATH=. python benchmarks/minimal_run.py 1
"""

import sys

import gymnasium as gym
import numpy as np
import torch

import ppo_minimal_cartpole as script


def main(seed, update=script.ppo_update, backward=torch.Tensor.backward):
    num_updates = 0

    def print_loss(loss):
        print("loss", loss.item())
        backward(loss)

    def update_and_print(agent, *others):
        nonlocal num_updates
        update(agent, *others)
        num_updates += 1
        if num_updates % 4 == 0:
            print(num_updates * script.Args.num_steps, "steps: average reward", evaluate(agent, 10).mean())

    torch.Tensor.backward, script.ppo_update = print_loss, update_and_print
    returns = evaluate(script.train_ppo_cartpole(seed), 100)
    print(f"greedy return {returns.mean():.2f} +- {returns.std():.2f} over 100 episodes")


@torch.no_grad()
def evaluate(agent, num_episodes):
    """Returns of the most likely actions, [num_episodes]."""
    env = gym.make("CartPole-v1")
    returns = np.zeros(num_episodes)
    for episode in range(num_episodes):
        obs, _ = env.reset(seed=1_000_000 + episode)
        done = False
        while not done:
            policy, _ = agent(torch.as_tensor(obs))
            obs, reward, terminated, truncated, _ = env.step(policy.mode.item())
            returns[episode] += reward
            done = terminated or truncated
    return returns


if __name__ == "__main__":
    main(int(sys.argv[1]))
