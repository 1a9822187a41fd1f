"""What the main scripts learn on probe environments, each of which isolates one property."""

import numpy as np
import pytest
import torch
from conftest import probe_args, train

import ppo_continuous


def values(agent, obs):
    with torch.no_grad():
        return agent(torch.tensor(obs, dtype=torch.float32))[1].numpy()


def steps(length):
    """The observations of an episode's steps, [length, 1]."""
    return np.arange(length)[:, None] / length


def act(agent, obs, greedy=False):
    """The agent's actions, for a list of observations."""
    with torch.no_grad():
        return agent.act(np.array(obs, np.float32), greedy)


@pytest.fixture
def learn(script, in_tmp):
    def learn(probe, **kwargs):
        return train(script, probe_args(script, probe, **kwargs))

    return learn


LONG = {"gamma": 0.9, "total_timesteps": 8 * 32 * 80}
DISCOUNTED = (1 - 0.9 ** np.arange(10, 0, -1)) / (1 - 0.9)  # the sum of gamma^i over the steps left


@pytest.mark.parametrize(
    ("script", "probe", "env_kwargs", "flags", "obs", "expected", "tolerance"),
    [
        ("ppo_discrete", "ObservedReward", {}, {}, [[-1], [1]], [-1, 1], 0.1),
        ("ppo_continuous", "LateReward", {"length": 3}, {"gamma": 0.5}, steps(3), [0.25, 0.5, 1], 0.05),
        # Reward 1 each step, forever but for a time limit: worth 1 / (1 - gamma) = 10, also just before the limit.
        ("ppo_discrete", "Probe", {"length": 10, "truncate": True}, LONG, steps(11), [10] * 11, 0.5),
        ("ppo_continuous", "Probe", {"length": 10}, LONG, steps(10), DISCOUNTED, 0.3),  # until the termination
    ],
    indirect=["script"],  # the same text in both, test_files.py
    ids=["depends on the observation", "late reward", "time limits", "terminations"],
)
def test_values(learn, probe, env_kwargs, flags, obs, expected, tolerance):
    agent = learn(probe, env_kwargs=env_kwargs, **flags)
    assert values(agent, obs) == pytest.approx(expected, abs=tolerance)


def test_policy_prefers_the_rewarded_action(learn):
    agent = learn("ActionReward", update_epochs=10)
    assert (act(agent, [[0.0]], greedy=True) > 0).all()
    assert (act(agent, [[0.0]] * 1000) > 0).mean() > 0.95
    assert values(agent, [[0.0]]) == pytest.approx([1], abs=0.2)


@pytest.mark.parametrize("norm_obs", [False, True])
def test_policy_depends_on_the_observation(learn, norm_obs):
    agent = learn("ObservedActionReward", norm_obs=norm_obs)
    actions = act(agent, [[-1.0]] * 1000 + [[1.0]] * 1000).reshape(2, 1000) > 0
    assert actions.mean(1) == pytest.approx([0, 1], abs=0.05)
    assert values(agent, [[-1.0], [1.0]]) == pytest.approx([1, 1], abs=0.2)


def test_the_size_of_the_action_box_does_not_matter(in_tmp):
    agents = []
    for scale, dtype in ((1, "float32"), (1e-3, "float64"), (1e3, "float32")):
        args = probe_args(ppo_continuous, "Target", env_kwargs={"scale": scale, "dtype": dtype})
        agents.append(train(ppo_continuous, args))
        action = act(agents[-1], [[0.0]], greedy=True)
        assert action.item() == pytest.approx(0.5, abs=0.1)  # of the box
    for agent in agents[1:]:  # not only as well: it learns the same, but for rounding
        torch.testing.assert_close(agent.critic[-1].bias, agents[0].critic[-1].bias, rtol=0.05, atol=0.01)
