"""What enters the loss, the order of things in `train`, and that it can be repeated."""

import importlib

import gymnasium as gym
import numpy as np
import probes
import pytest
import torch
from conftest import SMALL, env_for, probe_args, run_script, train
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def spy(monkeypatch, owner, name, before=None, after=None):
    """Calls `before(*args)` and `after(result, *args)` around each call of a function."""
    function = getattr(owner, name)

    def spied(*args, **kwargs):
        if before:
            before(*args, **kwargs)
        result = function(*args, **kwargs)
        if after:
            after(result, *args, **kwargs)
        return result

    monkeypatch.setattr(owner, name, spied)


def test_every_transition_enters_the_loss_once_per_epoch_and_no_reset_step_does(script, in_tmp, monkeypatch):
    """`Numbered` numbers its transitions, per environment, so a transition is known by its observation."""
    batches = []  # the observations of each minibatch
    spy(
        monkeypatch,
        script.Agent,
        "log_prob_and_entropy",
        lambda agent, obs, actions: batches.append(obs.flatten().tolist()),
    )
    args = probe_args(script, "Numbered", num_envs=1, num_steps=64, total_timesteps=64, num_minibatches=4)
    train(script, args)
    whole, *minibatches, whole_after = batches
    assert whole == whole_after
    assert len(minibatches) == args.update_epochs * args.num_minibatches
    orders = []
    for epoch in range(args.update_epochs):
        parts = minibatches[epoch * args.num_minibatches : (epoch + 1) * args.num_minibatches]
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        order = sum(parts, [])
        assert sorted(order) == whole == list(range(len(whole)))
        orders.append(order)
    assert len({tuple(order) for order in orders}) == args.update_epochs  # shuffled anew
    assert 32 <= len(whole) < 64


def test_cartpole_reset_steps_are_left_out(script, in_tmp, monkeypatch):
    """On CartPole-v1 itself: as many transitions in the loss as there were calls of the environments' own step."""
    if script.__name__ == "ppo_continuous":
        pytest.skip("CartPole has discrete actions; Numbered tests the same for both scripts")
    from gymnasium.envs.classic_control import CartPoleEnv

    steps, lengths, terminations = [], [], []
    spy(monkeypatch, CartPoleEnv, "step", after=lambda result, *_: steps.append(result))
    spy(monkeypatch, script, "ppo_loss", before=lambda agent, batch, *_: lengths.append(len(batch["normalized_obs"])))
    spy(monkeypatch, script, "evaluate", before=lambda *_, **__: terminations.append(len(steps)))
    args = script.Args(env_id="CartPole-v1", num_envs=4, num_steps=256, total_timesteps=4 * 256 * 2, update_epochs=3)
    train(script, args)
    (transitions,) = terminations  # made before the evaluation
    resets = sum(terminated or truncated for _, _, terminated, truncated, _ in steps[:transitions])
    assert resets > 50
    assert sum(lengths) == (args.update_epochs + 1) * transitions  # and once more, for what is logged
    assert args.total_timesteps - resets <= transitions <= args.total_timesteps - resets + args.num_envs


def test_the_first_minibatch_finds_the_policy_unchanged(script, in_tmp, monkeypatch):
    """Before an iteration's first step the ratio is 1, whatever the normalization does between iterations."""
    ratios = []
    spy(monkeypatch, script, "ppo_loss", after=lambda result, *_: ratios.append(result[2].detach()))
    args = script.Args(
        env_id=env_for(script), num_envs=2, num_steps=64, total_timesteps=512, eval_episodes=1, target_kl=None
    )
    train(script, args)
    per_iteration = args.update_epochs * args.num_minibatches + 1  # the last one is for what is logged
    assert len(ratios) == 4 * per_iteration
    for iteration in range(4):
        assert (ratios[iteration * per_iteration] - 1).abs().max() < 1e-5
        assert (ratios[iteration * per_iteration + 1] - 1).abs().max() > 1e-5


def test_early_stop(script, in_tmp, monkeypatch):
    """The update ends with the first minibatch whose KL is too large, and that minibatch takes no step."""
    kls, steps = [], []
    spy(monkeypatch, script, "ppo_loss", after=lambda result, *_: kls.append(result[1]["approx_kl"].item()))
    spy(monkeypatch, torch.optim.Adam, "step", before=lambda *_: steps.append(len(kls)))
    args = script.Args(
        env_id=env_for(script), num_envs=2, num_steps=64, total_timesteps=128, target_kl=1e-3, eval_episodes=1
    )
    train(script, args)
    kls.pop()  # of the whole batch, for what is logged
    assert len(kls) < args.update_epochs * args.num_minibatches
    assert kls[-1] > 1e-3 and all(kl <= 1e-3 for kl in kls[:-1])
    assert len(steps) == len(kls) - 1


