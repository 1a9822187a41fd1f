"""The shortest complete PPO: `python ppo_minimal_cartpole.py` solves CartPole-v1 in half a minute.

Equations: Schulman et al. 2017, "Proximal Policy Optimization Algorithms", https://arxiv.org/abs/1707.06347.
"""

import gymnasium as gym
import torch
from torch import nn


class PolicyValueNet(nn.Module):
    """One shared body, a policy head (a logit for each action) and a value head."""

    def __init__(self, obs_dim, num_actions, hidden_size=64):
        super().__init__()
        first, second = nn.Linear(obs_dim, hidden_size), nn.Linear(hidden_size, hidden_size)
        self.body = nn.Sequential(first, nn.Tanh(), second, nn.Tanh())
        self.policy_head, self.value_head = nn.Linear(hidden_size, num_actions), nn.Linear(hidden_size, 1)

    def forward(self, obs):  # [..., obs_dim] -> distribution over actions, values [...]
        features = self.body(obs)
        return torch.distributions.Categorical(logits=self.policy_head(features)), self.value_head(features).squeeze(-1)


@torch.no_grad()
def collect_trajectories(env, net, obs, num_steps):
    """Acts for N = num_steps steps, whatever episodes end in them; returns tensors by name, and the next `obs`."""
    observations, next_observations = torch.zeros(2, num_steps, len(obs))  # [N, obs_dim]
    actions = torch.zeros(num_steps, dtype=torch.int64)  # [N]
    rewards = torch.zeros(num_steps)  # [N]
    terminated, dones = torch.zeros(2, num_steps, dtype=torch.bool)  # [N]: the pole fell; it fell or the time was up
    for t in range(num_steps):
        observations[t] = torch.as_tensor(obs)
        actions[t] = net(observations[t])[0].sample()
        obs, rewards[t], terminated[t], truncated, _ = env.step(actions[t].item())
        next_observations[t] = torch.as_tensor(obs)  # the last one of its episode where that ends here
        dones[t] = terminated[t] or truncated
        if dones[t]:
            obs, _ = env.reset()
    policy, values = net(observations)  # V(s_t), [N]
    _, next_values = net(next_observations)  # V(s_{t+1}), [N]
    data = {"observations": observations, "actions": actions, "log_probs": policy.log_prob(actions), "rewards": rewards}
    return data | {"values": values, "next_values": next_values, "terminated": terminated, "dones": dones}, obs


def compute_gae(rewards, values, next_values, terminated, dones, gamma=0.99, gae_lambda=0.95):
    """Advantages [N] by generalized advantage estimation, from tensors [N]."""
    # equation 12: after a fall nothing more is earned; when only the time was up, the value of standing counts
    deltas = rewards + gamma * next_values * ~terminated - values
    advantages, advantage = torch.zeros_like(deltas), 0.0
    for t in reversed(range(len(deltas))):  # equation 11: A_t = delta_t + gamma lambda A_{t+1}, within an episode
        advantages[t] = advantage = deltas[t] + gamma * gae_lambda * advantage * ~dones[t]
    return advantages


def ppo_update(net, optimizer, data, epochs=10, batch_size=128, clip_epsilon=0.2, value_coef=0.5, entropy_coef=0.0):
    """Takes epochs * ceil(N / batch_size) optimizer steps on `data`, a dictionary of tensors [N] or [N, obs_dim]."""
    for _ in range(epochs):
        for indices in torch.randperm(len(data["actions"])).split(batch_size):
            batch = {name: tensor[indices] for name, tensor in data.items()}
            policy, values = net(batch["observations"])
            ratio = (policy.log_prob(batch["actions"]) - batch["log_probs"]).exp()  # equation 6: pi(a|s) / pi_old(a|s)
            # equation 7: L_CLIP = E[min(r_t A_t, clip(r_t, 1 - epsilon, 1 + epsilon) A_t)]
            clipped_ratio = ratio.clamp(1 - clip_epsilon, 1 + clip_epsilon)
            policy_loss = -torch.min(ratio * batch["advantages"], clipped_ratio * batch["advantages"]).mean()
            value_loss = (values - batch["returns"]).square().mean()
            loss = policy_loss + value_coef * value_loss - entropy_coef * policy.entropy().mean()  # minus equation 9
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 0.5)
            optimizer.step()


@torch.no_grad()
def evaluate(net, num_episodes=100, seed=1_000_000):
    """Returns [num_episodes] of episodes in which the most likely action is taken."""
    env = gym.wrappers.RecordEpisodeStatistics(gym.make("CartPole-v1"), buffer_length=num_episodes)
    for episode in range(num_episodes):
        (obs, _), done = env.reset(seed=seed + episode), False
        while not done:
            obs, _, terminated, truncated, _ = env.step(net(torch.as_tensor(obs))[0].probs.argmax().item())
            done = terminated or truncated
    return torch.tensor(env.return_queue)


def train_ppo_cartpole(seed=1, num_updates=48, num_steps=1024, learning_rate=1e-3):
    """Trains for num_updates * num_steps environment steps, prints how it goes, and returns the network."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)  # this network is too small for several
    env = gym.make("CartPole-v1")
    obs, _ = env.reset(seed=seed)
    net = PolicyValueNet(env.observation_space.shape[0], env.action_space.n)
    optimizer = torch.optim.Adam(net.parameters(), lr=learning_rate)
    for update in range(1, num_updates + 1):
        optimizer.param_groups[0]["lr"] = learning_rate * (1 - (update - 1) / num_updates)
        data, obs = collect_trajectories(env, net, obs, num_steps)
        data["rewards"] *= 0.01  # 1 - gamma: values are then between 0 and 1, their loss does not drown the policy's
        advantages = compute_gae(*(data[name] for name in ("rewards", "values", "next_values", "terminated", "dones")))
        data["returns"] = advantages + data["values"]  # R_t = A_t + V(s_t), the targets of the values
        data["advantages"] = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        ppo_update(net, optimizer, data)
        if update % 4 == 0:
            print(f"{update * num_steps:6d} steps: average reward {evaluate(net, 10).mean():.1f} in 10 greedy episodes")
    returns = evaluate(net)
    print(f"{len(returns)} greedy episodes: {returns.mean():.1f} +- {returns.std():.1f}, the worst {returns.min():.0f}")
    return net


if __name__ == "__main__":
    train_ppo_cartpole()
