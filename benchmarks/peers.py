"""CleanRL, Stable-Baselines3 and our scripts on the same environments: returns, steps and seconds.

    git clone https://github.com/vwxyzjn/cleanrl
    python benchmarks/peers.py --cleanrl cleanrl --sb3

Each command trains alone on the machine, with one thread; the peers take turns, seed after seed. Run nothing else
meanwhile: seconds are the point. Rows go to benchmarks/results/peers.jsonl; an interrupted campaign goes on. CleanRL
gets a virtual environment with Gymnasium 0.29, for which its scripts were written, and Stable-Baselines3 one with the
Gymnasium that it asks for; both are made in benchmarks/.venvs.

All returns are means of the last 100 training episodes, with sampled actions: the one figure that all of them report.
An environment is solved when it first reaches Gymnasium's reward threshold. Seconds count from the start of the
command, imports included. The steps are whole batches for everybody. Gymnasium 0.29 has LunarLander-v2 instead of v3,
which makes a new world for each episode.
"""

import argparse
import json
import statistics
import subprocess
import sys
import venv
from collections import deque
from importlib.metadata import version
from pathlib import Path

import gymnasium as gym
from launcher import (
    ROOT,
    Setting,
    keep,
    key,
    origin,
    provenance,
    read_rows,
    require_idle,
    rows_of,
    run,
    steps_per_second,
    table,
)
from learning import train
from verify import outdated

SEEDS = (11, 12, 13)
STEPS = {"LunarLander-v3": 327_680, "LunarLanderContinuous-v3": 327_680}
SCRIPTS = {"LunarLander-v3": "ppo_discrete", "LunarLanderContinuous-v3": "ppo_continuous"}
CLEANRL_SCRIPTS = {"LunarLander-v3": "ppo.py", "LunarLanderContinuous-v3": "ppo_continuous_action.py"}
CLEANRL_FLAGS = {  # for our scripts to do the same work
    "LunarLander-v3": "--learning-rate 2.5e-4 --num-envs 4 --num-steps 128 --num-minibatches 4 --update-epochs 4 "
    "--gamma 0.99 --gae-lambda 0.95 --clip-vloss --ent-coef 0.01 --no-norm-obs --no-norm-reward",
    "LunarLanderContinuous-v3": "--learning-rate 3e-4 --num-envs 1 --num-steps 2048 --num-minibatches 32 "
    "--update-epochs 10 --gamma 0.99 --gae-lambda 0.95 --clip-vloss --max-grad-norm 0.5 --target-kl None "
    "--init-log-std 0",
}
# https://github.com/DLR-RM/rl-baselines3-zoo/blob/master/hyperparams/ppo.yml, the same for both environments
ZOO = {"num_envs": 16, "n_steps": 1024, "batch_size": 64, "n_epochs": 4, "gamma": 0.999, "gae_lambda": 0.98}
ZOO |= {"ent_coef": 0.01}
TORCH = f"torch=={version('torch').partition('+')[0]}"
REQUIREMENTS = {
    "cleanrl": ["gymnasium==0.29.1", "box2d==2.3.10", "pygame", "numpy<2", TORCH, "tensorboard", "tyro"],
    "sb3": ["stable-baselines3==2.9.2", "gymnasium[box2d]==1.4.0", TORCH],
}
OURS, OURS_AS_CLEANRL, CLEANRL = "ours", "ours, CleanRL's settings", "CleanRL"
SB3, SB3_ZOO = "Stable-Baselines3", "Stable-Baselines3, RL Zoo's settings"
PEERS = (OURS, OURS_AS_CLEANRL, CLEANRL, SB3, SB3_ZOO)
FIELDS = ("peer", "environment", "seed", "steps")


def python_with(name):
    """The interpreter of a virtual environment with these requirements, which is made where there is none."""
    folder = ROOT / "benchmarks" / ".venvs" / name
    complete, wanted = folder / "complete", " ".join(REQUIREMENTS[name])
    if not complete.exists() or complete.read_text() != wanted:
        print(f"installing {wanted} into {folder}", flush=True)
        venv.create(folder, clear=True, with_pip=True)
        subprocess.run([folder / "bin" / "python", "-m", "pip", "install", "--quiet", *REQUIREMENTS[name]], check=True)
        complete.write_text(wanted)
    return folder / "bin" / "python"


def ours(env_id, seed, flags):
    row, done = train(Setting(SCRIPTS[env_id], env_id, STEPS[env_id], flags), seed)
    curve = [[step, time - done.start, value] for step, time, value in done.scalars["charts/episodic_return"]]
    kept = {"setting": row["setting"], "args": row["args"], "first_iterations": row["first_iterations"]}
    return kept | {"curve": curve, "steps_per_second": steps_per_second(done.stdout)}


def cleanrl(env_id, seed, checkout):
    flags = f"--no-cuda --env-id {env_id.replace('v3', 'v2')} --total-timesteps {STEPS[env_id]} --seed {seed}"
    script = Path(checkout, "cleanrl", CLEANRL_SCRIPTS[env_id]).resolve()
    describe = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(describe, cwd=checkout, capture_output=True, text=True).stdout.strip()
    done = run([python_with("cleanrl"), script, *flags.split()])
    curve = last_100([step, time - done.start, value] for step, time, value in done.scalars["charts/episodic_return"])
    kept = {"flags": flags, "cleanrl": commit, "installed": REQUIREMENTS["cleanrl"]}
    return kept | {"curve": curve, "steps_per_second": round(done.scalars["charts/SPS"][-1][2])}


