"""What is collected and learned from, the order of things in `train`, what is logged, and that it can be repeated."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL, env_for, probe_args, refused, run_main, scalars, train
from probes import Seeded


def rollout_of(script, num_steps=64, probe="Numbered", num_envs=3, **kwargs):
    """A rollout of a new agent, the agent, and the observations after it."""
    args = probe_args(script, probe, num_envs=num_envs, **kwargs)
    envs = script.make_envs(args, num_envs)
    agent = script.Agent(envs, args)
    obs, _ = envs.reset(seed=list(range(num_envs)))
    return *script.collect_trajectories(envs, agent, obs, num_steps), agent, args


def test_every_step_is_a_transition(script):
    """`Numbered` numbers the transitions of each environment; its episodes end at random, in both ways."""
    rollout, obs, _, _ = rollout_of(script)
    numbers = torch.arange(64.0).repeat(3, 1).T
    assert torch.equal(rollout["obs"][..., 0], numbers) and torch.equal(rollout["next_obs"][..., 0], numbers + 1)
    assert (obs == 64).all() and rollout["rewards"].eq(1).all()
    assert rollout["terminated"].any() and (rollout["done"] & ~rollout["terminated"]).any()
    assert (rollout["terminated"] <= rollout["done"]).all() and not rollout["done"].all()


def test_only_what_has_ended_is_reset(script):
    """A walk goes on from where the step led, unless it ended there, whatever the walks beside it do."""
    rollout, _, _, _ = rollout_of(script, probe="Walk")
    goes_on = (rollout["obs"][1:] == rollout["next_obs"][:-1]).squeeze(-1)
    assert torch.equal(goes_on, ~rollout["done"][:-1]) and (rollout["done"].sum(1) == 1).any()


@pytest.mark.parametrize("norm_adv", [True, False])
def test_the_batch(script, norm_adv):
    rollout, _, agent, args = rollout_of(script, norm_reward=True, norm_adv=norm_adv)
    agent.reward_sum_statistics.add_rewards(rollout["rewards"], rollout["done"], args.gamma)
    batch = script.make_batch(agent, rollout, args)
    policy, values = agent(rollout["obs"])
    _, next_values = agent(rollout["next_obs"])
    rewards = (rollout["rewards"] / agent.reward_sum_statistics.rms).float()
    ends = rollout["terminated"], rollout["done"]
    advantages = script.compute_gae(rewards, values, next_values, *ends, 0.99, 0.95).flatten()
    torch.testing.assert_close(batch["returns"], advantages + values.flatten())
    if norm_adv:
        advantages = (advantages - advantages.mean()) / advantages.std()
    torch.testing.assert_close(batch["advantages"], advantages)
    torch.testing.assert_close(batch["old_values"], values.flatten())
    torch.testing.assert_close(batch["old_log_probs"], policy.log_prob(rollout["actions"]).flatten())
    assert torch.equal(batch["obs"], rollout["obs"].flatten(0, 1)) and not batch["returns"].requires_grad


def test_the_first_minibatch_finds_the_policy_unchanged(script):
    rollout, _, agent, args = rollout_of(script, norm_obs=True)
    agent.obs_statistics.update(rollout["obs"].flatten(0, 1))
    _, metrics = script.ppo_loss(agent, script.make_batch(agent, rollout, args), args)
    assert abs(metrics["losses/approx_kl"].item()) < 1e-6 and metrics["losses/clipfrac"] == 0


class Recording(torch.optim.SGD):
    """Gradient descent that remembers the gradients, and how often it was asked for a step."""

    def __init__(self, agent, lr):
        super().__init__(agent.parameters(), lr=lr)
        self.agent, self.norms = agent, []

    def step(self):
        self.norms.append(torch.cat([p.grad.flatten() for p in self.agent.parameters()]).norm().item())
        super().step()


def test_each_transition_counts_once_per_epoch(script):
    """At a learning rate of 0, the gradients of an epoch's minibatches add up to that of the batch, in each epoch."""
    rollout, _, agent, args = rollout_of(script, update_epochs=1, num_minibatches=7, max_grad_norm=1e9)
    batch = script.make_batch(agent, rollout, args)
    optimizer = Recording(agent, 0.0)
    seen = []
    agent.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    for _ in range(2):
        script.ppo_update(agent, optimizer, batch, args)
    epochs = [torch.cat(seen[:7]).flatten(), torch.cat(seen[7:]).flatten()]
    assert len(optimizer.norms) == 14 and max(map(len, seen)) - min(map(len, seen)) <= 1
    for epoch in epochs:
        assert torch.equal(epoch.sort().values, batch["obs"].flatten().sort().values)
    assert not torch.equal(*epochs)  # shuffled anew


