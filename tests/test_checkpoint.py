"""Runs that survive: checkpoints, resuming, evaluation, videos."""

import importlib.util
import os
import pickle
import re
import resource
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL, env_for, flags_for, refused, run_main, scalars


def changed(path, change, name="changed.pt"):
    """A copy of the checkpoint after `change(checkpoint)`."""
    checkpoint = torch.load(path, weights_only=True)
    change(checkpoint)
    torch.save(checkpoint, path.with_name(name))
    return path.with_name(name)


def test_a_checkpoint_holds_everything(script, trained):
    args, path = trained
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint["args"] == {name: value for name, value in vars(args).items() if name in checkpoint["args"]}
    assert vars(args).keys() - checkpoint["args"].keys() == {"resume", "evaluate", "capture_video", "render"}
    assert checkpoint["global_step"] == 192
    assert {"actor.0.weight", "critic.4.bias", "obs_statistics.totals"} <= set(checkpoint["agent"])
    assert checkpoint["optimizer"]["state"][0]["step"] == 6 * args.update_epochs * args.num_minibatches
    assert checkpoint["agent"]["obs_statistics.totals"][0].eq(192).all()
    assert sorted(p.name.split(".")[0] for p in path.parent.iterdir()) == ["checkpoint", "events", "flags-0"]


def test_resume_continues(script, trained, monkeypatch):
    """In the same directory, with everything restored, with a schedule for the new total, as if killed at step 128; at
    a tiny learning rate, so that the weights stay nearly those of the checkpoint."""
    args, path = trained
    old = torch.load(changed(path, lambda checkpoint: checkpoint.update(global_step=128), path.name), weights_only=True)
    run_main(script, monkeypatch, "--resume", path, "--total-timesteps", 256, "--learning-rate", 1e-6)
    new, curves = torch.load(path, weights_only=True), scalars(path.parent)
    assert new["global_step"] == 256
    assert new["args"] == old["args"] | {"total_timesteps": 256, "learning_rate": 1e-6}
    learning_rates = [value for _, value in curves["charts/learning_rate"]]
    assert learning_rates[-4:] == pytest.approx([5e-7, 3.75e-7, 2.5e-7, 1.25e-7])
    for name in ("actor.0.weight", "critic.0.weight"):
        torch.testing.assert_close(new["agent"][name], old["agent"][name], rtol=0, atol=1e-4)
    assert [step for step, _ in curves["losses/value_loss"]] == [32 * i for i in range(1, 9)]
    for name, count in (("obs_statistics.totals", 192 + 128), ("reward_sum_statistics.totals", 192 + 128)):
        assert new["agent"][name][0].eq(count).all()
    assert new["optimizer"]["state"][0]["step"] == 10 * args.update_epochs * args.num_minibatches
    assert len(list(path.parent.parent.iterdir())) == 1


def test_a_run_without_normalization_can_go_on_with_it(script, trained, monkeypatch):
    """The statistics are kept, whatever the flags: the flags of the command count."""
    _, path = trained
    for flags in ("--no-norm-obs --no-norm-reward --total-timesteps 224", "--norm-obs --total-timesteps 256"):
        run_main(script, monkeypatch, "--resume", path, *flags.split())
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint["agent"]["obs_statistics.totals"][0, 0] == 256
    assert checkpoint["args"]["norm_obs"] and not checkpoint["args"]["norm_reward"]


def test_finished_runs_are_refused(script, trained, monkeypatch):
    before = sorted(trained[1].parent.iterdir())
    assert "--total-timesteps must be >= 224" in refused(script, monkeypatch, "--resume", trained[1])
    assert sorted(trained[1].parent.iterdir()) == before


