"""ppo_minimal_cartpole.py; its compute_gae and its loss are in test_gae.py and test_loss.py."""

import re
from pathlib import Path

import gymnasium as gym
import pytest
import torch
from conftest import run_script
from test_training import Recording

import ppo_minimal_cartpole as minimal

ENV = {"id": "CartPole-v1", "max_episode_steps": 20}  # so that both kinds of ends occur


def collect(num_steps):
    torch.manual_seed(0)
    env = gym.make(**ENV)
    obs, _ = env.reset(seed=0)
    agent = minimal.PolicyValueNet(4, 2)
    return agent, *minimal.collect_trajectories(env, agent, obs, num_steps)


def test_the_network_is_two_layers_of_tanh_and_two_heads():
    agent, obs = minimal.PolicyValueNet(4, 2), torch.randn(5, 4)
    policy, values = agent(obs)
    first, second = agent.body[0], agent.body[2]
    features = torch.tanh(torch.tanh(obs @ first.weight.T + first.bias) @ second.weight.T + second.bias)
    torch.testing.assert_close(policy.probs, agent.policy_head(features).softmax(-1))
    torch.testing.assert_close(values, agent.value_head(features)[:, 0])


def test_trajectories():
    """Shapes, and the environment replayed: the same actions give the same observations, rewards and ends."""
    _, rollout, obs_after = collect(100)
    for name, tensor in rollout.items():
        assert tensor.shape == ((100, 4) if "obs" in name else (100,)), name
    env = gym.make(**ENV)
    obs, _ = env.reset(seed=0)
    for t in range(100):
        assert rollout["obs"][t].tolist() == obs.tolist()
        obs, reward, terminated, truncated, _ = env.step(rollout["actions"][t].item())
        assert rollout["next_obs"][t].tolist() == obs.tolist()
        assert rollout["rewards"][t] == reward and rollout["terminated"][t] == terminated
        assert rollout["done"][t] == (terminated or truncated)
        if terminated or truncated:
            obs, _ = env.reset()
    assert rollout["done"].sum() > rollout["terminated"].sum() > 0 and obs_after.tolist() == obs.tolist()


def test_the_batch():
    agent, rollout, _ = collect(100)
    rollout["rewards"] += torch.arange(100)
    args = minimal.Args()
    assert (args.gamma, args.gae_lambda, args.reward_scale) == (0.99, 0.95, 0.01)
    args.gamma, args.gae_lambda, args.reward_scale = 0.9, 0.8, 0.1
    batch = minimal.make_batch(agent, rollout, args)
    policy, values = agent(rollout["obs"])
    torch.testing.assert_close(batch["old_log_probs"], policy.log_prob(rollout["actions"]))
    _, next_values = agent(rollout["next_obs"])
    ends = rollout["terminated"], rollout["done"]
    advantages = minimal.compute_gae(0.1 * rollout["rewards"].float(), values, next_values, *ends, 0.9, 0.8)
    torch.testing.assert_close(batch["returns"], advantages + values)
    torch.testing.assert_close(batch["advantages"], (advantages - advantages.mean()) / advantages.std())


@pytest.mark.parametrize(("num_minibatches", "max_grad_norm"), [(8, 0.5), (1, 1e9)])
def test_an_update_is_the_right_number_of_clipped_steps(num_minibatches, max_grad_norm):
    """None is longer than the largest norm allows; where nothing is learned, all gradients of a batch are the same."""
    args = minimal.Args()
    args.num_minibatches, args.max_grad_norm = num_minibatches, max_grad_norm
    agent, rollout, _ = collect(100)
    batch = minimal.make_batch(agent, rollout, args)
    batch["returns"] += 100
    optimizer = Recording(agent, 0.0)
    minimal.ppo_update(agent, optimizer, batch, args)
    norms = optimizer.norms
    assert norms == pytest.approx([norms[0]] * 10 * num_minibatches, rel=1e-3)
    assert min(max_grad_norm, 1) - 1e-3 < norms[0] < max_grad_norm + 1e-5


def test_the_seed_and_the_schedule(capsys):
    """The seed is that of the weights, too. Of two iterations, the second has half the learning rate."""

    class Short(minimal.Args):
        num_iterations, num_steps, learning_rate = 2, 64, 2e-3

    torch.manual_seed(3)
    env = gym.make("CartPole-v1")
    obs, _ = env.reset(seed=3)
    agent = minimal.PolicyValueNet(4, 2)
    optimizer = torch.optim.Adam(agent.parameters())
    for learning_rate in 2e-3, 1e-3:
        optimizer.param_groups[0]["lr"] = learning_rate
        rollout, obs = minimal.collect_trajectories(env, agent, obs, 64)
        minimal.ppo_update(agent, optimizer, minimal.make_batch(agent, rollout, Short), Short)
    for mine, theirs in zip(agent.parameters(), minimal.train_ppo_cartpole(3, Short).parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_it_learns_copied_alone_into_an_empty_folder(tmp_path):
    """As a user starts it, but for a quarter of its iterations, after which the pole still falls now and then."""
    text = Path(minimal.__file__).read_text()
    (tmp_path / "mine.py").write_text(text.replace("num_iterations = 48", "num_iterations = 12"))
    result = run_script(tmp_path / "mine", "", tmp_path)
    assert result.returncode == 0 and result.stderr == ""
    returns = [int(number) for number in re.findall(r"mean return (\d+) of 500", result.stdout)]
    assert len(returns) == 12 and returns[0] < 50 and returns[-1] > 100
    assert [path.name for path in tmp_path.iterdir()] == ["mine.py"]
