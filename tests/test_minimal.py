"""ppo_minimal_cartpole.py; its compute_gae is in test_gae.py."""

import math
import re
import runpy

import gymnasium as gym
import pytest
import torch
from conftest import ROOT, run_script

import ppo_minimal_cartpole as minimal


def collect(num_steps, seed=0):
    torch.manual_seed(seed)
    env = gym.make("CartPole-v1")
    obs, _ = env.reset(seed=seed)
    net = minimal.PolicyValueNet(4, 2)
    data, next_obs = minimal.collect_trajectories(env, net, obs, num_steps)
    return env, net, data, next_obs


def test_the_network_is_two_layers_of_tanh_and_two_heads():
    net, obs = minimal.PolicyValueNet(4, 2, hidden_size=8), torch.randn(5, 4)
    policy, values = net(obs)
    first, second = net.body[0], net.body[2]
    features = torch.tanh(torch.tanh(obs @ first.weight.T + first.bias) @ second.weight.T + second.bias)
    logits = features @ net.policy_head.weight.T + net.policy_head.bias
    torch.testing.assert_close(policy.probs, logits.exp() / logits.exp().sum(-1, keepdim=True))
    torch.testing.assert_close(values, (features @ net.value_head.weight.T + net.value_head.bias)[:, 0])


def test_trajectories():
    """Shapes, and the environment replayed: the same actions give the same observations, rewards and ends."""
    env, net, data, next_obs = collect(100)
    for name, tensor in data.items():
        assert tensor.shape == ((100, 4) if "observations" in name else (100,)), name
    policy, values = net(data["observations"])
    torch.testing.assert_close(data["log_probs"], policy.log_prob(data["actions"]))
    torch.testing.assert_close(data["values"], values)

    env = gym.make("CartPole-v1")
    obs, _ = env.reset(seed=0)
    for t in range(100):
        assert data["observations"][t].tolist() == obs.tolist()
        obs, reward, terminated, truncated, _ = env.step(data["actions"][t].item())
        value = net(torch.as_tensor(obs))[1].item()
        assert data["next_values"][t].item() == pytest.approx(value, abs=1e-5)
        assert data["rewards"][t] == reward and data["terminated"][t] == terminated
        assert data["dones"][t] == (terminated or truncated)
        if terminated or truncated:
            obs, _ = env.reset()
    assert data["dones"].sum() >= 3 and next_obs.tolist() == obs.tolist()


def test_a_time_limit_is_no_termination(monkeypatch):
    make = gym.make
    monkeypatch.setattr(gym, "make", lambda name: make(name, max_episode_steps=5))
    _, _, data, _ = collect(20)
    assert data["dones"].nonzero().flatten().tolist() == [4, 9, 14, 19] and not data["terminated"].any()


@pytest.mark.parametrize(("num_steps", "batch_size"), [(100, 32), (96, 32), (5, 64)])
def test_number_of_optimizer_steps_and_the_first_ratio(monkeypatch, num_steps, batch_size):
    _, net, data, _ = collect(num_steps)
    data |= {"advantages": torch.randn(num_steps), "returns": torch.randn(num_steps)}
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    steps, ratios = [], []
    step, minimum = optimizer.step, torch.min
    monkeypatch.setattr(optimizer, "step", lambda: (steps.append(1), step()))
    monkeypatch.setattr(torch, "min", lambda a, b: (ratios.append(a.detach()), minimum(a, b))[1])
    data["advantages"].fill_(1.0)  # then the first argument of torch.min is the ratio itself
    minimal.ppo_update(net, optimizer, data, epochs=3, batch_size=batch_size)
    assert len(steps) == 3 * math.ceil(num_steps / batch_size)
    assert sum(len(ratio) for ratio in ratios) == 3 * num_steps
    torch.testing.assert_close(ratios[0], torch.ones(len(ratios[0])))
    assert not torch.allclose(ratios[-1], torch.ones(len(ratios[-1])), atol=1e-3)


def test_the_loss_has_the_gradient_of_equation_9():
    """One step of plain gradient descent from one minibatch, against autograd on the paper's formula."""
    _, net, data, _ = collect(40)
    data |= {"advantages": torch.randn(40), "returns": torch.randn(40)}
    data["log_probs"] += 0.3 * torch.randn(40)
    before = [p.detach().clone() for p in net.parameters()]
    logits = net.policy_head(net.body(data["observations"]))
    values = net.value_head(net.body(data["observations"])).flatten()
    probs = logits.softmax(-1)
    ratio = probs[range(40), data["actions"]] / data["log_probs"].exp()
    total = 0
    for i in range(40):
        a, r = data["advantages"][i], ratio[i]
        clipped = 0.8 if r < 0.8 else 1.2 if r > 1.2 else r
        total += -min(r * a, clipped * a) + 0.5 * (values[i] - data["returns"][i]) ** 2
        total -= 0.1 * -(probs[i] * probs[i].log()).sum()
    gradients = torch.autograd.grad(total / 40, list(net.parameters()))
    norm = torch.cat([g.flatten() for g in gradients]).norm()
    minimal.ppo_update(net, torch.optim.SGD(net.parameters(), lr=1.0), data, epochs=1, batch_size=40, entropy_coef=0.1)
    for old, new, gradient in zip(before, net.parameters(), gradients, strict=True):
        torch.testing.assert_close(old - new, gradient * min(1, 0.5 / norm.item()), rtol=1e-4, atol=1e-5)


