"""The networks, the policy's distribution and what the environments get of it."""

import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import train
from gymnasium.spaces import Box
from probes import Spaces

import ppo_continuous
import ppo_discrete


def make_agent(script, **kwargs):
    args = script.Args(env_id={"ppo_discrete": "Acrobot-v1", "ppo_continuous": "BipedalWalker-v3"}[script.__name__])
    vars(args).update(kwargs)
    torch.manual_seed(0)
    return script.Agent(script.make_envs(args, 1, "sync"), args)


def what_environments_get(envs, actions):
    """Of an agent's actions; an action outside of the space fails in the environment."""
    assert actions.shape[1:] == envs.single_action_space.shape
    envs.reset()
    envs.step(actions)
    return np.stack(envs.unwrapped.get_attr("action"))


def box_envs(box, **kwargs):
    """Environments with this box of actions, which fail on any action outside of it."""
    gym.registry.pop("AnyBox-v0", None)
    gym.register("AnyBox-v0", Spaces, kwargs={"observation_space": Box(-1, 1, (2,)), "action_space": box})
    args = ppo_continuous.Args(env_id="AnyBox-v0", **kwargs)
    return ppo_continuous.make_envs(args, args.num_envs, "sync"), args


def test_initialization(script):
    agent = make_agent(script)
    for network, gains in ((agent.actor, (2**0.5, 2**0.5, 0.01)), (agent.critic, (2**0.5, 2**0.5, 1.0))):
        assert [type(layer).__name__ for layer in network] == ["Linear", "ReLU", "Linear", "ReLU", "Linear"]
        layers = [layer for layer in network if isinstance(layer, torch.nn.Linear)]
        for layer, gain in zip(layers, gains, strict=True):
            assert not layer.bias.any()
            weight = layer.weight if layer.weight.shape[0] <= layer.weight.shape[1] else layer.weight.T
            torch.testing.assert_close(weight @ weight.T, gain**2 * torch.eye(len(weight)), rtol=0, atol=1e-5)
    assert not {id(p) for p in agent.actor.parameters()} & {id(p) for p in agent.critic.parameters()}


def test_normalization(script):
    agent = make_agent(script)
    obs = torch.randn(500, agent.actor[0].in_features) * 3 + 7
    agent.obs_rms.update(obs[:100])
    agent.obs_rms.update(obs[100:])
    mean, std = obs.mean(0), obs.std(0, correction=0)
    torch.testing.assert_close(agent.normalize(obs), ((obs - mean) / std), rtol=1e-3, atol=1e-3)
    assert agent.normalize(mean + 1000 * std).eq(10).all() and agent.normalize(mean - 1000 * std).eq(-10).all()
    agent = make_agent(script, norm_obs=False)
    assert torch.equal(agent.normalize(obs * 100), obs * 100)


