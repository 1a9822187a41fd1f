"""Runs that survive: checkpoints, resuming, evaluation, videos."""

import importlib.util
import json
import os
import pickle
import re
import resource
import shutil
import subprocess
import sys
import time
import traceback
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, SMALL, env_for, probe_args, run_script, train
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


@pytest.fixture
def trained(script, in_tmp):
    """Trains for six iterations of 32 steps; returns the arguments and the checkpoint's path."""
    args = script.Args(
        env_id=env_for(script), num_envs=2, num_steps=16, total_timesteps=192, num_minibatches=2, target_kl=None,
        eval_episodes=2,
    )  # fmt: skip
    train(script, args)
    (path,) = in_tmp.glob("runs/*/checkpoint.pt")
    return args, path


def refused(script, monkeypatch, *flags):
    """The one line with which the script refuses these flags."""
    monkeypatch.setattr("sys.argv", [script.__file__, *map(str, flags)])
    with pytest.raises(SystemExit) as exit_:
        script.main()
    assert isinstance(exit_.value.code, str) and exit_.value.code.startswith("error: ")
    assert "\n" not in exit_.value.code
    return exit_.value.code


def test_a_checkpoint_holds_everything(script, trained):
    args, path = trained
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint["args"] == vars(args)
    assert checkpoint["global_step"] == 192
    assert {"actor.0.weight", "critic.4.bias", "obs_rms.mean", "obs_rms.std", "obs_rms.count"} <= set(
        checkpoint["agent"]
    )
    assert checkpoint["optimizer"]["state"][0]["step"] == 6 * args.update_epochs * args.num_minibatches
    assert checkpoint["return_rms"]["count"] > 150 and checkpoint["agent"]["obs_rms.count"] > 150
    assert [p.name for p in path.parent.iterdir() if "events" not in p.name] == ["checkpoint.pt"]


def test_checkpoints_are_written_at_the_interval_and_at_the_end(script, in_tmp, monkeypatch):
    steps = []
    save = script.save_checkpoint
    monkeypatch.setattr(script, "save_checkpoint", lambda p, c: (steps.append(c["global_step"]), save(p, c)))
    args = script.Args(
        env_id=env_for(script), num_envs=2, num_steps=16, total_timesteps=160, num_minibatches=2, eval_episodes=1,
        checkpoint_interval=2,
    )  # fmt: skip
    train(script, args)
    assert steps == [64, 128, 160]
    steps.clear()
    args.save_model = False
    train(script, args)
    assert steps == []


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_checkpoint(script, trained, function, monkeypatch):
    def fails(*_):
        raise OSError("disk full")

    _, path = trained
    before = path.read_bytes()
    monkeypatch.setattr(script.os, function, fails)
    with pytest.raises(OSError, match="disk full"):
        script.save_checkpoint(path, {"global_step": 0})
    assert path.read_bytes() == before


def test_resume_continues(script, trained, monkeypatch):
    """In the same directory, with everything restored, and with a schedule for the new total.

    Here from step 128, as if the run had been killed after step 192 without another checkpoint.
    """
    _, path = trained
    old = torch.load(path, weights_only=True)
    old["global_step"] = 128
    torch.save(old, path)
    time.sleep(1)  # the names of TensorBoard's files order them by the second
    states = []

    def state(optimizer, *_):
        states.append((optimizer.param_groups[0]["lr"], optimizer.state_dict()["state"][0]["step"].item()))

    step = torch.optim.Adam.step
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self: (state(self), step(self)))
    loads = []
    load = script.Agent.load_state_dict
    monkeypatch.setattr(script.Agent, "load_state_dict", lambda self, s: (loads.append(s), load(self, s)))
    monkeypatch.setattr("sys.argv", [script.__file__, "--resume", str(path), "--total-timesteps", "256"])
    script.main()

    per_iteration = old["args"]["update_epochs"] * old["args"]["num_minibatches"]
    assert len(states) == 4 * per_iteration
    rate = old["args"]["learning_rate"]
    assert states[0] == (pytest.approx(rate * (1 - 4 / 8)), 6 * per_iteration)
    assert states[-1] == (pytest.approx(rate * (1 - 7 / 8)), 10 * per_iteration - 1)
    assert torch.equal(loads[0]["actor.0.weight"], old["agent"]["actor.0.weight"])
    assert torch.initial_seed() != old["args"]["seed"]  # its random numbers are not drawn again
    new = torch.load(path, weights_only=True)
    assert new["global_step"] == 256 and new["args"]["total_timesteps"] == 256
    assert new["return_rms"]["count"] > old["return_rms"]["count"]
    assert new["agent"]["obs_rms.count"] > old["agent"]["obs_rms.count"]
    assert len(list(path.parent.parent.iterdir())) == 1
    events = EventAccumulator(str(path.parent))
    events.Reload()
    assert [e.step for e in events.Scalars("losses/value_loss")] == [32 * i for i in range(1, 9)]


