"""Runs that survive: checkpoints, resuming, evaluation, videos."""

import importlib
import os
import pickle
import re
import resource
import signal
import subprocess
import sys
import time

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import ROOT, SMALL, env_for, probe_args, run_script
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


@pytest.fixture
def trained(script, in_tmp):
    """Trains for six iterations of 32 steps; returns the arguments and the checkpoint's path."""
    args = script.Args(
        env_id=env_for(script), num_envs=2, num_steps=16, total_timesteps=192, num_minibatches=2, target_kl=None,
        eval_episodes=2,
    )  # fmt: skip
    script.train(args)
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
    script.train(args)
    assert steps == [64, 128, 160]
    steps.clear()
    args.save_model = False
    script.train(args)
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
    assert [p.name for p in path.parent.iterdir() if "events" not in p.name] == ["checkpoint.pt"]


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
    rng_states = []
    set_rng_state = torch.set_rng_state
    monkeypatch.setattr(torch, "set_rng_state", lambda s: (rng_states.append(s), set_rng_state(s)))
    monkeypatch.setattr("sys.argv", [script.__file__, "--resume", str(path), "--total-timesteps", "256"])
    script.main()

    per_iteration = old["args"]["update_epochs"] * old["args"]["num_minibatches"]
    assert len(states) == 4 * per_iteration
    rate = old["args"]["learning_rate"]
    assert states[0] == (pytest.approx(rate * (1 - 4 / 8)), 6 * per_iteration)
    assert states[-1] == (pytest.approx(rate * (1 - 7 / 8)), 10 * per_iteration - 1)
    assert torch.equal(loads[0]["actor.0.weight"], old["agent"]["actor.0.weight"])
    assert torch.equal(rng_states[0], old["rng_state"])
    new = torch.load(path, weights_only=True)
    assert new["global_step"] == 256 and new["args"]["total_timesteps"] == 256
    assert new["return_rms"]["count"] > old["return_rms"]["count"]
    assert new["agent"]["obs_rms.count"] > old["agent"]["obs_rms.count"]
    assert len(list(path.parent.parent.iterdir())) == 1
    events = EventAccumulator(str(path.parent))
    events.Reload()
    assert [e.step for e in events.Scalars("losses/value_loss")] == [32 * i for i in range(1, 9)]


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


