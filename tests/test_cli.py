"""The main scripts as a user starts them: what works, what is refused and how. Nearly all in this process."""

import importlib
import json
import re
import traceback
from pathlib import Path

import pytest
from conftest import ROOT, SCRIPTS, SMALL, env_for, flags_for, refused, run_main, run_script, scalars


@pytest.mark.process
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_copied_script_needs_nothing_else(script, tmp_path):
    """As a user starts it, from a folder with a blank: it leaves one folder with curves and a checkpoint."""
    folder = tmp_path / "my folder"
    folder.mkdir()
    (folder / "mine.py").write_text((ROOT / f"{script}.py").read_text())
    result = run_script(folder / "mine", f"--env-id {env_for(script)} {SMALL} --seed 7", folder)
    assert result.returncode == 0 and result.stderr == ""
    (run_dir,) = (folder / "runs").iterdir()
    assert re.fullmatch(rf"{env_for(script)}__mine__7__\d+", run_dir.name)
    assert {path.name for path in folder.iterdir()} == {"mine.py", "runs"}
    assert (run_dir / "checkpoint.pt").exists() and scalars(run_dir)["eval/episodic_return"]


def test_nothing_is_saved_without_save_model(script, in_tmp, monkeypatch):
    run_main(script, monkeypatch, "--env-id", env_for(script), *SMALL.split(), "--no-save-model")
    assert not list(in_tmp.glob("runs/*/checkpoint*")) and list(in_tmp.glob("runs/*/events*"))


def test_flags_that_exclude_each_other(script, trained, monkeypatch):
    evaluate = "--evaluate", trained[1]
    assert "--resume or --evaluate, not both" in refused(script, monkeypatch, "--resume", trained[1], *evaluate)
    assert "--no-cuda" in refused(script, monkeypatch, *evaluate, "--cuda")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert "--render needs a display" in refused(script, monkeypatch, *evaluate, "--render")
    monkeypatch.setenv("DISPLAY", ":0")
    assert "no --capture-video" in refused(script, monkeypatch, *evaluate, "--render", "--capture-video")


@pytest.mark.parametrize("name", ["../../../x", "a b/c:d", "ok"])
def test_a_run_stays_under_runs(script, name, in_tmp, monkeypatch):
    """In one folder with a name that any operating system takes."""
    run_main(script, monkeypatch, *flags_for(script, '--env-id probes:Probe-v0 --env-kwargs {"continuous":CONTINUOUS}'),
             "--exp-name", name)  # fmt: skip
    assert [path.name for path in in_tmp.iterdir()] == ["runs"]
    (run_dir,) = (in_tmp / "runs").iterdir()
    assert re.fullmatch(r"[\w.-]+", run_dir.name) and (run_dir / "checkpoint.pt").exists()


def test_modules_are_found_where_the_command_is_typed(script, in_tmp, monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT)  # where the scripts are
    continuous = script.__name__ == "ppo_continuous"
    Path(f"my_{script.__name__}.py").write_text(
        f"import gymnasium as gym, probes\n"
        f"gym.register('Mine-v0', lambda **kwargs: probes.Probe(continuous={continuous}))\n"
    )
    run_main(script, monkeypatch, "--env-id", f"my_{script.__name__}:Mine-v0", *SMALL.split())
    assert "over 2 episodes" in capsys.readouterr().out


@pytest.mark.parametrize("error", ["FileNotFoundError", "JSONDecodeError", "TypeError"])
@pytest.mark.parametrize("where", ["constructor", "first reset", "reset", "step", "close"])
def test_errors_of_an_environment_are_its_own(script, where, error, in_tmp, monkeypatch, capsys):
    env_kwargs = {"where": where, "error": error, "continuous": script.__name__ == "ppo_continuous"}
    flags = ["--env-id", "probes:Faulty-v0", "--env-kwargs", json.dumps(env_kwargs), *SMALL.split()]
    with pytest.raises(Exception, match="a mistake in the environment") as raised:
        run_main(script, monkeypatch, *flags)
    assert not isinstance(raised.value, SystemExit)
    own = raised.value.__cause__ or raised.value  # Gymnasium adds the environment's name to what constructors raise
    assert traceback.extract_tb(own.__traceback__)[-1].filename.endswith("probes.py")
    assert where in ("reset", "step", "close") or not list(in_tmp.iterdir())
    if where == "close":  # training's environments; an evaluation's are closed after it is printed
        (path,) = in_tmp.glob("runs/*/checkpoint.pt")
        with pytest.raises(Exception, match="a mistake in the environment"):
            run_main(script, monkeypatch, "--evaluate", path)
    assert ("over 2 episodes" in capsys.readouterr().out) == (where == "close")


def test_an_agent_in_ones_own_code_as_the_readme_says(trained_once, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    _, folder = trained_once(importlib.import_module("ppo_discrete"))
    names = {"path": folder / "checkpoint.pt"}
    text = (ROOT / "README.md").read_text().partition("**A trained agent in your own code**")[2]
    bullet = text.partition("\n- ")[0]
    *first, act, _, step, reset = re.findall(r"`(.+?)`", bullet)
    exec("\n".join(first), names)
    for _ in range(1200):  # two episodes or more: CartPole's have 500 steps at most
        exec(f"{act}; obs, _, terminated, truncated, _ = {step}", names)
        if names["terminated"] | names["truncated"]:
            exec(reset, names)
