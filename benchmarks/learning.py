"""Trains a script on an environment with several seeds and keeps one row per run in benchmarks/results/.

    python benchmarks/learning.py ppo_discrete LunarLander-v3 250000 --seeds 1-10
    python benchmarks/learning.py ppo_continuous BipedalWalker-v3 1000000 --seeds 1-5 --flags "--hidden-size 128"
    python benchmarks/learning.py ppo_minimal_cartpole CartPole-v1 49152 --seeds 1-20
    python benchmarks/learning.py --all      # every row of the README
    python benchmarks/learning.py --table    # print what there is

Two runs at a time, one thread each. What has a row already, of the same command and script, is not run again: an
interrupted campaign goes on with the same command. Scripts are the same as long as they differ only in comments.
"""

import argparse
import ast
import csv
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gymnasium as gym
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
CAMPAIGNS = (  # script, environment, steps, seeds, flags
    ("ppo_minimal_cartpole", "CartPole-v1", 49_152, 20, ""),
    ("ppo_discrete", "CartPole-v1", 50_000, 10, ""),
    ("ppo_discrete", "LunarLander-v3", 250_000, 10, ""),
    ("ppo_discrete", "LunarLander-v3", 500_000, 10, ""),
    ("ppo_discrete", "Acrobot-v1", 150_000, 10, ""),
    ("ppo_discrete", "FrozenLake-v1", 200_000, 10, ""),
    ("ppo_discrete", "MountainCar-v0", 500_000, 10, "--ent-coef 0.02"),
    ("ppo_continuous", "LunarLanderContinuous-v3", 500_000, 10, ""),
    ("ppo_continuous", "Pendulum-v1", 100_000, 10, ""),
    (
        "ppo_continuous", "MountainCarContinuous-v0", 100_000, 10,
        "--init-log-std 1 --num-steps 512 --num-minibatches 32 --gae-lambda 0.99",
    ),
    ("ppo_continuous", "BipedalWalker-v3", 1_000_000, 10, ""),
    ("ppo_continuous", "BipedalWalker-v3", 2_000_000, 10, ""),
)  # fmt: skip
PACKAGES = ("box2d", "gymnasium", "moviepy", "numpy", "tensorboard", "torch", "tqdm", "tyro")
FIELDS = (
    "script", "environment", "seed", "steps", "flags", "solved_step", "solved_seconds", "greedy_mean", "greedy_std",
    "greedy_min", "episodes", "wall_seconds", "steps_per_second", "versions", "machine", "script_sha256", "curve",
    "command",
)  # fmt: skip


def rows():
    """All rows of all result files whose script is still the same, as dictionaries of strings."""
    result = []
    for path in sorted(RESULTS.glob("*.csv")):
        with open(path, newline="") as file:
            result += [row for row in csv.DictReader(file) if row["script_sha256"] == fingerprint(row["script"])]
    return result


