"""The networks, the policy's distribution, the statistics, and what the environments get."""

import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import env_for
from gymnasium.spaces import Box
from probes import Spaces

import ppo_continuous
import ppo_discrete

pytestmark = pytest.mark.quick


def make_agent(script, **kwargs):
    args = script.Args(env_id=env_for(script, "Acrobot-v1", "BipedalWalker-v3"), **kwargs)
    torch.manual_seed(0)
    return script.Agent(script.make_envs(args, 1), args)


def what_environments_get(envs, actions):
    """Of an agent's actions; an action outside of the space fails in the environment."""
    envs.reset()
    envs.step(actions)
    return np.stack([env.unwrapped.action for env in envs.unwrapped.envs])


def box_envs(box, num_envs=1):
    """Environments with this box of actions, which fail on any action outside of it."""
    gym.registry.pop("AnyBox-v0", None)
    gym.register("AnyBox-v0", Spaces, kwargs={"observation_space": Box(-1, 1, (2,)), "action_space": box})
    return ppo_continuous.make_envs(ppo_continuous.Args(env_id="AnyBox-v0"), num_envs)


def test_initialization(script):
    agent = make_agent(script)
    value_gain = 0.01 if script.__name__ == "ppo_discrete" else 1.0
    for network, gains in ((agent.actor, (2**0.5, 2**0.5, 0.01)), (agent.critic, (2**0.5, 2**0.5, value_gain))):
        assert [type(layer).__name__ for layer in network] == ["Linear", "ReLU", "Linear", "ReLU", "Linear"]
        for layer, gain in zip(network[::2], gains, strict=True):
            assert not layer.bias.any()
            weight = layer.weight if layer.weight.shape[0] <= layer.weight.shape[1] else layer.weight.T
            torch.testing.assert_close(weight @ weight.T, gain**2 * torch.eye(len(weight)), rtol=0, atol=1e-5)
    assert not {id(p) for p in agent.actor.parameters()} & {id(p) for p in agent.critic.parameters()}


FEATURES = {"pressure": (101_325, 3), "kelvin": (293.15, 0.01), "constant": (123456.789, 0), "zero": (0, 0)}


def test_statistics_are_those_of_float64(script):
    """As NumPy computes them in float64 from the float32 observations, over several batches."""
    rng, statistics = np.random.default_rng(0), script.RunningStatistics(len(FEATURES))
    assert statistics.mean.eq(0).all() and statistics.std.eq(1).all()
    samples = [rng.normal(mean, std, 50_000) for mean, std in FEATURES.values()]
    samples = torch.as_tensor(np.stack(samples, 1), dtype=torch.float32)
    for batch in samples.split([1, 99, 20_000, 29_900]):
        statistics.update(batch)
    np.testing.assert_allclose(statistics.mean, samples.double().mean(0), rtol=1e-6)
    np.testing.assert_allclose(statistics.std[:2], samples.double().std(0, correction=0)[:2], rtol=1e-3)
    np.testing.assert_allclose(statistics.std[:2], [3, 0.01], rtol=0.02)


def test_normalized_observations(script):
    agent = make_agent(script)
    obs = torch.randn(64, 1, agent.actor[0].in_features) * 3 + 7
    obs[..., 1] = 123456.789
    agent.obs_statistics.update(obs.flatten(0, 1))
    normalized = agent.normalize(obs)
    assert normalized[..., 1].eq(0).all()
    torch.testing.assert_close(normalized[..., 2].std(correction=0).item(), 1.0, rtol=1e-3, atol=0)
    assert agent.normalize(obs + 1000).max() == 10 and agent.normalize(obs - 1000).min() == -10
    agent = make_agent(script, norm_obs=False)
    assert torch.equal(agent.normalize(obs * 100), obs * 100)  # beyond 10, untouched


def rms_of_sums(script, rewards, done):
    """What rewards are divided by after these steps of one environment, gamma being 0.5, in rollouts of five."""
    statistics = script.RewardSumStatistics()
    rewards, done = (torch.as_tensor(array).unsqueeze(1) for array in (rewards, done))
    for part in torch.arange(len(rewards)).split(5):
        statistics.add_rewards(rewards[part], done[part], gamma=0.5)
    return statistics.rms.item()


def test_rewards_are_scaled_by_the_root_mean_square_of_discounted_sums(script):
    done = np.arange(12) % 3 == 2  # episodes of three steps, each of which earns 1; some cross the ends of rollouts
    assert rms_of_sums(script, np.ones(12), done) == pytest.approx(np.mean(np.square([1, 1.5, 1.75])) ** 0.5)
    assert rms_of_sums(script, np.ones(12), np.ones(12, bool)) == pytest.approx(1)
    rare = np.zeros(1000)
    rare[900] = 1.0
    assert rms_of_sums(script, rare, np.arange(1000) % 100 == 0) == pytest.approx(1)
    assert 0 < rms_of_sums(script, np.zeros(12), done) < 1e-6  # and 0 divided by it is 0


def test_actions_are_sampled_from_the_policy(script):
    """Frequencies, or mean and deviation; the greedy action is the most likely one, and needs no randomness."""
    agent = make_agent(script, norm_obs=False)
    obs = np.ones((50_000, agent.actor[0].in_features), np.float32)
    with torch.no_grad():
        agent.actor[-1].bias.copy_(torch.linspace(-1, 1, len(agent.actor[-1].bias)))
        outputs = agent.actor(torch.ones(agent.actor[0].in_features))
    actions, state = agent.act(obs), torch.get_rng_state()
    greedy = agent.act(obs[:3], greedy=True)
    assert torch.equal(torch.get_rng_state(), state)
    if script is ppo_discrete:
        np.testing.assert_allclose(np.bincount(actions) / len(actions), outputs.softmax(-1), atol=0.01)
        assert greedy.tolist() == [2, 2, 2]
    else:
        np.testing.assert_allclose(actions.mean(0), outputs, atol=0.02)
        np.testing.assert_allclose(actions.std(0), math.exp(-0.25), rtol=0.02)
        np.testing.assert_allclose(greedy, outputs.repeat(3, 1), rtol=1e-5)


