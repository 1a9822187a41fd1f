"""PPO with one environment and discrete actions: `python ppo_minimal_cartpole.py` learns CartPole-v1 in a minute.
PPO paper: https://arxiv.org/abs/1707.06347. GAE paper: https://arxiv.org/abs/1506.02438. Needs Gymnasium >= 1.0."""

import gymnasium as gym
import torch
from torch import nn
from torch.utils.data import default_collate  # stacks a list of dictionaries


class Args:  # settings. To change some: `class Mine(Args): gamma = 0.9`, then `train_ppo_cartpole(args=Mine)`
    num_steps = 1024  # environment steps per iteration, the size of its batch
    num_iterations = 48  # 49,152 steps in all
    update_epochs = 10  # passes over the batch
    num_minibatches = 8  # parts of the shuffled batch, with an optimizer step for each
    learning_rate = 1e-3  # in the first iteration; it falls linearly, towards 0
    gamma = 0.99  # discount factor
    reward_scale = 0.01  # not in the PPO paper: returns up to 100 become 1, else the value loss drowns the policy loss
    gae_lambda = 0.95  # 0 is one-step TD, 1 Monte-Carlo
    clip_coef = 0.2  # epsilon of the clipped objective
    vf_coef = 1.0  # weight of the value loss, which is half of the squared error
    ent_coef = 0.0  # weight of the entropy bonus; CartPole does not need one
    max_grad_norm = 0.5  # not in the PPO paper: longer gradients are scaled down to this norm


class PolicyValueNet(nn.Module):
    """The agent: one body with two heads. One gives a logit for each action, the other the value."""

    def __init__(self, obs_dim, num_actions):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(obs_dim, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh())
        self.policy_head = nn.Linear(64, num_actions)
        self.value_head = nn.Linear(64, 1)

    def forward(self, obs):  # [..., obs_dim] -> a distribution of actions [...], and values [...]
        features = self.body(obs)
        policy = torch.distributions.Categorical(logits=self.policy_head(features))
        return policy, self.value_head(features).squeeze(-1)


@torch.no_grad()
def collect_trajectories(env, agent, obs, num_steps):
    """Takes num_steps steps. Returns a rollout, a dictionary of tensors [num_steps, ...], and the obs to go on from."""
    steps = []
    for _ in range(num_steps):
        policy, _ = agent(torch.as_tensor(obs))  # make_batch computes values and log-probabilities, with these weights
        action = policy.sample()
        next_obs, reward, terminated, truncated, _ = env.step(action.item())
        done = terminated or truncated  # the pole fell, the cart left the track, or time was up
        steps.append(dict(obs=obs, actions=action, rewards=reward, next_obs=next_obs, terminated=terminated, done=done))
        obs = next_obs
        if done:
            obs, _ = env.reset()
    return default_collate(steps), obs  # tensors of float32 (obs), int64 (actions), float64 (rewards), bool


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
    """Turns a rollout into what the agent learns from: a dictionary of tensors [num_steps, ...]."""
    policy, values = agent(rollout["obs"])  # the old policy: its weights are still those that acted
    _, next_values = agent(rollout["next_obs"])  # not values[1:]: after an end, obs[t + 1] begins the next episode
    rewards = args.reward_scale * rollout["rewards"].float()
    terminated, done = rollout["terminated"], rollout["done"]
    advantages = compute_gae(rewards, values, next_values, terminated, done, args.gamma, args.gae_lambda)
    returns = advantages + values  # what the values are to predict: lambda-returns
    return {
        "obs": rollout["obs"],
        "actions": rollout["actions"],
        "old_log_probs": policy.log_prob(rollout["actions"]),
        "returns": returns,
        "advantages": (advantages - advantages.mean()) / (advantages.std() + 1e-8),  # over the batch; not in the paper
    }


def ppo_loss(agent, batch, args):
    policy, values = agent(batch["obs"])
    advantages = batch["advantages"]
    log_ratio = policy.log_prob(batch["actions"]) - batch["old_log_probs"]
    ratio = log_ratio.exp()  # r in equation 6 of the PPO paper
    clipped_ratio = ratio.clamp(1 - args.clip_coef, 1 + args.clip_coef)
    policy_loss = -torch.min(ratio * advantages, clipped_ratio * advantages).mean()  # equation 7
    squared_error = (values - batch["returns"]).square()
    value_loss = 0.5 * squared_error.mean()  # the half is customary; equation 9 has none
    entropy = policy.entropy().mean()
    loss = policy_loss + args.vf_coef * value_loss - args.ent_coef * entropy  # equation 9, negated
    return loss


def ppo_update(agent, optimizer, batch, args):
    for _ in range(args.update_epochs):
        for indices in torch.randperm(len(batch["obs"])).tensor_split(args.num_minibatches):
            minibatch = {name: tensor[indices] for name, tensor in batch.items()}
            loss = ppo_loss(agent, minibatch, args)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(agent.parameters(), args.max_grad_norm)
            optimizer.step()


def train_ppo_cartpole(seed=1, args=Args):
    """Trains an agent on CartPole-v1 and returns it."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)  # for networks this small, more threads are slower
    env = gym.wrappers.RecordEpisodeStatistics(gym.make("CartPole-v1"), buffer_length=10)  # fills env.return_queue
    obs, _ = env.reset(seed=seed)
    agent = PolicyValueNet(obs_dim=env.observation_space.shape[0], num_actions=env.action_space.n)
    optimizer = torch.optim.Adam(agent.parameters())  # its learning rate is set below
    for iteration in range(args.num_iterations):
        optimizer.param_groups[0]["lr"] = args.learning_rate * (1 - iteration / args.num_iterations)
        rollout, obs = collect_trajectories(env, agent, obs, args.num_steps)
        mean_return = torch.tensor(env.return_queue).mean()  # some of the ten may be of earlier iterations
        print(f"iteration {iteration + 1}: mean return {mean_return:.0f} of 500 in the last ten episodes")
        batch = make_batch(agent, rollout, args)
        ppo_update(agent, optimizer, batch, args)
    return agent


if __name__ == "__main__":
    train_ppo_cartpole()
