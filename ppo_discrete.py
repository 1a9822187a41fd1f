"""Proximal policy optimization (PPO) for discrete actions. See also: ppo_continuous.py, recipes/.

    python ppo_discrete.py --env-id LunarLander-v3                        # train
    python ppo_discrete.py --evaluate runs/.../checkpoint.pt --render     # watch the trained agent
    torchrun --standalone --nproc-per-node 2 ppo_discrete.py              # train in two processes
    tensorboard --logdir runs                                             # look at the curves

In an iteration, num_envs environments take num_steps steps: a rollout, [num_steps, num_envs, ...].
Flattened, it is a batch. PPO makes update_epochs passes over it, in num_minibatches shuffled parts.
PPO paper: https://arxiv.org/abs/1707.06347. GAE paper: https://arxiv.org/abs/1506.02438.
"""

# /// script
# requires-python = ">=3.11"  # "uv run" instead of "python" installs these first
# dependencies = ["gymnasium[box2d]==1.4.0", "moviepy==2.2.1", "numpy==2.4.6", "pydantic==2.14.4",
#     "tensorboard==2.21.0", "torch==2.13.0", "tqdm==4.70.1", "tyro==1.0.16"]
# ///
import contextlib
import os
import re
import sys
import time
from collections import deque
from pathlib import Path
from typing import Annotated

import gymnasium as gym
import numpy as np
import torch
import torch.distributed as dist
import tyro
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, TypeAdapter
from pydantic.dataclasses import dataclass
from torch import nn
from torch.distributions import Categorical, Distribution
from torch.utils.data import default_collate  # stacks a list of dictionaries
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm, trange

Fraction = Annotated[float, Field(ge=0, le=1)]


@dataclass  # tyro: each field becomes a flag, its comment the help; pydantic checks the values
class Args:
    """Train PPO. With --resume or --evaluate, the checkpoint's flags are the defaults."""

    env_id: str = "LunarLander-v3"  # a name that Gymnasium knows, or module:name
    env_kwargs: str = "{}"  # its keyword arguments as JSON, such as '{"enable_wind": true}'
    num_envs: PositiveInt = 16  # environments side by side; torchrun's processes split them evenly
    async_envs: bool = False  # a worker process for each environment; pays off if they are slow
    total_timesteps: PositiveInt = 500_000  # steps in total, of all environments, including those before --resume
    num_steps: PositiveInt = 128  # steps of each environment per iteration
    num_minibatches: PositiveInt = 8  # minibatches per epoch
    update_epochs: PositiveInt = 10  # passes over the batch per iteration
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 2.5e-3  # tuned in benchmarks; 3e-4 is usual
    anneal_lr: bool = True  # lower the learning rate linearly, towards 0 at the end
    hidden_size: PositiveInt = 64  # width of the two hidden layers of the actor, and of the critic
    gamma: Fraction = 0.998  # discount factor; 0.99 is usual
    gae_lambda: Fraction = 0.97  # 0: TD(0), 1: Monte-Carlo
    norm_obs: bool = True  # normalize observations by their running mean and standard deviation
    norm_reward: bool = True  # scale rewards so that returns are about 1 in size
    norm_adv: bool = True  # scale the advantages of a batch to mean 0, deviation 1
    clip_coef: PositiveFloat = 0.2  # epsilon of the clipped objective; inf: no clipping
    clip_vloss: bool = False  # clip the change of the values by clip-coef, too
    ent_coef: NonNegativeFloat = 0.0  # weight of the entropy bonus
    vf_coef: NonNegativeFloat = 0.5  # weight of the value loss, 0.5 * mean squared error
    max_grad_norm: PositiveFloat = 0.5  # longer gradients are scaled down; 0.5 is usual; inf: never
    target_kl: PositiveFloat | None = None  # a minibatch with a larger approx_kl ends the iteration's update
    exp_name: str = Path(__file__).stem  # name of the experiment, part of the run directory's name
    seed: Annotated[int, Field(ge=0, lt=2**64)] = 1  # of weights, environments, actions, shuffles
    cuda: bool = False  # put the networks on a GPU; networks as small as these are faster on a CPU
    save_model: bool = True  # keep a checkpoint in the run directory, to resume or evaluate
    checkpoint_interval: PositiveInt = 10  # iterations from one checkpoint to the next
    eval_episodes: PositiveInt = 100  # episodes of an evaluation; training ends with one, too
    greedy: bool = True  # evaluate the most likely actions; --no-greedy samples them
    resume: Path | None = None  # checkpoint to continue; replaces checkpoint.pt in its folder
    evaluate: Path | None = None  # checkpoint to evaluate instead of training
    capture_video: bool = False  # record some episodes of the evaluation
    render: bool = False  # with --evaluate: show the episodes in a window