def equal(a, b):
    """Whether two checkpoints are the same in every bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_resumed_run_is_the_run_that_was_never_ended(script, mode, in_tmp, monkeypatch):
    """Bit for bit, from whichever checkpoint, whether the environments were then within, at or after an episode."""
    checkpoints = []
    save = script.save_checkpoint
    monkeypatch.setattr(script, "save_checkpoint", lambda p, c: (save(p, c), checkpoints.append(p.read_bytes())))
    args = probe_args(
        script, "Walk", num_envs=8, num_steps=16, total_timesteps=8 * 16 * 6, update_epochs=2, eval_episodes=1,
        checkpoint_interval=1, vectorization_mode=mode, adaptive_kl=1e-5, norm_obs=True, norm_reward=True,
    )  # fmt: skip
    script.train(args)
    (path,) = in_tmp.glob("runs/*/checkpoint.pt")
    expected = torch.load(path, weights_only=True)
    for checkpoint in checkpoints[1:2] if mode == "async" else checkpoints[:5]:
        path.write_bytes(checkpoint)
        monkeypatch.setattr("sys.argv", [script.__file__, "--resume", str(path)])
        script.main()
        assert equal(torch.load(path, weights_only=True) | {"args": vars(args)}, expected)


def test_resume_with_observations_that_are_flattened(script, in_tmp, monkeypatch):
    args = probe_args(script, "Dict", num_envs=2, num_steps=16, total_timesteps=96, update_epochs=1, eval_episodes=1)
    script.train(args)
    (path,) = in_tmp.glob("runs/*/checkpoint.pt")
    monkeypatch.setattr("sys.argv", [script.__file__, "--resume", str(path), "--total-timesteps", "128"])
    script.main()
    assert torch.load(path, weights_only=True)["global_step"] == 128


@pytest.mark.parametrize("flag", ["--num-envs=4", "--vectorization-mode=vector_entry_point"])
def test_resume_where_episodes_cannot_be_played_again(flag, in_tmp, monkeypatch):
    """With other environments than before, or some that only exist as vectors, new episodes begin."""
    script = importlib.import_module("ppo_discrete")
    flags = [*f"--env-id CartPole-v1 {SMALL}".split(), *([flag] if "mode" in flag else [])]
    monkeypatch.setattr("sys.argv", [script.__file__, *flags])
    script.main()
    (path,) = in_tmp.glob("runs/*/checkpoint.pt")
    monkeypatch.setattr("sys.argv", [script.__file__, "--resume", str(path), flag, "--total-timesteps", "224"])
    script.main()
    assert torch.load(path, weights_only=True)["global_step"] in (192, 224)


class OwnRandomness(gym.Env):
    """Its episodes last as long as `lengths` says, whatever the random state."""

    observation_space, action_space = gym.spaces.Box(0, 99, (1,)), gym.spaces.Discrete(2)

    def __init__(self, *lengths):
        self.lengths = list(lengths)

    def reset(self, **kwargs):
        super().reset(**kwargs)
        self.left = self.lengths.pop(0)
        return np.float32([self.left]), {}

    def step(self, action):
        assert self.left, "stepped after its end"
        self.left -= 1
        return np.float32([self.left]), 1.0, self.left == 0, False, {}


def test_an_episode_that_cannot_be_repeated_ends_early(script):
    env = script.ReplayableEpisode(OwnRandomness(9, 3))
    env.reset()
    for action in (0, 1, 1, 0, 1):
        env.step(action)
    random_state, past = env.episode()
    assert past.tolist() == [0, 1, 1, 0, 1]
    env.replay = (random_state, past)
    assert env.step(0)[1:4] == (1.0, True, False)
    assert env.episode()[1].tolist() == [0, 1, 1]


def test_an_episode_without_steps_is_repeated(script):
    env = script.ReplayableEpisode(gym.make("CartPole-v1"))
    env.reset(seed=1)
    first, _ = env.reset()
    env.replay = env.episode()
    obs, reward, terminated, truncated, _ = env.step(0)
    assert np.array_equal(obs, first) and (reward, terminated, truncated) == (0, False, False)
    assert not np.array_equal(env.reset()[0], first)


def test_a_checkpoint_is_on_the_disk_before_it_replaces_the_last_one(script, in_tmp, monkeypatch):
    sizes = []
    monkeypatch.setattr(os, "fsync", lambda number: sizes.append(os.fstat(number).st_size))
    monkeypatch.setattr(os, "replace", lambda new_path, path: sizes.append(new_path.stat().st_size))
    script.save_checkpoint(in_tmp / "checkpoint.pt", {"beta": 1.0})  # less than what Python buffers
    assert sizes[0] == sizes[1] > 100 and not list(in_tmp.iterdir())


def test_a_finished_run_says_how_to_extend_it(script, trained, monkeypatch):
    assert "raise --total-timesteps" in refused(script, monkeypatch, "--resume", trained[1])


def train_with_signals(script, number, times, monkeypatch):
    """Trains for ten iterations of 32 steps; in the third, the signal comes so many times."""
    calls = []
    compute_gae = script.compute_gae

    def interrupted(*args):
        calls.append(args)
        for _ in range(times if len(calls) == 3 else 0):
            os.kill(os.getpid(), number)
        return compute_gae(*args)

    monkeypatch.setattr(script, "compute_gae", interrupted)
    script.train(probe_args(script, "Walk", num_envs=2, num_steps=16, total_timesteps=320, update_epochs=1))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_its_iteration(script, number, in_tmp, monkeypatch, capsys):
    handlers = [(which, signal.getsignal(which)) for which in (signal.SIGINT, signal.SIGTERM)]
    try:
        with pytest.raises(SystemExit) as exit_:
            train_with_signals(script, number, 1, monkeypatch)
        assert signal.getsignal(signal.SIGINT) == signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    finally:
        for which, handler in handlers:
            signal.signal(which, handler)
    assert exit_.value.code == 128 + number
    (path,) = in_tmp.glob("runs/*/checkpoint.pt")
    assert torch.load(path, weights_only=True)["global_step"] == 96
    assert (
        f"stopped at step 96; to go on: python {sys.argv[0]} --resume {path.relative_to(in_tmp)}"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_kills(script, number, in_tmp, monkeypatch):
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        try:
            train_with_signals(script, number, 2, monkeypatch)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == number
    assert not list(in_tmp.glob("runs/*/checkpoint.pt"))


@pytest.mark.process
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_signal_finishes_the_iteration_and_saves(number, mode, tmp_path):
    flags = "--env-id CartPole-v1 --num-envs 2 --num-steps 64 --total-timesteps 10000000 --checkpoint-interval 1000000"
    process = subprocess.Popen(
        [sys.executable, ROOT / "ppo_discrete.py", *flags.split(), "--vectorization-mode", mode],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("runs/*/events*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(1)
    # Ctrl-C reaches the whole process group, the workers of async too; SIGTERM only the process it is sent to.
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 128 + number and stderr == ""
    (path,) = tmp_path.glob("runs/*/checkpoint.pt")
    step = int(re.search(r"stopped at step (\d+); to go on: (.*)\n", stdout)[1])
    assert torch.load(path, weights_only=True)["global_step"] == step > 0 and step % 128 == 0
    assert f"--resume {path.relative_to(tmp_path)}" in stdout
    result = run_script("ppo_discrete", f"--resume {path} --total-timesteps {step + 128} --eval-episodes 1", tmp_path)
    assert result.returncode == 0 and "over 1 episodes" in result.stdout, result.stderr


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


def test_evaluation_computes_with_one_thread_like_training(script):
    """With two, matrices are multiplied in another order, and a lander may touch down a little differently."""
    args = script.Args(env_id=env_for(script))
    agent = script.Agent(script.make_envs(args, 1, "sync"), args)
    torch.set_num_threads(2)
    script.evaluate(agent, args, 1)
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("script", ["ppo_discrete"], indirect=True)
def test_videos(script, in_tmp, monkeypatch, capsys):
    flags = f"--env-id {env_for(script)} {SMALL} --capture-video".split()
    monkeypatch.setattr("sys.argv", [script.__file__, *flags])
    script.main()
    videos = {p.parent.name: p for p in in_tmp.glob("runs/*/videos/*/*.mp4")}
    assert set(videos) == {"step-0", "step-32", "step-64", "step-96"}
    assert all(video.name == "greedy-episode-0.mp4" for video in videos.values())
    assert all(video.stat().st_size > 1000 for video in videos.values())
    (path,) = in_tmp.glob("runs/*/checkpoint.pt")
    monkeypatch.setattr(
        "sys.argv", [script.__file__, "--evaluate", str(path), "--capture-video", "--eval-episodes", "3"]
    )
    script.main()
    names = [video.name for video in path.parent.glob("videos/evaluation/*.mp4")]
    assert sorted(names) == ["greedy-episode-0.mp4", "greedy-episode-1.mp4", "greedy-episode-2.mp4"]
    assert str(path.parent.relative_to(in_tmp) / "videos" / "evaluation") in capsys.readouterr().out


def test_render_shows_the_episodes_one_by_one(script, in_tmp, monkeypatch):
    args = probe_args(script, "Numbered", total_timesteps=256, update_epochs=1, eval_episodes=5)
    agent = script.train(args)
    returns = script.evaluate(agent, args, 5)
    calls, make_envs = [], script.make_envs

    def make_envs_without_window(args, num_envs, mode, **kwargs):
        calls.append((num_envs, mode, kwargs))
        return make_envs(args, num_envs, mode)

    monkeypatch.setattr(script, "make_envs", make_envs_without_window)
    args.render = True
    np.testing.assert_array_equal(script.evaluate(agent, args, 5), returns)
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

    def evaluate(agent, args, num_episodes, video=None):
        calls.append((num_episodes, video and f"{video.parent.name}/{video.name}"))
        return np.ones(num_episodes)

    monkeypatch.setattr(script, "evaluate", evaluate)
    flags = {"num_envs": 2, "num_steps": 8, "total_timesteps": 101 * 16, "update_epochs": 1, "eval_episodes": 7}
    script.train(probe_args(script, "Probe", capture_video=True, **flags))
    steps = [*range(0, 101 * 16, 11 * 16), 101 * 16]  # before each eleventh of 101 iterations, and at the end
    assert calls == [(1, f"videos/step-{step}") for step in steps] + [(7, None)]
    calls.clear()
    script.train(probe_args(script, "Probe", **flags))
    assert calls == [(7, None)]


def test_videos_of_what_cannot_be_rendered(script, in_tmp):
    with pytest.raises(SystemExit, match="error: cannot make --env-id probes:Probe-v0"):
        script.train(probe_args(script, "Probe", capture_video=True))


class Malicious:
    def __reduce__(self):
        return (open, ("was-run", "w"))


@pytest.mark.parametrize("flag", ["--resume", "--evaluate"])
def test_what_is_no_checkpoint_is_refused(script, trained, flag, in_tmp, monkeypatch):
    args, path = trained
    good = path.read_bytes()
    bad = in_tmp / "bad.pt"
    for content, message in {
        b"": "damaged, or not a checkpoint",
        good[: len(good) // 2]: "damaged, or not a checkpoint",
        b"#!/bin/sh\necho foreign\n": "damaged, or not a checkpoint",
        pickle.dumps(Malicious()): "damaged, or not a checkpoint",
    }.items():
        bad.write_bytes(content)
        assert message in refused(script, monkeypatch, flag, bad)
    for thing in (Malicious(), [Malicious()], {"args": Malicious()}):
        torch.save(thing, bad)
        assert "damaged, or not a checkpoint" in refused(script, monkeypatch, flag, bad)
    assert not (in_tmp / "was-run").exists()
    for thing in ([1, 2], {"state_dict": {}}, {"args": {"lr": 1}}, {"args": 3}, torch.zeros(3)):
        torch.save(thing, bad)
        assert "not a checkpoint of this script" in refused(script, monkeypatch, flag, bad)
    assert "Is a directory" in refused(script, monkeypatch, flag, in_tmp)
    assert path.read_bytes() == good and len(list((in_tmp / "runs").iterdir())) == 1


@pytest.mark.parametrize("flag", ["--resume", "--evaluate"])
def test_a_checkpoint_of_something_else_is_refused(script, trained, flag, monkeypatch):
    args, path = trained
    other_env = env_for(script, "Acrobot-v1", "MountainCarContinuous-v0")
    flags = (flag, path, "--total-timesteps", 999)
    message = refused(script, monkeypatch, *flags, "--env-id", other_env)
    assert f"was trained on {args.env_id}, not on {other_env}" in message
    assert "agent" in refused(script, monkeypatch, *flags, "--hidden-size", 7)
    assert "agent" in refused(script, monkeypatch, *flags, "--no-norm-obs")


def test_a_checkpoint_of_the_other_script_is_refused(script, trained, monkeypatch):
    other = importlib.import_module({"ppo_discrete": "ppo_continuous"}.get(script.__name__, "ppo_discrete"))
    assert "not a checkpoint of this script" in refused(other, monkeypatch, "--evaluate", trained[1])


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
    assert result.returncode == 1 and result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("error: cannot write the run")
    assert path.read_bytes() == good


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere; the file size limit above is the same path")
def test_a_read_only_run_directory(script, trained, monkeypatch):
    _, path = trained
    good = path.read_bytes()
    path.parent.chmod(0o555)
    message = refused(script, monkeypatch, "--resume", path, "--total-timesteps", 999)
    path.parent.chmod(0o755)
    assert "cannot write the run directory" in message and path.read_bytes() == good


@pytest.mark.parametrize("where", ["observation", "reward"])
def test_non_finite_numbers_stop_the_run(script, where, in_tmp):
    args = probe_args(script, "NonFinite", num_envs=1, num_steps=32, total_timesteps=32 * 8, checkpoint_interval=1)
    args.env_kwargs = args.env_kwargs.replace("{", f'{{"where": "{where}", "at": 100, ')
    with pytest.raises(SystemExit, match=f"error: a non-finite {where} came up in the 32 steps before step 128"):
        script.train(args)
    (path,) = in_tmp.glob("runs/*/checkpoint.pt")
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint["global_step"] == 96
    assert all(tensor.isfinite().all() for tensor in checkpoint["agent"].values())


def test_a_diverged_run_stops(script, in_tmp):
    args = script.Args(env_id=env_for(script), num_envs=2, num_steps=16, total_timesteps=3200, learning_rate=1e38)
    with pytest.raises(SystemExit, match="error: a non-finite (loss|weight) came up"):
        script.train(args)