def test_log_prob_and_entropy(script):
    """For a batch, against the formulas."""
    agent = make_agent(script, norm_obs=False)
    with torch.no_grad():
        agent.actor[-1].weight.mul_(100)
    obs = torch.randn(50, agent.actor[0].in_features)
    policy, values = agent(obs)
    outputs = agent.actor(obs)
    torch.testing.assert_close(values, agent.critic(obs)[:, 0])
    if script is ppo_discrete:
        actions, log_probs = torch.randint(3, (50,)), outputs.log_softmax(-1)
        expected, entropy = log_probs[range(50), actions], -(log_probs.exp() * log_probs).sum(-1)
    else:
        actions, std = torch.randn(50, 4), math.exp(-0.25)
        density = torch.exp(-(((actions - outputs) / std) ** 2) / 2) / (std * (2 * math.pi) ** 0.5)
        expected = density.log().sum(-1)
        entropy = torch.full((50,), 4 * (0.5 * math.log(2 * math.pi * math.e) - 0.25))
    torch.testing.assert_close(policy.log_prob(actions), expected)
    torch.testing.assert_close(policy.entropy(), entropy)


def test_discrete_actions_may_start_at_any_number():
    envs = ppo_discrete.make_envs(ppo_discrete.Args(env_id="probes:Start-v0"), 3)
    assert what_environments_get(envs, np.array([0, 1, 2])).tolist() == [-1, 0, 1]


INF = np.inf
BOXES = {
    "unit": Box(-1, 1, (3,)),
    "scalar": Box(-2.0, 2.0, ()),
    "matrix": Box(-1, 1, (2, 3), np.float64),
    "tiny": Box(-1e-30, 1e-30, (2,), np.float64),
    "huge": Box(-3e38, 3e38, (2,), np.float32),
    "huge64": Box(-1e290, 1e290, (2,), np.float64),
    "widest": Box(-1.7e308, 1.7e308, (2,), np.float64),
    "asymmetric": Box(np.array([0.1, -7]), np.array([0.3, 100]), dtype=np.float32),
    "infinite": Box(-INF, INF, (2,), np.float32),
    "half infinite": Box(np.array([0, -INF]), np.array([INF, 0.5]), dtype=np.float64),
    "below -3": Box(-INF, -3, (1,), np.float32),
    "point": Box(0.7, 0.7, (1,), np.float32),
    "bytes": Box(0, 255, (2,), np.uint8),
    "int64": Box(np.iinfo(np.int64).min, np.iinfo(np.int64).max, (1,), np.int64),
}


@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES)
@pytest.mark.filterwarnings("ignore:invalid value", "ignore:overflow")  # of actions that are far outside, 1e9
def test_actions_are_fitted_to_the_box(box):
    """Never outside, whatever the agent says; its -1 and 1 are the bounds, where there are any."""
    size, bounded = math.prod(box.shape), box.bounded_below & box.bounded_above
    actions = np.random.default_rng(0).normal(scale=3, size=(50, size)).astype(np.float32)
    actions[:5] = np.array([-1, 1, 1e9, -1e9, 0.25], np.float32)[:, None]
    fitted = what_environments_get(box_envs(box, 50), actions)
    assert fitted.shape == (50, *box.shape) and fitted.dtype == box.dtype
    low, high = (np.float64(fitted[i]) for i in (0, 1))
    np.testing.assert_allclose(low[box.bounded_below], np.float64(box.low)[box.bounded_below], rtol=1e-6)
    np.testing.assert_allclose(high[box.bounded_above], np.float64(box.high)[box.bounded_above], rtol=1e-6)
    if box.dtype.kind == "f":
        between = np.float64(box.low) * 0.375 + np.float64(box.high) * 0.625
        np.testing.assert_allclose(fitted[4][bounded], between[bounded], rtol=1e-6)
    if not bounded.all():  # the other side of one bound is explored, too
        assert len(np.unique(fitted.reshape(50, -1)[:, 0])) > 10


def test_a_missing_bound_is_two_or_more_from_the_other():
    expected = {(-INF, INF): [-1, 1], (0, INF): [0, 2], (5, INF): [5, 7], (-7, INF): [-7, 1]}
    expected |= {(-INF, 0.5): [-1.5, 0.5], (-INF, -3): [-5, -3], (-INF, 7): [-1, 7]}
    for (low, high), bounds in expected.items():
        envs = box_envs(Box(low, high, (1,), np.float32), 2)
        assert what_environments_get(envs, np.float32([[-1], [1]]))[:, 0].tolist() == bounds


def test_integers_are_rounded():
    boxes = (0, 1, bool, [0.2, -0.2]), (0, 1, int, [0.2, -0.2]), (-2, 2, int, [0.4, -0.4])
    for (low, high, dtype, actions), expected in zip(boxes, ([1, 0], [1, 0], [1, -1]), strict=True):
        envs = box_envs(Box(low, high, (1,), dtype), 2)
        assert what_environments_get(envs, np.float32(actions)[:, None])[:, 0].tolist() == expected
