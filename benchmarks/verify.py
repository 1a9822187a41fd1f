"""Do today's scripts still learn what the rows say? `python benchmarks/learning.py --verify` asks."""

import math
import re
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from launcher import MINIMAL, Setting, processor, scalars, start

TAGS = ("charts/episodic_return", "losses/policy_loss", "losses/value_loss", "losses/approx_kl")


def first_iterations(logged):
    """The first ten iterations in full precision: {tag: values}. Before an episode has ended, there is no return."""
    last = logged["losses/approx_kl"][:10][-1][0]
    return {tag: [value for step, _, value in logged.get(tag, ()) if step <= last] for tag in TAGS}


def first_losses(stdout):
    """The same for the minimal script, with updates of 80 minibatches; a return is printed after every fourth one."""
    losses = [float(loss) for loss in re.findall(r"loss (\S+)", stdout)]
    returns = [float(value) for value in re.findall(r"average reward (\S+)", stdout)]
    return {"loss": losses[79:800:80], "return": returns[:2]}


def difference(row):
    """Trains the first ten iterations of a row again; returns the first difference in words, or ""."""
    setting = Setting(*row["setting"])
    with tempfile.TemporaryDirectory() as folder:
        main_flags = [] if setting.script == MINIMAL else ["--checkpoint-interval", "10"]
        process = start([*setting.command(row["seed"]), *main_flags], folder)
        try:
            if setting.script == MINIMAL:
                lines = []
                while len(lines) < 812 and (line := process.stdout.readline()):
                    lines.append(line)  # 800 losses, 2 returns, and 10 iterations
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
