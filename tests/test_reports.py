"""What people report, and what attackers found: a row for each situation, and what the scripts must say to it.

"Refused" means one sentence that says what to change, no traceback, a status that is not 0, and nothing left behind.
Rows about a checkpoint's content are in test_checkpoint.py, about the box of actions in test_agent.py, about numbers
that are not finite in test_training.py, about several processes in test_processes.py.
"""

import re

import pytest
import torch
from conftest import flags_for, refused, run_main, scalars

OUT_OF_RANGE = "2"  # the status with which tyro leaves, after a message in a box
REFUSED = {  # flags: what the message must hold; tyro prints its own, in a box
    # Environments that cannot be made, or not be used.
    "--env-id NoSuchEnv-v0": "NoSuchEnv",
    "--env-id nosuchmodule:Env-v0": "nosuchmodule",
    "--env-id GymV21Environment-v0": "cannot make --env-id GymV21Environment-v0",
    "--env-id :X-v0": "--env-id must be a name or module:name",
    "--env-id .:X-v0": "--env-id must be a name or module:name",
    "--env-id a:b:c": "--env-id must be a name or module:name",
    '--env-id probes:Image-v0 --env-kwargs {"continuous":CONTINUOUS}': "recipes/images_",
    '--env-id probes:Gray-v0 --env-kwargs {"continuous":CONTINUOUS}': "declare grids as float32",
    '--env-id probes:Sequence-v0 --env-kwargs {"continuous":CONTINUOUS}': "cannot flatten observations of Sequence",
    '--env-id probes:Sentence-v0 --env-kwargs {"continuous":CONTINUOUS}': "cannot flatten observations of Sentence",
    '--env-id probes:Mission-v0 --env-kwargs {"continuous":CONTINUOUS}': "cannot flatten observations of Dict",
    '--env-id probes:Mission-v0 --async-envs --env-kwargs {"continuous":CONTINUOUS}': "cannot flatten observations of",
    "--env-id probes:Binary-v0": "recipes/multi_discrete.patch",
    "--env-id probes:Several-v0": "recipes/multi_discrete.patch",
    # Keyword arguments of the environment that are no JSON object, or not its own.
    '--env-kwargs {"enable_wind":': "--env-kwargs must be like",
    "--env-kwargs [1,2]": "--env-kwargs must be like",
    "--env-kwargs null": "--env-kwargs must be like",
    "--env-kwargs 5": "--env-kwargs must be like",
    '--env-kwargs "x"': "--env-kwargs must be like",
    '--env-kwargs {"enable_wnid":true}': "enable_wnid",
    '--env-kwargs {"num_envs":3}': "num_envs",
    '--env-kwargs {"id":3}': "id",
    '--env-kwargs {"wrappers":[]}': "wrappers",
    '--env-id probes:Probe-v0 --capture-video --env-kwargs {"continuous":CONTINUOUS}': "render_mode",
    # Numbers out of their range.
    "--num-envs 2 --num-steps 8 --num-minibatches 16": "--num-minibatches must be less than",
    "--num-envs 1 --num-steps 1 --num-minibatches 1": "--num-minibatches must be less than",
    "--total-timesteps 31": "--total-timesteps must be >= 32",
    **dict.fromkeys(("--num-envs 0", "--num-steps -1", "--num-minibatches 0", "--update-epochs 0"), OUT_OF_RANGE),
    **dict.fromkeys(
        ("--hidden-size 0", "--eval-episodes 0", "--checkpoint-interval 0", "--num-envs 1e3"), OUT_OF_RANGE
    ),
    **dict.fromkeys(("--gamma 1.01", "--gamma nan", "--gae-lambda -0.1", "--learning-rate -1e-3"), OUT_OF_RANGE),
    **dict.fromkeys(("--learning-rate 0", "--learning-rate inf", "--max-grad-norm 0", "--clip-coef 0"), OUT_OF_RANGE),
    **dict.fromkeys(("--vf-coef nan", "--target-kl -1", "--seed -1", "--seed 18446744073709551616"), OUT_OF_RANGE),
    # Flags that do not go together, or of other scripts.
    "--render": "--render needs a display, --evaluate",
    "--resume x --evaluate y": "is no checkpoint",
    **dict.fromkeys(("--anneal-lr False", "--adaptive-kl 0.01", "--vectorization-mode sync", "--track"), OUT_OF_RANGE),
}


