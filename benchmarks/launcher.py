"""What the benchmarks share: starting scripts, reading what they print and log, keeping results, printing tables."""

import contextlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
sys.path.insert(0, str(ROOT))  # so that benchmarks can import the scripts
MINIMAL = "ppo_minimal_cartpole"
PACKAGES = ("gymnasium", "numpy", "torch", "box2d", "mujoco")


def command_for(script, flags, folder=None):
    """The command that trains with these flags (a string), as a list of words."""
    return [sys.executable, str(Path(folder or ROOT, f"{script}.py")), *flags.split()]


class Setting(NamedTuple):
    script: str
    env_id: str
    steps: int
    flags: str = ""

    def __str__(self):
        return f"{self.script} {self.env_id} {self.steps}" + f' --flags="{self.flags}"' * bool(self.flags)

    def command(self, seed):
        if self.script == MINIMAL:
            return [sys.executable, str(Path(__file__).parent / "minimal_run.py"), str(seed)]
        flags = f"--env-id {self.env_id} --total-timesteps {self.steps} --seed {seed} {self.flags}"
        return command_for(self.script, flags)


@contextlib.contextmanager
def changed_copy(script, changes):
    """A folder with a copy of the script in which each (old text, new text) is replaced, where it stands once."""
    text = (ROOT / f"{script}.py").read_text()
    for old, new in changes:
        if (places := text.count(old)) != 1:
            sys.exit(f"error: {script}.py holds {old!r} {places} times, but a change needs exactly one place")
        text = text.replace(old, new)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, f"{script}.py").write_text(text)
        yield folder


def start(command, folder):
    """Starts a command in a folder, with one thread, its output in pipes."""
    variables = {
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": f"{ROOT}:{ROOT / 'benchmarks'}:{ROOT / 'tests'}",
    }
    return subprocess.Popen(
        command, cwd=folder, env=os.environ | variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


class Run(NamedTuple):
    stdout: str
    start: float  # when the command was started, in seconds since 1970
    scalars: dict  # what it logged to TensorBoard, see below
    args: dict  # the flags in effect, as its checkpoint holds them


def run(command):
    """Runs a command in a directory of its own; ends this process with the command's error message if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.time()
        process = start(command, folder)
        try:
            stdout, stderr = process.communicate()
        finally:
            process.kill()  # where this process is interrupted
        if process.returncode:
            sys.exit(f"{' '.join(map(str, command))} failed: {stderr}")
        logged, args = {}, {}
        for run_dir in Path(folder).glob("runs/*"):
            logged = scalars(run_dir)
            if (run_dir / "checkpoint.pt").exists():
                args = torch.load(run_dir / "checkpoint.pt", weights_only=True)["args"]
    return Run(stdout, started, logged, args)


def scalars(run_dir):
    """All that was logged to TensorBoard: {tag: [(step, seconds since 1970, value), ...]}."""
    events = EventAccumulator(str(run_dir), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(e.step, e.wall_time, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def greedy_return(stdout):
    """Mean, standard deviation and number of the greedy episodes that a script ends with."""
    mean, std, episodes = re.search(r"greedy return (\S+) \+- (\S+) over (\d+) episodes", stdout).groups()
    return {"mean": float(mean), "std": float(std), "episodes": int(episodes)}


def steps_per_second(stdout):
    """Of training, from the first rollout to the last update, logging and checkpoints included."""
    return int(re.search(r"(\d+) steps per second", stdout)[1])


def git(*words):
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def provenance():
    """What a result depends on besides its command: the commit, which must hold the scripts, packages, processor."""
    if git("status", "--porcelain", "--", "ppo_*.py"):
        sys.exit("error: commit the changes of the scripts first: results are kept with the commit that made them")
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # mujoco is optional
            pass
    versions["python"] = platform.python_version()
    return {"commit": git("rev-parse", "HEAD"), "versions": versions, "processor": processor()}


def processor():
    """The model's name, where Linux tells it."""
    try:
        return re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())[1]
    except (OSError, TypeError):
        return platform.processor() or platform.machine()


def require_idle():
    """Ends this process where another one keeps the machine busy: seconds are measured alone."""
    if (load := os.getloadavg()[0]) > 0.7:
        sys.exit(f"error: the load of this machine is {load}; stop what else is running, and wait a minute")


def read_rows(name):
    """The rows of results/{name}.jsonl as dictionaries."""
    path = RESULTS / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def key(row, fields):
    """The values of these fields, lists as tuples."""
    return tuple(tuple(row[field]) if isinstance(row[field], list) else row[field] for field in fields)


def keep(name, row, fields):
    """Adds a row to results/{name}.jsonl in place of that with the same values of these fields.

    The file is replaced in one step, so that no row is lost if this process is killed.
    """
    row = json.loads(json.dumps(row))
    others = [other for other in read_rows(name) if key(other, fields) != key(row, fields)]
    path = RESULTS / f"{name}.jsonl"
    path.with_suffix(".new").write_text("".join(json.dumps(one) + "\n" for one in [*others, row]))
    os.replace(path.with_suffix(".new"), path)


def rows_of(name, fields, expected):
    """The rows with these values of these fields, in this order; ends this process where one is missing."""
    rows = {key(row, fields): row for row in read_rows(name)}
    if missing := [one for one in expected if one not in rows]:
        sys.exit(f"error: results/{name}.jsonl has no row of {missing[0]}: python benchmarks/{name}.py makes it")
    return [rows[one] for one in expected]


def origin(rows):
    """A sentence about where the rows come from."""
    commits, processors = ({row[name] for row in rows} for name in ("commit", "processor"))
    return f"Measured at commit {', '.join(sorted(one[:7] for one in commits))} on {', '.join(sorted(processors))}."


def table(header, rows):
    """A table in Markdown, its columns given by the header: "a | b"."""
    lines = [f"| {header} |", "|" + "---|" * (header.count("|") + 1)]
    return "\n".join(lines + [f"| {' | '.join(map(str, row))} |".replace("|  |", "| |") for row in rows])


def in_turn(jobs, repeats):
    """{name: function that measures} to {name: measurements}: one of each in turn, as often as `repeats` says."""
    results = {name: [] for name in jobs}
    for repeat in range(repeats):
        for name, job in jobs.items():
            results[name].append(job())
            print(f"  {repeat + 1}/{repeats} {name}: {results[name][-1]:,.0f}", file=sys.stderr, flush=True)
    return results