def test_learning_rate_schedule_and_epsilon(script, in_tmp, monkeypatch):
    rates = []
    spy(monkeypatch, torch.optim.Adam, "step", before=lambda self, *_: rates.append(self.param_groups[0]["lr"]))
    args = script.Args(
        env_id=env_for(script), num_envs=2, num_steps=8, total_timesteps=4 * 16 + 15, learning_rate=0.1,
        num_minibatches=1, update_epochs=1, eval_episodes=1,
    )  # fmt: skip
    train(script, args)
    assert rates == pytest.approx([0.1, 0.075, 0.05, 0.025])
    (checkpoint,) = in_tmp.glob("runs/*/checkpoint.pt")
    assert torch.load(checkpoint)["optimizer"]["param_groups"][0]["eps"] == 1e-5
    rates.clear()
    args.anneal_lr = False
    train(script, args)
    assert rates == [0.1] * 4


@pytest.mark.parametrize(("target", "betas"), [(1e9, [1, 0.5, 0.25, 0.125]), (1e-12, [1, 2, 4, 8])])
def test_adaptive_kl_penalty(script, in_tmp, monkeypatch, target, betas):
    seen = []
    spy(monkeypatch, script, "ppo_loss", before=lambda *args: seen.append(args[-2]))
    args = script.Args(
        env_id=env_for(script), num_envs=2, num_steps=64, total_timesteps=4 * 128, adaptive_kl=target,
        num_minibatches=1, update_epochs=2, eval_episodes=1,
    )  # fmt: skip
    train(script, args)
    assert seen[::3] == seen[1::3] == seen[2::3] == betas


def test_the_penalty_changes_where_the_kl_is_off_by_more_than_half(script, in_tmp, monkeypatch):
    """PPO paper, section 4: its weight halves below 2/3 of the target, doubles above 3/2, and stays in between."""
    ppo_loss, betas, kls = script.ppo_loss, [], iter([0.6, 0.7, 1.4, 1.6, 1.0])

    def loss_with_given_kl(*args):
        betas.append(args[-2])
        loss, metrics, ratio = ppo_loss(*args)
        if len(betas) % 2 == 0:  # the second loss of an iteration is that of the whole batch
            metrics["approx_kl"] = torch.tensor(next(kls))
        return loss, metrics, ratio

    monkeypatch.setattr(script, "ppo_loss", loss_with_given_kl)
    args = script.Args(
        env_id=env_for(script), num_envs=2, num_steps=16, total_timesteps=5 * 32, adaptive_kl=1.0, target_kl=None,
        num_minibatches=1, update_epochs=1, eval_episodes=1,
    )  # fmt: skip
    train(script, args)
    assert betas[::2] == [1.0, 0.5, 0.5, 0.5, 1.0]


def test_training_uses_one_thread_and_closes_its_environments(script, in_tmp, monkeypatch):
    threads, opened, closed = set(), [], []
    flags = ["--env-id", "probes:Probe-v0", *SMALL.split()]
    flags += ["--env-kwargs", '{"continuous": true}'] if script.__name__ == "ppo_continuous" else []
    monkeypatch.setattr("sys.argv", [script.__file__, *flags])
    torch.set_num_threads(2)
    spy(monkeypatch, script.Agent, "act", before=lambda *_, **__: threads.add(torch.get_num_threads()))
    spy(monkeypatch, script, "make_envs", after=lambda envs, *_, **__: opened.append(envs))
    spy(monkeypatch, gym.vector.SyncVectorEnv, "close", before=lambda envs, **_: closed.append(envs))
    script.main()
    assert threads == {1} and len(opened) == 2  # for training and for the evaluation
    assert closed == [envs.unwrapped for envs in opened]


def test_advantages_are_normalized_over_the_batch(script, in_tmp, monkeypatch):
    seen = []
    spy(monkeypatch, script, "ppo_loss", before=lambda agent, batch, *_: seen.append(batch["advantages"]))
    args = script.Args(env_id=env_for(script), num_envs=2, num_steps=64, total_timesteps=128, eval_episodes=1)
    train(script, args)
    epoch = torch.cat(seen[: args.num_minibatches])
    assert epoch.mean().item() == pytest.approx(0, abs=1e-5) and epoch.std(correction=0).item() == pytest.approx(1)
    seen.clear()
    args.norm_adv = False
    train(script, args)
    assert torch.cat(seen[: args.num_minibatches]).mean().abs() > 1e-3


