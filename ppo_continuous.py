"""PPO for continuous actions (proximal policy optimization) in one file, to be read from top to bottom.

    python ppo_continuous.py --env-id BipedalWalker-v3                    # train
    python ppo_continuous.py --evaluate runs/.../checkpoint.pt --render   # watch the trained agent
    torchrun --standalone --nproc-per-node 2 ppo_continuous.py            # train in two processes
    tensorboard --logdir runs                                             # look at the curves

Equations are those of the PPO paper (Schulman et al. 2017, https://arxiv.org/abs/1707.06347) and of the paper on
generalized advantage estimation, GAE (Schulman et al. 2016, https://arxiv.org/abs/1506.02438).
"""

# /// script
# requires-python = ">=3.11"
# dependencies = ["gymnasium[box2d]==1.4.0", "moviepy==2.2.1", "tensorboard==2.21.0", "torch==2.13.0",
#     "tqdm==4.70.1", "tyro==1.0.16"]
# ///

import json
import math
import os
import pickle
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal, get_type_hints

import gymnasium as gym
import numpy as np
import torch
import torch.distributed as dist
import tyro
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

Count = Annotated[int, (1, math.inf)]  # with the range that check_args allows
Amount = Annotated[float, (0, math.inf)]
Fraction = Annotated[float, (0, 1)]
Limit = Annotated[float | None, (0, math.inf)]


@dataclass
class Args:
    """Train PPO, resume a run, or evaluate one: the defaults are then the flags of its checkpoint."""

    env_id: str = "LunarLanderContinuous-v3"  # Gymnasium id; `module:Env-v0` first imports the module
    env_kwargs: str = "{}"  # keyword arguments of the environment as JSON, such as '{"enable_wind": true}'
    total_timesteps: Count = 500_000  # environment steps to train for, all environments together
    exp_name: str = Path(__file__).stem  # name of the experiment, part of the run directory's name
    seed: Annotated[int, (0, math.inf)] = 1  # of the environments, the initial weights, the actions and the minibatches
    torch_deterministic: bool = True  # use only deterministic cuDNN kernels
    cuda: bool = False  # put the networks on a GPU; networks as small as these are faster on a CPU
    capture_video: bool = False  # record greedy episodes, of this command: at each tenth of training, or of --evaluate
    save_model: bool = True  # write checkpoint.pt into the run directory, at intervals and at the end
    checkpoint_interval: Count = 10  # iterations from one checkpoint to the next
    resume: str | None = None  # path of the checkpoint to go on from; a higher --total-timesteps extends the run
    evaluate: str | None = None  # path of a checkpoint to evaluate instead of training
    eval_episodes: Count = 100  # greedy episodes of the evaluation
    render: bool = False  # with --evaluate: show the episodes in a window, unless --capture-video records them
    num_envs: Count = 32  # environments stepped side by side
    num_steps: Count = 128  # steps of each environment per iteration; num-envs * num-steps make a batch
    vectorization_mode: Literal["sync", "async", "vector_entry_point"] = "sync"  # how Gymnasium steps them
    learning_rate: Amount = 5e-4  # of Adam, at the start
    anneal_lr: bool = True  # lower the learning rate linearly, towards 0 at the end
    hidden_size: Count = 64  # width of the two hidden layers of the actor, and of the critic
    init_log_std: float = -0.25  # log of the initial standard deviation of actions, 1 being half the box
    norm_obs: bool = True  # normalize observations by their running mean and standard deviation
    norm_reward: bool = True  # divide rewards by the running standard deviation of the discounted return
    gamma: Fraction = 0.995  # discount factor
    gae_lambda: Fraction = 0.95  # lambda of GAE: 0 is one-step TD, 1 Monte-Carlo returns
    num_minibatches: Count = 16  # minibatches per epoch
    update_epochs: Count = 10  # passes over the batch per iteration
    norm_adv: bool = True  # normalize the advantages of a batch to mean 0 and standard deviation 1
    clip_coef: Amount = 0.2  # epsilon of the clipped objective
    clip_vloss: bool = False  # clip the change of the values by clip-coef, too
    ent_coef: Amount = 0.0  # weight of the entropy bonus
    vf_coef: Amount = 0.5  # weight of the value loss
    max_grad_norm: Amount = 5.0  # largest norm of a gradient; longer gradients are scaled down to it
    target_kl: Limit = 0.05  # stop an iteration's update before the first minibatch with a larger KL
    adaptive_kl: Limit = None  # KL that beta, the weight of a KL penalty on top of clipping, is adapted to


