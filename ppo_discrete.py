"""Proximal policy optimization (PPO) for discrete actions, in one file to be read from top to bottom.

    python ppo_discrete.py --env-id LunarLander-v3                        # train
    torchrun --standalone --nproc-per-node 2 ppo_discrete.py              # train in two processes
    python ppo_discrete.py --evaluate runs/.../checkpoint.pt --render     # watch the trained agent
    tensorboard --logdir runs                                             # look at the curves

The papers: Schulman et al. 2017, "Proximal Policy Optimization Algorithms", https://arxiv.org/abs/1707.06347 (PPO);
Schulman et al. 2016, "High-Dimensional Continuous Control Using Generalized Advantage Estimation",
https://arxiv.org/abs/1506.02438 (GAE).
"""

# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "gymnasium[box2d]==1.4.0",
#     "moviepy==2.2.1",
#     "tensorboard==2.21.0",
#     "torch==2.13.0",
#     "tqdm==4.70.1",
#     "tyro==1.0.16",
# ]
# ///

import io
import json
import math
import os
import signal
import sys
import threading
import time
from collections import deque
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import gymnasium as gym
import numpy as np
import torch
import torch.distributed as dist
import tyro
from gymnasium.wrappers import RecordVideo
from gymnasium.wrappers.vector import FlattenObservation
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams
from tqdm import tqdm


@dataclass
class Args:
    """Train PPO, resume a run, or evaluate one. With a checkpoint, its flags are the defaults."""

    env_id: str = "LunarLander-v3"  # Gymnasium id; `module:Env-v0` first imports the module
    env_kwargs: str = "{}"  # keyword arguments of the environment as JSON, such as '{"enable_wind": true}'
    total_timesteps: int = 500_000  # environment steps to train for, all environments together
    exp_name: str = Path(__file__).stem  # name of the experiment, part of the run directory's name
    seed: int = 1  # of the environments, the initial weights, the actions and the minibatches
    torch_deterministic: bool = True  # use only deterministic cuDNN kernels
    cuda: bool = False  # put the networks on a GPU; networks as small as these are faster on a CPU
    capture_video: bool = False  # record greedy episodes: one at every tenth of training, or those of --evaluate
    save_model: bool = True  # write checkpoint.pt into the run directory, at intervals and at the end
    checkpoint_interval: int = 10  # iterations from one checkpoint to the next
    resume: str | None = None  # path of the checkpoint to go on from; a higher --total-timesteps extends the run
    evaluate: str | None = None  # path of a checkpoint to evaluate instead of training
    eval_episodes: int = 100  # greedy episodes of the evaluation
    render: bool = False  # with --evaluate: show the episodes in a window

    num_envs: int = 16  # environments stepped side by side
    num_steps: int = 128  # steps of each environment per iteration; num-envs * num-steps are a batch
    vectorization_mode: Literal["sync", "async", "vector_entry_point"] = "sync"  # how Gymnasium steps them
    learning_rate: float = 2.5e-3  # of Adam, at the start
    anneal_lr: bool = True  # lower the learning rate linearly, towards 0 at the end
    hidden_size: int = 64  # width of the two hidden layers of the actor, and of the critic
    norm_obs: bool = True  # normalize observations by their running mean and standard deviation
    norm_reward: bool = True  # divide rewards by the running standard deviation of the discounted return
    gamma: float = 0.998  # discount factor
    gae_lambda: float = 0.97  # lambda of GAE: 0 is one-step TD, 1 Monte-Carlo returns
    num_minibatches: int = 8  # minibatches per epoch
    update_epochs: int = 10  # passes over the batch per iteration
    norm_adv: bool = True  # normalize the advantages of a batch to mean 0 and standard deviation 1
    clip_coef: float = 0.2  # epsilon of the clipped objective
    clip_vloss: bool = False  # clip the change of the values by clip-coef, too
    ent_coef: float = 0.0  # weight of the entropy bonus
    vf_coef: float = 0.5  # weight of the value loss
    max_grad_norm: float = 0.5  # largest norm of a gradient, longer ones are scaled to it
    target_kl: float | None = None  # end the iteration's update at the first minibatch with a larger KL
    adaptive_kl: float | None = None  # KL that a penalty on top of the clipped objective is adapted to


