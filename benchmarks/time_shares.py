"""Where the time of training goes: shares of the environment, the policy, the update and the rest.

    python benchmarks/time_shares.py

Times the functions that `train` calls, medians of three runs; run nothing else meanwhile.
"""

import importlib
import json
import statistics
import sys
import time
from pathlib import Path

import torch
from launcher import keep, origin, provenance, require_idle, rows_of, run, table
from peers import CLEANRL_FLAGS

SETTINGS = (
    ("ppo_discrete", "LunarLander-v3", ""),
    ("ppo_discrete", "LunarLander-v3", CLEANRL_FLAGS["LunarLander-v3"]),
    ("ppo_continuous", "LunarLanderContinuous-v3", CLEANRL_FLAGS["LunarLanderContinuous-v3"]),
    ("ppo_continuous", "BipedalWalker-v3", ""),
)
STEPS, REPEATS = 61_440, 3
FIELDS = ("environment", "flags")


def shares(script, env_id, flags):
    """{part: share of the training time}, of a run in this process."""
    import tyro

    torch.set_num_threads(1)
    script = importlib.import_module(script)
    args = tyro.cli(script.Args, args=["--env-id", env_id, "--total-timesteps", str(STEPS), *flags.split()])
    seconds = dict.fromkeys(("environment", "policy", "advantages", "update", "logging and checkpoints"), 0.0)

    def timed(owner, name, part):
        function = getattr(owner, name)

        def wrapper(*args, **kwargs):
            start = time.perf_counter()
            result = function(*args, **kwargs)
            seconds[part] += time.perf_counter() - start
            return result

        setattr(owner, name, wrapper)

    make_envs, reset_at = script.make_envs, []

    def make_timed_envs(*args, **kwargs):
        envs = make_envs(*args, **kwargs)
        timed(envs, "step", "environment")
        reset_at.append(time.perf_counter())
        return envs

    script.make_envs = make_timed_envs
    timed(script.Agent, "act", "policy")
    timed(script, "compute_gae", "advantages")
    timed(script, "ppo_update", "update")
    timed(script.SummaryWriter, "add_scalar", "logging and checkpoints")
    timed(script.SummaryWriter, "add_histogram", "logging and checkpoints")
    timed(script, "save_checkpoint", "logging and checkpoints")
    script.evaluate = lambda *_, **__: finish()

    def finish():
        total = time.perf_counter() - reset_at[0]
        seconds["all else"] = total - sum(seconds.values())
        print(json.dumps({part: value / total for part, value in seconds.items()}), flush=True)
        sys.exit()  # the evaluation at the end is no part of training

    script.train(args, Path("runs", "shares"))


def summary():
    rows = rows_of("time_shares", FIELDS, [(env_id, flags) for _, env_id, flags in SETTINGS])
    parts = list(rows[0]["shares"][0])
    lines = [
        [f"{row['environment']}, `{row['flags']}`" if row["flags"] else f"{row['environment']}, our defaults"]
        + [f"{statistics.median(share[part] for share in row['shares']):.0%}" for part in parts]
        for row in rows
    ]
    return table("share of the time | " + " | ".join(parts), lines) + f"\n\n{origin(rows)}"


def main():
    require_idle()
    for setting in SETTINGS:
        row = {"environment": setting[1], "flags": setting[2]} | provenance()
        printed = [run([sys.executable, __file__, *setting]).stdout.splitlines()[-1] for _ in range(REPEATS)]
        keep("time_shares", row | {"shares": [json.loads(line) for line in printed]}, FIELDS)
    print(summary())


if __name__ == "__main__":
    if len(sys.argv) == 4:  # the process that `main` starts
        shares(*sys.argv[1:])
    else:
        main()