def mlp(num_inputs: int, hidden_size: int, num_outputs: int, output_gain: float) -> nn.Sequential:
    """Orthogonal weights, zero biases (Huang et al. 2022, "The 37 Implementation Details of PPO", detail 2)."""
    first, second = nn.Linear(num_inputs, hidden_size), nn.Linear(hidden_size, hidden_size)
    last = nn.Linear(hidden_size, num_outputs)
    for layer, gain in (first, math.sqrt(2)), (second, math.sqrt(2)), (last, output_gain):
        nn.init.orthogonal_(layer.weight, gain)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), last)


class Agent(nn.Module):
    """Actor and critic: separate networks that see the same normalized observations."""

    def __init__(self, envs: gym.vector.VectorEnv, args: Args):
        super().__init__()
        obs_dim, action_dim = envs.single_observation_space.shape[0], envs.single_action_space.shape[0]
        self.obs_rms = RunningMeanStd(obs_dim) if args.norm_obs else None
        self.actor = mlp(obs_dim, args.hidden_size, action_dim, 0.01)  # mean actions, close to 0 at first
        self.log_std = nn.Parameter(torch.full((action_dim,), args.init_log_std))  # the same in every state
        self.critic = mlp(obs_dim, args.hidden_size, 1, 1.0)

    def normalize(self, obs: torch.Tensor) -> torch.Tensor:  # [..., obs_dim] -> [..., obs_dim]
        return ((obs - self.obs_rms.mean) / self.obs_rms.std).clamp(-10, 10) if self.obs_rms else obs

    def act(self, obs: np.ndarray, greedy: bool = False) -> np.ndarray:  # [num_envs, obs_dim] -> [num_envs, action_dim]
        mean = self.actor(self.normalize(torch.as_tensor(obs, dtype=torch.float32)))
        return (mean if greedy else mean + self.log_std.exp() * torch.randn_like(mean)).cpu().numpy()

    def log_prob_and_entropy(self, normalized_obs, actions):  # [batch, obs_dim], [batch, action_dim] -> [batch], []
        noise = (actions - self.actor(normalized_obs)) / self.log_std.exp()  # as torch.distributions.Normal, but faster
        log_probs = (-0.5 * noise.square() - self.log_std - 0.5 * math.log(2 * math.pi)).sum(-1)
        return log_probs, (self.log_std + 0.5 * math.log(2 * math.pi * math.e)).sum()


def compute_gae(rewards, values, terminated, done, gamma, gae_lambda):
    """Advantages, [num_steps, num_envs], by GAE: equation 16 of its paper, equations 11 and 12 of the PPO paper.

    Step t leads from observation t to t + 1 and earns `rewards[t]`, [num_steps, num_envs]. `values`, `terminated` and
    `done`, [num_steps + 1, num_envs], are about observation t: its value, and whether it was the last of an episode.
    After a termination nothing more is earned; an episode cut off by a time limit could have gone on, so there the
    value of its last observation counts. Where `done[t]`, step t only resets: its advantage is meaningless, and unused.
    """
    deltas = rewards + gamma * ~terminated[1:] * values[1:] - values[:-1]  # TD errors
    advantages = np.zeros_like(values)  # the last row stays 0: the recursion starts from it
    for t in reversed(range(len(rewards))):
        advantages[t] = deltas[t] + gamma * gae_lambda * ~done[t + 1] * advantages[t + 1]
    return advantages[:-1]