def test_each_step_has_a_gradient_of_its_own():
    """At a learning rate of 0 the second step's is that of the first; it is too small to be clipped."""
    _, net, data, _ = collect(40)
    data |= {"advantages": 0.01 * torch.randn(40), "returns": data["values"] + 0.01 * torch.randn(40)}
    gradients = []
    for epochs in (1, 2):
        minimal.ppo_update(net, torch.optim.SGD(net.parameters(), lr=0.0), data, epochs=epochs, batch_size=40)
        gradients.append(torch.cat([p.grad.flatten() for p in net.parameters()]))
    assert 0 < gradients[0].norm() < 0.2
    torch.testing.assert_close(*gradients)


def test_seed_and_learning_rate(monkeypatch, capsys):
    """The same seed gives the same weights, another one others; the learning rate falls linearly towards 0."""
    rates = []
    step = torch.optim.Adam.step
    monkeypatch.setattr(
        torch.optim.Adam, "step", lambda self: (rates.append(self.param_groups[0]["lr"]), step(self))[1]
    )
    monkeypatch.setattr(minimal, "evaluate", lambda net, *_: torch.zeros(10))
    resets = []
    reset = gym.wrappers.TimeLimit.reset
    monkeypatch.setattr(
        gym.wrappers.TimeLimit, "reset", lambda self, **kwargs: (resets.append(kwargs), reset(self, **kwargs))[1]
    )
    weights = []
    torch.set_num_threads(2)
    for seed in (3, 3, 4):
        net = minimal.train_ppo_cartpole(seed=seed, num_updates=4, num_steps=64, learning_rate=0.1)
        assert torch.get_num_threads() == 1
        weights.append(torch.cat([p.flatten() for p in net.parameters()]))
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert rates == pytest.approx(3 * [rate for rate in (0.1, 0.075, 0.05, 0.025) for _ in range(10)])
    assert [kwargs["seed"] for kwargs in resets if "seed" in kwargs] == [3, 3, 4]


def test_advantages_and_returns_of_an_update(monkeypatch, capsys):
    """What train_ppo_cartpole hands to ppo_update: normalized advantages, and returns on the scale of the values."""
    seen, advantages = [], []
    monkeypatch.setattr(minimal, "ppo_update", lambda net, optimizer, data: seen.append(data))
    monkeypatch.setattr(minimal, "evaluate", lambda net, *_: torch.zeros(10))
    compute_gae = minimal.compute_gae
    monkeypatch.setattr(
        minimal, "compute_gae", lambda *args: (advantages.append(compute_gae(*args)), advantages[-1])[1]
    )
    minimal.train_ppo_cartpole(num_updates=2, num_steps=64)
    for data, raw in zip(seen, advantages, strict=True):
        assert data["rewards"].tolist() == pytest.approx([0.01] * 64)
        torch.testing.assert_close(data["returns"], raw + data["values"])
        torch.testing.assert_close(data["advantages"], (raw - raw.mean()) / raw.std())


def test_evaluation_takes_the_most_likely_action(monkeypatch):
    """Over whole episodes with seeds of their own, replayed here."""
    torch.manual_seed(1)
    net = minimal.PolicyValueNet(4, 2)
    steps, step = [], gym.wrappers.TimeLimit.step
    monkeypatch.setattr(gym.wrappers.TimeLimit, "step", lambda *args: (steps.append(1), step(*args))[1])
    returns = minimal.evaluate(net, num_episodes=5)
    assert len(steps) == returns.sum()
    expected = []
    for episode in range(5):
        env = gym.make("CartPole-v1")
        obs, _ = env.reset(seed=1_000_000 + episode)
        total, done = 0, False
        while not done:
            logits = net.policy_head(net.body(torch.as_tensor(obs)))
            obs, reward, terminated, truncated, _ = env.step(logits.argmax().item())
            total, done = total + reward, terminated or truncated
        expected.append(total)
    assert returns.tolist() == expected and len(set(expected)) > 1


def test_to_import_it_trains_nothing(capsys):
    runpy.run_path(minimal.__file__, run_name="imported")
    assert capsys.readouterr().out == ""


def test_it_learns(capsys):
    """All of its default training: after two thirds of it, the return still depends on how a processor rounds."""
    minimal.train_ppo_cartpole(seed=1)
    table, result = capsys.readouterr().out.rstrip().rsplit("\n", 1)
    assert [int(line.split()[0]) for line in table.splitlines()] == [4096 * i for i in range(1, 13)]
    assert float(re.search(r"100 greedy episodes: ([\d.]+)", result)[1]) >= 475


@pytest.mark.process
def test_it_runs_copied_alone_into_an_empty_folder(tmp_path):
    script = (ROOT / "ppo_minimal_cartpole.py").read_text()
    assert "num_updates=48" in script
    (tmp_path / "mine.py").write_text(script.replace("num_updates=48", "num_updates=2"))
    result = run_script(tmp_path / "mine", "", tmp_path)
    assert result.returncode == 0 and result.stderr == ""
    assert "100 greedy episodes: " in result.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["mine.py"]
