"""Trains with several seeds, and keeps a row for each run in benchmarks/results/learning.jsonl.

    pip install "gymnasium[mujoco]"                                                  # for three of the settings
    python benchmarks/learning.py                                                    # all settings of the README
    python benchmarks/learning.py ppo_discrete LunarLander-v3 250000                 # one setting
    python benchmarks/learning.py ppo_continuous Pendulum-v1 100000 --seeds 1-5 --flags="--gamma 0.9"
    python benchmarks/learning.py --verify       # do today's scripts still learn what the rows say?

Two runs at a time, one thread each: rows tell steps, never seconds. An interrupted campaign goes on where it stopped.

A row stays true for as long as the script computes the same numbers, whatever its text. Its first ten iterations tell:
return, losses and KL must be those of the script as it is now, to one part in a million. On a processor of another
model, which rounds differently, runs part ways within a few iterations; there only the first iteration is compared, to
two percent: small changes go unnoticed, and a KL may differ by five percent from rounding alone. The minimal script
logs nothing; its losses are those of the last minibatch of each update.
"""

import argparse
import importlib
import re
import statistics
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import gymnasium as gym
from launcher import MINIMAL, Setting, greedy_return, keep, provenance, read_rows, rows_of, run, table
from verify import first_iterations, first_losses, outdated

SEEDS = range(11, 21)  # to report; defaults are chosen on 1 to 5
SETTINGS = (  # of the README
    Setting(MINIMAL, "CartPole-v1", 49_152),
    Setting("ppo_discrete", "CartPole-v1", 50_000),
    Setting("ppo_discrete", "Acrobot-v1", 500_000),
    Setting("ppo_discrete", "LunarLander-v3", 250_000),
    Setting("ppo_discrete", "LunarLander-v3", 500_000),
    Setting("ppo_discrete", "FrozenLake-v1", 200_000),
    Setting("ppo_discrete", "MountainCar-v0", 500_000),
    Setting("ppo_continuous", "LunarLanderContinuous-v3", 500_000),
    Setting("ppo_continuous", "Pendulum-v1", 100_000),
    Setting("ppo_continuous", "BipedalWalker-v3", 1_000_000),
    Setting("ppo_continuous", "Hopper-v5", 1_000_000),
    Setting("ppo_continuous", "HalfCheetah-v5", 1_000_000),
    Setting("ppo_continuous", "Walker2d-v5", 1_000_000),
    Setting(
        "ppo_continuous",
        "MountainCarContinuous-v0",
        100_000,
        "--init-log-std 1 --num-steps 256 --num-minibatches 32 --gae-lambda 0.99",
    ),
)

PUBLISHED = {  # greedy return, steps: https://github.com/DLR-RM/rl-baselines3-zoo/blob/master/benchmark.md
    "CartPole-v1": (500, "100 k"),
    "Acrobot-v1": (-73.5, "1 M"),
    "LunarLander-v3": (242.1, "1 M"),
    "MountainCar-v0": (-110.4, "1 M"),
    "Pendulum-v1": (-172.2, "100 k"),
    "MountainCarContinuous-v0": (88.3, "20 k"),
    "LunarLanderContinuous-v3": (270.9, "1 M"),
    "BipedalWalker-v3": (287.9, "5 M"),
    "Hopper-v5": (2410, "1 M"),
    "HalfCheetah-v5": (5819, "1 M"),
    "Walker2d-v5": (3479, "1 M"),
}


