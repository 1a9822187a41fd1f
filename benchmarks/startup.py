"""Seconds from the shell to the end of the first update, and megabytes of memory at most.

    python benchmarks/startup.py

Imports, environments and one iteration of 128 steps of each environment, medians of five; run nothing else meanwhile.
"""

import os
import statistics
import tempfile
import time

from launcher import command_for, keep, origin, provenance, require_idle, rows_of, start, table

NUM_ENVS = (16, 64)


def measure(num_envs):
    flags = f"--num-envs {num_envs} --total-timesteps {num_envs * 128 * 20} --eval-episodes 1"
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        process = start(command_for("ppo_discrete", flags), folder)
        process.stdout.readline()  # the first line of progress: one of twenty iterations
        seconds = time.perf_counter() - began
        process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(process.stderr.read())
    return round(seconds, 2), round(usage.ru_maxrss / 1024)


def summary():
    rows, lines = rows_of("startup", ("num_envs",), [(num_envs,) for num_envs in NUM_ENVS]), []
    for row in rows:
        seconds, megabytes = zip(*row["measured"], strict=True)
        lines.append([row["num_envs"], f"{statistics.median(seconds):.1f}", f"{statistics.median(megabytes):.0f}"])
    header = "environments | seconds to the end of the first update | megabytes at most"
    return table(header, lines) + f"\n\n{origin(rows)}"


def main():
    require_idle()
    for num_envs in NUM_ENVS:
        row = {"num_envs": num_envs} | provenance()
        keep("startup", row | {"measured": [measure(num_envs) for _ in range(5)]}, ("num_envs",))
    print(summary())


if __name__ == "__main__":
    main()
