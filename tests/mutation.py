"""Breaks a script in one place at a time and lists the breaks that no test notices. Run by hand:

    python tests/mutation.py ppo_discrete            # all mutants, two at a time
    python tests/mutation.py ppo_discrete 120 180    # only those of lines 120 to 180
    python tests/mutation.py ppo_continuous other    # only those of lines that ppo_discrete.py does not have
    python tests/mutation.py ppo_discrete every 3    # every third

A mutant is killed when a test fails on it, or does not end. Text, messages, logging and progress are left alone, and so
are the flags' defaults, and -1 as an argument, which is the last of two dimensions as 1 would be. Only tests that run
in this process are used; those marked `process` take seconds each.
"""

import ast
import contextlib
import copy
import multiprocessing
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
FAST_FIRST = ["gae", "loss", "agent", "training", "processes", "minimal", "reports", "checkpoint", "cli", "learning"]
TIMEOUT = 240  # seconds, for mutants that never end

SWAPS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv, ast.BitOr: ast.BitAnd, ast.BitAnd: ast.BitOr,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip
NAMES = {
    "min": "max", "max": "min", "mean": "sum", "sum": "mean", "exp": "log", "log": "exp", "zeros": "ones",
    "ones": "zeros", "zeros_like": "ones_like", "terminated": "truncated", "truncated": "terminated",
    "any": "all", "all": "any", "sqrt": "square", "square": "abs", "argmax": "argmin", "reversed": "list",
    "clamp": "add", "clamp_min": "clamp_max", "low": "high", "actor": "critic", "ReLU": "Identity", "var": "std",
}  # fmt: skip
SILENT = {"print", "add_scalar", "tqdm"}  # calls whose effect is text, logging or progress
SKIPPED = {"main", "Args"}


def is_silent(node):
    """Whether a statement only logs or prints."""
    if isinstance(node, ast.If | ast.For) and not getattr(node, "orelse", None):
        return all(map(is_silent, node.body))
    call = getattr(node, "value", None)
    if isinstance(call, ast.Call) and ast.unparse(call.func).split(".")[-1] in SILENT:
        return True
    text_only = "progress metrics[ logger.writer self.writer self.steps_per_second self.start_".split()
    return ast.unparse(node).startswith(tuple(text_only))


def mutations(node, last_dimensions=()):
    """(description, function that changes the node in place) for each mutation of one node."""
    for field in ("op", "ops"):
        op = getattr(node, field, None)
        op = op[0] if isinstance(op, list) and len(op) == 1 else op
        if type(op) in SWAPS:
            new = SWAPS[type(op)]()
            value = [new] if field == "ops" else new
            yield f"{type(op).__name__} -> {type(new).__name__}", lambda n, f=field, v=value: setattr(n, f, v)
    if isinstance(node, ast.UnaryOp) and node not in last_dimensions:
        yield f"drop {type(node.op).__name__}", lambda n: n.__class__ is ast.UnaryOp and setattr(n, "op", ast.UAdd())
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield f"{node.value} -> {not node.value}", lambda n: setattr(n, "value", not n.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int):
        yield f"{node.value} -> {node.value + 1}", lambda n: setattr(n, "value", n.value + 1)
    elif isinstance(node, ast.Constant) and isinstance(node.value, float):
        yield f"{node.value} -> twice", lambda n: setattr(n, "value", n.value * 2 if n.value else 1.0)
    if isinstance(node, ast.Attribute) and node.attr in NAMES:
        yield f".{node.attr} -> .{NAMES[node.attr]}", lambda n: setattr(n, "attr", NAMES[n.attr])
    if isinstance(node, ast.Name) and node.id in NAMES and isinstance(node.ctx, ast.Load):
        yield f"{node.id} -> {NAMES[node.id]}", lambda n: setattr(n, "id", NAMES[n.id])
    if isinstance(node, ast.Call):
        commutative = ast.unparse(node.func) in ("torch.min", "torch.max")
        if len(node.args) >= 2 and not commutative and not any(isinstance(a, ast.Starred) for a in node.args):
            yield "swap the first two arguments", lambda n: n.args.__setitem__(slice(0, 2), n.args[1::-1])
        for i, keyword in enumerate(node.keywords):
            yield f"drop {keyword.arg}=", lambda n, i=i: n.keywords.pop(i)
        droppable = ("detach", "clamp", "clamp_min", "sqrt", "astype", "clip")
        if isinstance(node.func, ast.Attribute) and node.func.attr in droppable:
            yield f"drop .{node.func.attr}()", lambda n: vars(n).update(args=[], keywords=[], func=n.func.value)
    if isinstance(node, ast.IfExp):
        yield "other branch", lambda n: vars(n).update(body=n.orelse, orelse=n.body)
    if isinstance(node, ast.If):
        yield "if True", lambda n: setattr(n, "test", ast.Constant(True))
        yield "if False", lambda n: setattr(n, "test", ast.Constant(False))
    if isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant):
        yield "drop statement", lambda n: setattr(n, "value", ast.Constant(None))
    if isinstance(node, ast.AugAssign):
        neutral = 0 if isinstance(node.op, ast.Add | ast.Sub) else 1
        yield "drop update", lambda n: setattr(n, "value", ast.Constant(neutral))