def test_gradients_are_clipped_and_begin_anew(script):
    rollout, _, agent, args = rollout_of(script, num_minibatches=1, update_epochs=3, max_grad_norm=1e-3)
    optimizer, batch = Recording(agent, 0.0), script.make_batch(agent, rollout, args)
    script.ppo_update(agent, optimizer, batch, args)
    args.max_grad_norm = np.inf
    script.ppo_update(agent, optimizer, batch, args)
    clipped, whole = optimizer.norms[:3], optimizer.norms[3:]
    assert clipped == pytest.approx([1e-3] * 3, rel=1e-2)
    assert whole == pytest.approx([whole[0]] * 3, rel=1e-2) and whole[0] > 2e-3  # a sum would be twice, three times


def test_early_stop_takes_no_step_beyond_the_target(script):
    rollout, _, agent, args = rollout_of(
        script, num_minibatches=1, update_epochs=50, target_kl=1e-3, max_grad_norm=0.05
    )
    optimizer, batch = Recording(agent, 0.1), script.make_batch(agent, rollout, args)
    metrics = script.ppo_update(agent, optimizer, batch, args)
    assert 1 <= len(optimizer.norms) < 50 and 1e-3 < metrics["losses/approx_kl"] < 0.1
    assert not any(value.requires_grad for value in metrics.values())  # who keeps them keeps no graph
    _, after = script.ppo_loss(agent, batch, args)  # the agent is the one that was found beyond it
    assert after["losses/approx_kl"].item() == pytest.approx(metrics["losses/approx_kl"].item(), rel=1e-4)


def curves_of(script, probe, **kwargs):
    """What a run on this probe logs."""
    train(script, probe_args(script, probe, **kwargs))
    return scalars(sorted(Path("runs").glob("*"))[-1])


def test_the_schedule_and_the_number_of_steps(script, in_tmp):
    curves = curves_of(script, "Walk", learning_rate=0.01, total_timesteps=256 * 4 + 100, checkpoint_interval=3)
    assert [step for step, _ in curves["losses/value_loss"]] == [256, 512, 768, 1024]
    learning_rates = [0.01 * (1 - step / 1124) for step in (0, 256, 512, 768)]
    assert [value for _, value in curves["charts/learning_rate"]] == pytest.approx(learning_rates)
    optimizer = torch.load(next(in_tmp.glob("runs/*/checkpoint.pt")), weights_only=True)["optimizer"]
    assert optimizer["param_groups"][0]["eps"] == 1e-5
    assert optimizer["state"][0]["step"] == 4 * 5 * 4  # iterations, epochs, minibatches
    curves = curves_of(script, "Walk", learning_rate=0.01, anneal_lr=False, total_timesteps=512)
    assert [value for _, value in curves["charts/learning_rate"]] == pytest.approx([0.01] * 2)


