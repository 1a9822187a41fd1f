"""Small environments that isolate one property each, and are solved in seconds.

Importing this module registers them, so `--env-id probes:LateReward-v0` finds them where tests/ is on the Python path.
"""

import builtins
import json

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Tuple


class Probe(gym.Env):
    """Base: `length` steps per episode, then it terminates or, with `truncate`, runs into its time limit.

    The observation is the number of the step, divided by `length`; a step earns 1. Subclasses change what they are
    about. `continuous` exchanges the two discrete actions for a box from -1 to 1; `positive(action)` hides it.
    """

    observation_space = Box(0, 1, (1,), np.float32)

    def __init__(self, length=1, truncate=False, continuous=False):
        self.length, self.truncate = length, truncate
        if not hasattr(self, "action_space"):
            self.action_space = Box(-1, 1, (1,), np.float32) if continuous else Discrete(2)

    def positive(self, action):
        return bool(action > 0 if isinstance(self.action_space, Discrete) else action[0] > 0)

    def begin(self):
        """Draws what an episode is about."""

    def observe(self):
        return np.float32([self.steps / self.length])

    def reward(self, action):
        return 1.0

    def ends(self):  # terminated, truncated
        end = self.steps >= self.length
        return end and not self.truncate, end and self.truncate

    def info(self):
        return {}

    def reset(self, *, seed=None, options=None):
        assert options is None  # not {}: nobody has given any
        super().reset(seed=seed)
        self.steps = 0
        self.begin()
        return self.observe(), self.info()

    def step(self, action):
        reward = self.reward(action)
        self.steps += 1
        terminated, truncated = self.ends()
        return self.observe(), reward, terminated, truncated, self.info()


class ObservedReward(Probe):
    """The reward is the observation, 1 or -1, whatever the action."""

    def begin(self):
        self.sign = self.np_random.choice([-1.0, 1.0])

    def observe(self):
        return np.float32([self.sign])

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

    observation_space = Box(-np.inf, np.inf, (1,), np.float32)
    place, end_probability = 0, 0.2

    def observe(self):
        return np.float32([self.place])

    def reward(self, action):
        self.place += 1
        return 1.0

    def ends(self):
        end, truncate = self.np_random.random(2) < [self.end_probability, 0.5]
        return bool(end and not truncate), bool(end and truncate)


class Walk(Numbered):
    """A random walk, pushed by the actions, that ends after ten steps on average, half of the times by termination."""

    end_probability = 0.1

    def begin(self):
        self.place = self.np_random.normal()

    def reward(self, action):
        self.place += self.np_random.normal() + self.positive(action)
        return self.place


class Spaces(Probe):
    """Observes a random sample of any space."""

    def __init__(self, observation_space, action_space=None, continuous=False):
        self.observation_space = observation_space
        if action_space:
            self.action_space = action_space
        super().__init__(length=5, continuous=continuous)

    def begin(self):
        self.observation_space.seed(int(self.np_random.integers(2**31)))

    def observe(self):
        return self.observation_space.sample()

    def reward(self, action):
        assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
        self.action = action
        return 1.0


class NonFinite(Probe):
    """Observes, in a `reset` or after a step, or earns `value` from the given step on, counted over all episodes."""

    def __init__(self, where, at=0, value=np.nan, continuous=False):
        super().__init__(length=10, continuous=continuous)
        self.where, self.at, self.value, self.total = where, at, value, 0

    def factor(self, where):
        return self.value if self.total > self.at and self.where == where else 1

    def observe(self):
        return np.float32([self.factor("observation" if self.steps else "reset")])

    def reward(self, action):
        self.total += 1
        return 1.0 * self.factor("reward")


class Faulty(Probe):
    """Raises that error in its constructor, at the first or tenth reset, at the tenth step, or when closed."""

    def __init__(self, where, error, continuous=False):
        super().__init__(length=3, continuous=continuous)
        self.where, self.error, self.calls = where, error, 0
        self.may_raise("constructor", 1)

    def may_raise(self, where, at=10):
        self.calls += where == self.where
        if self.calls == at and where == self.where:
            error = json.JSONDecodeError if self.error == "JSONDecodeError" else getattr(builtins, self.error)
            raise error("a mistake in the environment: no argument 'wehre'", *["", 0] * (error is json.JSONDecodeError))

    def begin(self):
        self.may_raise("first reset", 1)
        self.may_raise("reset")

    def reward(self, action):
        self.may_raise("step")
        return 1.0

    def close(self):
        self.may_raise("close", 1)


