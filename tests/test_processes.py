"""Several processes that train one agent, as torchrun starts them; and a GPU, where there is one."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import probes
import pytest
import torch
import torch.distributed as dist
from conftest import ROOT, SMALL, env_for, probe_args, run_script, train


def torchrun(arguments, cwd, num_processes=2):
    """A started torchrun, with both outputs in one pipe."""
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num_processes)]
        + [str(argument) for argument in arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT / "tests"), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def train_in_two_processes(script, args, monkeypatch):
    """What each of two processes sees, of this one and of one forked from it."""
    seen = {"actions": [], "batches": [], "gradients": []}
    act, ppo_loss, step = script.Agent.act, script.ppo_loss, torch.optim.Adam.step

    def spied_act(agent, obs, greedy=False):
        seen["actions"].append(torch.as_tensor(act(agent, obs, greedy)))
        return seen["actions"][-1].numpy()

    def spied_loss(agent, batch, *args):
        seen["batches"].append({name: tensor.clone() for name, tensor in batch.items()})
        return ppo_loss(agent, batch, *args)

    def spied_step(optimizer, *args):
        seen["gradients"].append(torch.cat([p.grad.flatten() for p in optimizer.param_groups[0]["params"]]))
        return step(optimizer, *args)

    def train_as_one_of_two():
        dist.init_process_group("gloo")
        agent = train(script, args)
        dist.destroy_process_group()
        return agent.state_dict()

    monkeypatch.setattr(script.Agent, "act", spied_act)
    monkeypatch.setattr(script, "ppo_loss", spied_loss)
    monkeypatch.setattr(torch.optim.Adam, "step", spied_step)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": 2, "RANK": 0}.items():
        monkeypatch.setenv(name, str(value))
    child = os.fork()
    if child == 0:  # from here on the second process, which never returns
        signal.alarm(60)
        os.environ["RANK"] = "1"
        status = 1
        try:
            seen["agent"] = train_as_one_of_two()
            torch.save(seen, "second.pt")
            status = 0
        finally:
            os._exit(status)
    seen["agent"] = train_as_one_of_two()
    _, status = os.waitpid(child, 0)
    assert status == 0
    return seen, torch.load("second.pt", weights_only=True)


@pytest.mark.parametrize("num_envs", [4, 3])
def test_two_processes_train_one_agent(script, num_envs, in_tmp, monkeypatch, capsys):
    """With everything that they must agree on, such as when to end an update early."""
    args = script.Args(
        env_id=env_for(script), num_envs=num_envs, num_steps=64, total_timesteps=num_envs * 64 * 5, num_minibatches=2,
        update_epochs=4, max_grad_norm=1e9, learning_rate=3e-3, target_kl=0.002, adaptive_kl=0.01, eval_episodes=2,
    )  # fmt: skip
    first, second = train_in_two_processes(script, args, monkeypatch)
    assert capsys.readouterr().out.count("greedy return") == 1 and len(list((in_tmp / "runs").iterdir())) == 1

    # Bit by bit the same weights, statistics and gradients, from other transitions.
    assert first["agent"].keys() == second["agent"].keys()
    for name, tensor in first["agent"].items():
        assert torch.equal(tensor, second["agent"][name]), name
    assert 5 < len(first["gradients"]) == len(second["gradients"]) < 5 * 8  # some updates ended early
    assert all(map(torch.equal, first["gradients"], second["gradients"]))
    for mine, other in zip(first["batches"], second["batches"], strict=True):
        assert mine["normalized_obs"].shape != other["normalized_obs"].shape or not torch.equal(
            mine["normalized_obs"], other["normalized_obs"]
        )
    mine, other = (torch.cat([actions[:1] for actions in process["actions"][:64]]) for process in (first, second))
    assert not torch.equal(mine, other)
    # An epoch's advantages are normalized over the transitions of both.
    epoch = torch.cat([batch["advantages"] for process in (first, second) for batch in process["batches"][:2]])
    assert epoch.mean().item() == pytest.approx(0, abs=1e-5)
    assert epoch.std(correction=0).item() == pytest.approx(1, rel=1e-4)
    assert num_envs * 64 - 40 < len(epoch) <= num_envs * 64  # the batch is that of all processes together


def test_processes_agree_on_the_weight_of_the_kl_penalty(script, in_tmp, monkeypatch):
    """It follows from the mean over all transitions; here the KL is 0 in the first process and 1 in the second."""
    ppo_loss, betas = script.ppo_loss, []

    def loss_with_fixed_kl(*args):
        betas.append(args[2])
        loss, metrics, ratio = ppo_loss(*args)
        return loss, metrics | {"approx_kl": torch.tensor(float(os.environ["RANK"]))}, ratio

    monkeypatch.setattr(script, "ppo_loss", loss_with_fixed_kl)
    args = script.Args(
        env_id=env_for(script), num_envs=4, num_steps=32, total_timesteps=4 * 32 * 3, num_minibatches=2,
        update_epochs=1, adaptive_kl=0.5, target_kl=None, eval_episodes=1,
    )  # fmt: skip
    train_in_two_processes(script, args, monkeypatch)
    assert betas == [1.0] * 9


def test_processes_agree_on_whether_to_center_advantages(script, in_tmp, monkeypatch):
    """Rewards differ in the second process only; that is enough for both."""
    monkeypatch.setattr(probes.Probe, "reward", lambda env, _: float(os.environ["RANK"] == "0" or env.steps))
    env_kwargs = '{"length": 3, "truncate": true, '
    args = probe_args(
        script, "Probe", env_kwargs=env_kwargs, num_envs=4, num_steps=64, total_timesteps=256, num_minibatches=1,
        eval_episodes=1,
    )  # fmt: skip
    epoch = [process["batches"][0]["advantages"] for process in train_in_two_processes(script, args, monkeypatch)]
    assert torch.cat(epoch).mean().item() == pytest.approx(0, abs=1e-5)


def test_the_gradient_is_the_mean_over_all_transitions(script, in_tmp, monkeypatch):
    """Also where one process has more of them than the other: on `Numbered`, episodes have random lengths."""
    args = probe_args(
        script, "Numbered", num_envs=4, num_steps=64, total_timesteps=4 * 64, num_minibatches=1, update_epochs=1,
        max_grad_norm=1e9, norm_obs=True, norm_reward=True,
    )  # fmt: skip
    first, second = train_in_two_processes(script, args, monkeypatch)
    mine, other = (process["batches"][0] for process in (first, second))
    assert len(mine["normalized_obs"]) != len(other["normalized_obs"])

    # The same again in this process, on the transitions of both.
    torch.manual_seed(args.seed)
    agent = script.Agent(script.make_envs(args, 1, "sync"), args)
    batch = {name: torch.cat([mine[name], other[name]]) for name in mine}
    loss, _, _ = script.ppo_loss(agent, batch, 1.0, args)
    expected = torch.autograd.grad(loss, list(agent.parameters()))
    torch.testing.assert_close(first["gradients"][0], torch.cat([gradient.flatten() for gradient in expected]))
    # The observations of both are normalized alike.
    obs = batch["normalized_obs"]
    assert obs.mean().item() == pytest.approx(0, abs=1e-5)
    assert obs.std(correction=0).item() == pytest.approx(1, rel=1e-4)


def wait_for(job, text):
    """Reads the job's output up to a line with that text."""
    lines = []
    for line in job.stdout:
        lines.append(line)
        if text in line:
            return
    raise AssertionError("".join(lines))


