"""Each recipe beside the plain script, on an environment that it is for: returns, steps per second, seconds in all.

    pip install popgym envpool minigrid minatar mpe2 pettingzoo
    python benchmarks/recipes.py                                # all settings
    python benchmarks/recipes.py DeepSea Pendulum --processes 1  # those whose environment's name holds one of these

Two runs at a time, one thread each: compare seconds within the table only. A row is kept as soon as it is there, and
an interrupted campaign goes on. Rows of an older patch or script are measured anew.
"""

import argparse
import contextlib
import statistics
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from launcher import (
    ROOT,
    command_for,
    git,
    greedy_return,
    keep,
    key,
    origin,
    provenance,
    read_rows,
    rows_of,
    run,
    steps_per_second,
    table,
)


class Setting(NamedTuple):
    recipe: str  # "" is the script as it is
    env_id: str
    steps: int
    num_seeds: int
    flags: str = ""
    script: str = "ppo_discrete"


MEMORY = "popgym:popgym-RepeatPreviousEasy-v0"
PIXELS = "--env-kwargs {} --frame-skip 1 --learning-rate 1e-3"
MINATAR = "--env-kwargs {}"
SEAS = ('--env-kwargs {"size":16}', '--env-kwargs {"size":20}')
SPREADS = (
    '--env-kwargs {"N":2} --gamma 0.9',
    '--env-kwargs {"N":3} --gamma 0.9 --hidden-size 128 --learning-rate 1e-3',
)
MANY = "--num-steps 16 --num-minibatches 16 --update-epochs 5 --learning-rate 2e-3 --gamma 0.95"
SETTINGS = (
    Setting("images_discrete", "pixels:PixelDoorKey-v0", 200_000, 5, PIXELS),
    Setting("images_discrete", "minatar_games:MinAtar/Breakout-v1", 1_000_000, 3, MINATAR),
    Setting("", "minatar_games:MinAtar/Breakout-v1", 1_000_000, 3),
    Setting("images_discrete", "minatar_games:MinAtar/SpaceInvaders-v1", 1_000_000, 3, MINATAR),
    Setting("", "minatar_games:MinAtar/SpaceInvaders-v1", 1_000_000, 3),
    Setting("lstm_discrete", MEMORY, 250_000, 5),
    Setting("", MEMORY, 250_000, 5),
    Setting("action_masks", "Taxi-v4", 200_000, 5),
    Setting("", "Taxi-v4", 200_000, 5),
    Setting("envpool", "LunarLander-v3", 250_000, 5),
    Setting("shared_network", "LunarLander-v3", 250_000, 5),
    Setting("", "LunarLander-v3", 250_000, 5),
    *(Setting(recipe, "tasks:DeepSea-v0", 100_000, 10, sea) for sea in SEAS for recipe in ("curiosity", "")),
    *(Setting(recipe, "multiroom:MultiRoom-v0", 250_000, 10) for recipe in ("curiosity", "")),
    Setting("several_agents", "mpe2.simple_spread_v3", 300_000, 5, SPREADS[0]),
    Setting("several_agents", "mpe2.simple_spread_v3", 600_000, 5, SPREADS[1]),
    Setting("batched_simulator_continuous", "tasks:TorchPendulum", 2_000_000, 5, MANY, "ppo_continuous"),
    Setting("", "Pendulum-v1", 100_000, 5, script="ppo_continuous"),
)
FIELDS = ("setting", "seed")
JOBS = sorted(  # the settings of an environment in turn, so that all of them meet the machine's good and bad minutes
    ((setting, seed) for setting in SETTINGS for seed in range(11, 11 + setting.num_seeds)),
    key=lambda job: ([one.env_id for one in SETTINGS].index(job[0].env_id), job[1]),
)


@contextlib.contextmanager
def patched_copy(recipe, script):
    """A folder with the script after the recipe's patch, under the script's name."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, f"{script}.py")
        patch = (ROOT / "recipes" / f"{recipe}.patch").read_text() if recipe else ""
        target.write_text((ROOT / f"{script}.py").read_text())
        if patch:
            subprocess.run(["patch", "-s", target], input=patch, text=True, check=True)
        yield folder


def text_of(recipe, script):
    """A checksum of the script and its patch: rows of another one don't count."""
    paths = [f"{script}.py"] + [f"recipes/{recipe}.patch"] * bool(recipe)
    return " ".join(git("rev-parse", f"HEAD:{path}")[:12] for path in paths)


def measure(setting, seed):
    """The row of one run."""
    flags = f"--env-id {setting.env_id} --total-timesteps {setting.steps} --seed {seed} {setting.flags}"
    with patched_copy(setting.recipe, setting.script) as folder:
        started = time.perf_counter()
        done = run(command_for(setting.script, flags, folder=folder))
        seconds = time.perf_counter() - started
    row = {
        "setting": setting,
        "seed": seed,
        "text": text_of(setting.recipe, setting.script),
        "greedy": greedy_return(done.stdout),
    }
    return row | {"steps_per_second": steps_per_second(done.stdout), "seconds": round(seconds, 1)} | provenance()


def summary():
    """A line of Markdown for each setting: mean and worst seed, medians of speed and seconds."""
    lines, groups = [], [rows_of("recipes", FIELDS, [job for job in JOBS if job[0] == one]) for one in SETTINGS]
    for setting, rows in zip(SETTINGS, groups, strict=True):
        greedy = [row["greedy"]["mean"] for row in rows]
        lines.append([
            setting.env_id + f" `{setting.flags}`" * bool(setting.flags), setting.recipe or "none",
            f"{setting.steps:,}", len(rows), f"{statistics.mean(greedy):.2f}", f"{min(greedy):.2f}",
            f"{statistics.median(row['steps_per_second'] for row in rows):,.0f}",
            f"{statistics.median(row['seconds'] for row in rows):.0f}",
        ])  # fmt: skip
    header = "environment | recipe | steps | seeds | greedy return | worst seed | steps/s | seconds in all"
    return table(header, lines) + f"\n\n{origin([row for rows in groups for row in rows])}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    provenance()  # refuses uncommitted scripts before any time is spent
    rows = read_rows("recipes")
    have = {key(row, FIELDS) for row in rows if row["text"] == text_of(row["setting"][0], row["setting"][-1])}
    chosen = [job for job in JOBS if not options.words or any(word in job[0].env_id for word in options.words)]
    todo = [job for job in chosen if job not in have]
    with ThreadPoolExecutor(options.processes) as pool:
        for (setting, seed), row in zip(todo, pool.map(lambda job: measure(*job), todo), strict=True):
            keep("recipes", row, FIELDS)
            print(f"{setting}, seed {seed}: {row['greedy']['mean']}, {row['seconds']} s", flush=True)


if __name__ == "__main__":
    main()