def sum_over_processes(tensor):  # in place; unchanged in a single process
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


class RunningStatistics(nn.Module):
    """Mean, standard deviation and root mean square of all samples so far, from sums in float64."""

    def __init__(self, *shape):
        super().__init__()
        self.register_buffer("totals", torch.zeros(3, *shape).double())  # count, sum, sum of x**2
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("std", torch.ones(shape))  # divides observations
        self.register_buffer("rms", torch.ones(shape))  # divides rewards, which are not centered

    def update(self, samples):  # [batch, *shape]
        x = samples.double()
        powers = torch.stack([x**0, x, x**2])  # [3, batch, *shape]
        self.totals += sum_over_processes(powers.sum(1))
        count = self.totals[0].clamp_min(1)  # not 0, to divide by
        mean, mean_square = self.totals[1:] / count  # each [*shape]
        self.mean.copy_(mean)
        self.std.copy_((mean_square - mean**2).clamp_min(1e-16).sqrt())  # at least 1e-8
        self.rms.copy_(mean_square.clamp_min(1e-16).sqrt())


class RewardSumStatistics(RunningStatistics):
    """Rewards are divided by the rms of S, a discounted sum of past rewards: S[t] = rewards[t] + gamma * S[t - 1].
    Returns, sums of future rewards, are about as large as S, and so become about 1 in size."""

    latest_sums = 0  # latest S: 0, then a tensor [num_envs]; no buffer, so not in checkpoints

    def add_rewards(self, rewards, done, gamma):  # [num_steps, num_envs]
        sums = torch.zeros_like(rewards)
        for t in range(len(rewards)):
            sums[t] = rewards[t] + gamma * self.latest_sums
            self.latest_sums = sums[t] * ~done[t]  # 0 where the next episode begins
        # S is 0 until a first reward. If that counted, rms would be tiny where rewards are rare.
        self.update(sums[sums != 0])  # the mask makes a flat tensor of them


def mlp(num_inputs, hidden_size, num_outputs, last_gain):
    """Weights as in "The 37 Implementation Details of PPO", Huang et al. 2022, but with ReLU: tanh was often worse."""
    first = nn.Linear(num_inputs, hidden_size)
    second = nn.Linear(hidden_size, hidden_size)
    last = nn.Linear(hidden_size, num_outputs)
    for layer, gain in (first, 2**0.5), (second, 2**0.5), (last, last_gain):
        nn.init.orthogonal_(layer.weight, gain)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), last)


class Agent(nn.Module):
    """Actor and critic. act samples forward's policy, faster. If you change one, change both."""

    def __init__(self, envs, args):
        super().__init__()
        obs_dim = envs.single_observation_space.shape[0]  # make_envs flattens observations
        self.args = args
        self.obs_statistics = RunningStatistics(obs_dim)
        self.reward_sum_statistics = RewardSumStatistics()  # here, so that checkpoints hold it
        self.actor = mlp(obs_dim, args.hidden_size, int(envs.single_action_space.n), last_gain=0.01)
        self.critic = mlp(obs_dim, args.hidden_size, 1, last_gain=0.01)  # not the usual 1: values start near 0
        self.device = torch.device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if args.cuda else "cpu")
        self.to(self.device)

    def normalize(self, obs):  # [..., obs_dim] -> [..., obs_dim]
        if self.args.norm_obs:
            obs = ((obs - self.obs_statistics.mean) / self.obs_statistics.std).clamp(-10, 10)
        return obs

    def forward(self, obs):  # [..., obs_dim] -> distribution of actions [...], values [...]
        obs = self.normalize(obs)
        return Categorical(logits=self.actor(obs)), self.critic(obs).squeeze(-1)

    def act(self, obs, greedy=False):  # arrays: [num_envs, obs_dim] -> [num_envs]
        logits = self.actor(self.normalize(torch.as_tensor(obs, device=self.device)))
        if not greedy:  # the Gumbel-max trick: where Gumbel noise is added, the argmax is a sample
            logits = logits - torch.empty_like(logits).exponential_().log()  # noise: -log(Exp(1))
        return logits.argmax(-1).numpy(force=True)


