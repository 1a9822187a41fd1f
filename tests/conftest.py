"""What several test files share: the scripts as modules, and as a user starts them."""

import copy
import functools
import importlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
if "PPO_SCRIPTS" in os.environ:  # mutation.py has put changed copies of the scripts there
    sys.path.insert(0, os.environ["PPO_SCRIPTS"])
os.environ["OMP_NUM_THREADS"] = "1"  # as the scripts set it; idle threads cost a sixth of the suite's processor time
os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # no pool of processes for the test that compiles
os.environ["TORCHINDUCTOR_VEC_ISA_OK"] = "1"  # no compiler runs that only find out what the processor can do
SCRIPTS = ("ppo_discrete", "ppo_continuous")
SMALL = "--num-envs 2 --num-steps 16 --total-timesteps 96 --num-minibatches 2 --update-epochs 2 --eval-episodes 2"


@pytest.fixture(params=SCRIPTS)
def script(request):
    """A main script, imported."""
    return importlib.import_module(request.param)


@pytest.fixture
def in_tmp(tmp_path, monkeypatch):
    """A working directory of the test's own, for the runs/ of training in this process."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory):
    """Trains each script once for six iterations of 32 steps; returns the arguments and the run's folder."""

    @functools.cache
    def trained_once(script):
        sizes = {"num_envs": 2, "num_steps": 16, "total_timesteps": 192, "num_minibatches": 2, "eval_episodes": 2}
        args = script.Args(env_id=env_for(script), target_kl=None, **sizes)
        folder = tmp_path_factory.mktemp("trained") / "run"
        script.train(args, folder)
        time.sleep(1)  # the names of TensorBoard's files order them by the second
        return args, folder

    return trained_once


@pytest.fixture
def trained(script, in_tmp, trained_once):
    """The arguments of a trained script, and the path of its checkpoint, both the test's own."""
    args, folder = trained_once(script)
    return copy.copy(args), Path(shutil.copytree(folder, in_tmp / "runs" / "run")) / "checkpoint.pt"


def run_script(script, flags, cwd):
    """Starts a script of this repository, or one at a path, as a user does; tests/ is on the path for `probes:`."""
    command = [sys.executable, ROOT / f"{script}.py", *flags.split()]
    env = os.environ | {"PYTHONPATH": str(ROOT / "tests")}
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=120)


def train(script, args, checkpoint=None):
    """As `main` starts it, in a new directory under runs/, or in that of the run to go on with."""
    new = Path("runs", f"run-{len(list(Path('runs').glob('*')))}")
    return script.train(args, args.resume.parent if args.resume else new, checkpoint)


def run_main(script, monkeypatch, *flags):
    """Calls `main` in this process, as typed after the script's name."""
    monkeypatch.setattr("sys.argv", [script.__file__, *map(str, flags)])
    script.main()


def refused(script, monkeypatch, *flags):
    """The message, without traceback and with a status that is not 0, by which the script refuses these flags."""
    with pytest.raises(SystemExit) as exit_:
        run_main(script, monkeypatch, *flags)
    assert exit_.value.code not in (0, None)
    if isinstance(exit_.value.code, str):  # else tyro has printed it in a box
        assert exit_.value.code.startswith("error: ") and "\n" not in exit_.value.code
    return str(exit_.value.code)


def scalars(run_dir):
    """{tag: [(step, value)]} of what TensorBoard shows of a run."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # takes a second

    events = EventAccumulator(str(run_dir))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def env_for(script, discrete="CartPole-v1", continuous="Pendulum-v1"):
    name = script if isinstance(script, str) else script.__name__
    return discrete if name == "ppo_discrete" else continuous


def flags_for(script, flags):
    """Flags as words, on a small run; CONTINUOUS and ENV stand for what suits the script."""
    continuous = "true" if script.__name__ == "ppo_continuous" else "false"
    return f"{SMALL} {flags}".replace("CONTINUOUS", continuous).replace("ENV", env_for(script)).split()


def probe_args(script, probe, env_kwargs=None, **kwargs):
    """Arguments that train on a probe environment for a few seconds, with rewards and observations as they are."""
    defaults = {
        "env_id": f"probes:{probe}-v0",
        "env_kwargs": json.dumps({"continuous": script.__name__ == "ppo_continuous"} | (env_kwargs or {})),
        "num_envs": 8,
        "num_steps": 32,
        "total_timesteps": 8 * 32 * 30,
        "hidden_size": 32,
        "norm_obs": False,
        "norm_reward": False,
        "learning_rate": 3e-3,
        "num_minibatches": 4,
        "update_epochs": 5,
        "gamma": 0.99,
        "gae_lambda": 0.95,
        "target_kl": None,
        "eval_episodes": 10,
    }
    return script.Args(**(defaults | kwargs))
