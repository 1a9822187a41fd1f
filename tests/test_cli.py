"""The main scripts as a user starts them: what works, what is refused and how."""

import pytest
from conftest import ROOT, SCRIPTS, SMALL, env_for, run_script, train
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

TAGS = {
    "charts/episodic_return",
    "charts/episodic_length",
    "charts/learning_rate",
    "charts/SPS",
    "losses/value_loss",
    "losses/policy_loss",
    "losses/entropy",
    "losses/old_approx_kl",
    "losses/approx_kl",
    "losses/clipfrac",
    "losses/explained_variance",
    "eval/episodic_return",
}


@pytest.mark.process
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_run_leaves_curves_and_a_checkpoint(script, tmp_path):
    env_id = env_for(script, "CartPole-v1", "MountainCarContinuous-v0")
    flags = f"--env-id {env_id} {SMALL} --num-steps 512 --total-timesteps 4096 --exp-name smoke --seed 7"
    result = run_script(script, flags, tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    (run_dir,) = (tmp_path / "runs").iterdir()
    assert run_dir.name.startswith(f"{env_id}__smoke__7__")
    assert [p.name for p in tmp_path.iterdir()] == ["runs"]
    lines = result.stdout.splitlines()
    assert "step 4096/4096: return" in lines[-3]
    assert "greedy return" in lines[-2] and "2 episodes" in lines[-2]
    assert "steps per second" in lines[-1] and f"runs/{run_dir.name}" in lines[-1]
    assert {p.name.split(".")[0] for p in run_dir.iterdir()} == {"checkpoint", "events"}

    events = EventAccumulator(str(run_dir))
    events.Reload()
    assert TAGS <= set(events.Tags()["scalars"])
    assert [e.step for e in events.Scalars("losses/value_loss")] == [1024, 2048, 3072, 4096]
    rates = [e.value / events.Scalars("charts/learning_rate")[0].value for e in events.Scalars("charts/learning_rate")]
    assert rates == pytest.approx([1, 0.75, 0.5, 0.25])
    assert {"distributions/actions", "distributions/ratio", "distributions/advantages"} <= set(
        events.Tags()["histograms"]
    )


@pytest.mark.process
@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize(
    "flags",
    [
        "--no-anneal-lr --no-norm-adv --no-norm-obs --no-norm-reward --no-save-model --no-torch-deterministic",
        "--clip-vloss --ent-coef 0.01 --target-kl 0.0001 --adaptive-kl 0.01 --gae-lambda 1",
        "--num-envs 1 --num-minibatches 7 --update-epochs 1 --hidden-size 5",
        "--vectorization-mode async",
    ],
)
def test_variants_run(script, flags, tmp_path):
    result = run_script(script, f"--env-id {env_for(script)} {SMALL} {flags}", tmp_path)
    assert result.returncode == 0, result.stderr
    assert "greedy return" in result.stdout


@pytest.mark.process
def test_vector_entry_point(tmp_path):
    result = run_script(
        "ppo_discrete", f"--env-id CartPole-v1 {SMALL} --vectorization-mode vector_entry_point", tmp_path
    )
    assert result.returncode == 0 and "greedy return" in result.stdout, result.stderr


@pytest.mark.process
@pytest.mark.parametrize(
    ("script", "flags"),
    [
        ("ppo_discrete", "--env-id LunarLander-v3"),
        ("ppo_discrete", "--env-id FrozenLake-v1"),
        ("ppo_discrete", "--env-id CliffWalking-v1"),
        ("ppo_discrete", "--env-id Taxi-v4"),
        ("ppo_discrete", "--env-id Blackjack-v1"),
        ("ppo_discrete", "--env-id probes:Start-v0"),
        ("ppo_discrete", "--env-id probes:Matrix-v0"),
        ("ppo_discrete", "--env-id probes:MultiDiscrete-v0"),
        ("ppo_discrete", "--env-id probes:Dict-v0 --vectorization-mode async"),
        ("ppo_discrete", "--env-id probes:Tuple-v0"),
        ("ppo_continuous", "--env-id LunarLanderContinuous-v3"),
        ("ppo_continuous", "--env-id BipedalWalker-v3"),
    ],
)
def test_environments(script, flags, tmp_path):
    result = run_script(script, f"{flags} {SMALL} --eval-episodes 1", tmp_path)
    assert result.returncode == 0 and "over 1 episodes" in result.stdout, result.stderr


@pytest.mark.process
def test_env_kwargs_reach_the_environment(tmp_path):
    flags = ["--env-id", "LunarLander-v3", "--env-kwargs", '{"enable_wind": true, "gravity": -20}', *SMALL.split()]
    result = run_script("ppo_discrete", flags, tmp_path)
    assert result.returncode == 1 and "gravity (current value: -20) must be between -12 and 0" in result.stderr
    flags[3] = '{"no_such_argument": 1}'
    result = run_script("ppo_discrete", flags, tmp_path)
    assert result.returncode == 1 and "unexpected keyword argument 'no_such_argument'" in result.stderr
    flags[3] = '{"enable_wind": true, "gravity": -5.0}'
    result = run_script("ppo_discrete", flags, tmp_path)
    assert result.returncode == 0 and "greedy return" in result.stdout, result.stderr


BAD_INPUT = [
    ("--env-id NoSuchEnv-v0", "NoSuchEnv"),
    ("--env-id nosuchmodule:Env-v0", "nosuchmodule"),
    ('--env-id probes:Image-v0 --env-kwargs {"continuous":CONTINUOUS}', "not for images"),
    ('--env-id probes:Sequence-v0 --env-kwargs {"continuous":CONTINUOUS}', "can be flattened"),
    ("--vectorization-mode vector_entry_point --env-id probes:Probe-v0", "vector entry point"),
    ('--env-kwargs {"enable_wind":', "--env-kwargs"),
    ("--num-envs 2 --num-steps 8 --num-minibatches 9", "--num-minibatches must be at most"),
    ("--total-timesteps 31", "--total-timesteps must be at least"),
    ("--num-envs 0", "--num-envs must be between 1"),
    ("--num-steps -1", "--num-steps must be between 1"),
    ("--num-minibatches 0", "--num-minibatches must be between 1"),
    ("--update-epochs 0", "--update-epochs must be between 1"),
    ("--hidden-size 0", "--hidden-size must be between 1"),
    ("--eval-episodes 0", "--eval-episodes must be between 1"),
    ("--checkpoint-interval 0", "--checkpoint-interval must be between 1"),
    ("--total-timesteps 0", "--total-timesteps must be between 1"),
    ("--gamma 1.01", "--gamma must be between 0 and 1"),
    ("--gamma nan", "--gamma must be between 0 and 1"),
    ("--gae-lambda -0.1", "--gae-lambda must be between 0 and 1"),
    ("--learning-rate -1e-3", "--learning-rate must be between 0"),
    ("--target-kl -1", "--target-kl must be between 0"),
    ("--seed -1", "--seed must be between 0"),
    ("--resume no/such/file.pt", "No such file"),
    ("--evaluate no/such/file.pt", "No such file"),
]


@pytest.mark.parametrize(("flags", "message"), BAD_INPUT)
def test_bad_input_is_refused_in_one_line(script, flags, message, in_tmp, monkeypatch):
    """In this process, to be quick: SystemExit with a text is exit status 1 and that text on stderr."""
    flags = flags.replace("CONTINUOUS", "true" if script.__name__ == "ppo_continuous" else "false")
    monkeypatch.setattr("sys.argv", [script.__file__, *SMALL.split(), *flags.split()])
    with pytest.raises(SystemExit) as exit_:
        script.main()
    assert isinstance(exit_.value.code, str) and message in exit_.value.code and "\n" not in exit_.value.code
    assert not (in_tmp / "runs").exists()


def test_actions_for_the_other_script(script):
    args = script.Args(env_id=env_for(script, "Pendulum-v1", "CartPole-v1"))
    with pytest.raises(SystemExit, match="error: .* is for ppo_"):
        script.make_envs(args, 1, "sync")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"num_envs": 1}, "--num-minibatches must be at most 0"),
        ({"num_envs": 4, "num_steps": 9, "num_minibatches": 9}, "--num-minibatches must be at most 8"),
    ],
)
def test_flags_that_do_not_suit_two_processes(script, flags, message, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit, match=message):
        script.check_args(script.Args(**flags))
    script.check_args(script.Args(num_envs=4, num_steps=9, num_minibatches=8))


@pytest.mark.process
@pytest.mark.parametrize(
    ("script", "flags", "message"),
    [
        ("ppo_discrete", "--env-id Pendulum-v1", "ppo_continuous.py"),
        ("ppo_continuous", "--env-id CartPole-v1", "ppo_discrete.py"),
        ("ppo_discrete", "--env-id NoSuchEnv-v0", "NoSuchEnv"),
    ],
)
def test_bad_input_as_the_user_sees_it(script, flags, message, tmp_path):
    result = run_script(script, flags, tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1 and message in result.stderr
    assert result.stdout == "" and not list(tmp_path.iterdir())


def test_a_run_directory_that_cannot_be_written(script, in_tmp):
    (in_tmp / "runs").write_text("a file where the directory should be")
    with pytest.raises(SystemExit, match="error: cannot write the run directory"):
        train(script, script.Args(env_id=env_for(script)))


@pytest.mark.process
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_copied_script_needs_nothing_else(script, tmp_path):
    (tmp_path / "mine.py").write_text((ROOT / f"{script}.py").read_text())
    result = run_script(tmp_path / "mine", f"--env-id {env_for(script)} {SMALL}", tmp_path)
    assert result.returncode == 0, result.stderr
    assert "__mine__" in result.stdout
