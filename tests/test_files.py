"""Promises about the files themselves."""

import ast
import difflib
import re
import subprocess
import sys
import tomllib

import pytest
from conftest import ROOT, SCRIPTS

TEST_PACKAGES = {"pytest", "pytest-xdist", "ruff"}


def test_inline_metadata_equals_requirements():
    requirements = {line for line in (ROOT / "requirements.txt").read_text().splitlines() if line}
    wanted = {line for line in requirements if line.split("==")[0] not in TEST_PACKAGES}
    for script in SCRIPTS:
        block = re.search(r"(?m)^# /// script\n((?:#.*\n)+?)# ///$", (ROOT / f"{script}.py").read_text())[1]
        metadata = tomllib.loads("".join(line[2:] + "\n" for line in block.splitlines()))
        assert set(metadata["dependencies"]) == wanted
        assert metadata["requires-python"] == ">=3.11"


def pieces(script):
    """Source text by name: top-level functions, classes, methods and statements, and what stands between them."""
    text = (ROOT / f"{script}.py").read_text()
    lines = text.splitlines()
    tree = ast.parse(text)
    docstring, *statements = tree.body
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
    assert continuous.keys() - discrete.keys() == {"Args.init_log_std"}
    assert not discrete.keys() - continuous.keys()
    differ_as_a_whole = {"docstring", "Agent.__init__", "Agent.act", "Agent.log_prob_and_entropy"}
    for name in discrete.keys() - differ_as_a_whole:
        ours, theirs = discrete[name], continuous[name]
        if name.startswith("Args."):  # only the default value may differ
            ours, theirs = ([re.sub(r" = .*?( #|$)", r" = ...\1", line) for line in lines] for lines in (ours, theirs))
        changed = [line[2:].strip() for line in difflib.ndiff(ours, theirs) if line[0] in "-+"]
        if name == "make_envs":  # which actions there are, and what the environments get of them
            assert all("action" in line.lower() or not line for line in changed)
        else:
            assert not changed, f"{name}: {changed}"


def test_few_lines_differ():
    discrete, continuous = ((ROOT / f"{script}.py").read_text().splitlines() for script in SCRIPTS)
    assert sum(line[0] in "-+" for line in difflib.ndiff(discrete, continuous)) <= 65


def test_the_scripts_stay_a_page_that_can_be_read():
    """Limits that are never raised: a line too many is met by having less, not by denser lines."""
    for script, limit in {"ppo_discrete": 450, "ppo_continuous": 450, "ppo_minimal_cartpole": 110}.items():
        text = (ROOT / f"{script}.py").read_text()
        assert len(text.splitlines()) <= limit and max(map(len, text.splitlines())) <= 120
        ends = {part.name: part for part in ast.parse(text).body if isinstance(part, ast.FunctionDef)}
        if script in SCRIPTS:
            train = ends["train"]
            assert train.end_lineno - train.lineno + 1 <= 130 and train.end_lineno < 315


@pytest.mark.parametrize("command", [["format", "--check"], ["check"]], ids=" ".join)
def test_formatted_by_ruff(command):
    result = subprocess.run([sys.executable, "-m", "ruff", *command, "."], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_scripts_import_nothing_of_this_repository():
    for script in (*SCRIPTS, "ppo_minimal_cartpole"):
        imports = re.findall(r"(?m)^\s*(?:from|import) (\w+)", (ROOT / f"{script}.py").read_text())
        assert imports and not {"ppo_discrete", "ppo_continuous", "ppo_minimal_cartpole", "tests"} & set(imports)
        if script == "ppo_minimal_cartpole":
            assert set(imports) == {"gymnasium", "torch"}
