"""How the speed of training grows with environments and processes, and falls with the width of the networks.

    python benchmarks/scaling.py

Medians of two, in turn, one measurement at a time; run nothing else meanwhile. Two processes need two cores.
"""

import statistics

from launcher import in_turn, keep, origin, provenance, require_idle, rows_of, table
from speed import training

REPEATS = 2
FIELDS = ("title", "name")
LANDER, WALKER = ("ppo_discrete", "LunarLander-v3"), ("ppo_continuous", "BipedalWalker-v3")
NUM_ENVS = (1, 4, 16, 64)
SUITES = {  # title: {name: a call of `training`}
    "LunarLander-v3, steps/s, batches of 128 steps of each environment": {
        f"{num_envs} environments, {width} units": (
            (*LANDER, f"--num-envs {num_envs} --hidden-size {width}"),
            {"steps": max(20_480, 10 * num_envs * 128)},
        )
        for width in (64, 256)
        for num_envs in NUM_ENVS
    },
    "steps/s of one and two processes": {
        f"{env_id}{title}, {name}": ((script, env_id, flags), {"steps": 61_440, "processes": processes})
        for script, env_id in (WALKER, LANDER)
        for title, flags in (("", ""), (", `--num-minibatches 4`", "--num-minibatches 4"))
        for name, processes in (("one process", 1), ("two processes", 2))
    },
}


def summary():
    parts = []
    for title, suite in SUITES.items():
        rows = rows_of("scaling", FIELDS, [(title, name) for name in suite])
        lines = [
            [row["name"], f"{statistics.median(row['values']):,.0f}"]
            + [f"{min(row['values']):,} to {max(row['values']):,}"]
            for row in rows
        ]
        parts.append(table(f"{title} | median | from, to", lines))
    return "\n\n".join([*parts, origin(rows)])


def main():
    require_idle()
    for title, suite in SUITES.items():
        row = {"title": title} | provenance()
        jobs = {
            name: lambda words=words, options=options: training(*words, **options)
            for name, (words, options) in suite.items()
        }
        for name, values in in_turn(jobs, REPEATS).items():
            keep("scaling", row | {"name": name, "values": values}, FIELDS)
    print(summary())


if __name__ == "__main__":
    main()