def test_what_is_logged(script, in_tmp):
    """All tags, at every iteration; returns and lengths are those of the episodes, which the steps add up to."""
    curves = curves_of(script, "Probe", num_envs=2, num_steps=30, total_timesteps=240, env_kwargs={"length": 3})
    losses = "policy_loss value_loss entropy old_approx_kl approx_kl clipfrac explained_variance".split()
    charts = "episodic_return episodic_length learning_rate SPS".split()
    for tag in [f"losses/{name}" for name in losses] + [f"charts/{name}" for name in charts]:
        steps, values = zip(*curves[tag], strict=True)
        assert steps == (60, 120, 180, 240) and np.isfinite(values).all()
    assert [value for _, value in curves["charts/episodic_return"]] == [3] * 4
    assert [value for _, value in curves["charts/episodic_length"]] == [3] * 4
    assert curves["eval/episodic_return"] == [(240, 3.0)]


def test_explained_variance(script, in_tmp):
    """The share of the variance of returns that values explain: 1 but for 1/3 of 20/3."""
    rollout, _, agent, args = rollout_of(script)
    returns = torch.tensor([0.0, 2.0, 4.0, 6.0])
    batch = {"returns": returns, "old_values": returns + torch.tensor([5.0, 6.0, 5.0, 6.0])}
    logger = script.Logger(args, in_tmp / "run", 0, num_envs=3)
    logger.log(args, 1, rollout, batch, {}, Recording(agent, 0.0), print_line=False)
    logger.writer.close()
    assert scalars(in_tmp / "run")["losses/explained_variance"] == [(1, pytest.approx(0.95))]


def test_only_the_latest_hundred_episodes_count(script, in_tmp):
    """Rewards in `Growing` are the number of the episode, each of one step."""
    curves = curves_of(script, "Growing", num_envs=1, num_steps=150, total_timesteps=300, num_minibatches=1)
    returns = [value for _, value in curves["charts/episodic_return"]]
    assert returns == pytest.approx([np.mean(range(51, 151)), np.mean(range(201, 301))])


def test_the_same_seed_gives_the_same_weights(script, in_tmp, capsys):
    weights = []
    for seed in (3, 3, 4):
        args = script.Args(env_id=env_for(script), seed=seed, num_envs=2, num_steps=64, total_timesteps=256)
        args.eval_episodes, args.num_minibatches = 1, 2
        weights.append(torch.cat([p.detach().flatten() for p in train(script, args).parameters()]))
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_training_seeds_share_nothing(script, in_tmp):
    """Of neighbouring seeds, and of a resumed run: `Seeded` observes what its generator was seeded with."""
    seen, acted = [], []
    args = probe_args(script, "Seeded", num_envs=16, num_steps=1, total_timesteps=16, num_minibatches=1)
    args.eval_episodes = 1
    for args.seed, args.total_timesteps in (1, 16), (2, 16), (2, 32):
        if args.total_timesteps == 32:
            args.resume = next(in_tmp.glob("runs/run-1/checkpoint.pt"))
        train(script, args, torch.load(args.resume, weights_only=True) if args.resume else None)
        seen.append(set(Seeded.numbers[-17:-1]))  # the last is of the evaluation
        acted.append(Seeded.actions[-17:-1])
    assert all(len(one) == 16 for one in seen) and not (seen[0] & seen[1] or seen[1] & seen[2] or seen[0] & seen[2])
    assert sum(a != b for a, b in zip(acted[1], acted[2], strict=True)) > 3  # sampled with other noise


def evaluation(script, args, capsys, agent=None):
    agent = agent or script.Agent(script.make_envs(args, 1), args)
    returns = script.evaluate(agent, script.make_envs(args, 1), args, Path("videos"))
    return returns, capsys.readouterr().out


def test_evaluation_runs_each_episode_to_its_own_end(script, in_tmp, capsys):
    """All agents are evaluated on the same episodes; the line says what was found."""
    args = probe_args(script, "Numbered", eval_episodes=10)
    returns, output = evaluation(script, args, capsys)
    args.seed = 2
    again, _ = evaluation(script, args, capsys)
    assert returns.tolist() == again.tolist() and len(set(returns)) > 2
    assert re.fullmatch(rf"greedy return {returns.mean():.2f} \+- {returns.std():.2f} over 10 episodes\n", output)