def test_running_mean_std(script):
    rms, data = script.RunningMeanStd(3), torch.randn(1000, 3) * torch.tensor([1.0, 10, 0]) + torch.tensor([0.0, 5, 2])
    assert rms.mean.eq(0).all() and rms.std.eq(1).all()
    for batch in data.split([1, 9, 490, 500]):
        rms.update(batch)
    torch.testing.assert_close(rms.mean, data.mean(0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(rms.std, data.std(0, correction=0), rtol=1e-4, atol=1.1e-4)  # 1e-4 stands for 0
    assert rms.count == 1000
    rms.count.fill_(2**24)  # from here on a float32 could not count
    rms.update(data[:1])
    assert rms.count.item() == 2**24 + 1


def test_discrete_actions_are_sampled_with_their_probabilities():
    agent = make_agent(ppo_discrete, norm_obs=False)
    obs = torch.ones(100_000, 6)
    with torch.no_grad():
        agent.actor[-1].bias.copy_(torch.tensor([0.0, 1.0, -1.0]))
        probabilities = agent.actor(torch.ones(6)).softmax(-1)
        actions = agent.act(obs)
        assert (agent.act(obs, greedy=True) == 1).all()
    frequencies = np.bincount(actions, minlength=3) / len(actions)
    np.testing.assert_allclose(frequencies, probabilities, atol=0.01)


def test_discrete_log_prob_and_entropy():
    agent = make_agent(ppo_discrete)
    with torch.no_grad():
        agent.actor[-1].weight.mul_(1000)
    x, actions = torch.randn(50, 6), torch.randint(3, (50,))
    log_probs, entropy = agent.log_prob_and_entropy(x, actions)
    reference = torch.distributions.Categorical(logits=agent.actor(x))
    torch.testing.assert_close(log_probs, reference.log_prob(actions))
    torch.testing.assert_close(entropy, reference.entropy())
    assert entropy.std() > 0.01


def test_actions_may_start_at_any_number():
    envs = ppo_discrete.make_envs(ppo_discrete.Args(env_id="probes:Start-v0"), 3, "sync")
    assert what_environments_get(envs, np.array([0, 1, 2])).tolist() == [-1, 0, 1]


def test_continuous_actions_are_sampled_from_their_distribution():
    agent = make_agent(ppo_continuous, norm_obs=False, init_log_std=0.5)
    with torch.no_grad():
        agent.actor[-1].bias.copy_(torch.tensor([0.0, 1.0, -1.0, 3.0]))
        agent.log_std[0] = -1.0
        mean = agent.actor(torch.ones(24))
        obs = torch.ones(100_000, 24)
        actions = agent.act(obs)
        greedy = agent.act(obs[:5], greedy=True)
    np.testing.assert_allclose(actions.mean(0), mean, atol=0.03)
    np.testing.assert_allclose(actions.std(0), np.exp([-1.0, 0.5, 0.5, 0.5]), rtol=0.02)
    assert np.abs(np.corrcoef(actions.T) - np.eye(4)).max() < 0.02
    np.testing.assert_allclose(greedy, mean.repeat(5, 1), rtol=1e-5)


def test_continuous_log_prob_and_entropy():
    agent = make_agent(ppo_continuous)
    with torch.no_grad():
        agent.actor[-1].weight.mul_(100)
        agent.log_std.copy_(torch.tensor([0.0, 1.0, -1.0, -3.0]))
    x, actions = torch.randn(50, 24), torch.randn(50, 4)
    log_probs, entropy = agent.log_prob_and_entropy(x, actions)
    mean, std = agent.actor(x), [1, math.e, 1 / math.e, math.exp(-3)]
    for i in range(50):
        densities = [
            math.exp(-((actions[i, j].item() - mean[i, j].item()) ** 2) / (2 * std[j] ** 2))
            / (std[j] * math.sqrt(math.tau))
            for j in range(3)
        ]
        z = (actions[i, 3].item() - mean[i, 3].item()) / std[3]
        last = -(z**2) / 2 - math.log(std[3] * math.sqrt(math.tau))  # the density itself may underflow
        assert log_probs[i].item() == pytest.approx(math.log(math.prod(densities)) + last, rel=1e-4)
    expected = sum(0.5 * math.log(math.tau * math.e * s**2) for s in std)
    torch.testing.assert_close(entropy.mean(), torch.tensor(expected))


INF = np.inf
BOXES = {
    "unit": Box(-1, 1, (3,)),
    "scalar": Box(-2.0, 2.0, ()),
    "matrix": Box(-1, 1, (2, 3), np.float64),
    "tiny": Box(-1e-30, 1e-30, (2,), np.float64),
    "huge": Box(-3e38, 3e38, (2,), np.float32),
    "huge64": Box(-1e290, 1e290, (2,), np.float64),
    "asymmetric": Box(np.array([0.1, -7]), np.array([0.3, 100]), dtype=np.float32),
    "infinite": Box(-INF, INF, (2,), np.float32),
    "half infinite": Box(np.array([0, -INF]), np.array([INF, 0.5]), dtype=np.float64),
    "point": Box(0.7, 0.7, (1,), np.float32),
}


@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES)
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_actions_are_always_inside_the_box(box):
    envs, _ = box_envs(box, num_envs=50)
    actions = np.random.default_rng(0).normal(scale=3, size=(50, math.prod(box.shape))).astype(np.float32)
    actions[0], actions[1], actions[2], actions[3] = -1, 1, 1e9, -1e9
    fitted = what_environments_get(envs, actions)
    assert fitted.shape == (50, *box.shape) and fitted.dtype == box.dtype


@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES)
def test_one_is_the_bound_where_there_is_one(box):
    envs, _ = box_envs(box, num_envs=3)
    size, bounded = math.prod(box.shape), box.bounded_below & box.bounded_above
    low, half, high = what_environments_get(envs, np.array([[-1.0], [0.25], [1.0]], np.float32).repeat(size, 1))
    np.testing.assert_allclose(low[bounded], box.low[bounded], rtol=1e-6)
    np.testing.assert_allclose(high[bounded], box.high[bounded], rtol=1e-6)
    between = 0.375 * box.low.astype(np.float64) + 0.625 * box.high.astype(np.float64)
    np.testing.assert_allclose(half[bounded], between[bounded], rtol=1e-6)
    np.testing.assert_allclose(half[~bounded], np.clip(0.25, box.low, box.high)[~bounded])


def test_training_on_a_box_of_another_shape(in_tmp):
    """The probe asserts on each action that it is in the box."""
    _, args = box_envs(BOXES["matrix"], num_envs=2, num_steps=16, total_timesteps=32, eval_episodes=1)
    train(ppo_continuous, args)


def test_greedy_actions_use_no_randomness(script):
    """So a video or an evaluation in between does not change what is learned."""
    agent = make_agent(script, norm_obs=False)
    state = torch.get_rng_state()
    with torch.no_grad():
        agent.act(np.ones((1, agent.actor[0].in_features), np.float32), greedy=True)
        assert torch.equal(torch.get_rng_state(), state)
        agent.act(np.ones((1, agent.actor[0].in_features), np.float32))
        assert not torch.equal(torch.get_rng_state(), state)