def layer_init(layer: nn.Linear, gain: float = math.sqrt(2)) -> nn.Linear:
    """Orthogonal weights, zero biases (Huang et al. 2022, "The 37 Implementation Details of PPO", detail 2)."""
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


def mlp(num_inputs: int, hidden_size: int, num_outputs: int, output_gain: float) -> nn.Sequential:
    return nn.Sequential(
        layer_init(nn.Linear(num_inputs, hidden_size)),
        nn.ReLU(),
        layer_init(nn.Linear(hidden_size, hidden_size)),
        nn.ReLU(),
        layer_init(nn.Linear(hidden_size, num_outputs), output_gain),
    )


class Agent(nn.Module):
    """Actor and critic: separate networks that see the same normalized observations."""

    def __init__(self, envs: gym.vector.VectorEnv, args: Args):
        super().__init__()
        obs_dim = envs.single_observation_space.shape[0]
        self.obs_rms = RunningMeanStd(obs_dim) if args.norm_obs else None
        self.num_actions = int(envs.single_action_space.n)
        self.first_action = int(envs.single_action_space.start)
        self.actor = mlp(obs_dim, args.hidden_size, self.num_actions, 0.01)  # almost uniform at first
        self.critic = mlp(obs_dim, args.hidden_size, 1, 1.0)

    def normalize(self, obs: torch.Tensor) -> torch.Tensor:  # [..., obs_dim] -> [..., obs_dim]
        if self.obs_rms is None:
            return obs
        return ((obs - self.obs_rms.mean) / self.obs_rms.std).clamp(-10, 10)

    def noise(self, *shape: int) -> torch.Tensor:
        """Gumbel noise, [*shape, num_actions]: with it, logit i is the largest with probability softmax(logits)[i].

        Drawn for a whole rollout at once, which costs far less than to sample at each step.
        """
        return -torch.empty(*shape, self.num_actions, device=next(self.parameters()).device).exponential_().log()

    def act(self, obs: torch.Tensor, noise: torch.Tensor | float = 0.0) -> np.ndarray:
        """Samples actions, or without noise takes the most likely ones: [num_envs, obs_dim] -> [num_envs]."""
        logits = self.actor(self.normalize(obs))
        return (logits + noise).argmax(-1).cpu().numpy()

    def to_env(self, actions: np.ndarray) -> np.ndarray:
        """The actions as the environments number them: a Discrete space need not start at 0."""
        return actions + self.first_action

    def log_prob_and_entropy(self, x: torch.Tensor, actions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalized observations [batch, obs_dim], actions [batch] -> log-probabilities, entropies [batch]."""
        log_probs = self.actor(x).log_softmax(-1)
        entropy = -(log_probs.exp() * log_probs).sum(-1)
        return log_probs.gather(-1, actions.unsqueeze(-1)).squeeze(-1), entropy


def compute_gae(rewards, values, terminated, done, gamma, gae_lambda):
    """Generalized advantage estimation (GAE paper, equation 16; PPO paper, equations 11 and 12).

    Step t leads from observation t to observation t + 1 and brings `rewards[t]`, [num_steps, num_envs]. `values`,
    `terminated` and `done`, [num_steps + 1, num_envs], are about observation t: its value, and whether an episode
    ended with it, by termination or at all. A terminated episode earns nothing more, so its last value counts as 0;
    a truncated one could have gone on, so there it counts. The sum over later TD errors stops at either.

    Returns advantages, [num_steps, num_envs]. Where `done[t]`, step t only reset the environment: that advantage is
    meaningless, and no other depends on it.
    """
    deltas = rewards + gamma * ~terminated[1:] * values[1:] - values[:-1]  # TD errors
    advantages = np.zeros_like(values)
    for t in reversed(range(len(rewards))):
        advantages[t] = deltas[t] + gamma * gae_lambda * ~done[t + 1] * advantages[t + 1]
    return advantages[:-1]


def ppo_loss(log_probs, old_log_probs, entropy, advantages, values, old_values, returns, beta, args):
    """Loss of a minibatch, its policy and value terms, and how far the policy has moved since the rollout, as a KL.

    All tensors passed are [minibatch]; the equations are those of the PPO paper.
    """
    log_ratio = log_probs - old_log_probs
    ratio = log_ratio.exp()
    clipped_ratio = ratio.clamp(1 - args.clip_coef, 1 + args.clip_coef)
    policy_loss = -torch.min(ratio * advantages, clipped_ratio * advantages).mean()  # equation 7

    squared_error = (values - returns).square()
    if args.clip_vloss:
        clipped_values = old_values + (values - old_values).clamp(-args.clip_coef, args.clip_coef)
        squared_error = torch.max(squared_error, (clipped_values - returns).square())
    value_loss = 0.5 * squared_error.mean()

    # An estimate of KL(old, new) that is never negative and varies less than the mean of -log_ratio:
    # http://joschu.net/blog/kl-approx.html
    approx_kl = ((ratio - 1) - log_ratio).mean()
    loss = policy_loss + args.vf_coef * value_loss  # equation 9
    if args.ent_coef:  # without it, its gradient is not worth its time
        loss = loss - args.ent_coef * entropy.mean()
    if args.adaptive_kl is not None:
        loss = loss + beta * approx_kl  # equation 8
    return loss, policy_loss, value_loss, approx_kl


def train(args: Args) -> Agent:
    """Trains an agent, evaluates it, and leaves its curves and checkpoints in a directory of its own under runs/."""
    batch_size = args.num_envs * args.num_steps
    num_iterations = args.total_timesteps // batch_size
    # Under torchrun this is one of several processes that train the same agent, each on its share of the environments.
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if world_size > 1:
        dist.init_process_group("nccl" if args.cuda else "gloo")
    num_envs = args.num_envs // world_size
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if args.cuda else torch.device("cpu")
    to_tensor = partial(torch.as_tensor, device=device)
    torch.manual_seed(args.seed)
    torch.backends.cudnn.deterministic = args.torch_deterministic
    torch.set_num_threads(1)  # matrices this small are multiplied before a second thread is awake

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited: Ctrl-C is not for the worker processes of async
    wrappers = {} if args.vectorization_mode == "vector_entry_point" else {"wrappers": [ReplayableEpisode]}
    envs = make_envs(args, num_envs, args.vectorization_mode, **wrappers)
    signals = []  # the first Ctrl-C or SIGTERM is put here, to end the run after its iteration; a second one kills
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: (signals.append(number), signal.signal(number, signal.SIG_DFL)))
    agent = Agent(envs, args).to(device)
    # All parameters become parts of one vector, and their gradients of another: clipping, Adam and averaging over
    # processes are then one operation each instead of one per layer, which makes an update a tenth faster.
    parameters = nn.Parameter(nn.utils.parameters_to_vector(agent.parameters()).detach())
    gradient_and_kl = torch.zeros(len(parameters) + 1, device=device)  # one message between processes
    parameters.grad = gradient_and_kl[:-1]
    nn.utils.vector_to_parameters(parameters.data, agent.parameters())
    sizes = [parameter.numel() for parameter in agent.parameters()]
    for parameter, gradient in zip(agent.parameters(), parameters.grad.split(sizes), strict=True):
        parameter.grad = gradient.view_as(parameter)
    optimizer = torch.optim.Adam([parameters], lr=args.learning_rate, eps=1e-5, fused=True)
    return_rms = RunningMeanStd().to(device)
    stateful = {"agent": agent, "optimizer": optimizer, "return_rms": return_rms}
    global_step, beta = 0, 1.0  # beta is the weight of the adaptive KL penalty
    recent_episodes = deque(maxlen=100)  # pairs of return and length, the rewards as the environment gave them
    if args.resume:
        checkpoint = load_checkpoint(args.resume, args, stateful)
        global_step, beta = checkpoint["global_step"], checkpoint["beta"]
        if global_step + batch_size > args.total_timesteps:
            fail(f"{args.resume} has been trained for {global_step} steps; to go on, raise --total-timesteps")
        recent_episodes.extend(checkpoint["recent_episodes"])
        torch.set_rng_state(checkpoint["rng_state"])
    if rank == 0:
        run_dir, writer = open_run(args, global_step)
    else:  # the same weights as process 0, but other actions and minibatches
        torch.manual_seed(args.seed + 1000 * rank + global_step)

    # Rollout buffers. Row t of those with num_steps + 1 rows is what was known before step t, so the next rollout
    # starts from their last row.
    obs = np.zeros((args.num_steps + 1, num_envs, *envs.single_observation_space.shape), np.float32)
    terminated = np.zeros((args.num_steps + 1, num_envs), bool)
    truncated = np.zeros((args.num_steps + 1, num_envs), bool)
    discounted_returns = np.zeros((args.num_steps + 1, num_envs), np.float32)  # of the episode up to observation t
    episode_returns = np.zeros((args.num_steps + 1, num_envs), np.float32)
    episode_lengths = np.zeros((args.num_steps + 1, num_envs), np.int64)
    actions = np.zeros((args.num_steps, num_envs), np.int64)
    rewards = np.zeros((args.num_steps, num_envs), np.float32)

    envs.reset(seed=args.seed + global_step + rank * num_envs)  # process 0 has the first environments
    obs[-1], _ = envs.reset()  # the first reset only seeds, so that every episode can be played again
    if args.resume and rank == 0 and len(checkpoint["episodes"]) == num_envs:
        # In one step, the environments get to where they were, and the run goes on as if it had never been ended.
        envs.unwrapped.set_attr("replay", [(start, past.numpy()) for start, past in checkpoint["episodes"]])
        obs[-1], _, terminated[-1], truncated[-1], _ = envs.step(agent.to_env(actions[0]))
        discounted_returns[-1], episode_returns[-1], episode_lengths[-1] = checkpoint["episode_sums"].numpy()
    start_step, start_time = global_step, time.perf_counter()
    no_bar = None if rank == 0 else True  # None: only where standard output is no terminal
    progress = tqdm(total=args.total_timesteps, initial=global_step, disable=no_bar, file=sys.stdout)
    for iteration in range(global_step // batch_size + 1, num_iterations + 1):
        if args.capture_video and rank == 0 and (iteration - 1) % math.ceil(num_iterations / 10) == 0:
            evaluate(agent, args, num_episodes=1, video=run_dir / "videos" / f"step-{global_step}")
        fraction_left = 1 - (iteration - 1) / num_iterations if args.anneal_lr else 1
        optimizer.param_groups[0]["lr"] = fraction_left * args.learning_rate

        # Rollout: only the actor runs. Values and log-probabilities follow in one pass, with the same weights.
        for buffer in (obs, terminated, truncated, discounted_returns, episode_returns, episode_lengths):
            buffer[0] = buffer[-1]
        with torch.inference_mode():
            for t, noise in enumerate(agent.noise(args.num_steps, num_envs)):
                actions[t] = agent.act(to_tensor(obs[t]), noise)
                obs[t + 1], rewards[t], terminated[t + 1], truncated[t + 1], _ = envs.step(agent.to_env(actions[t]))
        done = terminated | truncated
        for t in range(args.num_steps):
            discounted_returns[t + 1] = rewards[t] + args.gamma * ~done[t] * discounted_returns[t]
            episode_returns[t + 1] = rewards[t] + ~done[t] * episode_returns[t]
            episode_lengths[t + 1] = ~done[t] * (episode_lengths[t] + 1)
        recent_episodes.extend(np.stack([episode_returns, episode_lengths], -1)[1:][done[1:]].tolist())
        valid = to_tensor(~done[:-1])  # the step after an episode's last observation only resets the environment
        global_step += batch_size

        # Advantages, and the batch: the valid transitions of all environments in one dimension.
        with torch.no_grad():
            if args.norm_reward:
                return_rms.update(to_tensor(discounted_returns[1:])[valid])
            if args.norm_obs and iteration == 1:  # at once: the initial actor hardly depends on its input
                agent.obs_rms.update(to_tensor(obs[:-1])[valid])
            x = agent.normalize(to_tensor(obs))
            values = agent.critic(x).squeeze(-1)
            scaled_rewards = rewards / return_rms.std.item()
            advantages = compute_gae(
                scaled_rewards, values.cpu().numpy(), terminated, done, args.gamma, args.gae_lambda
            )
            b_x, b_actions = x[:-1][valid], to_tensor(actions)[valid]
            b_values, b_advantages = values[:-1][valid], to_tensor(advantages)[valid]
            b_returns = b_advantages + b_values
            b_log_probs, _ = agent.log_prob_and_entropy(b_x, b_actions)
            count, mean, var = moments(b_advantages)
            if args.norm_adv:
                b_advantages = (b_advantages - mean) / (var + 1e-8).sqrt()
            share = len(b_x) / count  # of this process in the transitions of all, 1 if there is no other

        # Update: each epoch visits every transition once, in a new order.
        minibatches = (
            mb for _ in range(args.update_epochs) for mb in torch.randperm(len(b_x)).tensor_split(args.num_minibatches)
        )
        grad_norms = []
        for mb in minibatches:
            x = b_x[mb]
            log_probs, entropy = agent.log_prob_and_entropy(x, b_actions[mb])
            values = agent.critic(x).squeeze(-1)
            loss, _, _, approx_kl = ppo_loss(
                log_probs, b_log_probs[mb], entropy, b_advantages[mb], values, b_values[mb], b_returns[mb], beta, args
            )
            parameters.grad.zero_()
            loss.backward()
            gradient_and_kl[-1] = approx_kl.detach()
            if world_size > 1:
                total(gradient_and_kl.mul_(share))
            grad_norms.append(nn.utils.clip_grad_norm_(parameters, args.max_grad_norm))
            if args.target_kl is not None and gradient_and_kl[-1] > args.target_kl:
                break
            optimizer.step()

        with torch.no_grad():  # what the update did, over the whole batch
            log_probs, entropy = agent.log_prob_and_entropy(b_x, b_actions)
            values, ratio = agent.critic(b_x).squeeze(-1), (log_probs - b_log_probs).exp()
            loss, policy_loss, value_loss, approx_kl = ppo_loss(
                log_probs, b_log_probs, entropy, b_advantages, values, b_values, b_returns, beta, args
            )
            if args.norm_obs and iteration > 1:  # only now: rollout and update must normalize an observation alike
                agent.obs_rms.update(to_tensor(obs[:-1])[valid])
        if args.adaptive_kl is not None:  # PPO paper, section 4
            kl = total(share * approx_kl)
            if kl < args.adaptive_kl / 1.5:
                beta /= 2
            elif kl > args.adaptive_kl * 1.5:
                beta *= 2

        for name, thing in {"observation": obs, "reward": rewards, "loss": loss, "weight": parameters}.items():
            if not torch.as_tensor(thing).isfinite().all():
                fail(f"a non-finite {name} came up in the {batch_size} steps before step {global_step}")
        stop = total(to_tensor(len(signals)))  # a signal may reach the processes in different iterations
        if rank == 0:
            mean_return, mean_length = np.mean(recent_episodes, 0) if recent_episodes else (math.nan, math.nan)
            sps = (global_step - start_step) / (time.perf_counter() - start_time)
            summary = f"return {mean_return:.1f} of {len(recent_episodes)} episodes, {sps:.0f} steps/s"
            progress.set_postfix_str(summary, refresh=False)
            progress.update(batch_size)
            if progress.disable and iteration * 20 // num_iterations > (iteration - 1) * 20 // num_iterations:
                print(f"step {global_step}/{args.total_timesteps}: {summary}", flush=True)
            scalars = {
                "charts/learning_rate": optimizer.param_groups[0]["lr"],
                "charts/SPS": sps,
                "losses/policy_loss": policy_loss,
                "losses/value_loss": value_loss,
                "losses/entropy": entropy.mean(),
                "losses/old_approx_kl": -ratio.log().mean(),
                "losses/approx_kl": approx_kl,
                "losses/clipfrac": ((ratio - 1).abs() > args.clip_coef).float().mean(),
                "losses/explained_variance": 1 - (b_returns - b_values).var() / b_returns.var(),
                "losses/grad_norm": torch.stack(grad_norms).mean(),
                "losses/beta": beta,
            }
            if recent_episodes:
                scalars |= {"charts/episodic_return": mean_return, "charts/episodic_length": mean_length}
            for tag, value in scalars.items():
                writer.add_scalar(tag, value, global_step)
            if iteration % args.checkpoint_interval == 0 or iteration == num_iterations or stop:
                writer.add_histogram("distributions/actions", b_actions, global_step)
                writer.add_histogram("distributions/advantages", b_advantages, global_step)
                writer.add_histogram("distributions/ratio", ratio, global_step)
                writer.flush()  # so that the curves of a run that is killed and resumed have no gap
                if args.save_model:
                    sums = np.stack([discounted_returns[-1], episode_returns[-1], episode_lengths[-1]])
                    episodes = envs.unwrapped.call("episode") if wrappers else []
                    checkpoint = {name: thing.state_dict() for name, thing in stateful.items()} | {
                        "args": asdict(args),
                        "global_step": global_step,
                        "beta": beta,
                        "rng_state": torch.get_rng_state(),
                        "episodes": [(start, torch.as_tensor(past)) for start, past in episodes],
                        "episode_sums": torch.as_tensor(sums),
                        "recent_episodes": list(recent_episodes),
                    }
                    save_checkpoint(run_dir / "checkpoint.pt", checkpoint)
        if stop:
            break

    progress.close()
    envs.close()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    if world_size > 1:
        dist.destroy_process_group()
    if rank > 0:
        return agent
    if stop:
        writer.close()
        hint = f"to go on: python {sys.argv[0]} --resume {run_dir}/checkpoint.pt" if args.save_model else "not saved"
        print(f"stopped at step {global_step}; {hint}")
        sys.exit(128 + max(signals, default=signal.SIGTERM))  # what a shell reports for a process that a signal ended
    if args.capture_video:
        evaluate(agent, args, num_episodes=1, video=run_dir / "videos" / f"step-{global_step}")
    returns = evaluate(agent, args, args.eval_episodes)
    writer.add_scalar("eval/episodic_return", returns.mean(), global_step)
    writer.close()
    print(describe(returns))
    print(f"{sps:.0f} steps per second, run saved in {run_dir}")
    return agent


def total(x: torch.Tensor) -> torch.Tensor:
    """Adds up the tensors that all processes pass, into each of them; a single process gets back its own."""
    if dist.is_initialized():
        try:
            dist.reduce(x, 0)
            dist.broadcast(x, 0)  # with gloo and tensors as small as here, the two take half as long as all_reduce
        except RuntimeError:
            fail("another process of this run has ended; start all again with --resume and the last checkpoint")
    return x


def moments(batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Count, mean and variance of the [batch, *shape] of all processes: [], [*shape], [*shape]."""
    count = total(torch.tensor(len(batch), device=batch.device))
    mean = total(batch.sum(0)) / count
    return count, mean, total((batch - mean).square().sum(0)) / count


class RunningMeanStd(nn.Module):
    """Mean and standard deviation of all samples so far, each of a given shape, as buffers that go into checkpoints.

    A batch is merged in by its own mean and variance: Chan et al. 1979, "Updating Formulae and a Pairwise Algorithm
    for Computing Sample Variances". Before the first, the mean is 0 and the standard deviation 1.
    """

    def __init__(self, *shape: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("std", torch.ones(shape))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def update(self, batch: torch.Tensor):  # [batch, *shape]
        count, mean, var = moments(batch)
        self.count += count
        weight, delta = count / self.count, mean - self.mean
        var = (1 - weight) * self.std.square() + weight * (var + (1 - weight) * delta**2)
        self.std.copy_(var.sqrt().clamp(min=1e-4))  # not 0, for it divides
        self.mean += weight * delta


@torch.inference_mode()
def evaluate(agent: Agent, args: Args, num_episodes: int, video: Path | None = None) -> np.ndarray:
    """Returns of greedy episodes in fresh environments, [num_episodes]; with `video`, mp4 files of them in that folder.

    The seed of an episode follows from `args.seed` and its number; training uses other seeds.
    """
    torch.set_num_threads(1)  # as in training: with another number, rounding and so the returns may differ
    if args.render:
        envs = make_envs(args, 1, "sync", render_mode="human")
    elif video:
        record = partial(RecordVideo, video_folder=str(video), name_prefix="greedy", episode_trigger=lambda _: True)
        envs = make_envs(args, 1, "sync", render_mode="rgb_array", wrappers=[record])
    else:
        envs = make_envs(args, num_episodes, "sync")
    returns, device = [], next(agent.parameters()).device
    while len(returns) < num_episodes:
        obs, _ = envs.reset(seed=args.seed + 1_000_000 + len(returns))
        episode_returns, running = np.zeros(envs.num_envs), np.ones(envs.num_envs, bool)
        # Without a time limit of the environment, a greedy agent might walk in a circle for ever.
        for _ in range(envs.unwrapped.spec.max_episode_steps or 10_000):
            actions = agent.act(torch.as_tensor(obs, dtype=torch.float32, device=device))
            obs, rewards, terminated, truncated, _ = envs.step(agent.to_env(actions))
            episode_returns += running * rewards
            running &= ~(terminated | truncated)
            if not running.any():
                break
        returns.extend(episode_returns)
    envs.close()
    return np.array(returns)


def describe(returns: np.ndarray) -> str:
    return (
        f"greedy return {returns.mean():.2f} +- {returns.std():.2f} over {len(returns)} episodes, "
        f"from {returns.min():.2f} to {returns.max():.2f}"
    )


def make_envs(args: Args, num_envs: int, vectorization_mode: str, **kwargs) -> gym.vector.VectorEnv:
    """Environments behind one interface, their observations flat vectors; exits if they do not suit this script."""
    try:
        envs = gym.make_vec(args.env_id, num_envs, vectorization_mode, **kwargs, **json.loads(args.env_kwargs))
    except Exception as error:  # of any kind: an environment is anybody's code
        fail(f"cannot make --env-id {args.env_id} with --env-kwargs {args.env_kwargs}: {error}")
    space = envs.single_observation_space
    if not isinstance(envs.single_action_space, gym.spaces.Discrete):
        fail(f"{args.env_id} has the actions {envs.single_action_space}, not Discrete; Box is for ppo_continuous.py")
    if envs.metadata["autoreset_mode"] != gym.vector.AutoresetMode.NEXT_STEP:
        fail(f"{args.env_id} resets in {envs.metadata['autoreset_mode']}, this script needs AutoresetMode.NEXT_STEP")
    if isinstance(space, gym.spaces.Box) and space.dtype == np.uint8 and len(space.shape) > 1:
        fail(f"{args.env_id} observes images, {space.shape}; the networks here are made for vectors only")
    if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1:
        envs = FlattenObservation(envs)
    if not isinstance(envs.single_observation_space, gym.spaces.Box):
        fail(f"{args.env_id} observes {space}, which Gymnasium cannot flatten to a vector of fixed length")
    return envs


class ReplayableEpisode(gym.Wrapper):
    """Can play its episode again from the random state at its beginning and the actions since: in general, the inner
    state of an environment cannot be saved. With `replay` set to these two, the next step plays them all.
    """

    replay = None

    def reset(self, **kwargs):
        self.random_state, self.actions = self.np_random.bit_generator.state, []
        return super().reset(**kwargs)

    def step(self, action):
        if self.replay is None:
            self.actions.append(action)
            return super().step(action)
        (self.np_random.bit_generator.state, actions), self.replay = self.replay, None
        obs, info = self.reset()
        reward, terminated, truncated = 0.0, False, False
        for action in actions:
            obs, reward, terminated, truncated, info = self.step(action)
            if terminated or truncated:  # too early only if the environment has randomness of its own
                break
        return obs, reward, terminated, truncated, info

    def episode(self) -> tuple[dict, np.ndarray]:
        return self.random_state, np.array(self.actions)


def open_run(args: Args, global_step: int) -> tuple[Path, SummaryWriter]:
    """Makes the directory of a new run, or goes on in that of the resumed one, and opens the TensorBoard file."""
    name = f"{args.env_id}__{args.exp_name}__{args.seed}__{time.time_ns() // 1_000_000}"
    run_dir = Path(args.resume).parent if args.resume else Path("runs", name)
    threading.excepthook = lambda _: None  # an error in TensorBoard's thread is raised again at the next write
    try:
        run_dir.mkdir(parents=True, exist_ok=bool(args.resume))
        # purge_step hides what was logged after the checkpoint by the run that is resumed
        writer = SummaryWriter(run_dir, purge_step=global_step + 1 if args.resume else None)
    except OSError as error:
        fail(f"cannot write the run directory: {error}")
    for summary in hparams({flag: str(value) for flag, value in asdict(args).items()}, {"eval/episodic_return": None}):
        writer.file_writer.add_summary(summary)
    return run_dir, writer


def save_checkpoint(path: Path, checkpoint: dict):
    """Replaces the file in one step: whenever the process or the machine dies, a whole checkpoint remains."""
    buffer, new_path = io.BytesIO(), path.with_suffix(".new")
    torch.save(checkpoint, buffer)
    try:
        with open(new_path, "wb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        os.replace(new_path, path)
    finally:
        new_path.unlink(missing_ok=True)


def load_checkpoint(path: str, args: Args | None = None, stateful: dict | None = None) -> dict:
    """Reads a checkpoint without running any code in it, and gives the objects in `stateful` their states from it."""
    try:
        file = io.BytesIO(Path(path).read_bytes())
        checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        fail(f"cannot read {path}: {error.strerror}")
    except Exception:  # torch.load raises many kinds of them
        fail(f"{path} is damaged, or not a checkpoint")
    saved_args = checkpoint.get("args") if isinstance(checkpoint, dict) else None
    if not isinstance(saved_args, dict) or saved_args.keys() != Args.__dataclass_fields__.keys():
        fail(f"{path} is not a checkpoint of this script")
    if args and args.env_id != saved_args["env_id"]:
        fail(f"{path} was trained on {saved_args['env_id']}, not on {args.env_id}")
    for name, thing in (stateful or {}).items():
        try:
            thing.load_state_dict(checkpoint[name])
        except (KeyError, RuntimeError, ValueError):
            fail(f"the {name} in {path} is not what this script and these flags make")
    return checkpoint


def check_args(args: Args):
    """Exits with one line on the first flag that cannot be right; make_envs checks the environment."""
    counts = "total_timesteps num_envs num_steps num_minibatches update_epochs hidden_size eval_episodes"
    amounts = "seed learning_rate clip_coef ent_coef vf_coef max_grad_norm target_kl adaptive_kl"
    limits = dict.fromkeys(f"{counts} checkpoint_interval".split(), (1, math.inf))
    limits |= dict.fromkeys(amounts.split(), (0, math.inf)) | {"gamma": (0, 1), "gae_lambda": (0, 1)}
    for name, (low, high) in limits.items():
        value = getattr(args, name)
        if value is not None and not low <= value <= high:
            fail(f"--{name.replace('_', '-')} must be between {low} and {high}, but is {value}")
    batch_size, world_size = args.num_envs * args.num_steps, int(os.environ.get("WORLD_SIZE", 1))
    if args.total_timesteps < batch_size:
        fail(f"--total-timesteps must be at least one batch, num-envs * num-steps = {batch_size}")
    if args.num_envs % world_size:
        fail(f"--num-envs must be a multiple of the number of processes, {world_size}, but is {args.num_envs}")
    fewest_valid = args.num_envs // world_size * (args.num_steps // 2)  # of a process: every other step may be a reset
    if args.num_minibatches > fewest_valid:
        fail(f"--num-minibatches must be at most {fewest_valid}, half the steps of a batch, or one might be empty")
    if args.cuda and not torch.cuda.is_available():
        fail("--cuda needs a GPU that PyTorch can use, and there is none; without it, the CPU does the work")


def fail(message: str):
    sys.exit(f"error: {message}")


def main():
    args = tyro.cli(Args)
    if args.resume or args.evaluate:
        saved_args = load_checkpoint(args.resume or args.evaluate)["args"]
        args = tyro.cli(Args, default=Args(**saved_args))
    check_args(args)
    if args.evaluate:
        agent = Agent(make_envs(args, 1, "sync"), args)
        load_checkpoint(args.evaluate, args, {"agent": agent})
        video = Path(args.evaluate).parent / "videos" / "evaluation" if args.capture_video else None
        print(describe(evaluate(agent, args, args.eval_episodes, video)) + (f", videos in {video}" if video else ""))
    else:
        try:
            train(args)
        except OSError as error:
            fail(f"cannot write the run any further, its last checkpoint is whole: {error}")
        if "RANK" in os.environ:  # the regular exit now and then aborts in gloo, and torchrun would report a failure
            sys.stdout.flush()
            os._exit(0)


if __name__ == "__main__":
    main()
