"""ppo_loss: its value and gradient against the papers' formulas, written per sample in plain Python."""

import math

import pytest
import torch

import ppo_minimal_cartpole

pytestmark = pytest.mark.quick

N = 64


def sample(seed=0):
    """Inputs of a minibatch in double precision: some ratios are clipped on either side, some values too."""
    g = torch.Generator().manual_seed(seed)

    def normal(scale=1.0):
        return scale * torch.randn(N, generator=g, dtype=torch.float64)

    old_log_probs = -1 + normal(0.3)
    old_values = normal()
    return {
        "log_probs": old_log_probs + normal(0.3),
        "old_log_probs": old_log_probs,
        "entropy": 1 + normal(0.1),
        "advantages": normal(),
        "values": old_values + normal(0.4),
        "old_values": old_values,
        "returns": old_values + normal(),
    }


class GivenPolicy:
    def __init__(self, inputs):
        self.inputs = inputs

    def log_prob(self, actions):
        return self.inputs["log_probs"]

    def entropy(self):
        return self.inputs["entropy"]


def ppo_loss(script, inputs, args):
    """The script's loss, for an agent whose networks return what the sample says."""
    batch = {name: inputs[name] for name in ("old_log_probs", "advantages", "old_values", "returns")}
    batch |= {"obs": None, "actions": None}
    return script.ppo_loss(lambda obs: (GivenPolicy(inputs), inputs["values"]), batch, args)


def expected_loss(inputs, args):
    total = {"policy": 0.0, "value": 0.0, "entropy": 0.0, "kl": 0.0, "log_ratio": 0.0, "clipped": 0}
    rows = zip(*(inputs[name].tolist() for name in inputs), strict=True)
    for log_prob, old_log_prob, entropy, advantage, value, old_value, return_ in rows:
        ratio = math.exp(log_prob) / math.exp(old_log_prob)
        low, high = 1 - args.clip_coef, 1 + args.clip_coef
        clipped = low if ratio < low else high if ratio > high else ratio
        total["policy"] += -min(ratio * advantage, clipped * advantage)
        error = (value - return_) ** 2
        if getattr(args, "clip_vloss", False):
            change = max(-args.clip_coef, min(args.clip_coef, value - old_value))
            error = max(error, (old_value + change - return_) ** 2)
        total["value"] += error / 2
        total["entropy"] += entropy
        total["kl"] += ratio - 1 - math.log(ratio)
        total["log_ratio"] += math.log(ratio)
        total["clipped"] += ratio != clipped
    mean = {name: value / N for name, value in total.items()}
    return mean["policy"] + args.vf_coef * mean["value"] - args.ent_coef * mean["entropy"], mean


VARIANTS = [
    {},
    {"clip_coef": 0.05},
    {"clip_vloss": True},
    {"vf_coef": 2.0},
    {"ent_coef": 0.3},
    {"clip_vloss": True, "ent_coef": 0.1, "vf_coef": 0.7, "clip_coef": 0.3},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_loss_and_its_terms(script, variant):
    args, inputs = script.Args(**variant), sample()
    loss, metrics = ppo_loss(script, inputs, args)
    expected, mean = expected_loss(inputs, args)
    assert loss.item() == pytest.approx(expected)
    assert metrics["losses/policy_loss"].item() == pytest.approx(mean["policy"])
    assert metrics["losses/value_loss"].item() == pytest.approx(mean["value"])
    assert metrics["losses/entropy"].item() == pytest.approx(mean["entropy"])
    assert metrics["losses/approx_kl"].item() == pytest.approx(mean["kl"])
    assert metrics["losses/old_approx_kl"].item() == pytest.approx(-mean["log_ratio"])
    assert metrics["losses/clipfrac"].item() == pytest.approx(mean["clipped"])
    assert 0.1 < mean["clipped"] < 0.95  # the sample tries both sides


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_gradient(script, variant):
    """With respect to log-probabilities, entropies and values, against finite differences of the formula."""
    args, inputs = script.Args(**variant), sample(1)
    leaves = {name: inputs[name].clone().requires_grad_() for name in ("log_probs", "entropy", "values")}
    loss, _ = ppo_loss(script, inputs | leaves, args)
    gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
    for name, gradient in zip(leaves, gradients, strict=True):
        for i in range(0, N, 5):
            step = torch.zeros(N, dtype=torch.float64)
            step[i] = 1e-6
            above, _ = expected_loss(inputs | {name: inputs[name] + step}, args)
            below, _ = expected_loss(inputs | {name: inputs[name] - step}, args)
            assert gradient[i].item() == pytest.approx((above - below) / 2e-6, abs=1e-6)


def test_the_minimal_script_has_the_same_loss():
    inputs, args = sample(), ppo_minimal_cartpole.Args()
    args.ent_coef = 0.3
    batch = {name: inputs[name] for name in ("old_log_probs", "advantages", "returns")} | {"obs": None, "actions": None}
    loss = ppo_minimal_cartpole.ppo_loss(lambda obs: (GivenPolicy(inputs), inputs["values"]), batch, args)
    assert loss.item() == pytest.approx(expected_loss(inputs, args)[0])