class Alone(Probe):
    """Of this simulator, there can be only one."""

    is_alive = False

    def __init__(self, continuous=False):
        super().__init__(length=3, continuous=continuous)
        assert not Alone.is_alive
        Alone.is_alive = True

    def close(self):
        Alone.is_alive = False


class Growing(Probe):
    """An episode is one step, and earns its number."""

    episodes = 0

    def reward(self, action):
        self.episodes += 1
        return float(self.episodes)


class Seeded(Probe):
    """Observes the first number of its generator; keeps those of first resets, and all actions, of all environments."""

    numbers, actions = [], []

    def begin(self):
        self.number = self.np_random.random()

    def observe(self):
        return np.float32([self.number])

    def reset(self, *, seed=None, options=None):
        result = super().reset(seed=seed)
        if seed is not None:
            self.numbers.append(self.number)
        return result

    def reward(self, action):
        self.actions.append(self.positive(action))
        return 1.0


class OddInfo(Probe):
    """Its info holds, under one name, values whose type or shape changes from step to step."""

    VALUES = {"none": [None, 1], "ragged": [np.zeros(1), np.zeros(3)], "kinds": ["text", {"a": 1}, 2.0]}

    def __init__(self, values, continuous=False):
        super().__init__(length=5, continuous=continuous)
        self.values = self.VALUES[values]

    def info(self):
        return {"odd": self.values[int(self.np_random.integers(len(self.values)))], "episode": {"r": 5.0}}


class Corridor(Probe):
    """Three states that look alike, in the second of which actions are switched (Sutton and Barto, example 13.1)."""

    def begin(self):
        self.state = 0

    def observe(self):
        return np.ones(1, np.float32)

    def reward(self, action):
        right = self.positive(action) != (self.state == 1)
        self.state = max(0, self.state + (1 if right else -1))
        return -1.0

    def ends(self):
        return self.state == 3, False


class OddReward(Probe):
    """Its rewards are of the kind that it is told to give."""

    def __init__(self, kind):
        super().__init__(length=5)
        self.kind = {"bool": bool, "int": int, "float32": np.float32, "array": lambda reward: np.ones(1)}[kind]

    def reward(self, action):
        return self.kind(1)


for probe in (
    Alone, Faulty, Growing, Seeded, OddInfo, OddReward,
    Probe, ObservedReward, LateReward, ActionReward, ObservedActionReward, Target, Numbered, Walk, NonFinite,
):  # fmt: skip
    gym.register(f"{probe.__name__}-v0", probe)
gym.register("Corridor-v0", Corridor, max_episode_steps=200)
BOX, SWITCH = Box(-1, 1, (2,), np.float32), Discrete(2)
for name, spaces in {
    "Matrix": [Box(-1, 1, (3, 2), np.float64)],
    "MultiDiscrete": [MultiDiscrete([2, 3])],
    "Dict": [Dict({"position": BOX, "switch": Discrete(3, start=5)})],
    "Tuple": [Tuple((SWITCH, Box(-1, 1, (2, 2), np.float32)))],
    "Image": [Box(0, 255, (8, 8, 3), np.uint8)],
    "Gray": [Box(0, 255, (8, 8), np.uint8)],
    "Sequence": [gym.spaces.Sequence(SWITCH)],
    "Sentence": [gym.Space()],
    "Mission": [Dict({"position": BOX, "mission": gym.Space()})],
    "Int8": [Box(0, 255, (3,), np.uint8), Discrete(3, start=-1, dtype=np.int8)],  # bytes of memory, no image
    "Start": [SWITCH, Discrete(3, start=-1)],
    "Binary": [SWITCH, gym.spaces.MultiBinary(4)],
    "Several": [SWITCH, MultiDiscrete([2, 3])],
    "ActionMatrix": [SWITCH, Box(-1, 1, (2, 3), np.float64)],
}.items():
    gym.register(f"{name}-v0", Spaces, kwargs=dict(zip(("observation_space", "action_space"), spaces, strict=False)))