@pytest.mark.parametrize(("truncate", "centered"), [("true", False), ("false", True)])
def test_advantages_of_actions_that_are_worth_the_same_are_not_centered(
    script, in_tmp, monkeypatch, truncate, centered
):
    """Each step earns 1: only a termination can make a difference; a time limit and the reset after it can't."""
    seen, epochs = [], {}
    spy(monkeypatch, script, "ppo_loss", before=lambda agent, batch, *_: seen.append(batch["advantages"]))
    env_kwargs = f'{{"length": 3, "truncate": {truncate}, '
    args = probe_args(script, "Probe", env_kwargs=env_kwargs, num_envs=2, num_steps=64, total_timesteps=128)
    for args.norm_adv in (False, True):
        seen.clear()
        train(script, args)
        epochs[args.norm_adv] = torch.cat(seen[: args.num_minibatches])
    advantages = epochs[False] - centered * epochs[False].mean()
    assert epochs[False].mean().abs() > 0.01
    torch.testing.assert_close(epochs[True], advantages / epochs[False].std(correction=0))


def test_gradients_are_clipped(script, in_tmp, monkeypatch):
    norms = []

    def norm(optimizer, *_):
        norms.append(torch.cat([p.grad.flatten() for p in optimizer.param_groups[0]["params"]]).norm().item())

    spy(monkeypatch, torch.optim.Adam, "step", before=norm)
    args = script.Args(
        env_id=env_for(script), num_envs=2, num_steps=64, total_timesteps=256, max_grad_norm=1e-3, eval_episodes=1
    )
    train(script, args)
    assert max(norms) == pytest.approx(1e-3, rel=1e-2) and min(norms) > 0


def test_observation_statistics(script, in_tmp, monkeypatch):
    """They are those of all valid observations, and change once per iteration: never between rollout and update."""
    seen, batches, changes = [], [], []

    def snapshot(agent):
        return torch.cat([agent.obs_rms.mean, agent.obs_rms.std, agent.obs_rms.count[None]]).tolist()

    spy(monkeypatch, script.Agent, "act", before=lambda agent, *_, **__: seen.append(("act", snapshot(agent))))
    spy(
        monkeypatch,
        script.Agent,
        "log_prob_and_entropy",
        before=lambda agent, *_: seen.append(("update", snapshot(agent))),
    )
    spy(
        monkeypatch,
        script.RunningMeanStd,
        "update",
        before=lambda rms, b: batches.append(b) if rms.mean.dim() else None,
    )
    args = probe_args(script, "Numbered", num_envs=3, num_steps=20, total_timesteps=60 * 4, norm_obs=True)
    args.eval_episodes = 1
    agent = train(script, args)

    all_obs = torch.cat(batches)
    assert len(batches) == 4 and 100 < len(all_obs) < 240
    numbers = all_obs.flatten().tolist()
    assert max(numbers.count(n) for n in set(numbers)) <= 3  # one transition of that number in each environment
    torch.testing.assert_close(agent.obs_rms.mean, all_obs.mean(0))
    torch.testing.assert_close(agent.obs_rms.std, all_obs.std(0, correction=0))
    assert agent.obs_rms.count == len(all_obs)

    changes = [i for i in range(1, len(seen)) if seen[i][1] != seen[i - 1][1]]
    per_update = 2 + args.update_epochs * args.num_minibatches
    per_iteration = args.num_steps + per_update
    # The first rollout's statistics count at once; from then on they change between an update and the next rollout.
    assert changes == [args.num_steps] + [i * per_iteration for i in (2, 3, 4)]
    x = agent.normalize(all_obs)
    assert x.mean().item() == pytest.approx(0, abs=1e-4) and x.std(correction=0).item() == pytest.approx(1, abs=1e-4)


