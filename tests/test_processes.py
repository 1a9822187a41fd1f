"""Several processes that train one agent, as torchrun starts them; and a GPU, where there is one."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, SMALL, env_for, probe_args, run_script


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
    """What each of two processes sees: [batches, losses, gradients, agent], of this one and of one forked from it."""
    seen = {"noise": [], "batches": [], "losses": [], "gradients": []}
    draw_noise = script.Agent.noise
    log_prob_and_entropy, ppo_loss, step = script.Agent.log_prob_and_entropy, script.ppo_loss, torch.optim.Adam.step

    def spied_noise(*args):
        seen["noise"].append(draw_noise(*args))
        return seen["noise"][-1]

    def spied_log_prob(agent, x, actions):
        seen["batches"].append([x, actions])
        return log_prob_and_entropy(agent, x, actions)

    def spied_loss(*args):
        seen["losses"].append([tensor.detach().clone() for tensor in args[:7]])
        return ppo_loss(*args)

    def spied_step(optimizer, *args):
        seen["gradients"].append(optimizer.param_groups[0]["params"][0].grad.clone())
        return step(optimizer, *args)

    monkeypatch.setattr(script.Agent, "noise", spied_noise)
    monkeypatch.setattr(script.Agent, "log_prob_and_entropy", spied_log_prob)
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
            seen["agent"] = script.train(args).state_dict()
            torch.save(seen, "second.pt")
            status = 0
        finally:
            os._exit(status)
    seen["agent"] = script.train(args).state_dict()
    _, status = os.waitpid(child, 0)
    assert status == 0
    return seen, torch.load("second.pt", weights_only=True)


def test_two_processes_train_one_agent(script, in_tmp, monkeypatch, capsys):
    """With everything that they must agree on, such as when to end an update early."""
    args = script.Args(
        env_id=env_for(script), num_envs=4, num_steps=64, total_timesteps=4 * 64 * 5, num_minibatches=2,
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
    for mine, other in zip(first["losses"], second["losses"], strict=True):
        assert len(mine[3]) != len(other[3]) or not torch.equal(mine[3], other[3])
    assert not torch.equal(first["noise"][0], second["noise"][0])
    # An epoch's advantages are normalized over the transitions of both.
    epoch = torch.cat([call[3] for process in (first, second) for call in process["losses"][:2]])
    assert epoch.mean().item() == pytest.approx(0, abs=1e-5)
    assert epoch.std(correction=0).item() == pytest.approx(1, rel=1e-4)
    transitions = sum(len(process["losses"][0][0]) + len(process["losses"][1][0]) for process in (first, second))
    assert 4 * 64 - 40 < transitions <= 4 * 64  # the batch is that of all processes together


def test_processes_agree_on_the_weight_of_the_kl_penalty(script, in_tmp, monkeypatch):
    """It follows from the mean over all transitions; here the KL is 0 in the first process and 1 in the second."""
    ppo_loss, betas = script.ppo_loss, []

    def loss_with_fixed_kl(*args):
        betas.append(args[7])
        loss, policy_loss, value_loss, approx_kl = ppo_loss(*args)
        return loss, policy_loss, value_loss, torch.full_like(approx_kl, float(os.environ["RANK"]))

    monkeypatch.setattr(script, "ppo_loss", loss_with_fixed_kl)
    args = script.Args(
        env_id=env_for(script), num_envs=4, num_steps=32, total_timesteps=4 * 32 * 3, num_minibatches=2,
        update_epochs=1, adaptive_kl=0.5, target_kl=None, eval_episodes=1,
    )  # fmt: skip
    train_in_two_processes(script, args, monkeypatch)
    assert betas == [1.0] * 9


def test_the_gradient_is_the_mean_over_all_transitions(script, in_tmp, monkeypatch):
    """Also where one process has more of them than the other: on `Numbered`, episodes have random lengths."""
    args = probe_args(
        script, "Numbered", num_envs=4, num_steps=64, total_timesteps=4 * 64, num_minibatches=1, update_epochs=1,
        max_grad_norm=1e9, norm_obs=True, norm_reward=True,
    )  # fmt: skip
    first, second = train_in_two_processes(script, args, monkeypatch)
    assert len(first["losses"][0][0]) != len(second["losses"][0][0])

    # The same again in this process, on the transitions of both.
    torch.manual_seed(args.seed)
    agent = script.Agent(script.make_envs(args, 1, "sync"), args)
    x, actions = (torch.cat([process["batches"][1][i] for process in (first, second)]) for i in range(2))
    fixed = [torch.cat([process["losses"][0][i] for process in (first, second)]) for i in range(7)]
    log_probs, entropy = agent.log_prob_and_entropy(x, actions)
    values = agent.critic(x).squeeze(-1)
    loss, *_ = script.ppo_loss(log_probs, fixed[1], entropy, fixed[3], values, *fixed[5:], 1.0, args)
    expected = torch.autograd.grad(loss, list(agent.parameters()))
    torch.testing.assert_close(first["gradients"][0], torch.cat([gradient.flatten() for gradient in expected]))
    # The observations of both are normalized alike.
    assert x.mean().item() == pytest.approx(0, abs=1e-5) and x.std(correction=0).item() == pytest.approx(1, rel=1e-4)


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
def test_a_signal_stops_all_processes_at_the_same_step(tmp_path):
    job = torchrun([ROOT / "ppo_discrete.py", "--env-id", "CartPole-v1", *LONG.split()], tmp_path)
    wait_for(job, "step ")
    job.send_signal(signal.SIGTERM)
    output, _ = job.communicate(timeout=60)
    assert "--resume runs/" in output and "stopped at step" in output and "another process" not in output
    (checkpoint,) = tmp_path.glob("runs/*/checkpoint.pt")
    steps = torch.load(checkpoint, weights_only=True)["global_step"]
    again = f"--resume {checkpoint} --total-timesteps {steps + 2048} --eval-episodes 2"
    job = torchrun([ROOT / "ppo_discrete.py", *again.split()], tmp_path)
    output, _ = job.communicate(timeout=120)
    assert job.returncode == 0 and output.count("greedy return") == 1, output


@pytest.mark.process
def test_a_killed_process_ends_the_job(tmp_path):
    job = torchrun([ROOT / "ppo_discrete.py", "--env-id", "CartPole-v1", *LONG.split()], tmp_path)
    wait_for(job, "step ")
    children = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
    assert len(children) == 2
    os.kill(int(children[1]), signal.SIGKILL)
    output, _ = job.communicate(timeout=60)
    assert job.returncode == 1 and "error: another process of this run has ended" in output
    (checkpoint,) = tmp_path.glob("runs/*/checkpoint.pt")
    assert torch.load(checkpoint, weights_only=True)["global_step"] > 0


@pytest.mark.process
def test_environments_that_cannot_be_shared_out(tmp_path):
    job = torchrun([ROOT / "ppo_discrete.py", "--num-envs", 3], tmp_path)
    output, _ = job.communicate(timeout=60)
    assert job.returncode == 1 and "error: --num-envs must be a multiple of the number of processes, 2" in output
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
    job = torchrun([ROOT / f"{script.__name__}.py", *flags.split()], tmp_path, num_processes=1)
    output, _ = job.communicate(timeout=120)
    assert job.returncode == 0, output
