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
two percent, and small changes go unnoticed. The minimal script logs nothing; its losses are those of the last minibatch
of each update.
"""

import argparse
import importlib
import math
import re
import statistics
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import gymnasium as gym
from launcher import (
    command_for,
    greedy_return,
    keep,
    processor,
    provenance,
    read_rows,
    rows_of,
    run,
    scalars,
    start,
    table,
)

SEEDS = range(11, 21)  # to report; defaults are chosen on 1 to 5
TAGS = ("charts/episodic_return", "losses/policy_loss", "losses/value_loss", "losses/approx_kl")
MINIMAL = "ppo_minimal_cartpole"
TRAIN_MINIMAL = """
import gymnasium as gym, numpy as np, ppo_minimal_cartpole, torch

def backward(loss, backward=torch.Tensor.backward):
    print("loss", loss.item())
    backward(loss)

def ppo_update(agent, *others, ppo_update=ppo_minimal_cartpole.ppo_update):
    global updates
    ppo_update(agent, *others)
    updates += 1
    if updates % 4 == 0:
        print(updates * ppo_minimal_cartpole.Args.num_steps, "steps: average reward", evaluate(agent, 10).mean())

@torch.no_grad()
def evaluate(agent, num_episodes):
    env, returns = gym.make("CartPole-v1"), np.zeros(num_episodes)
    for episode in range(num_episodes):
        (obs, _), done = env.reset(seed=1_000_000 + episode), False
        while not done:
            policy, _ = agent(torch.as_tensor(obs))
            obs, reward, terminated, truncated, _ = env.step(policy.mode.item())
            returns[episode] += reward
            done = terminated or truncated
    return returns

updates = 0
torch.Tensor.backward, ppo_minimal_cartpole.ppo_update = backward, ppo_update
returns = evaluate(ppo_minimal_cartpole.train_ppo_cartpole(seed={seed}), 100)
print(f"greedy return {{returns.mean():.2f}} +- {{returns.std():.2f}} over 100 episodes")
"""


class Setting(NamedTuple):
    script: str
    env_id: str
    steps: int
    flags: str = ""

    def __str__(self):
        return f"{self.script} {self.env_id} {self.steps}" + f' --flags="{self.flags}"' * bool(self.flags)

    def command(self, seed):
        if self.script == MINIMAL:
            return [sys.executable, "-c", TRAIN_MINIMAL.format(seed=seed)]
        flags = f"--env-id {self.env_id} --total-timesteps {self.steps} --seed {seed} {self.flags}"
        return command_for(self.script, flags)


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


def first_iterations(logged):
    """The first ten iterations in full precision: {tag: values}. Before an episode has ended, there is no return."""
    last = logged["losses/approx_kl"][:10][-1][0]
    return {tag: [value for step, _, value in logged.get(tag, ()) if step <= last] for tag in TAGS}


def first_losses(stdout):
    """The same for the minimal script, with updates of 80 minibatches; a return is printed after every fourth one."""
    losses = [float(loss) for loss in re.findall(r"loss (\S+)", stdout)]
    returns = [float(value) for value in re.findall(r"average reward (\S+)", stdout)]
    return {"loss": losses[79:800:80], "return": returns[:2]}


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


def difference(row):
    """Trains the first ten iterations of a row again; returns the first difference in words, or ""."""
    setting = Setting(*row["setting"])
    with tempfile.TemporaryDirectory() as folder:
        main_flags = [] if setting.script == MINIMAL else ["--checkpoint-interval", "10"]
        process = start([*setting.command(row["seed"]), *main_flags], folder)
        try:
            if setting.script == MINIMAL:
                lines = []
                while len(lines) < 811 and (line := process.stdout.readline()):
                    lines.append(line)  # 800 losses, 2 returns, and 9 iterations that have ended
                now = first_losses("".join(lines))
            else:  # when the checkpoint is there, so are the curves
                while not list(Path(folder).glob("runs/*/checkpoint.pt")) and process.poll() is None:
                    time.sleep(0.1)
                now = first_iterations(scalars(next(Path(folder, "runs").iterdir())))
        except (IndexError, KeyError, OSError, StopIteration):  # it ended before
            now = None
        finally:
            process.kill()
            _, stderr = process.communicate()
    if now is None:
        return f"training fails: {stderr[-300:]}"
    return compare(now, row["first_iterations"], row["processor"] == processor())


def compare(now, then, same_processor):
    """The first difference between the first iterations of two runs in words, or ""."""
    tolerance, iterations = (1e-6, 10) if same_processor else (0.02, 1)
    for name, values in then.items():
        if len(now[name]) != len(values):
            return f"{name} has {len(now[name])} values in the first ten iterations, but {len(values)} in the row"
        for number, (value, old) in enumerate(zip(now[name][:iterations], values[:iterations], strict=True), 1):
            if not math.isclose(value, old, rel_tol=tolerance, abs_tol=tolerance / 100):
                return f"{name} number {number} is {value}, but {old} in the row"
    return ""


def outdated(rows):
    """The settings and commits of those rows that today's scripts don't repeat, judged by one row of each."""
    probes, result = {}, []
    for row in sorted(rows, key=lambda row: row["processor"] != processor()):  # best on the processor that made it
        probes.setdefault((Setting(*row["setting"]), row["commit"]), row)
    with ThreadPoolExecutor(2) as pool:
        for (setting, commit), differs in zip(probes, pool.map(difference, probes.values()), strict=True):
            row = probes[setting, commit]
            elsewhere = "" if row["processor"] == processor() else f" (first iteration only: {row['processor']})"
            print(f"{'differs' if differs else 'same   '} {setting}, seed {row['seed']}{elsewhere}", flush=True)
            if differs:
                print(f"        {differs}, which is of commit {commit[:7]}", flush=True)
                result.append((setting, commit))
    return result


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
    fields = ("setting", "seed")
    return [(setting, rows_of("learning", fields, [(setting, seed) for seed in seeds])) for setting in settings]


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