def sb3(env_id, seed, settings):
    script = ROOT / "benchmarks" / "peers_sb3.py"
    done = run([python_with("sb3"), script, env_id, str(STEPS[env_id]), str(seed), json.dumps(settings)])
    result = json.loads(done.stdout.splitlines()[-1])
    curve = last_100([step, time - done.start, value] for step, time, value in result["episodes"])
    kept = {"settings": settings, "installed": REQUIREMENTS["sb3"]}
    return kept | {"curve": curve, "steps_per_second": round(result["steps_per_second"])}


def last_100(episodes):
    """[[step, seconds, return], ...] with the mean of the last 100 returns in place of each."""
    last, curve = deque(maxlen=100), []
    for step, seconds, value in episodes:
        last.append(value)
        curve.append([step, seconds, statistics.mean(last)])
    return curve


def measure(peer, env_id, seed, checkout):
    """The row, with 100 points of the curve and what is read from all of them."""
    row = {"peer": peer, "environment": env_id, "seed": seed, "steps": STEPS[env_id]} | provenance()
    if peer in (OURS, OURS_AS_CLEANRL):
        row |= ours(env_id, seed, CLEANRL_FLAGS[env_id] if peer == OURS_AS_CLEANRL else "")
    elif peer == CLEANRL:
        row |= cleanrl(env_id, seed, checkout)
    else:
        row |= sb3(env_id, seed, ZOO if peer == SB3_ZOO else {})
    curve, threshold = row["curve"], gym.spec(env_id).reward_threshold
    solved = next(([step, round(seconds, 1)] for step, seconds, value in curve if value >= threshold), None)
    points = curve[:: max(1, len(curve) // 100)] + curve[-1:]
    points = [[step, round(seconds, 1), round(value, 2)] for step, seconds, value in points]
    return row | {"solved": solved, "return": round(curve[-1][2], 2), "curve": points}


def groups(env_id):
    """[(peer, its rows)]; an error where one is missing."""
    steps = STEPS[env_id]
    return [(peer, rows_of("peers", FIELDS, [(peer, env_id, seed, steps) for seed in SEEDS])) for peer in PEERS]


def summary():
    """A table in Markdown for each environment, all seeds in it."""
    parts = []
    for env_id, steps in STEPS.items():
        lines = []
        for peer, rows in groups(env_id):
            returns = [row["return"] for row in rows]
            steps_until, seconds_until = zip(*(row["solved"] or (None, None) for row in rows), strict=True)
            lines.append([
                peer, f"{statistics.median(row['steps_per_second'] for row in rows):,.0f}",
                f"{statistics.mean(returns):.0f}", " ".join(str(round(value)) for value in returns),
                " ".join(f"{step / 1000:.0f}" if step else "-" for step in steps_until),
                " ".join(f"{second:.0f}" if second else "-" for second in seconds_until),
                " ".join(f"{row['curve'][-1][1]:.0f}" for row in rows),
            ])  # fmt: skip
        header = (
            "| steps/s | return | each seed's | thousand steps until solved | seconds until solved | seconds in all"
        )
        parts.append(f"**{env_id}**, {steps:,} steps, seeds {SEEDS[0]} to {SEEDS[-1]}:\n\n" + table(header, lines))
    rows = [row for env_id in STEPS for _, group in groups(env_id) for row in group]
    versions = {f"CleanRL {row['cleanrl']}" for row in rows if "cleanrl" in row}
    versions |= {one for row in rows for one in row.get("installed", ()) if one.startswith(("gymnasium", "stable"))}
    return "\n\n".join([*parts, f"{origin(rows)} {', '.join(sorted(versions))}."])


def headline():
    """How long LunarLander-v3 takes each of them."""
    lines, env_id = [], "LunarLander-v3"
    for peer, rows in groups(env_id):
        solved = [row["solved"][1] for row in rows if row["solved"]]
        whole = statistics.median(row["curve"][-1][1] for row in rows)
        until = f"{statistics.median(solved):.0f} s" if len(solved) == len(rows) else ""
        lines.append([peer, f"{len(solved)} of {len(rows)}", until, f"{whole:.0f} s"])
    return table(f"{env_id}, {STEPS[env_id]:,} steps, one core | solved | median until solved | whole run", lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cleanrl", type=Path, help="a checkout of CleanRL, to compare with it")
    parser.add_argument("--sb3", action="store_true", help="compare with Stable-Baselines3")
    args = parser.parse_args()
    if args.cleanrl and not (args.cleanrl / "cleanrl" / "ppo.py").exists():
        sys.exit(f"error: {args.cleanrl} is no checkout of CleanRL: it has no cleanrl/ppo.py")
    wanted = [OURS, OURS_AS_CLEANRL] + [CLEANRL] * bool(args.cleanrl) + [SB3, SB3_ZOO] * args.sb3
    require_idle()
    provenance()  # refuses uncommitted scripts before any time is spent
    kept = read_rows("peers")
    differing = outdated([row for row in kept if "setting" in row])  # ours, of a script that learns otherwise by now
    have = {
        key(row, FIELDS)
        for row in kept
        if "setting" not in row or (Setting(*row["setting"]), row["commit"]) not in differing
    }
    for env_id, steps in STEPS.items():
        for seed in SEEDS:
            for peer in wanted:
                if (peer, env_id, seed, steps) not in have:
                    row = measure(peer, env_id, seed, args.cleanrl)
                    keep("peers", row, FIELDS)
                    print(f"{env_id}, seed {seed}, {peer}: return {row['return']}, {row['steps_per_second']} steps/s, "
                          f"solved at {row['solved'] or '-'}", flush=True)  # fmt: skip
    print("python benchmarks/report.py and python benchmarks/curves.py show the rows")


if __name__ == "__main__":
    main()