def test_logged_losses_are_those_of_the_whole_batch_after_the_update(script, in_tmp, monkeypatch):
    """Recomputed from the batch that ppo_loss is given last, by the formulas of test_loss.py."""
    batches, norms, returns_of_evaluation = [], [], []
    spy(monkeypatch, torch.nn.utils, "clip_grad_norm_", after=lambda norm, *_: norms.append(norm))
    spy(monkeypatch, script, "evaluate", after=lambda returns, *_: returns_of_evaluation.append(returns))
    spy(monkeypatch, script, "ppo_loss", before=lambda agent, batch, *_: batches.append(batch))
    args = script.Args(
        env_id=env_for(script),
        num_envs=2,
        num_steps=64,
        total_timesteps=128,
        learning_rate=1e-2,
        target_kl=None,
        eval_episodes=3,
    )
    agent = train(script, args)
    names = ("normalized_obs", "actions", "old_log_probs", "old_values", "advantages", "returns")
    obs, actions, old_log_probs, old_values, advantages, returns = (batches[-1][name] for name in names)
    assert len(obs) == sum(len(batch["normalized_obs"]) for batch in batches[: args.num_minibatches])
    with torch.no_grad():
        log_probs, entropy = agent.log_prob_and_entropy(obs, actions)
        values = agent.critic(obs)[:, 0]
    assert log_probs.shape == values.shape == old_values.shape == returns.shape
    ratio = (log_probs - old_log_probs).exp()
    clipped = ratio.clamp(0.8, 1.2)
    expected = {
        "policy_loss": -torch.min(ratio * advantages, clipped * advantages).mean(),
        "value_loss": ((values - returns) ** 2).mean() / 2,
        "entropy": entropy.mean(),
        "old_approx_kl": (old_log_probs - log_probs).mean(),
        "approx_kl": (ratio - 1 - ratio.log()).mean(),
        "clipfrac": (ratio != clipped).float().mean(),
        "explained_variance": 1 - (returns - old_values).var() / returns.var(),
        "grad_norm": torch.stack(norms).mean(),
    }
    events = EventAccumulator(str(next((in_tmp / "runs").iterdir())))
    events.Reload()
    for name, value in expected.items():
        assert events.Scalars(f"losses/{name}")[0].value == pytest.approx(value.item(), rel=1e-4, abs=1e-6), name
    assert 0 < expected["clipfrac"] < 1
    (evaluation,) = events.Scalars("eval/episodic_return")
    assert evaluation.step == 128 and evaluation.value == pytest.approx(returns_of_evaluation[0].mean(), rel=1e-5)


def test_episode_statistics(script, in_tmp, monkeypatch):
    """charts/episodic_return and _length against what the environments themselves saw, in every iteration."""
    iterations, episodes, expected = 24, [], []

    def count(result, env, action):
        env.so_far = [*getattr(env, "so_far", []), result[1]]
        if result[2] or result[3]:
            episodes.append((sum(env.so_far), len(env.so_far)))
            env.so_far = []

    spy(monkeypatch, probes.Walk, "step", after=count)
    spy(monkeypatch, script, "compute_gae", before=lambda *_: expected.append(np.mean(episodes[-100:], 0)))
    args = probe_args(script, "Walk", num_envs=3, num_steps=60, total_timesteps=180 * iterations, eval_episodes=1)
    args.update_epochs = 1
    train(script, args)
    events = EventAccumulator(str(next((in_tmp / "runs").iterdir())))
    events.Reload()
    logged = [[e.value for e in events.Scalars(f"charts/episodic_{name}")] for name in ("return", "length")]
    np.testing.assert_allclose(np.transpose(logged), expected, rtol=1e-5)
    assert len(episodes) > 150  # and only 100 of them count


def test_rewards_are_scaled_by_the_deviation_of_discounted_returns(script, in_tmp, monkeypatch):
    scaled, updates = [], []
    spy(monkeypatch, script, "compute_gae", before=lambda rewards, *_: scaled.append(rewards))
    spy(monkeypatch, script.RunningMeanStd, "update", before=lambda rms, b: updates.append(b))
    args = probe_args(script, "Probe", num_envs=2, num_steps=33, total_timesteps=66, gamma=0.5, norm_reward=True)
    args.norm_adv = False  # which has statistics of its own
    args.env_kwargs = args.env_kwargs.replace("{", '{"length": 3, ')
    train(script, args)
    (returns,) = updates
    # Episodes of three steps and a reset step: the discounted sums 1, 1.5, 1.75, and no entry for the reset.
    expected = torch.tensor(([1.0, 1.5, 1.75] * 9)[:25])
    torch.testing.assert_close(returns, expected.repeat_interleave(2))
    assert scaled[0].max().item() == pytest.approx(1 / returns.std(correction=0).item(), rel=1e-4)
    args.norm_reward = False
    train(script, args)
    assert scaled[1].max() == 1


