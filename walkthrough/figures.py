"""Draws the pictures of this folder and measures the numbers of its page, from runs of the scripts with fixed seeds.

    pip install -r requirements.txt -r benchmarks/requirements.txt && python walkthrough/figures.py

Numbers go to numbers.json, from where generate.py puts them into the page. Another processor rounds differently, so
there the runs, and with them pictures and numbers, are others of the same kind.
"""

import importlib.util
import json
import sys
import tempfile
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from exercises import FOLDER, changed
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

BLUE, ORANGE, GREEN, RED, PINK = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7"  # told apart by the colour-blind
ACTIONS = ("nothing", "left engine", "main engine", "right engine")
numbers = {}


def load(script, *changes):
    """A script as a module, after these changes of its text."""
    spec = importlib.util.spec_from_loader(script, loader=None)
    module = importlib.util.module_from_spec(spec)
    module.__file__ = f"{script}.py"
    sys.modules[script] = module  # where the data class looks for its module
    exec(compile(changed(script, changes), f"{script}.py", "exec"), module.__dict__)
    return module


def train(module, **flags):
    """Trains with seed 1 and these flags: the agent, its arguments, the curves {tag: [steps, values]}, a checkpoint."""
    args = module.Args(**{"seed": 1, "eval_episodes": 100} | flags)
    print(f"training {args.env_id} for {args.total_timesteps:,} steps", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        agent = module.train(args, Path(folder) / "run")
        events = EventAccumulator(str(Path(folder) / "run"))
        events.Reload()
        curves = {tag: np.array([(e.step, e.value) for e in events.Scalars(tag)]).T for tag in events.Tags()["scalars"]}
        checkpoint = torch.load(Path(folder) / "run" / "checkpoint.pt", weights_only=True)
    return agent, args, curves, checkpoint


@torch.no_grad()
def episode(module, agent, args, seed):
    """One episode of one environment with sampled actions: a rollout of tensors [steps, 1, ...]."""
    envs = module.make_envs(args, 1)
    obs, _ = envs.reset(seed=seed)
    torch.manual_seed(seed)
    steps = []
    while not (steps and steps[-1]["done"].any()):
        actions = agent.act(obs)
        next_obs, rewards, terminated, truncated, _ = envs.step(actions)
        done = terminated | truncated
        steps.append(
            dict(obs=obs, actions=actions, rewards=rewards, next_obs=next_obs, terminated=terminated, done=done)
        )
        obs = next_obs
    envs.close()
    return {name: torch.as_tensor(np.stack([step[name] for step in steps])) for name in steps[0]}


def discounted(rewards, gamma):
    """The discounted return that followed each step, [steps, ...]."""
    returns = np.array(rewards, float)
    for t in reversed(range(len(returns) - 1)):
        returns[t] += gamma * returns[t + 1]
    return returns


def a_landing(module, agent, args):
    """The first episode, by seed, that ends with a landing: the last reward is 100."""
    return next(run for run in (episode(module, agent, args, seed) for seed in range(100)) if run["rewards"][-1] > 90)


def save(figure, name):
    """As svg without background; its grey text can be read on white and on black."""
    figure.savefig(FOLDER / f"{name}.svg", transparent=True, metadata={"Date": None})


@torch.no_grad()
def draw_policy(plt, before, after, run):
    figure, axes = plt.subplots(1, 2, figsize=(9, 3), sharey=True, layout="constrained")
    for axis, agent, title in zip(axes, (before, after), ("before training", "after training"), strict=True):
        policy, _ = agent(run["obs"][:, 0])
        for name, probabilities, color in zip(ACTIONS, policy.probs.T, ("gray", ORANGE, BLUE, GREEN), strict=True):
            axis.plot(probabilities, color=color, label=name, linewidth=1)
        axis.set_title(title)
        axis.set_xlabel("step of the landing")
    axes[0].set_ylabel("probability of the action")
    axes[0].legend(frameon=False)
    save(figure, "policy")
    policy, _ = before(run["obs"][:, 0])
    numbers["first probabilities from"] = f"{policy.probs.min():.3f}"
    numbers["first probabilities to"] = f"{policy.probs.max():.3f}"
    policy, _ = after(run["obs"][:, 0])
    numbers["landing steps"] = str(len(run["obs"]))
    numbers["sure steps"] = f"{100 * (policy.probs.max(-1).values > 0.9).float().mean():.0f} %"


@torch.no_grad()
def draw_values(plt, agent, args, run):
    scale = agent.reward_sum_statistics.rms.item()
    _, values = agent(run["obs"][:, 0])
    followed = discounted(run["rewards"][:, 0], args.gamma)
    figure, axis = plt.subplots(figsize=(9, 3), layout="constrained")
    axis.plot(values * scale, color=BLUE, label="value of the observation")
    axis.plot(followed, color=ORANGE, label="discounted return that followed")
    axis.set_xlabel("step of the landing")
    axis.legend(frameon=False)
    save(figure, "values")
    numbers["value error"] = f"{np.abs(values.numpy() * scale - followed).mean():.0f}"
    numbers["return of the landing"] = f"{run['rewards'].sum():.0f}"
    numbers["reward scale"] = f"{scale:.0f}"


@torch.no_grad()
def draw_advantages(plt, module, agent, args, run):
    _, values = agent(run["obs"])
    _, next_values = agent(run["next_obs"])
    rewards = run["rewards"].float() / agent.reward_sum_statistics.rms
    figure, axis = plt.subplots(figsize=(9, 3), layout="constrained")
    for gae_lambda, color in ((0, ORANGE), (0.95, BLUE), (1, PINK)):
        advantages = module.compute_gae(
            rewards, values, next_values, run["terminated"], run["done"], args.gamma, gae_lambda
        )
        axis.plot(advantages[:, 0], color=color, label=f"lambda {gae_lambda}", linewidth=1)
        numbers[f"deviation lambda {gae_lambda}"] = f"{advantages.std():.2f}"
    axis.axhline(0, color="gray", linewidth=0.5)
    axis.set_xlabel("step of the landing")
    axis.set_ylabel("advantage")
    axis.legend(frameon=False)
    save(figure, "advantages")


def draw_clipping(plt, module, args, checkpoint):
    """One more update of the agent of a checkpoint, epoch by epoch, and its ratios after the first and the last."""
    envs = module.make_envs(args, args.num_envs)
    agent = module.Agent(envs, args)
    optimizer = torch.optim.Adam(agent.parameters(), eps=1e-5)
    module.restore(checkpoint, agent, optimizer)
    optimizer.param_groups[0]["lr"] = 6e-4  # about that after three quarters of a run
    torch.manual_seed(1)
    obs, _ = envs.reset(seed=1)
    rollout, _ = module.collect_trajectories(envs, agent, obs, args.num_steps)
    envs.close()
    batch = module.make_batch(agent, rollout, args)
    args.update_epochs = 1
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True, layout="constrained")
    ratios = np.linspace(0.4, 1.6, 200)
    for axis, sign in zip(axes, (1, -1), strict=True):
        clipped = np.clip(ratios, 1 - args.clip_coef, 1 + args.clip_coef)
        axis.plot(ratios, np.minimum(sign * ratios, sign * clipped), color="gray", linewidth=1)
        axis.set_title("advantage +1" if sign > 0 else "advantage -1")
        axis.set_xlabel("ratio")
    axes[0].set_ylabel("clipped objective")
    kls = []
    for epoch in range(1, 11):
        module.ppo_update(agent, optimizer, batch, args)
        with torch.no_grad():
            policy, _ = agent(batch["obs"])
            log_ratio = policy.log_prob(batch["actions"]) - batch["old_log_probs"]
        ratio = log_ratio.exp()
        kls.append((ratio - 1 - log_ratio).mean().item())
        if epoch in (1, 10):
            outside = (ratio - 1).abs() > args.clip_coef
            numbers[f"outside {epoch}"] = f"{100 * outside.float().mean():.0f} %"
            cut_off = outside & ((ratio > 1) == (batch["advantages"] > 0))
            numbers[f"cut off {epoch}"] = f"{100 * cut_off.float().mean():.0f} %"
            numbers[f"kl {epoch}"] = f"{kls[-1]:.4f}"
            for axis, sign in zip(axes, (1, -1), strict=True):
                chosen = ratio[:256][batch["advantages"][:256].sign() == sign].numpy()
                height = sign * np.where(sign > 0, np.minimum(chosen, 1.2), np.maximum(chosen, 0.8))
                marks = dict(marker=".", color=BLUE, zorder=3) if epoch == 1 else dict(marker="x", color=RED)
                axis.plot(chosen, height, linestyle="", markersize=4, **marks)
    axes[0].plot([], [], ".", color=BLUE, label="after the first epoch")
    axes[0].plot([], [], "x", color=RED, label="after the last epoch")
    for axis in axes:
        axis.set_xlim(0.4, 1.6)
    axes[0].legend(frameon=False)
    save(figure, "clipping")


