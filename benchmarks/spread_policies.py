"""What recipes/several_agents.patch is compared with on mpe2's simple_spread_v3: random agents, and a policy by hand.

    python benchmarks/spread_policies.py

By hand, each agent goes to a landmark of its own: the assignment whose distances have the smallest sum. The mean
return of an agent over 100 episodes, which start from the seeds 0 to 99 as in the script's evaluation, and the
standard deviation of the episodes' means.
"""

from itertools import permutations

import numpy as np
from mpe2 import simple_spread_v3

NOTHING, LEFT, RIGHT, DOWN, UP = range(5)


def by_hand(obs, landmark):
    """Towards a landmark, along the axis on which it is farther away; obs[2:4] is the agent's own position."""
    x, y = obs[4 + 2 * landmark : 6 + 2 * landmark] - 0.2 * obs[:2]  # it rolls on: brakes by its velocity
    if max(abs(x), abs(y)) < 0.02:
        return NOTHING
    if abs(x) > abs(y):
        return RIGHT if x > 0 else LEFT
    return UP if y > 0 else DOWN


def episode_return(env, seed, random):
    """Mean over the agents."""
    obs, _ = env.reset(seed=seed)
    generator = np.random.default_rng(seed)
    total = 0
    while env.agents:
        agents = env.agents
        distances = [
            [np.linalg.norm(obs[agent][4 + 2 * i : 6 + 2 * i]) for i in range(len(agents))] for agent in agents
        ]
        landmarks = min(
            permutations(range(len(agents))),
            key=lambda order: sum(distances[i][landmark] for i, landmark in enumerate(order)),
        )
        actions = {
            agent: int(generator.integers(5)) if random else by_hand(obs[agent], landmark)
            for agent, landmark in zip(agents, landmarks, strict=True)
        }
        obs, rewards, _, _, _ = env.step(actions)
        total += np.mean(list(rewards.values()))
    return total


def main():
    for number in 2, 3:
        env = simple_spread_v3.parallel_env(N=number)
        for random in True, False:
            returns = [episode_return(env, seed, random) for seed in range(100)]
            kind = "random" if random else "by hand"
            print(f"N={number}, {kind}: {np.mean(returns):.2f} +- {np.std(returns):.2f}")


if __name__ == "__main__":
    main()