def mutants(script, lines):
    """(line, description, source text) of each mutant of these lines."""
    tree = ast.parse((ROOT / f"{script}.py").read_text())
    skipped = set()
    for node in ast.walk(tree):
        silent = isinstance(node, ast.stmt) and is_silent(node)
        text = isinstance(node, ast.JoinedStr | ast.arguments | ast.Import | ast.ImportFrom)
        if silent or text or getattr(node, "name", None) in SKIPPED:
            skipped |= {id(n) for n in ast.walk(node)}
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call)]
    last_dimensions = [a for call in calls for a in call.args if ast.unparse(a) == "-1"]
    for index, node in enumerate(ast.walk(tree)):
        line = getattr(node, "lineno", 0)
        if id(node) in skipped or line not in lines:
            continue
        for description, change in mutations(node, last_dimensions):
            mutant = copy.deepcopy(tree)
            change(next(n for i, n in enumerate(ast.walk(mutant)) if i == index))
            with contextlib.suppress(Exception):
                text = ast.unparse(ast.fix_missing_locations(mutant))
                if text != ast.unparse(tree):
                    yield line, f"{description}  in  {ast.unparse(node).splitlines()[0][:90]}", text


def survives(job):
    """Runs the fast tests on one mutant, in a process forked from this one, which has imported all packages."""
    script, line, description, text = job
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / f"{script}.py").write_text(text)
        pid = os.fork()
        if pid == 0:
            import signal

            signal.alarm(TIMEOUT)
            with open(os.devnull, "w") as null:
                os.dup2(null.fileno(), 1)
                os.dup2(null.fileno(), 2)
            os.chdir(folder)
            multiprocessing.current_process()._config["daemon"] = False  # or async environments could not start
            os.environ["PPO_SCRIPTS"] = folder
            import pytest

            files = [str(ROOT / "tests" / f"test_{name}.py") for name in FAST_FIRST]
            other = {"ppo_discrete": "ppo_continuous", "ppo_continuous": "ppo_discrete"}.get(script, "main")
            # Tests that killed this worker's last mutants go first: neighbours tend to be killed by the same ones.
            cache = Path(tempfile.gettempdir(), f"mutation-{os.getppid()}")
            options = f"-n0 -x -q --ff -o cache_dir={cache} -c {ROOT}/pyproject.toml --rootdir {ROOT}".split()
            keep = "minimal" if script == "ppo_minimal_cartpole" else f"not {other} and not minimal"
            if script == "ppo_discrete":
                keep += " and not action_box"  # trains the other script
            os._exit(int(pytest.main([*options, "-m", "not process", "-k", keep, *files])))
        _, status = os.waitpid(pid, 0)
    return line, description, status == 0


def main():
    script, *where = sys.argv[1:]
    text = (ROOT / f"{script}.py").read_text()
    lines = range(len(text.splitlines()) + 1)
    if where == ["other"]:
        have = set((ROOT / "ppo_discrete.py").read_text().splitlines())
        lines = [number for number, line in enumerate(text.splitlines(), 1) if line not in have]
    elif where and where[0] != "every":
        lines = range(int(where[0]), int(where[1]) + 1)
    import gymnasium  # noqa: F401
    import pytest  # noqa: F401
    import torch.utils.tensorboard
    import tyro  # noqa: F401

    torch.set_num_threads(1)
    jobs = [(script, *mutant) for mutant in mutants(script, lines)]
    if where and where[0] == "every":
        jobs = jobs[:: int(where[1])]
    survivors = []
    with multiprocessing.get_context("fork").Pool(2) as pool:
        unchanged = ast.unparse(ast.parse(text))  # as the mutants are: without comments
        if not pool.apply(survives, [(script, 0, "unchanged", unchanged)])[2]:
            sys.exit(f"the tests fail on {script} as it is")
        for done, (line, description, alive) in enumerate(pool.imap_unordered(survives, jobs), 1):
            if alive:
                survivors.append((line, description))
                print(f"survived: line {line}: {description}", flush=True)
            if done % 50 == 0:
                print(f"... {done} of {len(jobs)} mutants, {len(survivors)} survivors", flush=True)
    killed = len(jobs) - len(survivors)
    print(f"{script}: {killed} of {len(jobs)} mutants killed, {100 * killed / len(jobs):.1f} %")


if __name__ == "__main__":
    main()
