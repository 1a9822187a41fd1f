"""compute_gae of all three scripts against the average of n-step advantages on random episodes."""

import numpy as np
import pytest
import torch
from oracle import expected_advantages, random_episodes

import ppo_minimal_cartpole

GAMMAS_AND_LAMBDAS = [(0.9, 0.8), (0.99, 0.95), (1.0, 1.0), (0.9, 1.0), (0.9, 0.0), (0.0, 0.5)]


def lay_out(rng, num_steps, gamma, gae_lambda):
    """One environment's column of the main scripts' buffers, with the advantages that it must give (NaN: a reset).

    An episode of K steps takes K + 1 rows: its last observation has a row of its own, whose step is the reset.
    """
    rewards, values, terminated, done, expected = [], [], [], [], []
    for episode in random_episodes(rng, 2 * num_steps):
        length = len(episode["rewards"])
        start = len(values)
        values += [*episode["values"]]
        terminated += [False] * length + [episode["end"] != "truncated"]
        done += [False] * length + [True]
        rewards += [*episode["rewards"], 0.0]  # a reset step earns 0
        last = min(length, num_steps - start)  # the rollout ends within or after this episode
        expected += [*expected_advantages(episode, 0, last, gamma, gae_lambda), np.nan]
        if len(values) > num_steps:
            break
    rows = slice(0, num_steps + 1)
    return rewards[:num_steps], values[rows], terminated[rows], done[rows], expected[:num_steps]


@pytest.mark.parametrize(("gamma", "gae_lambda"), GAMMAS_AND_LAMBDAS)
@pytest.mark.parametrize("num_steps", [1, 2, 7, 40])
def test_main_scripts(script, gamma, gae_lambda, num_steps):
    rng = np.random.default_rng(num_steps)
    columns = [lay_out(rng, num_steps, gamma, gae_lambda) for _ in range(20)]
    rewards, values, terminated, done, expected = (np.stack(field, axis=1) for field in zip(*columns, strict=True))
    advantages = script.compute_gae(rewards, values, terminated, done, gamma, gae_lambda)
    assert advantages.shape == (num_steps, 20)
    valid = ~done[:-1]
    assert np.array_equal(valid, ~np.isnan(expected))
    if num_steps == 40:
        assert terminated.any() and (done & ~terminated).any() and not valid.all()
    np.testing.assert_allclose(advantages[valid], expected[valid], rtol=0, atol=1e-9)


@pytest.mark.parametrize(("gamma", "gae_lambda"), GAMMAS_AND_LAMBDAS)
@pytest.mark.parametrize("num_steps", [1, 2, 7, 40])
def test_minimal_script(gamma, gae_lambda, num_steps):
    """There, an episode's end is followed by the next one's first step, and next_values hold its last value."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        rewards, values, next_values, terminated, dones, expected = [], [], [], [], [], []
        for episode in random_episodes(rng, num_steps):
            length = len(episode["rewards"])
            last = min(length, num_steps - len(rewards))
            expected += [*expected_advantages(episode, 0, last, gamma, gae_lambda)]
            rewards += [*episode["rewards"]]
            values += [*episode["values"][:-1]]
            next_values += [*episode["values"][1:]]
            terminated += [False] * (length - 1) + [episode["end"] != "truncated"]
            dones += [False] * (length - 1) + [True]
        arrays = (torch.as_tensor(np.array(a[:num_steps])) for a in (rewards, values, next_values, terminated, dones))
        advantages = ppo_minimal_cartpole.compute_gae(*arrays, gamma, gae_lambda)
        torch.testing.assert_close(advantages, torch.as_tensor(np.array(expected)), rtol=0, atol=1e-5)