@functools.cache
def fingerprint(script):
    """Of what the script does: its text without comments and documentation."""
    tree = ast.parse((ROOT / f"{script}.py").read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            node.body = node.body[1:]
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()[:12]


def read_curve(run_dir, start):
    """[step, seconds since `start`, mean return of the last 100 training episodes] for each iteration that has one."""
    events = EventAccumulator(str(run_dir), size_guidance={"scalars": 0})
    events.Reload()
    return [
        [e.step, round(e.wall_time - start, 1), round(e.value, 2)] for e in events.Scalars("charts/episodic_return")
    ]


def run(script, env_id, steps, seed, flags):
    """Trains once in a directory of its own and returns the row."""
    if script == "ppo_minimal_cartpole":
        command = [sys.executable, "-c", f"import {script}; {script}.train_ppo_cartpole(seed={seed})"]
    else:
        command = [sys.executable, str(ROOT / f"{script}.py"), "--env-id", env_id]
        command += ["--total-timesteps", str(steps), "--seed", str(seed), *flags.split()]
    with tempfile.TemporaryDirectory() as folder:
        start = time.time()
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        wall_seconds = time.time() - start
        if result.returncode:
            sys.exit(f"{' '.join(command)} failed: {result.stderr}")
        if script == "ppo_minimal_cartpole":
            table = re.findall(r"(\d+) steps: average reward ([\d.]+)", result.stdout)
            curve, threshold = [[int(step), "", float(value)] for step, value in table], 475
            speed = round(steps / wall_seconds)
            episodes = 100
            mean, std, worst = re.search(r"([\d.]+) \+- ([\d.]+), the worst ([\d.]+)", result.stdout).groups()
        else:
            (run_dir,) = Path(folder, "runs").iterdir()
            curve, threshold = read_curve(run_dir, start), gym.spec(env_id).reward_threshold
            pattern = r"greedy return (\S+) \+- (\S+) over (\d+) episodes, from (\S+) to"
            mean, std, episodes, worst = re.search(pattern, result.stdout).groups()
            speed = re.search(r"(\d+) steps per second", result.stdout)[1]
    reached = (point[:2] for point in curve if threshold is not None and point[2] >= threshold)
    solved_step, solved_seconds = next(reached, ("", ""))
    curve = [[step, value] for step, _, value in curve[:: max(1, len(curve) // 50)]]
    words = [Path(word).name if word.startswith("/") else word for word in command]
    values = (
        script, env_id, seed, steps, flags, solved_step, solved_seconds, mean, std, worst, episodes,
        round(wall_seconds, 1), speed, " ".join(f"{name}=={importlib.metadata.version(name)}" for name in PACKAGES),
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}", fingerprint(script),
        json.dumps(curve, separators=(",", ":")), " ".join(words),
    )  # fmt: skip
    return dict(zip(FIELDS, map(str, values), strict=True))


def campaign(script, env_id, steps, seeds, flags):
    """Runs the seeds that have no row yet and appends each row as soon as it is there."""
    have = {(r["script"], r["environment"], r["steps"], r["flags"], r["seed"]) for r in rows()}
    todo = [seed for seed in seeds if (script, env_id, str(steps), flags, str(seed)) not in have]
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{script}.csv"
    with ThreadPoolExecutor(2) as pool:
        for row in pool.map(lambda seed: run(script, env_id, steps, seed, flags), todo):
            new = not path.exists()
            with open(path, "a", newline="") as file:
                writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
                if new:
                    writer.writeheader()
                writer.writerow(row)
            print(
                ", ".join(f"{k} {row[k]}" for k in ("seed", "solved_step", "solved_seconds", "greedy_mean")), flush=True
            )


def table():
    """Prints a line of Markdown for each setting, those of the README first: mean and worst over the seeds."""
    groups = {(script, env_id, str(steps), flags): [] for script, env_id, steps, _, flags in CAMPAIGNS}
    for row in rows():
        groups.setdefault(tuple(row[k] for k in ("script", "environment", "steps", "flags")), []).append(row)
    print(
        "| script | environment | steps | flags | seeds | greedy return | worst seed "
        "| solved: median seed | worst seed |\n|---|---|---|---|---|---|---|---|---|"
    )
    for (script, env_id, steps, flags), group in groups.items():
        if not group:
            continue
        greedy = [float(row["greedy_mean"]) for row in group]
        solved = [(int(row["solved_step"]), float(row["solved_seconds"] or 0)) for row in group if row["solved_step"]]
        if len(solved) == len(group):
            timed = script != "ppo_minimal_cartpole"
            median, worst = (
                f"{pick(step for step, _ in solved) / 1000:.0f} k steps"
                + f", {pick(second for _, second in solved):.0f} s" * timed
                for pick in (statistics.median, max)
            )
        else:
            median, worst = "", f"{len(solved)} of {len(group)} seeds solved" if solved else ""
        cells = (f"`{script}`", env_id, f"{int(steps):,}", f"`{flags}`" if flags else "", len(group),
                 f"{statistics.mean(greedy):.2f}", f"{min(greedy):.2f}", median, worst)  # fmt: skip
        print("|", " | ".join(map(str, cells)), "|")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("script", nargs="?")
    parser.add_argument("env_id", nargs="?")
    parser.add_argument("steps", nargs="?", type=int)
    parser.add_argument("--seeds", default="1-10", help="a range of seeds, such as 1-10")
    parser.add_argument("--flags", default="", help="further flags of the script, in quotes")
    parser.add_argument("--all", action="store_true", help="run every campaign of the README")
    parser.add_argument("--table", action="store_true", help="only print the table of what has been run")
    args = parser.parse_args()
    if args.all:
        for script, env_id, steps, seeds, flags in CAMPAIGNS:
            campaign(script, env_id, steps, range(1, seeds + 1), flags)
    elif not args.table:
        first, _, last = args.seeds.partition("-")
        campaign(args.script, args.env_id, args.steps, range(int(first), int(last or first) + 1), args.flags)
    table()


if __name__ == "__main__":
    main()