@torch.no_grad()
def collect_trajectories(envs, agent, obs, num_steps):
    """Takes num_steps steps in each environment, starting from observations `obs`, [num_envs, obs_dim].
    Returns the rollout, a dictionary of tensors [num_steps, num_envs, ...], and the observations to go on from.
    next_obs[t] is what step t led to. It equals obs[t + 1], unless an episode ended and the next one begins there."""
    steps = []
    for _ in range(num_steps):
        actions = agent.act(obs)
        next_obs, rewards, terminated, truncated, _ = envs.step(actions)
        done = terminated | truncated
        step = dict(obs=obs, actions=actions, rewards=rewards, next_obs=next_obs, terminated=terminated, done=done)
        steps.append(step)  # gym.vector returns copies, which no later step changes
        obs = next_obs
        if done.any():  # make_envs turns Gymnasium's autoreset off
            obs, _ = envs.reset(options={"reset_mask": done})  # resets these, returns obs of all
    rollout = {name: tensor.to(agent.device) for name, tensor in default_collate(steps).items()}
    return rollout, obs


def compute_gae(rewards, values, next_values, terminated, done, gamma, gae_lambda):
    """Advantages by GAE: equation 16 of the GAE paper, equations 11 and 12 of the PPO paper.
    Time is the first axis of each tensor. next_values[t] is the value of next_obs[t]."""
    # Terminated: next_values is masked, as no rewards follow. Truncated: next_values estimates the rewards cut off.
    deltas = rewards + gamma * ~terminated * next_values - values  # TD errors; ~ means not
    decays = gamma * gae_lambda * ~done  # 0 where an episode ended, either way
    advantages = deltas.clone()  # complete for the last step; the loop adds to the others
    for t in reversed(range(len(deltas) - 1)):
        advantages[t] += decays[t] * advantages[t + 1]  # A[t] = deltas[t] + decays[t] * A[t + 1]
    return advantages


@torch.no_grad()
def make_batch(agent, rollout, args):
    """Turns a rollout into what the agent learns from: a dictionary of tensors [batch, ...]."""
    policy, values = agent(rollout["obs"])  # the old policy, but with new statistics, see train
    _, next_values = agent(rollout["next_obs"])
    reward_scale = agent.reward_sum_statistics.rms if args.norm_reward else 1
    rewards = rollout["rewards"].float() / reward_scale  # Gymnasium has them in float64
    terminated, done = rollout["terminated"], rollout["done"]
    advantages = compute_gae(rewards, values, next_values, terminated, done, args.gamma, args.gae_lambda)
    returns = advantages + values  # what the critic is to predict
    if args.norm_adv:  # over the batch of this process, not over each minibatch as in most PPOs
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    batch = {
        "obs": rollout["obs"],
        "actions": rollout["actions"],
        "old_log_probs": policy.log_prob(rollout["actions"]),
        "old_values": values,
        "advantages": advantages,
        "returns": returns,
    }
    return {name: tensor.flatten(0, 1) for name, tensor in batch.items()}


