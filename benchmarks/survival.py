"""Kills training runs at random instants, resumes them each time, and compares what they learn with undisturbed runs.

    python benchmarks/survival.py

Two seeds at a time. Each kill is SIGKILL, at a random instant of the first three seconds of training, in which a few
checkpoints are written. Where there is none yet, the run begins anew. Prints the greedy returns of both kinds of run
and the 95 % confidence intervals of their means: a resumed run begins new episodes, so it is not the same run.
"""

import signal
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import launcher
from launcher import command_for, greedy_return, keep, origin, provenance, rows_of, start, table

SEEDS, KILLS, STEPS = range(11, 16), 20, 250_000
T_975 = 2.78  # quantile of Student's t for five seeds


def go_on(folder, seed):
    """The run in this folder from its checkpoint, or from the beginning if there is none."""
    checkpoints = list(Path(folder).glob("runs/*/checkpoint.pt"))
    if checkpoints:
        flags = f"--resume {checkpoints[-1]}"
    else:  # checkpoints many times within the seconds between two kills
        flags = f"--env-id LunarLander-v3 --total-timesteps {STEPS} --seed {seed} --checkpoint-interval 2"
    return start(command_for("ppo_discrete", flags), folder)


def run(seed, kills):
    """The greedy return after a run that is killed that many times, and how many of the kills hit it in training."""
    random = Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        hits = 0
        for _ in range(kills):
            files = set(Path(folder).glob("runs/*/events*"))
            process = go_on(folder, seed)
            while process.poll() is None and files == set(Path(folder).glob("runs/*/events*")):
                time.sleep(0.05)  # it does not train yet
            time.sleep(random.uniform(0, 3))
            if process.poll() is not None:  # trained to the end before the last kill
                break
            process.send_signal(signal.SIGKILL)
            process.communicate()
            hits += 1
        else:
            process = go_on(folder, seed)
        stdout, stderr = process.communicate()
        if process.returncode and "has been trained for" in stderr:  # killed during the evaluation at the end
            (path,) = Path(folder).glob("runs/*/checkpoint.pt")
            stdout = launcher.run(command_for("ppo_discrete", f"--evaluate {path}")).stdout
        elif process.returncode:
            sys.exit(f"seed {seed} could not go on after {hits} kills: {stderr}")
        return greedy_return(stdout)["mean"], hits


def summary():
    lines, rows = [], rows_of("survival", ("kills", "steps"), [(KILLS, STEPS), (0, STEPS)])
    for row in rows:
        returns = row["returns"]
        mean, half = statistics.mean(returns), T_975 * statistics.stdev(returns) / len(returns) ** 0.5
        lines.append([row["kills"], f"{mean:.1f}", f"{mean - half:.1f} to {mean + half:.1f}",
                      " ".join(f"{value:.0f}" for value in returns), sum(row["hits"])])  # fmt: skip
    header = "kills of each run | greedy return | 95 % interval | each seed's | kills that hit training"
    return table(header, lines) + f"\n\n{origin(rows)}"


def main():
    with ThreadPoolExecutor(2) as pool:
        for kills in (KILLS, 0):
            row = {"kills": kills, "steps": STEPS} | provenance()
            returns, hits = zip(*pool.map(lambda seed, kills=kills: run(seed, kills), SEEDS), strict=True)
            keep("survival", row | {"hits": hits, "returns": returns}, ("kills", "steps"))
    print(summary())


if __name__ == "__main__":
    main()
