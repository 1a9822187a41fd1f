"""Steps per second of training beside those of the environment alone.

    python benchmarks/speed.py

Medians of three, in turn, one process at a time with one thread; run nothing else meanwhile. The environment alone
takes random actions in as many environments side by side. Training includes logging and checkpoints. Ratios hold from
one machine to the next, and from one day to the next; steps per second do not. peers.py compares with other
implementations.
"""

import statistics
import sys
import time

import gymnasium as gym
from launcher import command_for, in_turn, keep, origin, provenance, require_idle, rows_of, run, steps_per_second, table
from peers import CLEANRL_FLAGS

REPEATS = 3
FIELDS = ("title", "environment", "flags")
LANDER, CONTINUOUS = "LunarLander-v3", "LunarLanderContinuous-v3"
SETTINGS = (  # title, script, environment, environments side by side, flags
    ("our defaults", "ppo_discrete", LANDER, 16, ""),
    ("CleanRL's settings", "ppo_discrete", LANDER, 4, CLEANRL_FLAGS[LANDER]),
    ("CleanRL's settings, but 16 environments", "ppo_discrete", LANDER, 16, f"{CLEANRL_FLAGS[LANDER]} --num-envs 16"),
    ("our defaults", "ppo_continuous", CONTINUOUS, 32, ""),
    ("CleanRL's settings", "ppo_continuous", CONTINUOUS, 1, CLEANRL_FLAGS[CONTINUOUS]),
)


def environment_alone(env_id, num_envs, steps=60_000):
    """Steps per second of the vector environment under random actions."""
    envs = gym.make_vec(env_id, num_envs)
    envs.reset(seed=1)
    envs.action_space.seed(1)
    actions = [envs.action_space.sample() for _ in range(1000)]
    start = time.perf_counter()
    for t in range(steps // num_envs):
        envs.step(actions[t % 1000])
    return steps // num_envs * num_envs / (time.perf_counter() - start)


def training(script, env_id, flags):
    flags = f"--env-id {env_id} --total-timesteps 61440 --eval-episodes 1 {flags}"
    return steps_per_second(run(command_for(script, flags)).stdout)


def summary():
    rows = rows_of("speed", FIELDS, [(title, env_id, flags) for title, _, env_id, _, flags in SETTINGS])
    lines = []
    for row in rows:
        alone, ours = statistics.median(row["alone"]), statistics.median(row["ours"])
        spread = f"{min(row['ours']):,} to {max(row['ours']):,}"
        lines.append([f"{row['environment']}, {row['title']}", f"{alone:,.0f}", f"{ours:,.0f}", spread,
                      f"{ours / alone:.2f}"])  # fmt: skip
    return table("median steps/s | environment alone | training | from, to | ratio", lines) + f"\n\n{origin(rows)}"


def main():
    require_idle()
    for title, script, env_id, num_envs, flags in SETTINGS:
        row = {"title": title, "environment": env_id, "flags": flags} | provenance()
        alone = [sys.executable, __file__, "alone", env_id, str(num_envs)]
        jobs = {
            "alone": lambda alone=alone: round(float(run(alone).stdout)),
            "ours": lambda job=(script, env_id, flags): training(*job),
        }
        keep("speed", row | in_turn(jobs, REPEATS), FIELDS)
    print(summary())


if __name__ == "__main__":
    if sys.argv[1:2] == ["alone"]:  # the process that `main` starts
        print(environment_alone(sys.argv[2], int(sys.argv[3])))
    else:
        main()