def draw_health(plt, runs):
    tags = {
        "charts/episodic_return": "return",
        "losses/entropy": "entropy",
        "losses/approx_kl": "approx_kl",
        "losses/clipfrac": "clipfrac",
    }
    figure, axes = plt.subplots(1, 4, figsize=(12, 3), layout="constrained")
    for axis, (tag, name) in zip(axes, tags.items(), strict=True):
        for (label, curves), color in zip(runs.items(), (BLUE, RED, ORANGE, GREEN), strict=True):
            steps, values = curves[tag]
            axis.plot(steps / 1000, values, color=color, label=label, linewidth=1)
            numbers[f"{name} {label}"] = f"{np.mean(values[len(values) // 2 :]):.{2 if name == 'entropy' else 3}f}"
        axis.set_title(name)
        axis.set_xlabel("thousand steps")
    axes[0].set_ylim(-600, 300)
    axes[2].set_yscale("log")
    for label, curves in runs.items():
        numbers[f"end {label}"] = f"{curves['eval/episodic_return'][1][-1]:.0f}"
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    save(figure, "health")


@torch.no_grad()
def draw_time_limits(plt, module, agents, args):
    """Values that a critic has learned of an untrained policy, beside what follows where nothing cuts it off."""
    gym.register("LongPendulum-v0", "gymnasium.envs.classic_control:PendulumEnv", max_episode_steps=2000)
    args.env_id, args.num_envs = "LongPendulum-v0", 32
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharex=True, sharey=True, layout="constrained")
    for axis, (label, agent), color in zip(axes, agents.items(), (BLUE, RED), strict=True):
        envs = module.make_envs(args, args.num_envs)
        torch.manual_seed(1)
        obs, _ = envs.reset(seed=1)
        rollout, _ = module.collect_trajectories(envs, agent, obs, 1500)
        envs.close()
        followed = discounted(rollout["rewards"], args.gamma)[:300:20]  # 1,200 steps on, a reward counts 0.002
        _, values = agent(rollout["obs"][:300:20])
        values = values.numpy() * agent.reward_sum_statistics.rms.item()
        axis.plot(followed.ravel(), values.ravel(), ".", color=color, markersize=3)
        lowest = min(followed.min(), values.min())
        axis.plot([lowest, 0], [lowest, 0], color="gray", linewidth=1)
        axis.set_title(label)
        axis.set_xlabel("discounted return that followed")
        numbers[f"pendulum value {label}"] = f"{values.mean():.0f}"
        numbers[f"pendulum truth {label}"] = f"{followed.mean():.0f}"
    axes[0].set_ylabel("value")
    save(figure, "time_limits")