def test_resume_keeps_the_weight_of_the_kl_penalty(script, trained, monkeypatch):
    _, path = trained
    torch.save(torch.load(path, weights_only=True) | {"beta": 0.125}, path)
    betas, ppo_loss = [], script.ppo_loss
    monkeypatch.setattr(script, "ppo_loss", lambda *args: (betas.append(args[2]), ppo_loss(*args))[1])
    flags = ["--resume", str(path), "--total-timesteps", "256", "--adaptive-kl", "1e9"]
    monkeypatch.setattr("sys.argv", [script.__file__, *flags])
    script.main()
    assert betas[0] == 0.125 and betas[-1] == 0.0625
    assert torch.load(path, weights_only=True)["beta"] == 0.03125


@pytest.mark.parametrize(("num_envs", "steps"), [(4, 320), (32, 704)])
def test_resume_with_other_environments(script, trained, num_envs, steps, monkeypatch):
    """The batch may even be larger than all of the training before: the policy is not a new one for that."""
    _, path = trained
    old = torch.load(path, weights_only=True)
    act, counts = script.Agent.act, []
    monkeypatch.setattr(
        script.Agent,
        "act",
        lambda self, *args, **kw: (counts.append(int(self.obs_rms.count)), act(self, *args, **kw))[1],
    )
    log_prob, seen = script.Agent.log_prob_and_entropy, []
    monkeypatch.setattr(
        script.Agent, "log_prob_and_entropy",
        lambda self, *args: (seen.append(int(self.obs_rms.count)), log_prob(self, *args))[1],
    )  # fmt: skip
    flags = ["--resume", str(path), "--num-envs", str(num_envs), "--total-timesteps", str(steps)]
    monkeypatch.setattr("sys.argv", [script.__file__, *flags])
    script.main()
    assert torch.load(path, weights_only=True)["global_step"] == steps
    assert counts[0] == seen[0] == old["agent"]["obs_rms.count"]  # acted and learned with the same normalization


# What a fork changes: flags, and environments with mistakes in them.


def forked(script, flag, lines):
    """The script as a module, with other lines in place of that of a flag."""
    text, count = re.subn(rf"(?m)^    {flag}: .*\n", lines, Path(script.__file__).read_text())
    assert count == 1
    Path("fork.py").write_text(text)
    spec = importlib.util.spec_from_file_location("fork", "fork.py")
    sys.modules["fork"] = fork = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fork)
    return fork


@pytest.mark.parametrize("added", [True, False])
def test_checkpoints_survive_a_change_of_flags(script, trained, added, monkeypatch, capsys):
    """A flag more in Args, or one less than when the checkpoint was written; checks of flags go on."""
    _, path = trained
    lines = "    vf_coef: Amount = 0.5  # weight of the value loss\n    my_coef: Amount = 7.5  # new\n"
    fork = forked(script, "vf_coef", lines if added else "")
    if not added:
        fork.Args.vf_coef = 0.5  # no flag any more; a fork deletes its use as well
    for command in (["--evaluate", str(path)], ["--resume", str(path), "--total-timesteps", "256"]):
        monkeypatch.setattr("sys.argv", ["fork.py", *command])
        fork.main()
        assert "over 2 episodes" in capsys.readouterr().out
    args = torch.load(path, weights_only=True)["args"]
    assert args.get("my_coef") == (7.5 if added else None) and ("vf_coef" in args) == added
    assert "--gamma must be between 0 and 1" in refused(fork, monkeypatch, "--gamma", 2)
    if added:
        assert "--my-coef must be between 0 and inf" in refused(fork, monkeypatch, "--my-coef", -1)