@pytest.mark.parametrize(("flags", "message"), REFUSED.items())
def test_bad_input_is_refused(script, flags, message, in_tmp, monkeypatch):
    answer = refused(script, monkeypatch, *flags_for(script, flags))
    assert answer == message if message == OUT_OF_RANGE else message in answer
    assert not list(in_tmp.iterdir())


@pytest.mark.parametrize("flag", ["--resume", "--evaluate"])
def test_the_empty_path_of_an_unset_variable_is_refused(script, flag, in_tmp, monkeypatch):
    assert "is no checkpoint" in refused(script, monkeypatch, flag, "")
    assert not list(in_tmp.iterdir())


TRAINS = {  # what is unusual: flags
    "minibatches of one sample": "--env-id ENV --num-envs 2 --num-steps 8 --num-minibatches 15",
    "no normalization": "--env-id ENV --no-anneal-lr --no-norm-adv --no-norm-obs --no-norm-reward",
    "variants": "--env-id ENV --clip-vloss --ent-coef 0.01 --target-kl 0.0001 --gae-lambda 1 --max-grad-norm inf",
    "odd sizes": "--env-id ENV --num-envs 1 --num-minibatches 7 --update-epochs 1 --hidden-size 5",
    "one step": "--env-id ENV --num-envs 8 --num-steps 1 --total-timesteps 16",
    "async": "--env-id ENV --async-envs",
    "ragged info": '--env-id probes:OddInfo-v0 --env-kwargs {"values":"ragged","continuous":CONTINUOUS}',
    "no info": '--env-id probes:OddInfo-v0 --env-kwargs {"values":"none","continuous":CONTINUOUS}',
    "kinds of info": '--env-id probes:OddInfo-v0 --env-kwargs {"values":"kinds","continuous":CONTINUOUS}',
    "no info, async": '--env-id probes:OddInfo-v0 --async-envs --env-kwargs {"values":"none","continuous":CONTINUOUS}',
    "one at a time": '--env-id probes:Alone-v0 --num-envs 1 --env-kwargs {"continuous":CONTINUOUS}',
    "matrix of float64": '--env-id probes:Matrix-v0 --env-kwargs {"continuous":CONTINUOUS}',
    "several discrete": '--env-id probes:MultiDiscrete-v0 --env-kwargs {"continuous":CONTINUOUS}',
    "dictionary": '--env-id probes:Dict-v0 --env-kwargs {"continuous":CONTINUOUS}',
    "tuple, async": '--env-id probes:Tuple-v0 --async-envs --env-kwargs {"continuous":CONTINUOUS}',
}


@pytest.mark.parametrize("flags", TRAINS.values(), ids=TRAINS)
def test_trains(script, flags, in_tmp, monkeypatch, capsys):
    run_main(script, monkeypatch, *flags_for(script, flags))
    assert "over 2 episodes" in capsys.readouterr().out


ODD_REWARDS = [f'probes:OddReward-v0 --env-kwargs {{"kind":"{kind}"}}' for kind in ("bool", "int", "float32", "array")]


@pytest.mark.parametrize(
    "env_id", ["FrozenLake-v1", "Taxi-v4", "Blackjack-v1", "probes:Int8-v0", "probes:Start-v0", *ODD_REWARDS]
)
def test_discrete_environments(env_id, in_tmp, monkeypatch, capsys):
    import ppo_discrete

    run_main(ppo_discrete, monkeypatch, *flags_for(ppo_discrete, f"--env-id {env_id}"), "--eval-episodes", 1)
    assert "over 1 episodes" in capsys.readouterr().out