def ppo_loss(agent, batch, args):
    """Returns the loss of a minibatch, a scalar, and a dictionary of scalars for TensorBoard."""
    policy, values = agent(batch["obs"])
    advantages = batch["advantages"]
    log_ratio = policy.log_prob(batch["actions"]) - batch["old_log_probs"]
    ratio = log_ratio.exp()  # r in equation 6 of the PPO paper
    clipped_ratio = ratio.clamp(1 - args.clip_coef, 1 + args.clip_coef)
    policy_loss = -torch.min(ratio * advantages, clipped_ratio * advantages).mean()  # equation 7
    squared_error = (values - batch["returns"]).square()
    if args.clip_vloss:
        clipped_values = batch["old_values"] + (values - batch["old_values"]).clamp(-args.clip_coef, args.clip_coef)
        squared_error = torch.max(squared_error, (clipped_values - batch["returns"]).square())
    value_loss = 0.5 * squared_error.mean()  # the half is customary; equation 9 has none
    entropy = policy.entropy().mean()
    loss = policy_loss + args.vf_coef * value_loss - args.ent_coef * entropy  # equation 9, negated
    metrics = {
        "losses/policy_loss": policy_loss,
        "losses/value_loss": value_loss,
        "losses/entropy": entropy,
        "losses/approx_kl": (ratio - 1 - log_ratio).mean(),  # joschu.net/blog/kl-approx.html
        "losses/old_approx_kl": -log_ratio.mean(),  # an older estimator of the same KL, noisier
        "losses/clipfrac": (ratio != clipped_ratio).float().mean(),
    }
    return loss, {tag: value.detach() for tag, value in metrics.items()}


def ppo_update(agent, optimizer, batch, args):
    """Trains the agent (or its DistributedDataParallel). Returns metrics of the last minibatch."""
    parameters = list(agent.parameters())  # a list: clip_grad_norm_ would use up a generator
    for _ in range(args.update_epochs):
        for indices in torch.randperm(len(batch["obs"])).tensor_split(args.num_minibatches):
            minibatch = {name: tensor[indices] for name, tensor in batch.items()}
            loss, metrics = ppo_loss(agent, minibatch, args)
            if args.target_kl:
                # If the processes' mean KL is above target_kl, all stop here, as they have the same sum.
                if sum_over_processes(metrics["losses/approx_kl"] - args.target_kl) > 0:
                    return metrics
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, args.max_grad_norm)
            optimizer.step()
    return metrics