def ppo_loss(agent, batch, beta, args):
    """Returns the loss of a batch or minibatch, [], what TensorBoard shows of it, and the ratios, [batch]."""
    advantages, old_values, returns = batch["advantages"], batch["old_values"], batch["returns"]
    log_probs, entropy = agent.log_prob_and_entropy(batch["normalized_obs"], batch["actions"])
    log_ratio = log_probs - batch["old_log_probs"]
    ratio = log_ratio.exp()  # equation 6
    clipped_ratio = ratio.clamp(1 - args.clip_coef, 1 + args.clip_coef)
    policy_loss = -torch.min(ratio * advantages, clipped_ratio * advantages).mean()  # equation 7

    values = agent.critic(batch["normalized_obs"]).squeeze(-1)
    squared_error = (values - returns).square()
    if args.clip_vloss:
        clipped_values = old_values + (values - old_values).clamp(-args.clip_coef, args.clip_coef)
        squared_error = torch.max(squared_error, (clipped_values - returns).square())
    value_loss = 0.5 * squared_error.mean()  # the half is not in the paper

    # KL(old, new), estimated: never negative, and less noisy than -log_ratio, http://joschu.net/blog/kl-approx.html
    approx_kl = ((ratio - 1) - log_ratio).mean()
    loss = policy_loss + args.vf_coef * value_loss - args.ent_coef * entropy.mean()  # equation 9
    if args.adaptive_kl is not None:
        loss = loss + beta * approx_kl  # equation 8
    metrics = {"policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy.mean()}
    return loss, metrics | {"approx_kl": approx_kl.detach()}, ratio


def ppo_update(agent, optimizer, batch, beta, args):
    """Improves the agent on a batch, a dictionary of tensors [batch, ...]; returns the norms of the gradients."""
    parameters, grad_norms = list(agent.parameters()), []
    for _ in range(args.update_epochs):
        for indices in torch.randperm(len(batch["returns"])).tensor_split(args.num_minibatches):
            minibatch = {name: tensor[indices] for name, tensor in batch.items()}
            loss, metrics, _ = ppo_loss(agent, minibatch, beta, args)
            optimizer.zero_grad()
            loss.backward()
            average_over_processes([metrics["approx_kl"], *(parameter.grad for parameter in parameters)], len(indices))
            grad_norms.append(nn.utils.clip_grad_norm_(parameters, args.max_grad_norm))
            if args.target_kl is not None and metrics["approx_kl"] > args.target_kl:
                return grad_norms  # without the step that would follow
            optimizer.step()
    return grad_norms


def train(args: Args, run_dir: Path) -> Agent:
    """Trains an agent, evaluates it, and leaves its curves and checkpoints in `run_dir`."""
    batch_size = args.num_envs * args.num_steps
    num_iterations = args.total_timesteps // batch_size
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))  # set by torchrun
    num_envs = len(range(rank, args.num_envs, world_size))  # each process trains the same agent on its share of them
    torch.manual_seed(args.seed)  # the same weights in all processes
    envs = make_envs(args, num_envs, args.vectorization_mode)
    agent = Agent(envs, args)
    optimizer = torch.optim.Adam(agent.parameters(), lr=args.learning_rate, eps=1e-5, fused=True)
    return_rms = RunningMeanStd()
    global_step, beta = 0, 1.0  # beta: see --adaptive-kl
    if args.resume:
        checkpoint = load_checkpoint(args.resume, agent=agent, optimizer=optimizer, return_rms=return_rms)
        global_step, beta = checkpoint["global_step"], checkpoint.get("beta", beta)
        if global_step + batch_size > args.total_timesteps:
            sys.exit(f"error: {args.resume} has been trained for {global_step} steps; raise --total-timesteps to go on")
    if rank == 0:
        try:  # makes run_dir; purge_step hides what was logged after the checkpoint by the run that is resumed
            writer = SummaryWriter(run_dir, purge_step=global_step + 1 if args.resume else None)
        except OSError as error:
            sys.exit(f"error: cannot write the run directory: {error}")
    if rank > 0 or args.resume:  # draw other actions and minibatches than process 0, and than before the checkpoint
        torch.manual_seed(args.seed + 1000 * rank + global_step)

    # Rollout buffers. Row t is what step t gave; with num_steps + 1 rows, it is what was known before step t.
    obs = np.zeros((args.num_steps + 1, num_envs, *envs.single_observation_space.shape), np.float32)
    terminated, done = np.zeros((2, args.num_steps + 1, num_envs), bool)  # done: terminated or truncated
    actions = np.zeros((args.num_steps, num_envs, *envs.single_action_space.shape), envs.single_action_space.dtype)
    rewards, discounted_returns = np.zeros((2, args.num_steps, num_envs), np.float32)

    obs[-1], _ = envs.reset(seed=args.seed + global_step + rank * args.num_envs)  # a rollout goes on from row -1
    start_step, start_time = global_step, time.perf_counter()
    # Counted from the end: before --resume, the batch size may have been another.
    iterations = range(num_iterations - (args.total_timesteps - global_step) // batch_size + 1, num_iterations + 1)
    for iteration in (progress := tqdm(iterations, disable=None if rank == 0 else True, file=sys.stdout)):
        if args.capture_video and rank == 0 and (iteration - 1) % math.ceil(num_iterations / 10) == 0:
            evaluate(agent, args, num_episodes=1, video_dir=run_dir / "videos" / f"step-{global_step}")
        fraction_left = 1 - (iteration - 1) / num_iterations if args.anneal_lr else 1
        optimizer.param_groups[0]["lr"] = fraction_left * args.learning_rate

        # Rollout: only the actor runs. Values and log-probabilities follow in one pass, with the same weights.
        obs[0], done[0] = obs[-1], done[-1]
        with torch.inference_mode():
            for t in range(args.num_steps):  # where done[t], step t only resets: no transition, and reset()'s info
                actions[t] = agent.act(obs[t])
                obs[t + 1], rewards[t], terminated[t + 1], truncated, _ = envs.step(actions[t])
                done[t + 1] = terminated[t + 1] | truncated
        for t in range(args.num_steps):  # rewards of the episode so far; row -1 is the end of the previous rollout
            discounted_returns[t] = rewards[t] + args.gamma * ~done[t] * discounted_returns[t - 1]
        global_step += batch_size

        # The batch: the transitions of all environments in one dimension, and their advantages.
        valid = torch.as_tensor(~done[:-1])  # the step after an episode's last observation only resets
        valid_obs = torch.as_tensor(obs[:-1])[valid]
        with torch.no_grad():
            if args.norm_reward:
                return_rms.update(torch.as_tensor(discounted_returns)[valid])
            if args.norm_obs and global_step == batch_size:  # already: an untrained actor hardly depends on its input
                agent.obs_rms.update(valid_obs)
            values = agent.critic(agent.normalize(torch.as_tensor(obs))).squeeze(-1)
            advantages = compute_gae(
                rewards / return_rms.std.item(), values.numpy(force=True), terminated, done, args.gamma, args.gae_lambda
            )
            batch = {"normalized_obs": agent.normalize(valid_obs), "actions": torch.as_tensor(actions)[valid]}
            batch["old_log_probs"], _ = agent.log_prob_and_entropy(batch["normalized_obs"], batch["actions"])
            batch |= {"old_values": values[:-1][valid], "advantages": torch.as_tensor(advantages)[valid]}
            batch["returns"] = batch["advantages"] + batch["old_values"]
            if args.norm_adv:
                adv_rms = RunningMeanStd().update(batch["advantages"])
                # While no reward or termination tells actions apart, advantages are only critic errors. Those of an
                # optimistic critic are mostly negative: not centered, they push the policy away from what was tried.
                informative = np.ptp(rewards[~done[:-1]]) > 0 or terminated[1:].any()
                center = adv_rms.mean if average_over_processes([], int(informative)) else 0  # > 0: in any process
                batch["advantages"] = (batch["advantages"] - center) / adv_rms.std

        grad_norms = ppo_update(agent, optimizer, batch, beta, args)

        with torch.no_grad():
            loss, metrics, ratio = ppo_loss(agent, batch, beta, args)  # after the update, over the whole batch
            if args.norm_obs and global_step > batch_size:  # only now: rollout and update must normalize alike
                agent.obs_rms.update(valid_obs)
        if args.adaptive_kl is not None:  # PPO paper, section 4
            average_over_processes([metrics["approx_kl"]], len(ratio))
            relative_kl = metrics["approx_kl"] / args.adaptive_kl
            beta *= 2 if relative_kl > 1.5 else 0.5 if relative_kl < 1 / 1.5 else 1
        for name, array in {"observation": obs, "reward": rewards, "loss": loss.numpy(force=True)}.items():
            if not np.isfinite(array).all():
                sys.exit(f"error: a non-finite {name} came up in the {batch_size} steps before step {global_step}")

        if rank == 0:  # the losses and episodes that are logged are its own
            metrics |= {"beta": beta, "grad_norm": torch.stack(grad_norms).mean(), "old_approx_kl": -ratio.log().mean()}
            metrics["clipfrac"] = ((ratio - 1).abs() > args.clip_coef).float().mean()
            metrics["explained_variance"] = 1 - (batch["returns"] - batch["old_values"]).var() / batch["returns"].var()
            sps = (global_step - start_step) / (time.perf_counter() - start_time)
            scalars = {f"losses/{name}": value for name, value in metrics.items()}
            scalars |= {"charts/learning_rate": optimizer.param_groups[0]["lr"], "charts/SPS": sps}
            if envs.return_queue:  # the last 100 episodes since the start or --resume, their rewards not scaled
                scalars["charts/episodic_return"] = np.mean(envs.return_queue)
                scalars["charts/episodic_length"] = np.mean(envs.length_queue)
            for tag, value in scalars.items():
                writer.add_scalar(tag, value, global_step)
            summary = f"return {scalars.get('charts/episodic_return', math.nan):.1f}, {sps:.0f} steps/s"
            progress.set_postfix_str(summary, refresh=False)
            if progress.disable and iteration * 20 // num_iterations > (iteration - 1) * 20 // num_iterations:
                print(f"step {global_step}/{args.total_timesteps}: {summary}", flush=True)
            if iteration % args.checkpoint_interval == 0 or iteration == num_iterations:
                for name, data in ("actions", batch["actions"]), ("advantages", batch["advantages"]), ("ratio", ratio):
                    writer.add_histogram(f"distributions/{name}", data, global_step)
                writer.flush()  # so that the curves of a run that is killed and resumed have no gap
                if args.save_model:
                    checkpoint = {"args": asdict(args), "global_step": global_step, "beta": beta}
                    checkpoint |= {"agent": agent.state_dict(), "optimizer": optimizer.state_dict()}
                    save_checkpoint(run_dir / "checkpoint.pt", checkpoint | {"return_rms": return_rms.state_dict()})

    envs.close()
    if rank == 0:
        if args.capture_video:
            evaluate(agent, args, num_episodes=1, video_dir=run_dir / "videos" / f"step-{global_step}")
        returns = evaluate(agent, args, args.eval_episodes)
        flags = {flag: str(value) for flag, value in asdict(args).items()}
        writer.add_hparams(flags, {"eval/episodic_return": returns.mean()}, run_name=".", global_step=global_step)
        writer.close()
        print(f"{sps:.0f} steps per second, run saved in {run_dir}")
    return agent


def average_over_processes(tensors: list[torch.Tensor], weight: int) -> int:
    """Replaces tensors, in place, by their weighted means, in one message; returns the sum of the weights."""
    if not dist.is_initialized():
        return weight
    message = weight * nn.utils.parameters_to_vector([*tensors, torch.ones(1)])
    dist.all_reduce(message)
    nn.utils.vector_to_parameters(message / message[-1], tensors)
    return round(message[-1].item())


class RunningMeanStd(nn.Module):
    """Mean and standard deviation, [*shape], of the samples of all processes, batch by batch (Chan et al. 1979)."""

    def __init__(self, *shape: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("std", torch.ones(shape))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def update(self, batch: torch.Tensor) -> "RunningMeanStd":  # [batch, *shape]
        mean = batch.mean(0)
        count = average_over_processes([mean], len(batch))
        var = (batch - mean).square().mean(0)
        average_over_processes([var], len(batch))
        self.count += count
        weight, delta = count / self.count, mean - self.mean
        var = (1 - weight) * self.std.square() + weight * (var + (1 - weight) * delta.square())
        self.std.copy_(var.sqrt().clamp(min=1e-4))  # never 0: it is a divisor
        self.mean += weight * delta
        return self


@torch.inference_mode()
def evaluate(agent, args, num_episodes: int, video_dir: Path | None = None, render: bool = False) -> np.ndarray:
    """Returns of greedy episodes, [num_episodes], with seeds of their own; `video_dir` is a folder for mp4 files."""
    kwargs = {"render_mode": "human"} if render else {}
    if video_dir:
        video = {"video_folder": str(video_dir), "name_prefix": "greedy", "episode_trigger": lambda _: True}
        kwargs = {"render_mode": "rgb_array", "wrappers": [lambda env: gym.wrappers.RecordVideo(env, **video)]}
    envs, returns = make_envs(args, 1, "sync", **kwargs), np.zeros(num_episodes)
    for episode in tqdm(range(num_episodes), "evaluation", leave=False, disable=None, file=sys.stdout):
        obs, _ = envs.reset(seed=args.seed + 1_000_000 + episode)
        for _ in range(envs.unwrapped.envs[0].spec.max_episode_steps or 10_000):  # a greedy agent may go in circles
            obs, rewards, terminated, truncated, _ = envs.step(agent.act(obs, greedy=True))
            returns[episode] += rewards[0]
            if terminated[0] or truncated[0]:
                break
    envs.close()
    mean, std, low, high = returns.mean(), returns.std(), returns.min(), returns.max()
    tqdm.write(f"greedy return {mean:.2f} +- {std:.2f} over {num_episodes} episodes, from {low:.2f} to {high:.2f}")
    return returns


def make_envs(args: Args, num_envs: int, vectorization_mode: str, **kwargs) -> gym.vector.VectorEnv:
    """Environments that observe flat vectors and take the agent's actions, or an error; `kwargs` go to gym.make_vec."""
    try:
        envs = gym.make_vec(args.env_id, num_envs, vectorization_mode, **kwargs, **json.loads(args.env_kwargs))
    except (gym.error.Error, ModuleNotFoundError, json.JSONDecodeError) as error:  # mistakes in the flags
        sys.exit(f"error: cannot make --env-id {args.env_id} with --env-kwargs {args.env_kwargs}: {error}")
    space, action_space = envs.single_observation_space, envs.single_action_space
    if not isinstance(action_space, gym.spaces.Box):
        sys.exit(f"error: {args.env_id} has the actions {action_space}, not a Box; Discrete is for ppo_discrete.py")
    if (mode := envs.metadata.get("autoreset_mode")) != gym.vector.AutoresetMode.NEXT_STEP:
        sys.exit(f"error: {args.env_id} resets in the mode {mode}, but this script needs AutoresetMode.NEXT_STEP")
    if not space.is_np_flattenable or isinstance(space, gym.spaces.Box) and space.dtype == np.uint8 and space.shape[1:]:
        sys.exit(f"error: {args.env_id} observes {space}; this script is for what can be flattened, and not for images")
    if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1:
        envs = gym.wrappers.vector.FlattenObservation(envs)
    bounded = action_space.bounded_below & action_space.bounded_above  # there, -1 and 1 of the agent become the bounds
    low = np.where(bounded, action_space.low, -1).astype(np.float64)
    high = np.where(bounded, action_space.high, 1).astype(np.float64)

    def fit_to_box(actions):  # [num_envs, action_dim] -> [num_envs, *shape]
        actions = low / 2 + high / 2 + (high / 2 - low / 2) * actions.reshape(-1, *action_space.shape)  # no overflow
        return actions.clip(action_space.low, action_space.high).astype(action_space.dtype)

    envs = gym.wrappers.vector.TransformAction(envs, fit_to_box, None, gym.spaces.Box(-np.inf, np.inf, (low.size,)))
    return gym.wrappers.vector.RecordEpisodeStatistics(envs, stats_key="ppo_episode")  # `episode` may be taken


def save_checkpoint(path: Path, checkpoint: dict):
    """Replaces the file in one step: whenever the process or the machine dies, a whole checkpoint remains."""
    with open(path.with_suffix(".new"), "wb") as file:
        torch.save(checkpoint, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(file.name, path)


def load_checkpoint(path: str, **owners) -> dict:
    """Reads a checkpoint without running any code in it, and gives its owners (an agent, ...) their states from it."""
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        for name, owner in owners.items():
            owner.load_state_dict(checkpoint[name])
        return checkpoint | {"args": dict(checkpoint["args"])}  # or an error here, if they are not what main needs
    except (OSError, EOFError, LookupError, RuntimeError, TypeError, ValueError, pickle.UnpicklingError) as error:
        sys.exit(f"error: {path} is not a whole checkpoint that fits this script and its flags: {error!r:.300}")


def check_args(args: Args):
    """Exits with one line on the first flag that cannot be right; make_envs checks the environment."""
    for name, hint in get_type_hints(Args, include_extras=True).items():
        for low, high in getattr(hint, "__metadata__", ()):
            if (value := getattr(args, name)) is not None and not low <= value <= high:
                sys.exit(f"error: --{name.replace('_', '-')} must be between {low} and {high}, but is {value}")
    if args.total_timesteps < args.num_envs * args.num_steps:
        sys.exit("error: --total-timesteps must be at least one batch, num-envs * num-steps")
    if args.num_minibatches > (most := args.num_envs // int(os.environ.get("WORLD_SIZE", "1")) * (args.num_steps // 2)):
        sys.exit(f"error: --num-minibatches must be at most {most}, half of the steps of a process")
    if args.cuda and not torch.cuda.is_available():
        sys.exit("error: --cuda needs a GPU that PyTorch can use, and there is none; without it, the CPU does the work")


def main():
    args = tyro.cli(Args)
    if path := args.resume or args.evaluate:
        saved = load_checkpoint(path)["args"]
        kept = vars(args).keys() - {"resume", "evaluate", "render", "capture_video"}  # these are about one command
        args = tyro.cli(Args, default=Args(**{flag: saved[flag] for flag in kept if flag in saved}))
    check_args(args)
    torch.set_num_threads(1)  # matrices this small are multiplied before a second thread could start
    torch.backends.cudnn.deterministic = args.torch_deterministic
    if args.cuda:  # tensors are made there from now on
        torch.set_default_device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}")
    if "WORLD_SIZE" in os.environ:  # set by torchrun
        dist.init_process_group("nccl" if args.cuda else "gloo")
    name = f"{args.env_id}__{args.exp_name}__{args.seed}__{time.time_ns() // 1_000_000}"
    run_dir = Path(args.resume).parent if args.resume else Path("runs", name)
    try:
        if args.evaluate:
            agent = Agent(make_envs(args, 1, "sync"), args)
            load_checkpoint(args.evaluate, agent=agent)
            video_dir = Path(args.evaluate).with_name(f"evaluation-{time.time_ns()}") if args.capture_video else None
            evaluate(agent, args, args.eval_episodes, video_dir, args.render)
        else:
            train(args, run_dir)
    except KeyboardInterrupt:
        hint = f"; to go on: python {sys.argv[0]} --resume {run_dir}/checkpoint.pt"
        sys.exit("interrupted" + (hint if Path(run_dir, "checkpoint.pt").exists() else ""))
    if dist.is_initialized():  # gloo's threads abort one regular exit in many, and torchrun would report a failure
        sys.stdout.flush()
        os._exit(0)


if __name__ == "__main__":
    main()