def test_a_policy_that_has_to_be_random(in_tmp, monkeypatch, capsys):
    """Greedy, it walks into the wall for 200 steps; --no-greedy evaluates what was learned."""
    import ppo_discrete

    flags = "--num-envs 8 --num-steps 64 --total-timesteps 8192 --update-epochs 4 --eval-episodes 50 --no-greedy"
    run_main(ppo_discrete, monkeypatch, "--env-id", "probes:Corridor-v0", *flags.split())
    output = capsys.readouterr().out
    assert -20 < float(re.search(r"sampled return (\S+) .* over 50 episodes", output)[1]) < -6  # -11.6 at best
    (path,) = in_tmp.glob("runs/*/checkpoint.pt")
    run_main(ppo_discrete, monkeypatch, "--evaluate", path, "--greedy", "--eval-episodes", 2)
    assert "greedy return -200.00 +- 0.00" in capsys.readouterr().out


def test_variables_that_torchrun_left_behind(script, in_tmp, monkeypatch, capsys):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.setenv(name, "1")
    run_main(script, monkeypatch, *flags_for(script, "--env-id ENV"))
    assert "run saved in" in capsys.readouterr().out and list(in_tmp.glob("runs/*/checkpoint.pt"))


def test_a_sparse_reward_and_a_constant_observation():
    """The first reward after thousands of zeros counts about 1; what never changes is 0 for the networks."""
    import ppo_discrete

    args = ppo_discrete.Args(env_id="probes:Sparse-v0")
    envs = ppo_discrete.make_envs(args, 4)
    agent = ppo_discrete.Agent(envs, args)
    obs, _ = envs.reset(seed=0)
    rollout, obs = ppo_discrete.collect_trajectories(envs, agent, obs, 99)
    agent.obs_statistics.update(rollout["obs"].flatten(0, 1))
    agent.reward_sum_statistics.add_rewards(rollout["rewards"], rollout["done"], args.gamma)
    assert ppo_discrete.make_batch(agent, rollout, args)["returns"].abs().max() < 20  # 0 but for the critic's guesses
    rollout, obs = ppo_discrete.collect_trajectories(envs, agent, obs, 2)
    agent.obs_statistics.update(rollout["obs"].flatten(0, 1))
    agent.reward_sum_statistics.add_rewards(rollout["rewards"], rollout["done"], args.gamma)
    with torch.no_grad():
        for parameter in agent.critic.parameters():
            parameter.zero_()
    assert ppo_discrete.make_batch(agent, rollout, args)["returns"].max() == pytest.approx(1)
    normalized = agent.normalize(rollout["obs"])
    assert normalized[..., 0].eq(0).all() and normalized[..., 1].abs().max() > 0.5


@pytest.mark.parametrize("flag", ["norm-obs", "norm-reward"])
def test_normalization_that_is_turned_off_on_resume(script, flag, trained, monkeypatch):
    _, path = trained
    run_main(script, monkeypatch, "--resume", path, f"--no-{flag}", "--total-timesteps", 224)
    checkpoint = torch.load(path, weights_only=True)
    args = script.Args(**checkpoint["args"])
    envs = script.make_envs(args, 2)
    agent = script.Agent(envs, args)
    script.restore(checkpoint, agent)
    assert checkpoint["global_step"] == 224
    rollout, _ = script.collect_trajectories(envs, agent, envs.reset(seed=0)[0], 8)
    if flag == "norm-obs":
        assert agent.normalize(rollout["obs"]) is rollout["obs"]
    else:
        with torch.no_grad():
            for parameter in agent.critic.parameters():
                parameter.zero_()
        last = script.make_batch(agent, rollout, args)["returns"][-2:]
        torch.testing.assert_close(last, rollout["rewards"][-1].float())


@pytest.mark.parametrize(("num_steps", "total", "steps"), [(64, 447, 320), (128, 448, 448), (24, 440, 432)])
def test_a_resumed_run_takes_no_more_steps_than_it_may(script, num_steps, total, steps, trained, monkeypatch):
    """192 steps with iterations of 32; then up to some more, with other iterations: as many as fit."""
    _, path = trained
    run_main(script, monkeypatch, "--resume", path, "--num-steps", num_steps, "--total-timesteps", total)
    assert torch.load(path, weights_only=True)["global_step"] == steps
    assert scalars(path.parent)["eval/episodic_return"][-1][0] == steps


def test_no_display(script, trained, monkeypatch):
    _, path = trained
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert "--render needs a display" in refused(script, monkeypatch, "--evaluate", path, "--render")
