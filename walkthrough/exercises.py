"""Runs the exercises of the page with seeds 1 to 5, two at a time, and keeps their returns in exercises.json.

python walkthrough/exercises.py
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent
SEEDS = range(1, 6)
LANDER = "--env-id LunarLander-v3 --total-timesteps 100000"
PENDULUM = "--env-id Pendulum-v1 --total-timesteps 100000"


class Exercise(NamedTuple):
    name: str
    flags: str
    script: str = "ppo_discrete"
    changes: tuple = ()  # (old, new) text of a line


LARGE_REWARDS = (
    "return obs, np.asarray(reward).item(), terminated",
    "return obs, 100 * np.asarray(reward).item(), terminated",
)
EXERCISES = (
    Exercise("nothing changed", LANDER),
    Exercise("lambda 0: one-step advantages", f"{LANDER} --gae-lambda 0"),
    Exercise("lambda 1: no critic in the advantage's long sums", f"{LANDER} --gae-lambda 1"),
    Exercise("no clipping", f"{LANDER} --clip-coef inf"),
    Exercise("one epoch", f"{LANDER} --update-epochs 1"),
    Exercise("a large entropy bonus", f"{LANDER} --ent-coef 0.1"),
    Exercise("wind", f'{LANDER} --env-kwargs {{"enable_wind":true}}'),
    Exercise("rewards a hundred times as large", LANDER, changes=(LARGE_REWARDS,)),
    Exercise("the same, not scaled", f"{LANDER} --no-norm-reward", changes=(LARGE_REWARDS,)),
    Exercise("nothing changed", PENDULUM, "ppo_continuous"),
    Exercise(
        "`terminated` instead of `done` in the recursion",
        PENDULUM,
        "ppo_continuous",
        (("gae_lambda * ~done", "gae_lambda * ~terminated"),),
    ),
    Exercise(
        "`done` instead of `terminated` in the TD errors",
        PENDULUM,
        "ppo_continuous",
        (("gamma * ~terminated", "gamma * ~done"),),
    ),
)


def changed(script, changes):
    """The text of a script with each (old, new) text changed, where the old one stands once."""
    source = (FOLDER.parent / f"{script}.py").read_text()
    for old, new in changes:
        assert source.count(old) == 1, f"{script}.py must hold {old!r} once"
        source = source.replace(old, new)
    return source


def run(exercise, seed):
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, f"{exercise.script}.py").write_text(changed(exercise.script, exercise.changes))
        command = [sys.executable, f"{exercise.script}.py", *exercise.flags.split(), "--seed", str(seed)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    returned = float(re.search(r"greedy return (\S+)", done.stdout)[1])
    print(exercise.name, seed, returned, flush=True)
    return returned


def main():
    jobs = [(exercise, seed) for exercise in EXERCISES for seed in SEEDS]
    with ThreadPoolExecutor(2) as pool:
        returns = list(pool.map(lambda job: run(*job), jobs))
    rows = [returns[i : i + len(SEEDS)] for i in range(0, len(returns), len(SEEDS))]
    (FOLDER / "exercises.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
