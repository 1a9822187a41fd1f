"""What the main scripts learn on probe environments, each of which isolates one property."""

import numpy as np
import pytest
import torch
from conftest import probe_args, train

import ppo_continuous

OBS = {"low": [[-1.0]], "high": [[1.0]]}


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


@pytest.mark.parametrize("script", ["ppo_continuous"], indirect=True)  # the same text in both, test_files.py
def test_value_of_a_constant_reward(learn):
    agent = learn("Probe", update_epochs=10)
    assert values(agent, [[0.0]]) == pytest.approx([1], abs=0.05)


@pytest.mark.parametrize("script", ["ppo_discrete"], indirect=True)  # the same text in both, test_files.py
def test_value_depends_on_the_observation(learn):
    agent = learn("ObservedReward")
    assert values(agent, [[-1.0], [1.0]]) == pytest.approx([-1, 1], abs=0.1)


@pytest.mark.parametrize("script", ["ppo_continuous"], indirect=True)  # the same text in both, test_files.py
def test_value_of_a_late_reward_is_discounted(learn):
    agent = learn("LateReward", env_kwargs='{"length": 3, ', gamma=0.5)
    assert values(agent, steps(3)) == pytest.approx([0.25, 0.5, 1], abs=0.05)


@pytest.mark.parametrize("script", ["ppo_discrete"], indirect=True)  # the same text in both, test_files.py
def test_time_limits_do_not_lower_values(learn):
    """Reward 1 each step, forever but for a time limit: worth 1 / (1 - gamma) = 10, also just before the limit."""
    agent = learn("Probe", env_kwargs='{"length": 10, "truncate": true, ', gamma=0.9, total_timesteps=8 * 32 * 80)
    assert values(agent, steps(11)) == pytest.approx(np.full(11, 10), abs=0.5)


@pytest.mark.parametrize("script", ["ppo_continuous"], indirect=True)  # the same text in both, test_files.py
def test_terminations_do_lower_values(learn):
    """Reward 1 each step until the termination after 10 steps: worth the sum of gamma^i over the steps left."""
    agent = learn("Probe", env_kwargs='{"length": 10, ', gamma=0.9, total_timesteps=8 * 32 * 80)
    expected = (1 - 0.9 ** np.arange(10, 0, -1)) / (1 - 0.9)
    assert values(agent, steps(10)) == pytest.approx(expected, abs=0.3)


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
        env_kwargs = f'{{"scale": {scale}, "dtype": "{dtype}", '
        agents.append(train(ppo_continuous, probe_args(ppo_continuous, "Target", env_kwargs=env_kwargs)))
        action = act(agents[-1], [[0.0]], greedy=True)
        assert action.item() == pytest.approx(0.5, abs=0.1)  # of the box
    for agent in agents[1:]:  # not only as well: it learns the same, but for rounding
        torch.testing.assert_close(agent.critic[-1].bias, agents[0].critic[-1].bias, rtol=0.05, atol=0.01)
