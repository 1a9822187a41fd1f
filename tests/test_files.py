"""Promises about the files themselves."""

import ast
import difflib
import re
import tomllib

from conftest import ROOT, SCRIPTS

TEST_PACKAGES = {"pytest", "pytest-xdist"}


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
    differ_as_a_whole = {
        "docstring",
        "Agent.__init__",
        "Agent.noise",
        "Agent.act",
        "Agent.to_env",
        "Agent.log_prob_and_entropy",
    }
    for name in discrete.keys() - differ_as_a_whole:
        ours, theirs = discrete[name], continuous[name]
        if name.startswith("Args."):  # only the default value may differ
            ours, theirs = ([re.sub(r" = .*?( #|$)", r" = ...\1", line) for line in lines] for lines in (ours, theirs))
        changed = [line[2:].strip() for line in difflib.ndiff(ours, theirs) if line[0] in "-+"]
        if name == "train":
            assert len(changed) == 2 and all(line.startswith("actions = np.zeros(") for line in changed)
        elif name == "make_envs":
            assert len(changed) == 4 and all("Discrete" in line or "gym.spaces.Box)" in line for line in changed)
        else:
            assert not changed, f"{name}: {changed}"


def test_few_lines_differ():
    discrete, continuous = ((ROOT / f"{script}.py").read_text().splitlines() for script in SCRIPTS)
    assert sum(line[0] in "-+" for line in difflib.ndiff(discrete, continuous)) <= 80


def test_the_scripts_stay_short_enough_to_read():
    limits = {"ppo_discrete": 643, "ppo_continuous": 650, "ppo_minimal_cartpole": 140}
    for script, limit in limits.items():
        lines = (ROOT / f"{script}.py").read_text().splitlines()
        assert len(lines) <= limit and max(map(len, lines)) <= 120


def test_the_scripts_import_nothing_of_this_repository():
    for script in (*SCRIPTS, "ppo_minimal_cartpole"):
        imports = re.findall(r"(?m)^\s*(?:from|import) (\w+)", (ROOT / f"{script}.py").read_text())
        assert imports and not {"ppo_discrete", "ppo_continuous", "ppo_minimal_cartpole", "tests"} & set(imports)
        if script == "ppo_minimal_cartpole":
            assert set(imports) == {"gymnasium", "torch"}
