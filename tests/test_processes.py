"""Several processes that train one agent, as torchrun starts them; and a GPU, where there is one."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, SMALL, env_for, run_script


def torchrun(*arguments, cwd):
    """Two started processes, with both outputs of both in one pipe."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *arguments]
    env = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    return subprocess.Popen(command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


SPY = """
import sys, {script} as script, torch, torch.distributed as dist
from pathlib import Path

env_kwargs = '{{"where": "first reset", "error": "KeyboardInterrupt", "continuous": true}}'
interrupted = ["--env-id", "probes:Faulty-v0", "--env-kwargs", env_kwargs]
for flags in (["--num-envs", "3"], ["--evaluate", "{checkpoint}"], interrupted):
    sys.argv[1:] = flags
    try:
        script.main()
    except SystemExit as exit_:
        print(exit_.code)
    dist.init_process_group = lambda: None  # main has called it
rank = dist.get_rank()
batches, ppo_update = [], script.ppo_update

def keep(agent, optimizer, batch, args):
    batches.append(batch)
    return ppo_update(agent, optimizer, batch, args)

script.ppo_update = keep

class Agent(script.Agent):  # as a fork may have one: with a parameter that gets no gradient
    def __init__(self, *args):
        super().__init__(*args)
        self.unused = torch.nn.Parameter(torch.zeros(3))

script.Agent = Agent
args = script.Args(env_id="{env_id}", num_envs=4, num_steps=64, total_timesteps=4 * 64 * 4, num_minibatches=2,
    update_epochs=8, learning_rate=3e-3, target_kl=0.002, eval_episodes=2)
agent = script.train(args, Path("run"))
torch.save({{"agent": agent.state_dict(), "batches": batches}}, f"rank{{rank}}.pt")
script.os._exit(0)
"""


@pytest.mark.process
@pytest.mark.parametrize("script", ["ppo_continuous"], indirect=True)  # the other one is killed and resumed below
def test_two_processes_train_one_agent(script, trained, tmp_path):
    """Bit by bit the same weights and statistics, from other transitions of all their environments. Before that, they
    refuse environments that cannot be shared equally, and an evaluation, and name one directory when interrupted."""
    code = SPY.format(script=script.__name__, env_id=env_for(script), checkpoint=trained[1])
    (tmp_path / "spy.py").write_text(code)
    before = list(trained[1].parent.iterdir())
    job = torchrun("spy.py", cwd=tmp_path)
    output, _ = job.communicate(timeout=120)
    assert job.returncode == 0, output
    assert output.count("greedy return") == 1
    assert output.count("error: --num-envs must be a multiple of 2") == 2
    assert output.count("error: --evaluate runs in one process") == 2
    assert output.count(re.search("'runs/.*?'", output)[0]) == output.count("interrupted;") == 2, output
    assert list(trained[1].parent.iterdir()) == before and list((tmp_path / "runs").iterdir()) == [trained[1].parent]
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    for name, tensor in first["agent"].items():
        assert torch.equal(tensor, second["agent"][name]), name
    assert first["agent"]["obs_statistics.totals"][0].eq(4 * 4 * 64).all()
    for mine, other in zip(first["batches"], second["batches"], strict=True):
        assert len(mine["obs"]) == len(other["obs"]) == 2 * 64 and not torch.equal(mine["obs"], other["obs"])
    obs = torch.cat([batch["obs"] for process in (first, second) for batch in process["batches"]]).double()
    torch.testing.assert_close(first["agent"]["obs_statistics.mean"].double(), obs.mean(0))
    std = first["agent"]["obs_statistics.std"].double()
    torch.testing.assert_close(std, obs.std(0, correction=0), rtol=1e-4, atol=0)
    state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["optimizer"]["state"]
    # Some updates ended early, at the same step in both processes, or one would wait for the other.
    assert 4 <= max(moments["step"] for moments in state.values()) < 4 * 16


@pytest.mark.process
def test_a_killed_process_ends_the_job_and_it_can_go_on(tmp_path):
    flags = "--num-steps 64 --total-timesteps 40960 --checkpoint-interval 1 --num-minibatches 2 --update-epochs 1"
    job = torchrun(ROOT / "ppo_discrete.py", "--env-id", "CartPole-v1", *flags.split(), cwd=tmp_path)
    for line in job.stdout:
        if "step " in line:
            break
    children = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
    assert len(children) == 2
    os.kill(int(children[1]), signal.SIGKILL)
    job.communicate(timeout=60)
    assert job.returncode == 1
    (checkpoint,) = tmp_path.glob("runs/*/checkpoint.pt")
    steps = torch.load(checkpoint, weights_only=True)["global_step"]
    assert steps > 0
    again = f"--resume {checkpoint} --total-timesteps {steps + 2048} --eval-episodes 2"
    job = torchrun(ROOT / "ppo_discrete.py", *again.split(), cwd=tmp_path)
    output, _ = job.communicate(timeout=120)
    assert job.returncode == 0 and output.count("greedy return") == 1, output


@pytest.mark.process
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda(script, tmp_path):
    train = f"--cuda --env-id {env_for(script)} {SMALL} --target-kl 0.1"
    for flags in train, "--evaluate {} --no-cuda --eval-episodes 2", "--resume {} --total-timesteps 192":
        result = run_script(script.__name__, flags.format(*tmp_path.glob("runs/*/checkpoint.pt")), tmp_path)
        assert result.returncode == 0 and "greedy return" in result.stdout, result.stderr
