"""Started by torchrun from test_processes.py: trains, and leaves what this process saw in the working directory.

torchrun --standalone --nproc-per-node 2 two_processes.py ppo_discrete '{"env_id": "CartPole-v1"}'
"""

import importlib
import json
import os
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
script = importlib.import_module(sys.argv[1])
seen = {"batches": [], "losses": [], "gradients": []}
log_prob_and_entropy, ppo_loss, adam_step = script.Agent.log_prob_and_entropy, script.ppo_loss, torch.optim.Adam.step


def spied_log_prob(agent, x, actions):
    seen["batches"].append([x, actions])
    return log_prob_and_entropy(agent, x, actions)


def spied_loss(*args):
    seen["losses"].append([tensor.detach().clone() for tensor in args[:7]])
    return ppo_loss(*args)


def spied_step(optimizer, *args):
    seen["gradients"].append(optimizer.param_groups[0]["params"][0].grad.clone())
    return adam_step(optimizer, *args)


script.Agent.log_prob_and_entropy, script.ppo_loss, torch.optim.Adam.step = spied_log_prob, spied_loss, spied_step
agent = script.train(script.Args(**json.loads(sys.argv[2])))
seen["agent"] = agent.state_dict()
torch.save(seen, f"rank{os.environ['RANK']}.pt")
