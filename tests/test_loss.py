"""ppo_loss: its value and gradient against the papers' formulas, written per sample in plain Python."""

import math
from types import SimpleNamespace

import pytest
import torch

import ppo_minimal_cartpole

pytestmark = pytest.mark.quick

N = 64


def sample():
    """Inputs of a minibatch in double precision: some ratios are clipped on either side, some values too."""
    noise = torch.randn(7, N, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    old_log_probs, log_ratios, entropy, advantages, old_values, changes, errors = noise
    return {
        "log_probs": -1 + 0.3 * (old_log_probs + log_ratios),
        "old_log_probs": -1 + 0.3 * old_log_probs,
        "entropy": 1 + 0.1 * entropy,
        "advantages": advantages,
        "values": old_values + 0.4 * changes,
        "old_values": old_values,
        "returns": old_values + errors,
    }


def ppo_loss(script, inputs, args):
    """The script's loss, for an agent whose networks return what the sample says."""
    policy = SimpleNamespace(log_prob=lambda actions: inputs["log_probs"], entropy=lambda: inputs["entropy"])
    return script.ppo_loss(lambda obs: (policy, inputs["values"]), inputs | {"obs": None, "actions": None}, args)


def expected_loss(inputs, args):
    total = dict.fromkeys(("policy_loss", "value_loss", "entropy", "approx_kl", "old_approx_kl", "clipfrac"), 0.0)
    rows = zip(*(inputs[name].tolist() for name in inputs), strict=True)
    for log_prob, old_log_prob, entropy, advantage, value, old_value, return_ in rows:
        ratio = math.exp(log_prob) / math.exp(old_log_prob)
        low, high = 1 - args.clip_coef, 1 + args.clip_coef
        clipped = low if ratio < low else high if ratio > high else ratio
        total["policy_loss"] += -min(ratio * advantage, clipped * advantage)
        error = (value - return_) ** 2
        if getattr(args, "clip_vloss", False):
            change = max(-args.clip_coef, min(args.clip_coef, value - old_value))
            error = max(error, (old_value + change - return_) ** 2)
        total["value_loss"] += error / 2
        total["entropy"] += entropy
        total["approx_kl"] += ratio - 1 - math.log(ratio)
        total["old_approx_kl"] -= math.log(ratio)
        total["clipfrac"] += ratio != clipped
    mean = {f"losses/{name}": value / N for name, value in total.items()}
    loss = mean["losses/policy_loss"] + args.vf_coef * mean["losses/value_loss"]
    return loss - args.ent_coef * mean["losses/entropy"], mean


VARIANTS = [
    {},
    {"clip_coef": 0.05},
    {"clip_vloss": True},
    {"vf_coef": 2.0},
    {"ent_coef": 0.3},
    {"clip_vloss": True, "ent_coef": 0.1, "vf_coef": 0.7, "clip_coef": 0.3},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_loss_and_its_terms_and_gradient(script, variant):
    """The gradient by log-probabilities, entropies and values is compared with finite differences of the loss."""
    args, inputs = script.Args(**variant), sample()
    loss, metrics = ppo_loss(script, inputs, args)
    expected, mean = expected_loss(inputs, args)
    assert loss.item() == pytest.approx(expected)
    assert {tag: value.item() for tag, value in metrics.items()} == pytest.approx(mean)
    assert 0.1 < mean["losses/clipfrac"] < 0.95  # the sample tries both sides
    leaves = {name: inputs[name].requires_grad_() for name in ("log_probs", "entropy", "values")}

    def loss_of(*new):
        return ppo_loss(script, inputs | dict(zip(leaves, new, strict=True)), args)[0]

    assert torch.autograd.gradcheck(loss_of, list(leaves.values()))


def test_the_minimal_script_has_the_same_loss():
    inputs, args = sample(), ppo_minimal_cartpole.Args()
    args.clip_coef, args.ent_coef, args.vf_coef = 0.1, 0.3, 0.7
    loss = ppo_loss(ppo_minimal_cartpole, inputs, args)
    assert loss.item() == pytest.approx(expected_loss(inputs, args)[0])
