"""Clipping or rescaling? How ppo_continuous.py learns when its actions are fitted to the box in one way or the other.

    python benchmarks/action_fitting.py

Rescaling is what the script does: -1 and 1 become the bounds of the box, what lies outside is clipped. Clipping alone
passes actions on in the units of the environment. Where the box is -1 to 1, the two are the same. Two runs at a time.
"""

import json
import statistics
from concurrent.futures import ThreadPoolExecutor

import gymnasium as gym
from launcher import changed_copy, command_for, greedy_return, keep, origin, provenance, rows_of, run, table

SEEDS = (11, 12, 13)
SCALES = {"LunarLanderContinuous-v3": (0.4, 1000.0), "Pendulum-v1": (2.0, 0.01)}  # half the width of the box
STEPS = {"LunarLanderContinuous-v3": 300_000, "Pendulum-v1": 100_000}
RESCALED = "bounded = action_space.bounded_below & action_space.bounded_above"
CHANGES = {"rescaled": [], "clipped": [(RESCALED, "bounded = np.zeros(action_space.shape, bool)")]}
SETTINGS = [(env_id, scale, fitting) for env_id in SCALES for scale in SCALES[env_id] for fitting in CHANGES]
FIELDS = ("environment", "scale", "fitting")


def scaled(inner, scale, **kwargs):
    return gym.wrappers.RescaleAction(gym.make(inner, **kwargs), -scale, scale)


gym.register("Scaled-v0", scaled)  # for the script, which imports this module


def train(env_id, scale, fitting, seed):
    """The greedy return after training."""
    env_kwargs = json.dumps({"inner": env_id, "scale": scale}, separators=(",", ":"))
    flags = (
        f"--env-id action_fitting:Scaled-v0 --env-kwargs {env_kwargs} --total-timesteps {STEPS[env_id]} --seed {seed}"
    )
    with changed_copy("ppo_continuous", CHANGES[fitting]) as folder:
        return greedy_return(run(command_for("ppo_continuous", flags, folder=folder)).stdout)["mean"]


def summary():
    rows = rows_of("action_fitting", FIELDS, SETTINGS)
    lines = [
        [row["environment"], f"-{row['scale']:g} to {row['scale']:g}", row["fitting"]]
        + [f"{statistics.mean(row['returns']):.0f}", " ".join(f"{value:.0f}" for value in row["returns"])]
        for row in rows
    ]
    header = "environment | box | actions are | greedy return | each seed's"
    return table(header, lines) + f"\n\n{origin(rows)}"


def main():
    with ThreadPoolExecutor(2) as pool:
        for setting in SETTINGS:
            row = dict(zip(FIELDS, setting, strict=True)) | provenance()
            returns = list(pool.map(lambda seed, setting=setting: train(*setting, seed), SEEDS))
            keep("action_fitting", row | {"returns": returns}, FIELDS)
    print(summary())


if __name__ == "__main__":
    main()
