"""compute_gae, the same in all three scripts, against the average of n-step advantages on random episodes."""

import numpy as np
import pytest
import torch
from conftest import SCRIPTS

pytestmark = pytest.mark.quick

GAMMAS_AND_LAMBDAS = [(0.9, 0.8), (0.99, 0.95), (1.0, 1.0), (0.9, 1.0), (0.9, 0.0), (0.0, 0.5)]


def n_step_gae(rewards, values, end_values, gamma, gae_lambda):
    """Advantage of the first of K steps: the exponentially weighted average of its n-step advantages.

    (1 - lambda) (A^(1) + lambda A^(2) + ... ) as in GAE, equation 16, with the last A^(K) given all remaining weight.
    All are [K]; `end_values` are what the state after each step is worth, 0 if terminated.
    """
    n = np.arange(1, len(rewards) + 1)
    n_step_returns = np.cumsum(gamma ** (n - 1) * rewards) + gamma**n * end_values
    weights = (1 - gae_lambda) * gae_lambda ** (n - 1)
    weights[-1] = gae_lambda ** (len(rewards) - 1)
    return weights @ (n_step_returns - values[0])


def column(rng, num_steps, gamma, gae_lambda):
    """One environment's rewards, values, next values, ends, and the advantages that they must give."""
    rewards, values, final_values = rng.normal(size=(3, num_steps))
    terminated, truncated = rng.random((2, num_steps)) < 0.2
    done = terminated | truncated
    is_last = np.append(done[:-1], True)  # the rollout may end within an episode
    next_values = np.where(is_last, final_values, np.roll(values, -1))
    expected = np.zeros(num_steps)
    for t in range(num_steps):
        rest = slice(t, t + is_last[t:].argmax() + 1)  # of the episode
        end_values = next_values[rest] * ~terminated[rest]
        expected[t] = n_step_gae(rewards[rest], values[rest], end_values, gamma, gae_lambda)
    return rewards, values, next_values, terminated, done, expected


@pytest.mark.parametrize("script", [*SCRIPTS, "ppo_minimal_cartpole"], indirect=True)
@pytest.mark.parametrize(("gamma", "gae_lambda"), GAMMAS_AND_LAMBDAS)
@pytest.mark.parametrize("num_steps", [1, 2, 7, 40])
def test_the_average_of_n_step_advantages(script, gamma, gae_lambda, num_steps):
    rng = np.random.default_rng(num_steps)
    columns = [column(rng, num_steps, gamma, gae_lambda) for _ in range(20)]
    *tensors, expected = (torch.as_tensor(np.stack(field, axis=1)) for field in zip(*columns, strict=True))
    torch.testing.assert_close(script.compute_gae(*tensors, gamma, gae_lambda), expected, rtol=0, atol=1e-5)
    if num_steps == 40:
        terminated, done = tensors[3:]
        assert terminated.any() and (done & ~terminated).any() and not done.all()