@pytest.mark.parametrize("added", [True, False])
def test_checkpoints_survive_a_change_of_flags(script, trained, added, monkeypatch, capsys):
    """A flag more in Args, or one less than when the checkpoint was written."""
    _, path = trained
    line = r"(?m)^    vf_coef: .*\n"
    text, count = re.subn(line, lambda m: m[0] + "    my_coef: PositiveFloat = 7.5  # new\n" if added else "",
                          Path(script.__file__).read_text())  # fmt: skip
    assert count == 1
    Path("fork.py").write_text(text.replace("args.vf_coef", "0.5"))
    spec = importlib.util.spec_from_file_location("fork", "fork.py")
    sys.modules["fork"] = fork = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fork)
    for command in (["--evaluate", path], ["--resume", path, "--total-timesteps", 256]):
        run_main(fork, monkeypatch, *command)
        assert "over 2 episodes" in capsys.readouterr().out
    args = torch.load(path, weights_only=True)["args"]
    assert args.get("my_coef") == (7.5 if added else None) and ("vf_coef" in args) == added


def test_evaluation_equals_that_of_training(script, in_tmp, monkeypatch, capsys):
    """Of sampled actions, too."""
    env_id = env_for(script, "LunarLander-v3", "LunarLanderContinuous-v3")
    run_main(script, monkeypatch, "--env-id", env_id, *SMALL.split(), "--no-greedy")
    at_the_end = capsys.readouterr().out.splitlines()[-2]
    (path,) = in_tmp.glob("runs/*/checkpoint.pt")
    for flags in [], [], ["--greedy"], ["--greedy"]:
        run_main(script, monkeypatch, "--evaluate", path, *flags)
    sampled, sampled_again, greedy, greedy_again = capsys.readouterr().out.splitlines()
    assert sampled == sampled_again == at_the_end and sampled.startswith("sampled return")
    assert greedy == greedy_again and greedy.startswith("greedy return")
    assert greedy.split()[2] != sampled.split()[2]
    assert len(list(in_tmp.glob("runs/*"))) == 1


@pytest.mark.parametrize("script", ["ppo_discrete"], indirect=True)
def test_videos(script, in_tmp, monkeypatch):
    """Of episodes 0, 1, 8 ... of an evaluation: at the end of training, or later; none replaces another."""
    run_main(script, monkeypatch, "--env-id", "CartPole-v1", *SMALL.split(), "--capture-video")
    (path,) = in_tmp.glob("runs/*/checkpoint.pt")
    run_main(script, monkeypatch, "--evaluate", path, "--capture-video", "--eval-episodes", 1)
    run_main(script, monkeypatch, "--evaluate", path)
    videos = sorted(video.parent.name[:9] for video in path.parent.glob("videos-*/*.mp4"))
    assert len(videos) == 3 and videos.count("videos-96") == 2


@pytest.mark.parametrize("script", ["ppo_discrete"], indirect=True)
def test_a_window_opens(script, trained, monkeypatch, capsys):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setenv("DISPLAY", ":0")
    run_main(script, monkeypatch, "--evaluate", trained[1], "--render", "--eval-episodes", 1)
    assert "over 1 episodes" in capsys.readouterr().out


class Malicious:
    def __reduce__(self):
        return (open, ("was-run", "w"))


NO_CHECKPOINT = "is no checkpoint of this version of the script"


