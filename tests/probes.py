"""Small environments that isolate one property each, and are solved in seconds.

Importing this module registers them, so `--env-id probes:Chain-v0` finds them where tests/ is on the Python path.
"""

import builtins
import json
import pathlib

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Tuple


class Probe(gym.Env):
    """Base: `length` steps per episode, then it terminates or, with `truncate`, runs into its time limit.

    The observation is the number of the step, divided by `length`. Rewards and anything else are up to subclasses.
    `continuous` exchanges the two discrete actions for a box from -1 to 1; `positive(action)` hides the difference.
    """

    def __init__(self, length=1, truncate=False, continuous=False):
        self.length, self.truncate = length, truncate
        self.observation_space = Box(0, 1, (1,), np.float32)
        self.action_space = Box(-1, 1, (1,), np.float32) if continuous else Discrete(2)

    def positive(self, action):
        return bool(action > 0 if isinstance(self.action_space, Discrete) else action[0] > 0)

    def observe(self):
        return np.array([self.steps / self.length], np.float32)

    def reward(self, action):
        return 1.0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.observe(), {}

    def step(self, action):
        reward = self.reward(action)
        self.steps += 1
        end = self.steps >= self.length
        return self.observe(), reward, end and not self.truncate, end and self.truncate, {}


class ObservedReward(Probe):
    """The reward is the observation, 1 or -1, whatever the action."""

    def reset(self, *, seed=None, options=None):
        gym.Env.reset(self, seed=seed)
        self.sign = self.np_random.choice([-1.0, 1.0])
        return super().reset()

    def observe(self):
        return np.array([self.sign], np.float32)

    def reward(self, action):
        return float(self.sign)


class LateReward(Probe):
    """Only the last step of an episode is rewarded."""

    def reward(self, action):
        return float(self.steps == self.length - 1)


class ActionReward(Probe):
    """A positive action is rewarded with 1, the other with -1."""

    def reward(self, action):
        return 1.0 if self.positive(action) else -1.0


class ObservedActionReward(ObservedReward):
    """An action with the sign of the observation is rewarded with 1, the other with -1."""

    def reward(self, action):
        return 1.0 if self.positive(action) == (self.sign > 0) else -1.0


class Target(Probe):
    """A box of actions from -scale to scale, of which the best is scale / 2."""

    def __init__(self, scale=1.0, dtype="float32", continuous=True):
        super().__init__()
        self.scale = scale
        self.action_space = Box(-scale, scale, (1,), np.dtype(dtype))

    def reward(self, action):
        assert self.action_space.contains(action)
        return -float((action[0] / self.scale - 0.5) ** 2)


class Numbered(Probe):
    """Each observation is the number of transitions in this environment so far: no two transitions share one.

    Episodes end at random, half of them by termination.
    """

    def __init__(self, continuous=False):
        super().__init__(continuous=continuous)
        self.observation_space = Box(0, np.inf, (1,), np.float32)
        self.transitions = 0

    def observe(self):
        return np.array([self.transitions], np.float32)

    def step(self, action):
        self.transitions += 1
        end, truncate = self.np_random.random(2) < [0.2, 0.5]
        return self.observe(), 1.0, bool(end and not truncate), bool(end and truncate), {}