def main():
    import matplotlib

    matplotlib.use("svg")
    gray = dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), "#7d7d7d")
    matplotlib.rcParams.update(gray | {"svg.hashsalt": "the same file from the same run", "axes.titlesize": "medium"})
    import matplotlib.pyplot as plt

    torch.set_num_threads(1)
    torch.distributions.Distribution.set_default_validate_args(False)
    discrete = load("ppo_discrete")

    args = discrete.Args(seed=1)
    torch.manual_seed(1)
    envs = discrete.make_envs(args, args.num_envs)
    before = discrete.Agent(envs, args)
    rollout, _ = discrete.collect_trajectories(envs, before, envs.reset(seed=1)[0], args.num_steps)
    before.obs_statistics.update(rollout["obs"].flatten(0, 1))
    before.reward_sum_statistics.add_rewards(rollout["rewards"], rollout["done"], args.gamma)
    numbers["ends in a rollout"] = str(rollout["done"].sum().item())
    numbers["steps to the end"] = f"{rollout['done'].numel() / rollout['done'].sum():.0f}"
    after, args, curves, _ = train(discrete, total_timesteps=250_000)
    numbers["trained return"] = f"{curves['eval/episodic_return'][1][-1]:.0f}"
    numbers["first return"] = f"{curves['charts/episodic_return'][1][0]:.0f}"
    for name in ("entropy", "value_loss", "explained_variance"):
        values = curves[f"losses/{name}"][1]
        numbers[f"{name} first"], numbers[f"{name} last"] = f"{values[0]:.2f}", f"{values[-10:].mean():.2f}"
    numbers["policy_loss size"] = f"{np.abs(curves['losses/policy_loss'][1]).mean():.3f}"
    numbers["value_loss size"] = f"{curves['losses/value_loss'][1].mean():.3f}"
    landing = a_landing(discrete, after, args)
    draw_policy(plt, before, after, landing)
    draw_values(plt, after, args, landing)
    draw_advantages(plt, discrete, after, args, landing)

    runs = {}
    for label, flags in {
        "healthy": {},
        "learning rate 0.025": {"learning_rate": 0.025},
        "40 epochs": {"update_epochs": 40},
        "no clipping": {"clip_coef": float("inf")},
    }.items():
        _, args, runs[label], checkpoint = train(discrete, total_timesteps=100_000, **flags)
        if label == "healthy":
            draw_clipping(plt, discrete, args, checkpoint)
    draw_health(plt, runs)

    agents = {}
    critic_only = ("loss = policy_loss + args.vf_coef * value_loss", "loss = args.vf_coef * value_loss")
    ignored = ("next_values, terminated, done, args", "next_values, done, done, args")
    for label, changes in {
        "bootstrap at time limits": [critic_only],
        "time limits as terminations": [critic_only, ignored],
    }.items():
        continuous = load("ppo_continuous", *changes)
        agents[label], args, _, _ = train(continuous, env_id="Pendulum-v1", total_timesteps=100_000)
    draw_time_limits(plt, continuous, agents, args)
    swinging, args, _, _ = train(load("ppo_continuous"), env_id="Pendulum-v1", total_timesteps=100_000)
    numbers["first std"] = f"{np.exp(args.init_log_std):.2f}"
    numbers["last std"] = f"{swinging.log_std.exp().item():.2f}"
    (FOLDER / "numbers.json").write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main()