@pytest.mark.parametrize("flag", ["--resume", "--evaluate"])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")  # of the file that is none of PyTorch's
def test_what_is_no_checkpoint_is_refused(script, trained, flag, in_tmp, monkeypatch):
    args, path = trained
    good, bad = path.read_bytes(), in_tmp / "bad.pt"
    for content in (b"", good[: len(good) // 2], b"#!/bin/sh\necho foreign\n", pickle.dumps(Malicious())):
        bad.write_bytes(content)
        assert NO_CHECKPOINT in refused(script, monkeypatch, flag, bad)
    of_before = {"args": {}, "beta": 1.0, "return_rms": {}, "agent": {"obs_rms.mean": torch.zeros(4)}}
    for thing in (Malicious(), [Malicious()], {"args": Malicious()}, [1, 2], {"args": 3}, torch.zeros(3), of_before):
        torch.save(thing, bad)
        assert NO_CHECKPOINT in refused(script, monkeypatch, flag, bad)
    for missing in (in_tmp, "", in_tmp / "missing.pt"):
        assert NO_CHECKPOINT in refused(script, monkeypatch, flag, missing)
    assert not (in_tmp / "was-run").exists()
    assert path.read_bytes() == good and len(list((in_tmp / "runs").iterdir())) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda checkpoint: checkpoint.pop("global_step"),
        lambda checkpoint: checkpoint.update(global_step="many"),
        lambda checkpoint: checkpoint["args"].update(num_envs="many"),
        lambda checkpoint: checkpoint.pop("agent"),
        lambda checkpoint: checkpoint.update(agent=[1]),
        lambda checkpoint: checkpoint["agent"].update({"actor.0.bias": "x"}),
        lambda checkpoint: checkpoint["agent"]["actor.0.bias"].fill_(torch.nan),
        lambda checkpoint: checkpoint["agent"].update({"actor.0.bias": torch.zeros(3)}),
        lambda checkpoint: checkpoint.pop("optimizer"),
        lambda checkpoint: checkpoint["optimizer"]["state"][0].update(exp_avg=torch.zeros(3)),
        lambda checkpoint: checkpoint["optimizer"]["state"][0].update(exp_avg_sq=torch.zeros(())),
        lambda checkpoint: checkpoint["optimizer"]["state"][0].pop("exp_avg"),
    ],
)
def test_what_is_wrong_in_a_checkpoint_is_refused(script, trained, change, monkeypatch):
    bad = changed(trained[1], change)
    refused(script, monkeypatch, "--resume", bad, "--total-timesteps", 999)
    assert len(list(bad.parent.glob("flags-*"))) == 1  # before anything of a run is made


def test_weights_that_are_not_finite_are_not_evaluated(script, trained, monkeypatch):
    bad = changed(trained[1], lambda checkpoint: checkpoint["agent"]["actor.0.bias"].fill_(torch.inf))
    assert "actor.0.bias must be below inf" in refused(script, monkeypatch, "--evaluate", bad)


def test_a_checkpoint_of_something_else_is_refused(script, trained, monkeypatch):
    other_env = env_for(script, "Acrobot-v1", "MountainCarContinuous-v0")
    flags = ("--resume", trained[1], "--total-timesteps", 999)
    assert "size mismatch" in refused(script, monkeypatch, *flags, "--env-id", other_env)
    assert "size mismatch for actor.0.weight" in refused(script, monkeypatch, *flags, "--hidden-size", 7)
    other = importlib.import_module({"ppo_discrete": "ppo_continuous"}.get(script.__name__, "ppo_discrete"))
    assert f"use {script.__name__}.py" in refused(other, monkeypatch, "--evaluate", trained[1])


@pytest.mark.parametrize("limit", [0, 20_000])
@pytest.mark.parametrize("script", ["ppo_discrete"], indirect=True)  # the same text in both, test_files.py
def test_a_disk_that_cannot_be_written_any_further(limit, script, trained, monkeypatch):
    """A limit on the size of files acts like a full disk: at once, or after some checkpoints and curves."""
    _, path = trained
    good = path.read_bytes()
    child = os.fork()
    if child == 0:  # the limit stays with the child; so that only the script meets it, output goes nowhere
        sys.stdout = sys.stderr = open(os.devnull, "w")
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            flags = ("--resume", path, "--total-timesteps", 100_000, "--checkpoint-interval", 1)
            run_main(script, monkeypatch, *flags)
            os._exit(0)
        except BaseException as error:  # a SystemExit's message, or a traceback
            os._exit(7 if "File too large" in str(error) or isinstance(error, OSError | RuntimeError) else 8)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 7
    torch.load(path, weights_only=True)
    assert limit > 0 or path.read_bytes() == good