def test_flags_about_one_command_do_not_carry_over(script, in_tmp, monkeypatch):
    """An --evaluate of a run that was trained with --capture-video and --render neither records nor shows anything."""
    calls = []

    def evaluate(agent, args, num_episodes, video_dir=None, render=False):
        calls.append((num_episodes, bool(video_dir), render))
        return np.zeros(num_episodes)

    monkeypatch.setattr(script, "evaluate", evaluate)
    flags = f"--env-id {env_for(script)} {SMALL} --capture-video --render".split()
    monkeypatch.setattr("sys.argv", [script.__file__, *flags])
    script.main()
    assert calls == [(1, True, False)] * 4 + [(2, False, False)]  # while training, no window opens, videos are made
    (path,) = in_tmp.glob("runs/*/checkpoint.pt")
    for flag, expected in (
        ((), (2, False, False)),
        (("--render",), (2, False, True)),
        (("--capture-video",), (2, True, False)),
    ):
        monkeypatch.setattr("sys.argv", [script.__file__, "--evaluate", str(path), *flag])
        script.main()
        assert calls.pop() == expected


@pytest.mark.parametrize("error", [FileNotFoundError, RuntimeError, TypeError])
@pytest.mark.parametrize("where", ["constructor", "reset", "step"])
def test_errors_of_an_environment_are_its_own(script, where, error, in_tmp, monkeypatch):
    env_kwargs = {"where": where, "error": error.__name__, "continuous": script.__name__ == "ppo_continuous"}
    flags = ["--env-id", "probes:Faulty-v0", "--env-kwargs", json.dumps(env_kwargs), *SMALL.split()]
    monkeypatch.setattr("sys.argv", [script.__file__, *flags])
    with pytest.raises(error, match="a mistake in the environment") as raised:
        script.main()
    own = raised.value.__cause__ or raised.value  # Gymnasium adds the environment's name to what constructors raise
    assert traceback.extract_tb(own.__traceback__)[-1].filename.endswith("probes.py")


@pytest.mark.process
def test_the_traceback_of_an_environment_in_a_process_of_its_own(script, tmp_path):
    env_kwargs = {"where": "step", "error": "TypeError", "continuous": script.__name__ == "ppo_continuous"}
    flags = ["--env-id", "probes:Faulty-v0", "--env-kwargs", json.dumps(env_kwargs), *SMALL.split()]
    result = run_script(script.__name__, [*flags, "--vectorization-mode", "async"], tmp_path)
    assert result.returncode == 1 and "TypeError: a mistake in the environment" in result.stderr
    assert "probes.py" in result.stderr and "raise getattr(builtins, self.error)" in result.stderr


def test_an_interrupted_run_says_how_to_go_on(script, in_tmp, monkeypatch):
    compute_gae, calls = script.compute_gae, []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return compute_gae(*args)

    monkeypatch.setattr(script, "compute_gae", interrupted)
    flags = f"--env-id {env_for(script)} {SMALL} --checkpoint-interval 1".split()
    monkeypatch.setattr("sys.argv", ["ppo.py", *flags, "--no-save-model"])
    with pytest.raises(SystemExit, match="^interrupted$"):
        script.main()
    shutil.rmtree("runs")
    calls.clear()
    monkeypatch.setattr("sys.argv", ["ppo.py", *flags])
    with pytest.raises(SystemExit) as exit_:
        script.main()
    (path,) = in_tmp.glob("runs/*/checkpoint.pt")
    assert exit_.value.code == f"interrupted; to go on: python ppo.py --resume {path.relative_to(in_tmp)}"
    assert torch.load(path, weights_only=True)["global_step"] == 64
    calls[2:] = []  # the next call is the third again
    monkeypatch.setattr(script, "make_envs", interrupted)
    monkeypatch.setattr("sys.argv", ["ppo.py", "--evaluate", str(path)])
    with pytest.raises(SystemExit, match="^interrupted$"):
        script.main()


