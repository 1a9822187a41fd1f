"""What people report, and what attackers found: a row for each situation, and what the scripts must say to it.

"Refused" means one sentence that says what to change, no traceback, a status that is not 0, and nothing left behind.
Rows about a checkpoint's content are in test_checkpoint.py, about the box of actions in test_agent.py, about numbers
that are not finite in test_training.py, about several processes in test_processes.py.
"""

import re

import pytest
import torch
from conftest import flags_for, probe_args, refused, run_main, scalars

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
    '--env-id probes:Sentence-v0 --env-kwargs {"continuous":CONTINUOUS}': "cannot flatten observations of <gymnasium",
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
    **dict.fromkeys(("--num-envs 0", "--num-steps -1", "--num-envs 1e3", "--update-epochs 0"), OUT_OF_RANGE),
    **dict.fromkeys(("--hidden-size 0", "--eval-episodes 0", "--checkpoint-interval 0"), OUT_OF_RANGE),
    **dict.fromkeys(("--num-minibatches 0", "--init-log-std nan"), OUT_OF_RANGE),
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
    """And goes on from its checkpoint."""
    run_main(script, monkeypatch, *flags_for(script, flags))
    (path,) = in_tmp.glob("runs/*/checkpoint.pt")
    run_main(script, monkeypatch, "--resume", path, "--total-timesteps", 128)
    assert capsys.readouterr().out.count("over 2 episodes") == 2


ODD_REWARDS = [f'probes:OddReward-v0 --env-kwargs {{"kind":"{kind}"}}' for kind in ("bool", "int", "float32", "array")]
DISCRETE = ["FrozenLake-v1", "Taxi-v4", "Blackjack-v1", "probes:Int8-v0", "probes:Start-v0", *ODD_REWARDS]
OF_ONE_SCRIPT = [("ppo_continuous", "probes:ActionMatrix-v0"), *(("ppo_discrete", env_id) for env_id in DISCRETE)]


@pytest.mark.parametrize(("script", "env_id"), OF_ONE_SCRIPT, indirect=["script"])
def test_environments_of_one_script(script, env_id, in_tmp, monkeypatch, capsys):
    run_main(script, monkeypatch, *flags_for(script, f"--env-id {env_id}"), "--eval-episodes", 1)
    assert "over 1 episodes" in capsys.readouterr().out


@pytest.mark.parametrize("script", ["ppo_discrete"], indirect=True)
def test_a_policy_that_has_to_be_random(script, in_tmp, monkeypatch, capsys):
    """Greedy, it walks into the wall for 200 steps; --no-greedy evaluates what was learned."""
    flags = "--num-envs 8 --num-steps 64 --total-timesteps 8192 --update-epochs 4 --eval-episodes 50 --no-greedy"
    run_main(script, monkeypatch, "--env-id", "probes:Corridor-v0", *flags.split())
    output = capsys.readouterr().out
    assert -20 < float(re.search(r"sampled return (\S+) .* over 50 episodes", output)[1]) < -6  # -11.6 at best
    (path,) = in_tmp.glob("runs/*/checkpoint.pt")
    run_main(script, monkeypatch, "--evaluate", path, "--greedy", "--eval-episodes", 2)
    assert "greedy return -200.00 +- 0.00" in capsys.readouterr().out


def test_variables_that_torchrun_left_behind(script, in_tmp, monkeypatch, capsys):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.setenv(name, "1")
    run_main(script, monkeypatch, *flags_for(script, "--env-id ENV"))
    assert "run saved in" in capsys.readouterr().out and list(in_tmp.glob("runs/*/checkpoint.pt"))


def test_a_sparse_reward(script):
    """After thousands of steps that earned nothing, the first reward counts 1."""
    args = probe_args(script, "LateReward", {"length": 100}, norm_reward=True)
    envs = script.make_envs(args, 4)
    agent = script.Agent(envs, args)
    for parameter in agent.critic.parameters():
        torch.nn.init.zeros_(parameter)
    obs, _ = envs.reset(seed=0)
    for num_steps, largest in (99, 0), (2, 1):
        rollout, obs = script.collect_trajectories(envs, agent, obs, num_steps)
        agent.reward_sum_statistics.add_rewards(rollout["rewards"], rollout["done"], args.gamma)
        assert script.make_batch(agent, rollout, args)["returns"].max() == pytest.approx(largest)


@pytest.mark.parametrize(
    ("num_envs", "num_steps", "total", "steps"),
    [(2, 64, 447, 320), (2, 128, 448, 448), (2, 24, 440, 432), (4, 16, 320, 320), (32, 16, 704, 704)],
)
def test_a_resumed_run_takes_no_more_steps_than_it_may(script, num_envs, num_steps, total, steps, trained, monkeypatch):
    """192 steps with iterations of 32; then up to some more, with other iterations: as many as fit."""
    _, path = trained
    flags = f"--num-envs {num_envs} --num-steps {num_steps} --total-timesteps {total}"
    run_main(script, monkeypatch, "--resume", path, *flags.split())
    assert torch.load(path, weights_only=True)["global_step"] == steps
    assert scalars(path.parent)["eval/episodic_return"][-1][0] == steps