LONG = "--num-steps 64 --total-timesteps 200000 --checkpoint-interval 1 --num-minibatches 2 --update-epochs 1"


@pytest.mark.process
def test_a_killed_process_ends_the_job_and_it_can_go_on(tmp_path):
    job = torchrun([ROOT / "ppo_discrete.py", "--env-id", "CartPole-v1", *LONG.split()], tmp_path)
    wait_for(job, "step ")
    children = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
    assert len(children) == 2
    os.kill(int(children[1]), signal.SIGKILL)
    job.communicate(timeout=60)
    assert job.returncode == 1
    (checkpoint,) = tmp_path.glob("runs/*/checkpoint.pt")
    steps = torch.load(checkpoint, weights_only=True)["global_step"]
    assert steps > 0
    again = f"--resume {checkpoint} --total-timesteps {steps + 2048} --eval-episodes 2"
    job = torchrun([ROOT / "ppo_discrete.py", *again.split()], tmp_path)
    output, _ = job.communicate(timeout=120)
    assert job.returncode == 0 and output.count("greedy return") == 1, output


@pytest.mark.process
def test_an_error_of_an_environment_in_one_of_several_processes(tmp_path):
    env_kwargs = '{"where": "step", "error": "RuntimeError"}'
    flags = ["--env-id", "probes:Faulty-v0", "--env-kwargs", env_kwargs, *SMALL.split()]
    job = torchrun([ROOT / "ppo_discrete.py", *flags], tmp_path)
    output, _ = job.communicate(timeout=60)
    assert job.returncode == 1 and "RuntimeError: a mistake in the environment" in output and "probes.py" in output


@pytest.mark.process
def test_more_processes_than_environments(tmp_path):
    job = torchrun([ROOT / "ppo_discrete.py", "--num-envs", 1], tmp_path)
    output, _ = job.communicate(timeout=60)
    assert job.returncode == 1 and "error: --num-minibatches must be at most 0" in output
    assert not list(tmp_path.iterdir())


@pytest.mark.process
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda(script, tmp_path):
    flags = f"--cuda --env-id {env_for(script)} {SMALL} --target-kl 0.1 --adaptive-kl 0.01"
    result = run_script(script.__name__, flags, tmp_path)
    assert result.returncode == 0, result.stderr
    (checkpoint,) = tmp_path.glob("runs/*/checkpoint.pt")
    again = run_script(script.__name__, f"--evaluate {checkpoint} --no-cuda --eval-episodes 2", tmp_path)
    assert again.returncode == 0 and "greedy return" in again.stdout, again.stderr
    longer = run_script(script.__name__, f"--resume {checkpoint} --total-timesteps 192", tmp_path)
    assert longer.returncode == 0 and "greedy return" in longer.stdout, longer.stderr
    job = torchrun([ROOT / f"{script.__name__}.py", *flags.split()], tmp_path, num_processes=1)
    output, _ = job.communicate(timeout=120)
    assert job.returncode == 0, output