def test_episodes_without_end_are_cut_off_and_counted(script, in_tmp, capsys):
    args = probe_args(script, "Probe", eval_episodes=1, env_kwargs={"length": 15_000})
    returns, output = evaluation(script, args, capsys)
    assert returns == [10_000] and "over 1 episodes, 1 of them cut off after 10000 steps" in output
    args = probe_args(script, "Probe", eval_episodes=1, env_kwargs={"length": 15_000, "max_episode_steps": 30})
    returns, output = evaluation(script, args, capsys)
    assert returns == [30] and "cut off" not in output
    args.env_id, args.env_kwargs = env_for(script, "MountainCar-v0"), '{"max_episode_steps": 300}'  # 200 as registered
    assert "cut off" not in evaluation(script, args, capsys)[1]


def test_the_run_says_how_it_goes(script, in_tmp, monkeypatch, capsys):
    run_main(script, monkeypatch, "--env-id", env_for(script), *SMALL.split(), "--total-timesteps", "1000")
    *lines, evaluation_line, last = capsys.readouterr().out.splitlines()
    assert len(lines) == 16  # after every second of 31 iterations, and at the end
    assert all(re.fullmatch(r"step \d+/1000: \d+ steps/s(, return -?[\d.]+)?", line) for line in lines)
    assert lines[0].startswith("step 64/1000")
    assert lines[-1].startswith("step 992/1000")  # whole iterations only, but the last line is of the last one
    assert evaluation_line.startswith("greedy return ") and " over 2 episodes" in evaluation_line
    run_dir = next(in_tmp.glob("runs/*")).relative_to(in_tmp)
    assert re.fullmatch(rf"\d+ steps per second, run saved in {run_dir}", last)
    assert "nan" not in "".join(lines)


def test_a_fork_may_train_for_no_iteration(script, in_tmp, capsys):
    script.train(script.Args(env_id=env_for(script), total_timesteps=1, eval_episodes=1), in_tmp / "run")
    assert "0 steps per second" in capsys.readouterr().out


@pytest.mark.parametrize("on_a_terminal", [True, False])
def test_a_bar_on_a_terminal_only(script, on_a_terminal, in_tmp, monkeypatch):
    errors = io.StringIO()
    errors.isatty = lambda: on_a_terminal
    monkeypatch.setattr("sys.stderr", errors)
    train(script, probe_args(script, "Probe", total_timesteps=8 * 32 * 2, eval_episodes=1))
    assert ("2/2" in errors.getvalue()) == on_a_terminal


@pytest.mark.parametrize("where", ["observation", "reset", "reward"])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e25])
def test_numbers_that_are_not_finite_stop_the_run(script, where, value, in_tmp, monkeypatch):
    """The line names what it was, and the checkpoint of before stays."""
    env_kwargs = {"where": where, "at": 100, "value": value}
    args = probe_args(script, "NonFinite", env_kwargs, num_envs=1, total_timesteps=32 * 8, checkpoint_interval=1)
    with pytest.raises(SystemExit, match="error: (next_obs|rewards|obs) must be below 1e"):
        train(script, args)
    checkpoint = torch.load(next(in_tmp.glob("runs/*/checkpoint.pt")), weights_only=True)
    assert checkpoint["global_step"] == 96
    assert all(tensor.isfinite().all() for tensor in checkpoint["agent"].values())


def test_large_numbers_do_not_stop_the_run(script, in_tmp):
    """The sum of their squares is beyond float32."""
    env_kwargs = {"where": "observation", "value": 9e17}
    agent = train(script, probe_args(script, "NonFinite", env_kwargs, norm_obs=True, total_timesteps=2048))
    assert agent.obs_statistics.totals[2].item() > 1e39 / 3


def test_a_diverged_run_stops(script, in_tmp, monkeypatch):
    flags = f"--env-id {env_for(script)} {SMALL} --vf-coef 1e38 --max-grad-norm inf".split()
    assert "must be below inf" in refused(script, monkeypatch, *flags)
    assert not list(in_tmp.glob("runs/*/checkpoint.pt"))