@pytest.mark.process
def test_same_seed_same_weights(script, tmp_path):
    """Bit by bit, in separate processes; another seed gives other weights."""
    weights = []
    for run, seed in enumerate((3, 3, 4)):
        (tmp_path / str(run)).mkdir()
        flags = f"--env-id {env_for(script)} {SMALL} --num-steps 64 --total-timesteps 640 --seed {seed}"
        result = run_script(script.__name__, flags, tmp_path / str(run))
        assert result.returncode == 0, result.stderr
        (checkpoint,) = (tmp_path / str(run)).glob("runs/*/checkpoint.pt")
        agent = torch.load(checkpoint, weights_only=True)["agent"]
        weights.append(torch.cat([tensor.flatten() for tensor in agent.values()]))
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_the_seed_is_that_of_everything(script, in_tmp, monkeypatch):
    """In one process: the same seed, the same first observations, actions and weights; another seed, others."""
    seen, runs = [], []
    spy(monkeypatch, script.Agent, "act", after=lambda result, agent, obs, **_: seen.append((obs.copy(), result)))
    for seed in (3, 3, 4):
        seen.clear()
        args = script.Args(env_id=env_for(script), num_envs=2, num_steps=64, total_timesteps=256, eval_episodes=1)
        args.seed = seed
        agent = train(script, args)
        runs.append((*seen[0], torch.cat([p.detach().flatten() for p in agent.parameters()]).numpy()))
    first, again, other = runs
    assert all(np.array_equal(mine, theirs) for mine, theirs in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0]) and not np.array_equal(first[2], other[2])
    assert not np.array_equal(first[0][0], first[0][1])  # each environment has its own seed


def test_evaluation_runs_each_episode_to_its_own_end(script, in_tmp, monkeypatch):
    """Ten episodes of `Numbered`, whose lengths are random and whose returns are their lengths."""
    args = probe_args(script, "Numbered", total_timesteps=256)
    agent = train(script, args)
    steps = []
    spy(monkeypatch, gym.vector.SyncVectorEnv, "step", before=lambda *_: steps.append(1))
    returns = script.evaluate(agent, args, 10)
    env = gym.make("probes:Numbered-v0")
    lengths = []
    for i in range(10):
        env.reset(seed=args.seed + 1_000_000 + i)
        done, length = False, 0
        while not done:
            _, _, terminated, truncated, _ = env.step(None)
            done, length = terminated or truncated, length + 1
        lengths.append(length)
    assert returns.tolist() == lengths and len(set(lengths)) > 2 and len(steps) == sum(lengths)
    np.testing.assert_array_equal(returns, script.evaluate(agent, args, 10))


def test_evaluation_is_greedy(script):
    """An agent that only slightly prefers the rewarded action takes it in every episode."""
    args = probe_args(script, "ActionReward")
    agent = script.Agent(script.make_envs(args, 1, "sync"), args)
    with torch.no_grad():
        agent.actor[-1].weight.zero_()
        agent.actor[-1].bias[-1] = 0.01
    assert script.evaluate(agent, args, 30).tolist() == [1.0] * 30


def test_evaluation_takes_the_time_limit_of_env_kwargs(script):
    args = probe_args(script, "Probe")
    args.env_kwargs = args.env_kwargs.replace("{", '{"length": 500, "max_episode_steps": 30, ')
    agent = script.Agent(script.make_envs(args, 1, "sync"), args)
    assert script.evaluate(agent, args, 2).tolist() == [30, 30]
    if script.__name__ == "ppo_discrete":  # this one has a limit of its own, 500, and ends earlier without this policy
        args = script.Args(env_id="MountainCar-v0", env_kwargs='{"max_episode_steps": 300}')
        agent = script.Agent(script.make_envs(args, 1, "sync"), args)
        assert script.evaluate(agent, args, 1) == [-300]


def test_environments_may_have_an_info_named_episode(script, in_tmp, monkeypatch):
    step = probes.Probe.step
    monkeypatch.setattr(probes.Probe, "step", lambda self, action: (*step(self, action)[:4], {"episode": {"r": 5.0}}))
    train(script, probe_args(script, "Probe", total_timesteps=256, update_epochs=1, eval_episodes=1))


@pytest.mark.parametrize("env", ["Int8", "Bytes", "Matrix"])
def test_unusual_spaces(env, in_tmp):
    script = importlib.import_module("ppo_discrete")
    args = script.Args(
        env_id=f"probes:{env}-v0", num_envs=2, num_steps=16, total_timesteps=64, num_minibatches=2, eval_episodes=1
    )
    train(script, args)


def test_an_evaluation_without_end_is_cut_off(script):
    args = probe_args(script, "Probe")
    args.env_kwargs = args.env_kwargs.replace("{", '{"length": 20000, ')
    agent = script.Agent(script.make_envs(args, 1, "sync"), args)
    assert script.evaluate(agent, args, 1) == [10_000]
