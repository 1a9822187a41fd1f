"""compute_gae, the same in all three scripts, against the average of n-step advantages on random episodes."""

import numpy as np
import pytest
import torch
from oracle import expected_advantages, random_episodes

import ppo_minimal_cartpole

pytestmark = pytest.mark.quick

GAMMAS_AND_LAMBDAS = [(0.9, 0.8), (0.99, 0.95), (1.0, 1.0), (0.9, 1.0), (0.9, 0.0), (0.0, 0.5)]


def column(rng, num_steps, gamma, gae_lambda):
    """One environment's rewards, values, next values, ends, and the advantages that they must give."""
    rewards, values, next_values, terminated, done, expected = [], [], [], [], [], []
    for episode in random_episodes(rng, num_steps):
        length = len(episode["rewards"])
        last = min(length, num_steps - len(rewards))  # the rollout may end within the episode
        expected += [*expected_advantages(episode, 0, last, gamma, gae_lambda)]
        rewards += [*episode["rewards"]]
        values += [*episode["values"][:-1]]
        next_values += [*episode["values"][1:]]
        terminated += [False] * (length - 1) + [episode["end"] != "truncated"]
        done += [False] * (length - 1) + [True]
    return [np.array(field)[:num_steps] for field in (rewards, values, next_values, terminated, done, expected)]


@pytest.mark.parametrize(("gamma", "gae_lambda"), GAMMAS_AND_LAMBDAS)
@pytest.mark.parametrize("num_steps", [1, 2, 7, 40])
def test_main_scripts(script, gamma, gae_lambda, num_steps):
    rng = np.random.default_rng(num_steps)
    columns = [column(rng, num_steps, gamma, gae_lambda) for _ in range(20)]
    *tensors, expected = (torch.as_tensor(np.stack(field, axis=1)) for field in zip(*columns, strict=True))
    torch.testing.assert_close(script.compute_gae(*tensors, gamma, gae_lambda), expected, rtol=0, atol=1e-5)
    if num_steps == 40:
        terminated, done = tensors[3:]
        assert terminated.any() and (done & ~terminated).any() and not done.all()


def test_minimal_script():
    *tensors, expected = map(torch.as_tensor, column(np.random.default_rng(0), 40, 0.9, 0.8))
    advantages = ppo_minimal_cartpole.compute_gae(*tensors, 0.9, 0.8)
    torch.testing.assert_close(advantages, expected, rtol=0, atol=1e-5)