def train(args, run_dir, checkpoint=None):
    """Trains an agent, or goes on with a checkpoint that save_checkpoint made. Evaluates the agent and returns it."""
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    torch.manual_seed(args.seed)  # for the same initial weights in all processes
    envs = make_envs(args, args.num_envs // world_size)
    agent = Agent(envs, args)
    optimizer = torch.optim.Adam(agent.parameters(), lr=args.learning_rate, eps=1e-5, fused=True)
    if checkpoint:
        restore(checkpoint, agent, optimizer)
    global_step = checkpoint["global_step"] if checkpoint else 0
    # DDP averages gradients over processes. static_graph: a fork may have parameters that get none.
    ddp_agent = nn.parallel.DistributedDataParallel(agent, static_graph=True) if world_size > 1 else agent
    # Seeds for torch and for each environment. They differ between processes, and after --resume.
    seeds = np.random.SeedSequence([args.seed, rank, global_step]).generate_state(1 + envs.num_envs).tolist()
    torch.manual_seed(seeds[0])
    obs, _ = envs.reset(seed=seeds[1:])
    logger = Logger(args, run_dir, global_step, envs.num_envs) if rank == 0 else None
    steps_per_iteration = args.num_envs * args.num_steps  # of all processes
    num_iterations = (args.total_timesteps - global_step) // steps_per_iteration  # whole ones left
    print_every = num_iterations // 20 + 1  # iterations; makes at most 20 lines
    for iteration in trange(1, num_iterations + 1, disable=rank > 0 or not sys.stderr.isatty()):
        fraction_left = (1 - global_step / args.total_timesteps) if args.anneal_lr else 1
        optimizer.param_groups[0]["lr"] = fraction_left * args.learning_rate
        rollout, obs = collect_trajectories(envs, agent, obs, args.num_steps)
        exit_unless_finite(rollout, limit=1e18)  # beyond it, squared errors may overflow float32
        global_step += steps_per_iteration
        # A deviation from the PPO paper: actions were drawn with the old statistics, but old_log_probs use new ones.
        # The KL of the two was at most 0.008. Updating statistics after ppo_update learned worse, see benchmarks/.
        agent.obs_statistics.update(rollout["obs"].flatten(0, 1))
        agent.reward_sum_statistics.add_rewards(rollout["rewards"], rollout["done"], args.gamma)
        batch = make_batch(agent, rollout, args)
        metrics = ppo_update(ddp_agent, optimizer, batch, args)
        exit_unless_finite(agent.state_dict())  # nan must not replace a good checkpoint
        is_last = iteration == num_iterations
        if rank == 0:
            logger.log(args, global_step, rollout, batch, metrics, optimizer, is_last or iteration % print_every == 0)
            if args.save_model and (is_last or iteration % args.checkpoint_interval == 0):
                logger.writer.flush()  # curves up to here must be on disk: --resume adds to them
                save_checkpoint(run_dir / "checkpoint.pt", args, global_step, agent, optimizer)
    envs.close()  # before evaluation makes another: some simulators exist only once
    if rank == 0:  # the others need not wait, as nothing below communicates
        eval_returns = evaluate(agent, make_envs(args, 1), args, run_dir / f"videos-{global_step}")
        logger.writer.add_scalar("eval/episodic_return", eval_returns.mean(), global_step)
        logger.writer.close()
        print(f"{logger.steps_per_second:.0f} steps per second, run saved in {run_dir}")
    return agent


# What follows is not PPO: exits, logging, checkpoints, evaluation, environments, flags.
@contextlib.contextmanager
def exit_with(message, *errors):  # one line, no traceback, if the block raises one of these errors
    try:
        yield
    except errors as error:
        sys.exit(f"error: {message}: {' '.join(str(error).split())}")


def exit_unless_finite(tensors, limit=np.inf):
    for name, tensor in tensors.items():
        if not tensor.double().abs().max() < limit:  # "not <": also for nan
            sys.exit(f"error: {name} must be below {limit}, but holds {tensor.abs().max()}")


class Logger:  # writes curves, prints progress; owns the clock and the latest episodes
    def __init__(self, args, run_dir, global_step, num_envs):
        with exit_with("cannot write the run directory", OSError):
            run_dir.mkdir(parents=True, exist_ok=global_step > 0)  # only a resumed run has one
            (run_dir / f"flags-{global_step}.txt").write_text(str(args))
        self.writer = SummaryWriter(run_dir, purge_step=global_step + 1)  # --resume hides points after the checkpoint
        self.start_step = global_step
        self.start_time = time.perf_counter()
        self.steps_per_second = 0
        self.current_episodes = np.zeros((num_envs, 2))  # return and length so far
        self.latest_episodes = deque(maxlen=100)  # return and length of each

    def log(self, args, global_step, rollout, batch, metrics, optimizer, print_line):
        """Adds a point to each curve, from this process's environments, and may print a line."""
        for rewards, done in zip(rollout["rewards"].numpy(force=True), rollout["done"].numpy(force=True), strict=True):
            self.current_episodes[:, 0] += rewards
            self.current_episodes[:, 1] += 1
            self.latest_episodes.extend(self.current_episodes[done])  # indexing by a mask copies
            self.current_episodes[done] = 0
        self.steps_per_second = (global_step - self.start_step) / (time.perf_counter() - self.start_time)
        unexplained = (batch["returns"] - batch["old_values"]).var() / batch["returns"].var()
        metrics["losses/explained_variance"] = 1 - unexplained
        metrics["charts/learning_rate"] = optimizer.param_groups[0]["lr"]
        metrics["charts/SPS"] = self.steps_per_second
        progress = f"step {global_step}/{args.total_timesteps}: {self.steps_per_second:.0f} steps/s"
        if self.latest_episodes:
            metrics["charts/episodic_return"], metrics["charts/episodic_length"] = np.mean(self.latest_episodes, 0)
            progress += f", return {metrics['charts/episodic_return']:.1f}"
        for tag, value in metrics.items():
            self.writer.add_scalar(tag, value, global_step)
        if print_line:
            tqdm.write(progress)


def save_checkpoint(path, args, global_step, agent, optimizer):
    """Writes a new file, then renames it: no crash leaves half of one. Omits --render and such."""
    checkpoint = {
        "args": TypeAdapter(Args).dump_python(args, exclude={"resume", "evaluate", "capture_video", "render"}),
        "global_step": global_step,
        "agent": agent.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    new_path = path.with_suffix(f".{os.getpid()}")  # in case two runs save here at once
    torch.save(checkpoint, new_path)
    new_path.replace(path)


def restore(checkpoint, agent, optimizer=None):
    with exit_with("the checkpoint does not fit the flags and the environment", Exception):
        agent.load_state_dict(checkpoint["agent"])
        if optimizer:
            optimizer.load_state_dict(checkpoint["optimizer"])
            for weights, state in optimizer.state.items():  # load_state_dict does not check shapes
                assert weights.shape == state["exp_avg"].shape == state["exp_avg_sq"].shape, "Adam's state"
    exit_unless_finite(agent.state_dict())


@torch.no_grad()
def evaluate(agent, envs, args, video_dir):
    """Plays episodes, episode i from seed i, in one environment. Closes it; returns the returns, [eval_episodes]."""
    torch.manual_seed(args.seed)  # of sampled actions
    if args.capture_video:
        envs = gym.wrappers.vector.RecordVideo(envs, video_dir)  # of episodes 0, 1, 8, 27 ...
    max_steps = max(envs.spec.max_episode_steps or 0, 10_000)  # ends episodes without a time limit
    returns = np.zeros(args.eval_episodes)
    num_cut_off = 0
    for episode in range(args.eval_episodes):
        obs, _ = envs.reset(seed=episode)
        for _ in range(max_steps):
            obs, rewards, terminated, truncated, _ = envs.step(agent.act(obs, args.greedy))
            returns[episode] += rewards[0]
            if terminated or truncated:
                break
        num_cut_off += not (terminated or truncated)
    kind = "greedy" if args.greedy else "sampled"
    cut_off = f", {num_cut_off} of them cut off after {max_steps} steps" if num_cut_off else ""
    print(f"{kind} return {returns.mean():.2f} +- {returns.std():.2f} over {len(returns)} episodes{cut_off}")
    envs.close()
    return returns


class SingleEnv(gym.Wrapper):  # one of the environments; checks its spaces, and drops its info
    def __init__(self, env):
        space = env.observation_space
        with exit_with(f"cannot flatten observations of {space}", NotImplementedError, ValueError):
            obs_dim = gym.spaces.flatdim(space)
        if space.dtype == np.uint8 and len(space.shape) > 1:
            sys.exit("error: for images, use recipes/images_*.patch; declare grids as float32")
        if not isinstance(env.action_space, gym.spaces.Discrete):
            sys.exit(f"error: for {env.action_space}, use ppo_continuous.py (Box) or recipes/multi_discrete.patch")
        super().__init__(env if space.shape == (obs_dim,) else gym.wrappers.FlattenObservation(env))
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, [obs_dim])  # declares float32; gym.vector casts to it

    def reset(self, seed=None, **kwargs):  # drops options: gym.vector turns None into {}
        return self.env.reset(seed=seed)[0], {}  # info is unused; gym.vector fails to stack some

    def step(self, action):
        obs, reward, terminated, truncated, _ = self.env.step(action)
        return obs, np.asarray(reward).item(), terminated, truncated, {}  # rewards may be of shape [1]


def make_envs(args, num_envs):
    """Environments side by side, which observe float32 and take the agent's actions."""
    with exit_with("--env-kwargs must be like '{\"gravity\": -5.0}'", ValueError):
        kwargs = TypeAdapter(dict).validate_json(args.env_kwargs)
    if args.render or args.capture_video:  # in training, too: what takes no render_mode fails now
        kwargs["render_mode"] = "human" if args.render else "rgb_array"
    mode = "async" if args.async_envs else "sync"
    try:
        with exit_with(f"cannot make --env-id {args.env_id}", gym.error.Error, ImportError):
            envs = gym.make_vec(args.env_id, num_envs, mode, {"autoreset_mode": "Disabled"}, [SingleEnv], **kwargs)
    except TypeError as error:
        if any(f"argument '{name}'" in str(error) for name in kwargs):  # an unknown or reserved one
            sys.exit(f"error: --env-kwargs, --render or --capture-video: {error}")
        raise  # a mistake in the environment
    start = envs.single_action_space.start  # of the environment's actions; the agent's start at 0
    return gym.wrappers.vector.TransformAction(envs, lambda actions: (actions + start).tolist())  # some envs want ints


def check_args(args, steps_taken):
    """Ends the process with one line where flags do not go together."""
    world_size = dist.get_world_size() if dist.is_initialized() else 1
    batch_size = args.num_envs * args.num_steps
    has_display = sys.platform != "linux" or os.environ.keys() & {"DISPLAY", "WAYLAND_DISPLAY"}
    can_render = has_display and args.evaluate and not args.capture_video
    rules = {  # whether each is followed; "not a or b" means: if a, then b
        "--env-id must be a name or module:name": re.fullmatch(r"(\w[\w.]*:)?[^:]+", args.env_id),
        "give --resume or --evaluate, not both": not args.resume or not args.evaluate,
        "--evaluate runs in one process, without torchrun": world_size == 1 or not args.evaluate,
        "--render needs a display, --evaluate and no --capture-video": not args.render or can_render,
        "--cuda needs a GPU; use --no-cuda": not args.cuda or torch.cuda.is_available(),
        f"--num-envs must be a multiple of {world_size} processes": args.num_envs % world_size == 0,
        "--num-minibatches must be less than the steps of a process": batch_size > args.num_minibatches * world_size,
        f"--total-timesteps must be >= {steps_taken + batch_size}": args.total_timesteps >= steps_taken + batch_size,
    }
    for rule, is_followed in rules.items():
        if not is_followed:
            sys.exit(f"error: {rule}")


def main():
    sys.stdout.reconfigure(line_buffering=True)  # in a file, too
    sys.path.append("")  # the working directory, for --env-id module:Env-v0
    args = tyro.cli(Args)  # a first time, to find the checkpoint
    path = args.resume or args.evaluate
    checkpoint = None
    if path:
        with exit_with(f"{path} is no checkpoint of this version of the script", Exception):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
            checkpoint["global_step"] = int(checkpoint["global_step"])
            args = tyro.cli(Args, default=Args(**checkpoint["args"]))  # again: given flags win
    if dist.is_torchelastic_launched():
        dist.init_process_group()
    check_args(args, checkpoint["global_step"] if args.resume else 0)
    Distribution.set_default_validate_args(False)  # saves time
    torch.set_num_threads(1)  # for small matrices, a second thread is not worth its start
    start_time = sum_over_processes(torch.tensor(time.time_ns() // 1000))  # a sum is the same in all processes
    name = re.sub(r"[^\w.-]+", "-", f"{args.env_id}__{args.exp_name}__{args.seed}__{start_time}")
    run_dir = path.resolve().parent if path else Path("runs", name)
    try:
        if args.evaluate:
            envs = make_envs(args, 1)
            agent = Agent(envs, args)
            restore(checkpoint, agent)
            evaluate(agent, envs, args, run_dir / f"videos-{time.time_ns()}")
        else:
            train(args, run_dir, checkpoint)
    except KeyboardInterrupt:
        sys.exit(f"interrupted; if a checkpoint exists: python '{sys.argv[0]}' --evaluate '{run_dir}/checkpoint.pt'")
    if dist.is_initialized():  # skips gloo's cleanup, which aborts now and then; all is written
        os._exit(0)


if __name__ == "__main__":
    main()
