"""Kills training runs at random instants, resumes them each time, and compares what they learn with undisturbed runs.

    python benchmarks/survival.py --seeds 10 --kills 20

Two seeds at a time. Each kill is SIGKILL, at a random instant of the first three seconds of training, in which a few
checkpoints are written. Where there is none yet, the run begins anew. Prints the greedy returns of both kinds of run
and the 95 % confidence intervals of their means: a resumed run begins new episodes, so it is not the same run.
"""

import argparse
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

ROOT = Path(__file__).parent.parent
T_975 = {3: 4.30, 5: 2.78, 10: 2.26}  # quantile of Student's t for this many seeds


def start(folder, seed, steps):
    """The run in this folder from its checkpoint, or from the beginning if there is none."""
    checkpoints = list(Path(folder).glob("runs/*/checkpoint.pt"))
    if checkpoints:
        flags = ["--resume", str(checkpoints[-1])]
    else:
        flags = ["--env-id", "LunarLander-v3", "--total-timesteps", str(steps), "--seed", str(seed)]
        flags += ["--checkpoint-interval", "2"]  # many times within the seconds between two kills
    return subprocess.Popen(
        [sys.executable, str(ROOT / "ppo_discrete.py"), *flags],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(seed, steps, kills):
    """The greedy return after a run that is killed that many times, and how many of the kills hit it in training."""
    random = Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        hits = 0
        for _ in range(kills):
            files = set(Path(folder).glob("runs/*/events*"))
            process = start(folder, seed, steps)
            while process.poll() is None and files == set(Path(folder).glob("runs/*/events*")):
                time.sleep(0.05)  # it does not train yet
            time.sleep(random.uniform(0, 3))
            if process.poll() is not None:  # trained to the end before the last kill
                break
            process.send_signal(signal.SIGKILL)
            process.communicate()
            hits += 1
        else:
            process = start(folder, seed, steps)
        stdout, stderr = process.communicate()
        if process.returncode and "has been trained for" in stderr:  # killed during the evaluation at the end
            (path,) = Path(folder).glob("runs/*/checkpoint.pt")
            command = [sys.executable, str(ROOT / "ppo_discrete.py"), "--evaluate", str(path)]
            stdout = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        elif process.returncode:
            sys.exit(f"seed {seed} could not go on after {hits} kills: {stderr}")
        return float(re.search(r"greedy return (\S+)", stdout)[1]), hits


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10, choices=T_975)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=250_000)
    args = parser.parse_args()
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    with ThreadPoolExecutor(2) as pool:
        for kills in (args.kills, 0):
            results = list(pool.map(lambda seed, kills=kills: run(seed, args.steps, kills), seeds))
            returns = [greedy for greedy, _ in results]
            mean = statistics.mean(returns)
            half = T_975[args.seeds] * statistics.stdev(returns) / len(returns) ** 0.5
            print(f"{kills} kills: greedy returns {', '.join(f'{r:.2f}' for r in returns)}; kills that hit: "
                  f"{', '.join(str(hits) for _, hits in results)}; mean {mean:.1f}, 95 % interval {mean - half:.1f} to "
                  f"{mean + half:.1f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