def test_an_interrupted_run_says_where_it_is(script, in_tmp, monkeypatch):
    """Ctrl-C comes at each environment's tenth step: in the third iteration, and in the evaluation's fourth episode."""
    env_kwargs = '{"where":"step","error":"KeyboardInterrupt","continuous":CONTINUOUS}'
    flags = flags_for(script, f"--env-id probes:Faulty-v0 --env-kwargs {env_kwargs} --num-steps 4")
    message = "interrupted; if a checkpoint exists: (.*)"
    with pytest.raises(SystemExit, match=message) as exit_:
        run_main(script, monkeypatch, *flags, "--checkpoint-interval", 1, "--exp-name", "a b")
    python, path, *pasted = shlex.split(re.fullmatch(message, exit_.value.code)[1])
    assert (python, path, pasted[0]) == ("python", script.__file__, "--evaluate")
    assert torch.load(pasted[1], weights_only=True)["global_step"] == 16
    with pytest.raises(SystemExit, match="interrupted"):
        run_main(script, monkeypatch, *pasted, "--eval-episodes", 5)
    run_main(script, monkeypatch, *pasted)
    run_main(script, monkeypatch, "--resume", pasted[1], "--total-timesteps", 32)


def test_a_link_to_a_copy_of_a_checkpoint(script, trained, in_tmp, monkeypatch):
    """The run goes on where the copy is and replaces checkpoint.pt, as the README says, not the copy, not the link."""
    _, path = trained
    early = Path(shutil.copy(path, path.with_name("early.pt")))
    Path("latest.pt").symlink_to(early)
    before = early.read_bytes()
    run_main(script, monkeypatch, "--resume", "latest.pt", "--total-timesteps", 224)
    assert torch.load(path, weights_only=True)["global_step"] == 224
    assert early.read_bytes() == before and Path("latest.pt").is_symlink()
    assert {path.name for path in in_tmp.iterdir()} == {"runs", "latest.pt"}


def test_two_runs_share_no_directory(script, in_tmp, monkeypatch):
    """Not even at the same instant; one that cannot be made is refused."""
    monkeypatch.setattr(script.time, "time_ns", lambda: 5)
    flags = f"--env-id {env_for(script)} {SMALL}".split()
    run_main(script, monkeypatch, *flags)
    good = next(in_tmp.glob("runs/*/checkpoint.pt")).read_bytes()
    assert "cannot write the run directory" in refused(script, monkeypatch, *flags)
    assert next(in_tmp.glob("runs/*/checkpoint.pt")).read_bytes() == good
    shutil.rmtree("runs")
    Path("runs").write_text("a file where the directory should be")
    assert "cannot write the run directory" in refused(script, monkeypatch, *flags)


def test_two_processes_that_save_in_one_place(script, trained, monkeypatch):
    """While one has written its file and not yet put it in place, the other saves: both files are whole."""
    args, path = trained
    replace, pids = os.replace, iter((1, 2))
    agent = script.Agent(script.make_envs(args, 1), args)
    optimizer = torch.optim.Adam(agent.parameters())
    monkeypatch.setattr(script.os, "getpid", lambda: next(pids))

    def other_saves_first(*paths):
        assert torch.load(path, weights_only=True)["global_step"] == 192  # should this fail, nothing is lost
        monkeypatch.setattr(script.os, "replace", replace)
        script.save_checkpoint(path, args, 64, agent, optimizer)
        assert torch.load(path, weights_only=True)["global_step"] == 64
        replace(*paths)

    monkeypatch.setattr(script.os, "replace", other_saves_first)
    script.save_checkpoint(path, args, 32, agent, optimizer)
    assert torch.load(path, weights_only=True)["global_step"] == 32
    np.testing.assert_equal([p.name for p in path.parent.glob("checkpoint*")], ["checkpoint.pt"])
