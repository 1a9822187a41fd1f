"""Promises about the files themselves. `python tests/test_files.py` prints the table of sizes."""

import ast
import difflib
import io
import re
import subprocess
import sys
import tokenize
import tomllib

import pytest
from conftest import ROOT, SCRIPTS

pytestmark = pytest.mark.quick

TEST_PACKAGES = {"pytest", "pytest-xdist", "ruff"}
LIMITS = {  # lines, code tokens
    "ppo_discrete": (500, 4100),
    "ppo_continuous": (515, 4300),
    "ppo_minimal_cartpole": (130, 1000),
}


def text(script):
    return (ROOT / f"{script}.py").read_text()


def code_tokens(source):
    """(line, text) of names, operators, numbers and strings; an f-string is one, as before Python 3.12."""
    kinds = (tokenize.NAME, tokenize.OP, tokenize.NUMBER, tokenize.STRING)
    tokens, depth = [], 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        name = tokenize.tok_name[token.type]
        if name == "FSTRING_START":
            depth += 1
        if (token.type in kinds and not depth) or (name == "FSTRING_START" and depth == 1):
            tokens.append((token.start[0], token.string))
        depth -= name == "FSTRING_END"
    return tokens


def sizes(script):
    """What the limits are about: {name: number}."""
    source = text(script)
    lines, tokens = source.splitlines(), code_tokens(source)
    functions = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            inside = sum(node.lineno <= line <= node.end_lineno for line, _ in tokens)
            names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
            functions[node.name] = (node.end_lineno - node.lineno + 1, node.end_lineno, inside, len(names))
    train = functions.pop("train", functions.get("train_ppo_cartpole"))
    return {
        "lines": len(lines),
        "tokens": len(tokens),
        "per line": len(tokens) / sum(bool(line.strip()) for line in lines),
        "long lines": sum(len(line) > 100 for line in lines),
        "longest line": max(map(len, lines)),
        **dict(zip(("train: lines", "to line", "tokens of train", "names of train"), train, strict=True)),
        "longest other": max(inside for _, _, inside, _ in functions.values()),
    }


@pytest.mark.parametrize("script", LIMITS)
def test_the_scripts_stay_a_page_that_can_be_read(script):
    """Limits that are never raised: one is met by having less, not by denser lines."""
    size, (lines, tokens) = sizes(script), LIMITS[script]
    assert size["lines"] <= lines and size["tokens"] <= tokens and size["per line"] <= 9.2
    assert size["long lines"] <= 40 and size["longest line"] <= 120 and size["longest other"] <= 300
    assert size["train: lines"] <= 50 and size["tokens of train"] <= 550 and size["names of train"] <= 25
    assert script != "ppo_discrete" or size["to line"] <= 320


def test_few_lines_differ():
    changed = difflib.ndiff(*(text(script).splitlines() for script in SCRIPTS))
    assert sum(line[0] in "-+" for line in changed) <= 85


def test_inline_metadata_equals_requirements():
    requirements = {line for line in (ROOT / "requirements.txt").read_text().splitlines() if line}
    wanted = {line for line in requirements if line.split("==")[0] not in TEST_PACKAGES}
    for script in SCRIPTS:
        block = re.search(r"(?m)^# /// script\n((?:#.*\n)+?)# ///$", text(script))[1]
        metadata = tomllib.loads("".join(line[2:] + "\n" for line in block.splitlines()))
        assert set(metadata["dependencies"]) == wanted
        assert metadata["requires-python"] == ">=3.11"


def pieces(script):
    """Source text by name: top-level functions, classes, methods and statements, and what stands between them."""
    lines = text(script).splitlines()
    docstring, *statements = ast.parse(text(script)).body
    result, end = {"docstring": lines[: docstring.end_lineno]}, docstring.end_lineno
    for node in statements:
        parts = node.body if isinstance(node, ast.ClassDef) else [node]
        for part in parts:
            name = getattr(part, "name", None) or ast.unparse(getattr(part, "target", part))
            name = f"{node.name}.{name}" if part is not node else name
            result[name] = lines[end : part.end_lineno]
            end = part.end_lineno
    return result


def test_the_main_scripts_differ_only_in_what_actions_change():
    """A fix made in one script but not in the other fails here."""
    discrete, continuous = map(pieces, SCRIPTS)
    imports = {name for name in (*discrete, *continuous) if "torch.distributions" in name or "pydantic import" in name}
    assert continuous.keys() - discrete.keys() - imports == {"Args.init_log_std"}
    assert not discrete.keys() - continuous.keys() - imports
    differ_as_a_whole = {"docstring", "Agent.__init__", "Agent.act", "Agent.forward"} | imports
    for name in discrete.keys() - differ_as_a_whole:
        ours, theirs = discrete[name], continuous[name]
        if name.startswith("Args."):  # only the default value may differ
            ours, theirs = ([re.sub(r" = .*?( #|$)", r" = ...\1", line) for line in lines] for lines in (ours, theirs))
        changed = [line[2:].strip() for line in difflib.ndiff(ours, theirs) if line[0] in "-+"]
        if name == "make_envs":  # what the environments get of the actions, at its end
            assert changed and ours[:12] == theirs[:12]
        elif name == "SingleEnv.__init__":  # which actions there are
            assert all("gym.spaces" in line or "env.action_space" in line for line in changed)
        else:
            assert not changed, f"{name}: {changed}"


def test_the_three_scripts_share_the_advantages_and_the_loss():
    """compute_gae word for word; each line of the minimal script's loss stands in the main scripts', in that order."""
    scripts = [pieces(script) for script in LIMITS]
    assert len({"\n".join(script["compute_gae"]).strip() for script in scripts}) == 1
    lines = iter(scripts[0]["ppo_loss"])
    *shared, _ = [line for line in scripts[2]["ppo_loss"] if line.startswith("    ")]
    assert len(shared) >= 9 and all(line in lines for line in shared)
    names = {"collect_trajectories", "compute_gae", "make_batch", "ppo_loss", "ppo_update"}
    assert all(names <= script.keys() for script in scripts)
    assert {"PolicyValueNet.forward", "train_ppo_cartpole"} <= scripts[2].keys()


@pytest.mark.parametrize("command", [["format", "--check"], ["check"]], ids=" ".join)
def test_formatted_by_ruff(command):
    result = subprocess.run([sys.executable, "-m", "ruff", *command, "."], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_scripts_import_nothing_of_this_repository():
    for script in LIMITS:
        imports = set(re.findall(r"(?m)^\s*(?:from|import) (\w+)", text(script)))
        assert imports and not {*LIMITS, "tests"} & imports
        if script == "ppo_minimal_cartpole":
            assert imports == {"gymnasium", "torch"}


if __name__ == "__main__":
    table = {script: sizes(script) for script in LIMITS}
    print(f"{'':18}" + "".join(f"{script:>22}" for script in table))
    for name in table["ppo_discrete"]:
        print(f"{name:18}" + "".join(f"{size[name]:>22.4g}" for size in table.values()))