class Walk(Probe):
    """A random walk, pushed by the actions, that ends after ten steps on average, half of the times by termination."""

    def __init__(self, continuous=False):
        super().__init__(continuous=continuous)
        self.observation_space = Box(-np.inf, np.inf, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        gym.Env.reset(self, seed=seed)
        self.place = self.np_random.normal()
        return self.observe(), {}

    def observe(self):
        return np.array([self.place], np.float32)

    def step(self, action):
        self.place += self.np_random.normal() + self.positive(action)
        end, truncate = self.np_random.random(2) < [0.1, 0.5]
        return self.observe(), self.place, bool(end and not truncate), bool(end and truncate), {}


class Spaces(Probe):
    """Observes a random sample of any space."""

    def __init__(self, observation_space, action_space=None, continuous=False):
        super().__init__(length=5, continuous=continuous)
        self.observation_space = observation_space
        self.action_space = action_space or self.action_space

    def reset(self, *, seed=None, options=None):
        gym.Env.reset(self, seed=seed)
        self.observation_space.seed(seed)
        return super().reset()

    def observe(self):
        return self.observation_space.sample()

    def step(self, action):
        assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
        self.action = action
        return super().step(action)


class NonFinite(Probe):
    """Observes or earns `value` from the given step on, counted over all episodes."""

    def __init__(self, where, at=0, value=np.nan, continuous=False):
        super().__init__(length=10, continuous=continuous)
        self.where, self.at, self.value, self.total = where, at, value, 0

    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        self.total += 1
        if self.total > self.at and self.where == "observation":
            obs = obs * self.value
        if self.total > self.at and self.where == "reward":
            reward = self.value
        return obs, reward, terminated, truncated, info


class Faulty(Probe):
    """Raises the error of that name in its constructor, at the first or tenth reset, or at the tenth step."""

    def __init__(self, where, error, continuous=False):
        super().__init__(length=3, continuous=continuous)
        self.where, self.error, self.calls = where, error, 0
        self.may_raise("constructor", 1)

    def may_raise(self, where, at=10):
        self.calls += where == self.where
        if self.calls == at and where == self.where:
            mistake = "a mistake in the environment"
            raise (
                json.JSONDecodeError(mistake, "", 0)
                if self.error == "JSONDecodeError"
                else getattr(builtins, self.error)(mistake)
            )

    def reset(self, **kwargs):
        self.may_raise("first reset", 1)
        self.may_raise("reset")
        return super().reset(**kwargs)

    def step(self, action):
        self.may_raise("step")
        return super().step(action)


class Misspelt(Probe):
    """Its constructor calls something with a keyword argument that does not exist."""

    def __init__(self):
        super().__init__(lenght=3)


class Growing(Probe):
    """An episode is one step, and earns its number."""

    episodes = 0

    def reward(self, action):
        self.episodes += 1
        return float(self.episodes)


class Seeded(Probe):
    """Observes the first number of its generator, and appends those of first resets to seeds.pt."""

    def reset(self, *, seed=None, options=None):
        gym.Env.reset(self, seed=seed)
        self.steps, self.number = 0, self.np_random.random()
        if seed is not None:
            path = pathlib.Path("seeds.pt")
            torch.save([*(torch.load(path) if path.exists() else []), self.number], path)
        return self.observe(), {}

    def observe(self):
        return np.array([self.number], np.float32)


class OddInfo(Probe):
    """Its info holds, under one name, values whose type or shape changes from step to step."""

    def __init__(self, values, continuous=False):
        super().__init__(length=5, continuous=continuous)
        self.values = {"none": [None, 1], "ragged": [np.zeros(1), np.zeros(3)], "kinds": ["text", {"a": 1}, 2.0]}[
            values
        ]

    def info(self):
        value = self.values[int(self.np_random.integers(len(self.values)))]
        return {"odd": value, "episode": {"r": 5.0}}

    def reset(self, *, seed=None, options=None):
        gym.Env.reset(self, seed=seed)
        return super().reset()[0], self.info()

    def step(self, action):
        return *super().step(action)[:4], self.info()


class Sentence(gym.Space):
    """A space that Gymnasium cannot flatten."""

    def sample(self, mask=None, probability=None):
        return "go"

    def contains(self, x):
        return isinstance(x, str)

    def __repr__(self):
        return "Sentence()"


class BadReset(Probe):
    """The first observation of its second episode is nan."""

    episodes = 0

    def observe(self):
        return super().observe() * (np.nan if self.episodes == 2 and self.steps == 0 else 1)

    def reset(self, *, seed=None, options=None):
        self.episodes += 1
        return super().reset(seed=seed)


for probe in (
    Faulty, Misspelt, Growing, Seeded, OddInfo, BadReset,
    Probe, ObservedReward, LateReward, ActionReward, ObservedActionReward, Target, Numbered, Walk, NonFinite,
):  # fmt: skip
    gym.register(f"{probe.__name__}-v0", probe)
for name, space in {
    "Matrix": Box(-1, 1, (3, 2), np.float64),
    "MultiDiscrete": MultiDiscrete([2, 3]),
    "Dict": Dict({"position": Box(-1, 1, (2,), np.float32), "switch": Discrete(3, start=5)}),
    "Tuple": Tuple((Discrete(2), Box(-1, 1, (2, 2), np.float32))),
    "Image": Box(0, 255, (8, 8, 3), np.uint8),
    "Gray": Box(0, 255, (8, 8), np.uint8),
    "Sequence": gym.spaces.Sequence(Discrete(2)),
    "Sentence": Sentence((), None),
    "Mission": Dict({"position": Box(-1, 1, (2,), np.float32), "mission": Sentence((), None)}),
}.items():
    gym.register(f"{name}-v0", Spaces, kwargs={"observation_space": space})
gym.register(
    "Int8-v0", Spaces, kwargs={"observation_space": Discrete(2), "action_space": Discrete(3, start=-1, dtype=np.int8)}
)
gym.register("Start-v0", Spaces, kwargs={"observation_space": Discrete(2), "action_space": Discrete(3, start=-1)})
for name, space in {"Binary": gym.spaces.MultiBinary(4), "Several": MultiDiscrete([2, 3])}.items():
    gym.register(f"{name}-v0", Spaces, kwargs={"observation_space": Discrete(2), "action_space": space})