def test_resume_takes_new_flags(script, trained, monkeypatch):
    """Here another learning rate, no longer annealed; what is not given stays as it was."""
    args, path = trained
    rates = []
    step = torch.optim.Adam.step
    monkeypatch.setattr(
        torch.optim.Adam, "step", lambda self: (rates.append(self.param_groups[0]["lr"]), step(self))[1]
    )
    flags = ["--resume", str(path), "--total-timesteps", "224", "--learning-rate", "0.0123", "--no-anneal-lr"]
    monkeypatch.setattr("sys.argv", [script.__file__, *flags])
    script.main()
    assert rates == [0.0123] * (args.update_epochs * args.num_minibatches)


def test_resume_with_observations_that_are_flattened(script, in_tmp, monkeypatch):
    args = probe_args(script, "Dict", num_envs=2, num_steps=16, total_timesteps=96, update_epochs=1, eval_episodes=1)
    train(script, args)
    (path,) = in_tmp.glob("runs/*/checkpoint.pt")
    monkeypatch.setattr("sys.argv", [script.__file__, "--resume", str(path), "--total-timesteps", "128"])
    script.main()
    assert torch.load(path, weights_only=True)["global_step"] == 128


def test_a_checkpoint_is_on_the_disk_before_it_replaces_the_last_one(script, in_tmp, monkeypatch):
    sizes = []
    monkeypatch.setattr(os, "fsync", lambda number: sizes.append(os.fstat(number).st_size))
    monkeypatch.setattr(os, "replace", lambda new_path, path: sizes.append(os.stat(new_path).st_size))
    script.save_checkpoint(in_tmp / "checkpoint.pt", {"beta": 1.0})  # less than what Python buffers
    assert sizes[0] == sizes[1] > 100


def test_a_finished_run_says_how_to_extend_it(script, trained, monkeypatch):
    assert "raise --total-timesteps" in refused(script, monkeypatch, "--resume", trained[1])


@pytest.mark.process
def test_kill_at_any_instant_leaves_a_whole_checkpoint(tmp_path):
    """Five kills while checkpoints are written all the time; each time the run goes on from what is there."""
    flags = "--env-id CartPole-v1 --num-envs 2 --num-steps 8 --num-minibatches 1 --update-epochs 1"
    flags += " --checkpoint-interval 1 --total-timesteps 10000000 --hidden-size 256"
    rng, steps = np.random.default_rng(0), [0]
    for _ in range(5):
        process = subprocess.Popen([sys.executable, ROOT / "ppo_discrete.py", *flags.split()], cwd=tmp_path)
        deadline = time.monotonic() + 60
        before = next((p.stat().st_mtime_ns for p in tmp_path.glob("runs/*/checkpoint.pt")), None)
        while time.monotonic() < deadline:  # until this process has written one
            now = next((p.stat().st_mtime_ns for p in tmp_path.glob("runs/*/checkpoint.pt")), None)
            if now != before:
                break
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.3))
        process.kill()
        process.wait()
        (path,) = tmp_path.glob("runs/*/checkpoint.pt")
        steps.append(torch.load(path, weights_only=True)["global_step"])
        flags = f"--resume {path}"
    assert steps == sorted(set(steps))


@pytest.mark.process
def test_evaluation_equals_that_of_training(script, tmp_path):
    env_id = env_for(script, "LunarLander-v3", "LunarLanderContinuous-v3")
    result = run_script(script.__name__, f"--env-id {env_id} {SMALL} --eval-episodes 5", tmp_path)
    (path,) = tmp_path.glob("runs/*/checkpoint.pt")
    at_the_end = next(line for line in result.stdout.splitlines() if line.startswith("greedy return"))
    result = run_script(script.__name__, f"--evaluate {path}", tmp_path)
    assert result.returncode == 0 and result.stdout.splitlines() == [at_the_end]
    assert re.fullmatch(r"greedy return \S+ \+- \S+ over 5 episodes, from \S+ to \S+", at_the_end)
    other = run_script(script.__name__, f"--evaluate {path} --eval-episodes 3 --seed 2", tmp_path)
    assert other.stdout.splitlines() != [at_the_end] and "3 episodes" in other.stdout
    assert len(list(tmp_path.glob("runs/*"))) == 1