def train(setting, seed):
    """Trains once and returns the row, and all else about the run."""
    done = run(setting.command(seed))
    if setting.script == MINIMAL:
        defaults = vars(importlib.import_module(MINIMAL).Args)
        args = {name: value for name, value in defaults.items() if not name.startswith("_")} | {"seed": seed}
        printed = re.findall(r"(\d+) steps: average reward (\S+)", done.stdout)
        curve, threshold = [[int(step), float(value)] for step, value in printed], 475
        first = first_losses(done.stdout)
    else:
        args, threshold = done.args, gym.spec(setting.env_id).reward_threshold
        curve = [[step, value] for step, _, value in done.scalars["charts/episodic_return"]]
        first = first_iterations(done.scalars)
    solved_step = next((step for step, value in curve if threshold is not None and value >= threshold), None)
    row = {"setting": setting, "seed": seed, "greedy": greedy_return(done.stdout), "solved_step": solved_step}
    thinned = [[step, round(value, 2)] for step, value in curve[:: max(1, len(curve) // 50)]]
    row |= {"args": args, "first_iterations": first, "curve": thinned}
    return row, done


def campaign(setting, seeds):
    """Trains the seeds that have no row of today's numbers; a row is kept as soon as it is there."""
    provenance()  # refuses uncommitted scripts before any time is spent
    rows = [row for row in read_rows("learning") if Setting(*row["setting"]) == setting and row["seed"] in seeds]
    differing = outdated(rows)
    have = {row["seed"] for row in rows if (setting, row["commit"]) not in differing}

    def train_and_keep(seed):
        origin = provenance()
        row = train(setting, seed)[0] | origin
        with lock:
            keep("learning", row, ("setting", "seed"))
        print(f"{setting}, seed {seed}: greedy return {row['greedy']['mean']}", flush=True)

    lock = threading.Lock()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(train_and_keep, [seed for seed in seeds if seed not in have]))


def results(settings=SETTINGS, seeds=SEEDS):
    """[(setting, its rows)], and an error where one is missing."""
    rows = rows_of("learning", ("setting", "seed"), [(setting, seed) for setting in settings for seed in seeds])
    return [(setting, rows[number * len(seeds) :][: len(seeds)]) for number, setting in enumerate(settings)]


def summary(settings=SETTINGS, seeds=SEEDS):
    """A line of Markdown for each setting: mean and worst seed."""
    lines = []
    for setting, rows in results(settings, seeds):
        greedy = [row["greedy"]["mean"] for row in rows]
        solved = [row["solved_step"] for row in rows if row["solved_step"]]
        if len(solved) == len(rows):
            until_solved = f"{statistics.median(solved) / 1000:.0f} k"
        else:
            until_solved = f"{len(solved)} of {len(rows)} seeds" if solved else ""
        published = "{} after {}".format(*PUBLISHED[setting.env_id]) if setting.env_id in PUBLISHED else ""
        name = setting.env_id + f" `{setting.flags}`" * bool(setting.flags)
        lines.append([f"`{setting.script}`", name, f"{setting.steps:,}", f"{statistics.mean(greedy):.2f}",
                      f"{min(greedy):.2f}", until_solved, published])  # fmt: skip
    header = "script | environment | steps | greedy return | worst seed | steps until solved | RL Zoo's return, steps"
    return table(header, lines)


def every_seed(settings=SETTINGS, seeds=SEEDS):
    """A line of Markdown for each setting: all greedy returns."""
    lines = [
        [f"`{setting}`", " ".join(f"{row['greedy']['mean']:.4g}" for row in rows)]
        + [", ".join(sorted({row["commit"][:7] for row in rows}))]
        for setting, rows in results(settings, seeds)
    ]
    return table(f"setting | greedy return of seeds {seeds[0]} to {seeds[-1]} | commit", lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("script", nargs="?")
    parser.add_argument("env_id", nargs="?")
    parser.add_argument("steps", nargs="?", type=int)
    parser.add_argument("--seeds", default="11-20", help="a range of seeds, such as 11-20")
    parser.add_argument("--flags", default="", help="further flags of the script, in quotes")
    parser.add_argument("--verify", action="store_true", help="compare the README's rows with today's scripts")
    args = parser.parse_args()
    if args.verify:
        ours_beside_peers = [row for row in read_rows("peers") if "setting" in row]
        differing = outdated([row for _, rows in results() for row in rows] + ours_beside_peers)
        for setting, _ in differing:
            again = f"learning.py {setting}" if setting in SETTINGS else "peers.py"
            print(f"to make its rows again: python benchmarks/{again}")
        sys.exit(bool(differing))
    first, _, last = args.seeds.partition("-")
    seeds = range(int(first), int(last or first) + 1)
    settings = [Setting(args.script, args.env_id, args.steps, args.flags)] if args.script else SETTINGS
    for setting in settings:
        campaign(setting, seeds)
    print(summary(settings, seeds))


if __name__ == "__main__":
    main()
