"""Generalized advantage estimation by another definition than the scripts', on random episodes."""

import numpy as np


def n_step_gae(rewards, values, last_value, gamma, gae_lambda):
    """Advantage of the first of K steps: the exponentially weighted average of its n-step advantages.

    (1 - lambda) (A^(1) + lambda A^(2) + ... ) as in GAE, equation 16, with the last A^(K) given all remaining weight.
    `rewards` and `values` are [K]; `last_value` is what the state after the last step is worth, 0 if terminated.
    """
    steps = len(rewards)
    advantages = []
    for n in range(1, steps + 1):
        end_value = last_value if n == steps else values[n]
        n_step_return = sum(gamma**i * rewards[i] for i in range(n)) + gamma**n * end_value
        advantages.append(n_step_return - values[0])
    weights = [(1 - gae_lambda) * gae_lambda ** (n - 1) for n in range(1, steps)] + [gae_lambda ** (steps - 1)]
    return sum(w * a for w, a in zip(weights, advantages, strict=True))


def random_episodes(rng, num_steps):
    """Episodes one after the other, until at least `num_steps` steps; each a dictionary.

    `values` has one more entry than `rewards`: the value of the episode's last observation.
    """
    episodes, total = [], 0
    while total < num_steps:
        length = int(rng.integers(1, 6))
        end = rng.choice(["terminated", "truncated", "both"])
        episodes.append({"rewards": rng.normal(size=length), "values": rng.normal(size=length + 1), "end": end})
        total += length
    return episodes


def expected_advantages(episode, first, last, gamma, gae_lambda):
    """Advantages of the steps first..last-1 of an episode, of which nothing after step `last` is known."""
    ends = last == len(episode["rewards"])
    last_value = 0.0 if ends and episode["end"] != "truncated" else episode["values"][last]
    return np.array(
        [
            n_step_gae(episode["rewards"][t:last], episode["values"][t:last], last_value, gamma, gae_lambda)
            for t in range(first, last)
        ]
    )
