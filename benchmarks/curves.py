"""Draws benchmarks/results: learning over steps (curves.svg) and seconds (peers.svg), and ablations.

    pip install -r benchmarks/requirements.txt && python benchmarks/curves.py

A curve is the mean over seeds of the last 100 training episodes' return, with sampled actions; its band is the 95 %
bootstrap interval of that mean. The dot is the mean greedy return after training, the tick below it the worst seed's.
A dashed line is the return that RL Zoo publishes for PPO on that environment, with the steps that it took. Over
seconds, each line is a seed. Of an ablation, the dot is the mean of the seeds' paired differences, its line the 95 %
bootstrap interval of that mean. Each picture holds a checksum of the rows that it shows, which a test compares.
"""

import hashlib
import json

import ablations
import numpy as np
from launcher import MINIMAL, ROOT
from learning import PUBLISHED, results
from peers import STEPS, groups


def bootstrap(values, rng, samples=2000):
    """95 % interval of the mean over the first axis, [seeds, points] -> [2, points]."""
    means = np.stack([values[rng.integers(len(values), size=len(values))].mean(0) for _ in range(samples)])
    return np.percentile(means, [2.5, 97.5], axis=0)


def rows_over_steps():
    """{environment: rows} of the main scripts; of several settings the last, which is the longest."""
    return {setting.env_id: rows for setting, rows in results() if setting.script != MINIMAL}


def checksum(rows):
    return hashlib.sha256(json.dumps([rows, PUBLISHED]).encode()).hexdigest()


def rows_over_seconds():
    return [row for env_id in STEPS for _, rows in groups(env_id) for row in rows]


def save(figure, name, rows):
    path = ROOT / "benchmarks" / name
    figure.savefig(path, metadata={"Date": None, "Description": f"rows {checksum(rows)}"})


def draw_steps(plt, environments):
    rng = np.random.default_rng(0)
    columns = 3
    lines = -(-len(environments) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(4 * columns, 2.8 * lines), squeeze=False, layout="constrained")
    for axis in axes.flat[len(environments) :]:
        axis.remove()
    for axis, (env_id, rows) in zip(axes.flat, environments.items(), strict=False):
        steps, curves = rows[0]["setting"][2], [row["curve"] for row in rows]
        first = max(curve[0][0] for curve in curves)  # before, not every seed has finished an episode
        points = np.linspace(first, min(curve[-1][0] for curve in curves), 100)
        values = np.stack([np.interp(points, *np.transpose(curve)) for curve in curves])
        greedy = [row["greedy"]["mean"] for row in rows]
        axis.fill_between(points / 1000, *bootstrap(values, rng), alpha=0.3, linewidth=0)
        axis.plot(points / 1000, values.mean(0))
        axis.plot([steps / 1000] * 2, [np.mean(greedy), min(greedy)], color="C1", linewidth=1)
        axis.plot(steps / 1000, np.mean(greedy), "o", color="C1", markersize=5)
        axis.plot(steps / 1000, min(greedy), "_", color="C1")
        if env_id in PUBLISHED:
            value, published_steps = PUBLISHED[env_id]
            axis.axhline(value, linestyle="--", linewidth=1, color="gray", label=f"RL Zoo, {published_steps} steps")
            axis.legend(loc="lower right", frameon=False)
        axis.set_title(f"{env_id}, {len(rows)} seeds")
        axis.set_xlabel("thousand steps")
    axes[0, 0].set_ylabel("return")
    return figure


def draw_seconds(plt, rows):
    env_ids, peers = (list(dict.fromkeys(row[key] for row in rows)) for key in ("environment", "peer"))
    total_steps = {row["environment"]: row["steps"] for row in rows}
    figure, axes = plt.subplots(1, len(env_ids), figsize=(6 * len(env_ids), 4), squeeze=False, layout="constrained")
    for axis, env_id in zip(axes.flat, env_ids, strict=True):
        for row in rows:
            if row["environment"] == env_id:
                _, seconds, returns = np.transpose(row["curve"])
                axis.plot(seconds, returns, color=f"C{peers.index(row['peer'])}", linewidth=1)
        axis.axhline(200, linestyle="--", linewidth=1, color="gray")
        axis.set_title(f"{env_id}, {total_steps[env_id]:,} steps")
        axis.set_xlabel("seconds since the start of the command")
        axis.set_ylim(-400, 300)
    axes[0, 0].set_ylabel("return, last 100 episodes")
    lines = [plt.Line2D([], [], color=f"C{i}") for i in range(len(peers))]
    figure.legend(lines, peers, loc="outside lower center", ncols=3, frameon=False)
    return figure


def draw_ablations(plt, script):
    """An axis for each environment, a line for each detail, what costs most on top."""
    values = ablations.differences(ablations.pairs_of(script))
    names, env_ids = ablations.ranking(values), list(dict.fromkeys(key[1] for key in values))
    figure, axes = plt.subplots(1, len(env_ids), figsize=(12, 8), sharex=True, sharey=True, layout="constrained")
    for axis, env_id in zip(axes, env_ids, strict=True):
        for color, (measure, offset) in {"C0": ("greedy", -0.15), "C1": ("area", 0.15)}.items():
            places = np.arange(len(names)) + offset
            mean, low, high = np.transpose([values[name, env_id, measure] for name in names])
            axis.hlines(places, low, high, color=color, linewidth=1)
            axis.plot(mean, places, "o", color=color, markersize=3)
        axis.axvline(0, color="gray", linewidth=1)
        axis.set_title(env_id)
        axis.grid(axis="y", linewidth=0.3)
    axes[0].set_yticks(range(len(names)), names)
    axes[0].invert_yaxis()
    figure.supxlabel("(without the detail - as it is) / (published - random): greedy return in blue, area in orange")
    return figure


def main():
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "the same file from the same rows"
    import matplotlib.pyplot as plt

    save(draw_steps(plt, rows_over_steps()), "curves.svg", rows_over_steps())
    save(draw_seconds(plt, rows_over_seconds()), "peers.svg", rows_over_seconds())
    for script in ablations.SCRIPTS:
        save(draw_ablations(plt, script), f"ablations_{script}.svg", ablations.rows(ablations.pairs_of(script)))


if __name__ == "__main__":
    main()