@pytest.mark.parametrize("script", ["ppo_discrete"], indirect=True)
def test_videos(script, in_tmp, monkeypatch):
    flags = f"--env-id {env_for(script)} {SMALL} --capture-video".split()
    monkeypatch.setattr("sys.argv", [script.__file__, *flags])
    script.main()
    videos = {p.parent.name: p for p in in_tmp.glob("runs/*/videos/*/*.mp4")}
    assert set(videos) == {"step-0", "step-32", "step-64", "step-96"}
    assert all(video.name == "greedy-episode-0.mp4" for video in videos.values())
    assert all(video.stat().st_size > 1000 for video in videos.values())
    (path,) = in_tmp.glob("runs/*/checkpoint.pt")
    for num_episodes in "2", "1":  # the second evaluation replaces no video of the first
        flags = ["--evaluate", str(path), "--capture-video", "--eval-episodes", num_episodes]
        monkeypatch.setattr("sys.argv", [script.__file__, *flags])
        script.main()
    names = [video.name for video in path.parent.glob("evaluation-*/*.mp4")]
    assert sorted(names) == ["greedy-episode-0.mp4", "greedy-episode-0.mp4", "greedy-episode-1.mp4"]


def test_render_shows_the_same_episodes(script, in_tmp, monkeypatch):
    args = probe_args(script, "Numbered", total_timesteps=256, update_epochs=1, eval_episodes=5)
    agent = train(script, args)
    returns = script.evaluate(agent, args, 5)
    calls, make_envs = [], script.make_envs

    def make_envs_without_window(args, num_envs, mode, **kwargs):
        calls.append((num_envs, mode, kwargs))
        return make_envs(args, num_envs, mode)

    monkeypatch.setattr(script, "make_envs", make_envs_without_window)
    np.testing.assert_array_equal(script.evaluate(agent, args, 5, render=True), returns)
    assert len(set(returns)) > 1 and calls == [(1, "sync", {"render_mode": "human"})]


