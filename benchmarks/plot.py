"""Draws the README's learning curves from benchmarks/results/*.csv into benchmarks/curves.svg, and prints its table.

    pip install -r benchmarks/requirements.txt && python benchmarks/plot.py

A curve is the mean over seeds of the last 100 training episodes' return, with sampled actions; its band is the 95 %
bootstrap interval of that mean. The dot is the mean greedy return after training, the tick below it the worst seed's.
A dashed line is the return that RL Zoo publishes for PPO on that environment, with the steps that it took.
"""

import json

import matplotlib
import numpy as np
from learning import CAMPAIGNS, ROOT, rows, table

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "the same file from the same rows"
import matplotlib.pyplot as plt  # noqa: E402

PUBLISHED = {  # greedy return, steps: https://github.com/DLR-RM/rl-baselines3-zoo/blob/master/benchmark.md
    "CartPole-v1": (500, "100 k"),
    "Acrobot-v1": (-73.5, "1 M"),
    "LunarLander-v3": (242.1, "1 M"),
    "MountainCar-v0": (-110.4, "1 M"),
    "Pendulum-v1": (-172.2, "100 k"),
    "MountainCarContinuous-v0": (88.3, "20 k"),
    "LunarLanderContinuous-v3": (270.9, "1 M"),
    "BipedalWalker-v3": (287.9, "5 M"),
}


def bootstrap(values, rng, samples=2000):
    """95 % interval of the mean over the first axis, [seeds, points] -> [2, points]."""
    means = np.stack([values[rng.integers(len(values), size=len(values))].mean(0) for _ in range(samples)])
    return np.percentile(means, [2.5, 97.5], axis=0)


def main():
    wanted = [(env_id, str(steps), flags) for _, env_id, steps, _, flags in CAMPAIGNS]  # not somebody's trials
    groups = {}
    for row in rows():
        if row["script"] != "ppo_minimal_cartpole" and (row["environment"], row["steps"], row["flags"]) in wanted:
            groups.setdefault(row["environment"], {}).setdefault(int(row["steps"]), []).append(row)
    rng = np.random.default_rng(0)
    columns = 3
    lines = -(-len(groups) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(4 * columns, 2.8 * lines), squeeze=False, layout="constrained")
    for axis in axes.flat[len(groups) :]:
        axis.remove()
    for axis, (env_id, lengths) in zip(axes.flat, groups.items(), strict=False):
        steps = max(lengths)
        curves = [json.loads(row["curve"]) for row in lengths[steps]]
        first = max(curve[0][0] for curve in curves)  # before, not every seed has finished an episode
        points = np.linspace(first, min(curve[-1][0] for curve in curves), 100)
        values = np.stack([np.interp(points, *np.transpose(curve)) for curve in curves])
        greedy = [float(row["greedy_mean"]) for row in lengths[steps]]
        axis.fill_between(points / 1000, *bootstrap(values, rng), alpha=0.3, linewidth=0)
        axis.plot(points / 1000, values.mean(0))
        axis.plot([steps / 1000] * 2, [np.mean(greedy), min(greedy)], color="C1", linewidth=1)
        axis.plot(steps / 1000, np.mean(greedy), "o", color="C1", markersize=5)
        axis.plot(steps / 1000, min(greedy), "_", color="C1")
        if env_id in PUBLISHED:
            value, published_steps = PUBLISHED[env_id]
            axis.axhline(value, linestyle="--", linewidth=1, color="gray", label=f"RL Zoo, {published_steps} steps")
            axis.legend(loc="lower right", frameon=False)
        axis.set_title(f"{env_id}, {len(curves)} seeds")
        axis.set_xlabel("thousand steps")
    axes[0, 0].set_ylabel("return")
    figure.savefig(ROOT / "benchmarks" / "curves.svg", metadata={"Date": None})
    table()


if __name__ == "__main__":
    main()