@pytest.mark.process
def test_a_window_opens(tmp_path, monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    run_script("ppo_discrete", f"--env-id CartPole-v1 {SMALL}", tmp_path)
    (path,) = tmp_path.glob("runs/*/checkpoint.pt")
    result = run_script("ppo_discrete", f"--evaluate {path} --render --eval-episodes 1", tmp_path)
    assert result.returncode == 0 and "1 episodes" in result.stdout


def test_a_greedy_episode_is_recorded_at_every_tenth_of_training(script, in_tmp, monkeypatch):
    calls = []

    def evaluate(agent, args, num_episodes, video_dir=None):
        calls.append((num_episodes, video_dir and f"{video_dir.parent.name}/{video_dir.name}"))
        return np.ones(num_episodes)

    monkeypatch.setattr(script, "evaluate", evaluate)
    flags = {"num_envs": 2, "num_steps": 8, "total_timesteps": 101 * 16, "update_epochs": 1, "eval_episodes": 7}
    train(script, probe_args(script, "Probe", capture_video=True, **flags))
    steps = [*range(0, 101 * 16, 11 * 16), 101 * 16]  # before each eleventh of 101 iterations, and at the end
    assert calls == [(1, f"videos/step-{step}") for step in steps] + [(7, None)]
    calls.clear()
    train(script, probe_args(script, "Probe", **flags))
    assert calls == [(7, None)]


def test_videos_of_what_cannot_be_rendered(script, in_tmp):
    """The environment's own words."""
    with pytest.raises(TypeError, match="unexpected keyword argument 'render_mode'"):
        train(script, probe_args(script, "Probe", capture_video=True))


class Malicious:
    def __reduce__(self):
        return (open, ("was-run", "w"))


@pytest.mark.parametrize("flag", ["--resume", "--evaluate"])
def test_what_is_no_checkpoint_is_refused(script, trained, flag, in_tmp, monkeypatch):
    args, path = trained
    good = path.read_bytes()
    bad = in_tmp / "bad.pt"
    for content, message in {
        b"": "not a whole checkpoint",
        good[: len(good) // 2]: "not a whole checkpoint",
        b"#!/bin/sh\necho foreign\n": "not a whole checkpoint",
        pickle.dumps(Malicious()): "not a whole checkpoint",
    }.items():
        bad.write_bytes(content)
        assert message in refused(script, monkeypatch, flag, bad)
    for thing in (Malicious(), [Malicious()], {"args": Malicious()}):
        torch.save(thing, bad)
        assert "not a whole checkpoint" in refused(script, monkeypatch, flag, bad)
    assert not (in_tmp / "was-run").exists()
    for thing in ([1, 2], {"state_dict": {}}, {"args": {"lr": 1}}, {"args": 3}, torch.zeros(3)):
        torch.save(thing, bad)
        assert "not a whole checkpoint" in refused(script, monkeypatch, flag, bad)
    assert "Is a directory" in refused(script, monkeypatch, flag, in_tmp)
    assert path.read_bytes() == good and len(list((in_tmp / "runs").iterdir())) == 1


@pytest.mark.parametrize("flag", ["--resume", "--evaluate"])
def test_a_checkpoint_of_something_else_is_refused(script, trained, flag, monkeypatch):
    args, path = trained
    other_env = env_for(script, "Acrobot-v1", "MountainCarContinuous-v0")
    flags = (flag, path, "--total-timesteps", 999)
    assert "size mismatch" in refused(script, monkeypatch, *flags, "--env-id", other_env)
    assert "size mismatch for actor.0.weight" in refused(script, monkeypatch, *flags, "--hidden-size", 7)
    assert "obs_rms.mean" in refused(script, monkeypatch, *flags, "--no-norm-obs")


def test_a_checkpoint_of_the_other_script_is_refused(script, trained, monkeypatch):
    other = importlib.import_module({"ppo_discrete": "ppo_continuous"}.get(script.__name__, "ppo_discrete"))
    assert f"is for {script.__name__}.py" in refused(other, monkeypatch, "--evaluate", trained[1])


@pytest.mark.process
@pytest.mark.parametrize("limit", [0, 20_000])
def test_a_disk_that_cannot_be_written_any_further(limit, script, trained, in_tmp):
    """A limit on the size of files acts like a full disk: at once, or after some checkpoints and curves."""
    _, path = trained
    good = path.read_bytes()
    result = run_script(
        script.__name__,
        f"--resume {path} --total-timesteps 100000 --checkpoint-interval 1",
        in_tmp,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert result.returncode == 1 and "File too large" in result.stderr
    torch.load(path, weights_only=True)
    assert limit > 0 or path.read_bytes() == good


@pytest.mark.parametrize("where", ["observation", "reward"])
def test_non_finite_numbers_stop_the_run(script, where, in_tmp):
    args = probe_args(script, "NonFinite", num_envs=1, num_steps=32, total_timesteps=32 * 8, checkpoint_interval=1)
    args.env_kwargs = args.env_kwargs.replace("{", f'{{"where": "{where}", "at": 100, ')
    with pytest.raises(SystemExit, match=f"error: a non-finite {where} came up in the 32 steps before step 128"):
        train(script, args)
    (path,) = in_tmp.glob("runs/*/checkpoint.pt")
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint["global_step"] == 96
    assert all(tensor.isfinite().all() for tensor in checkpoint["agent"].values())


def test_a_diverged_run_stops(script, in_tmp):
    args = script.Args(env_id=env_for(script), num_envs=2, num_steps=16, total_timesteps=3200, learning_rate=1e38)
    with pytest.raises(SystemExit, match="error: a non-finite (loss|weight) came up"):
        train(script, args)
