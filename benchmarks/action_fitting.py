"""Clipping or rescaling? How ppo_continuous.py learns when its actions are fitted to the box in one way or the other.

    python benchmarks/action_fitting.py --seeds 3

Rescaling is what the script does: -1 and 1 become the bounds of the box, what lies outside is clipped. Clipping alone
passes actions on in the units of the environment. Where the box is -1 to 1, the two are the same.
"""

import argparse
import contextlib
import importlib
import io
import itertools
import multiprocessing
import os
import statistics
import sys
import tempfile
from pathlib import Path

import gymnasium as gym

ROOT = Path(__file__).parent.parent
SCALES = {"LunarLanderContinuous-v3": (0.4, 1000.0), "Pendulum-v1": (2.0, 0.01)}  # half the width of the box
STEPS = {"LunarLanderContinuous-v3": 300_000, "Pendulum-v1": 100_000}


def scaled(env_id, scale, **kwargs):
    return gym.wrappers.RescaleAction(gym.make(env_id, **kwargs), -scale, scale)


def train(job):
    env_id, scale, fitting, seed = job
    gym.register("Scaled-v0", scaled, kwargs={"env_id": env_id, "scale": scale})
    text = (ROOT / "ppo_continuous.py").read_text()
    if fitting == "clip":
        rescaled = "bounded = action_space.bounded_below & action_space.bounded_above"
        assert text.count(rescaled) == 1
        text = text.replace(rescaled, "bounded = np.zeros(action_space.shape, bool)")
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        os.chdir(folder)
        sys.path.insert(0, folder)
        Path("ppo_fitting.py").write_text(text)
        script = importlib.import_module("ppo_fitting")
        args = script.Args(env_id="Scaled-v0", total_timesteps=STEPS[env_id], seed=seed)
        return script.evaluate(script.train(args, Path("runs", "fitting")), args, 100).mean()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    seeds = range(1, parser.parse_args().seeds + 1)
    settings = [(env_id, scale, f) for env_id in SCALES for scale in SCALES[env_id] for f in ("rescale", "clip")]
    jobs = [(*setting, seed) for setting in settings for seed in seeds]
    with multiprocessing.get_context("spawn").Pool(2, maxtasksperchild=1) as pool:
        results = dict(zip(jobs, pool.map(train, jobs, chunksize=1), strict=True))
    print("| environment | box | rescaled: mean | worst seed | clipped: mean | worst seed |\n|---|---|---|---|---|---|")
    for env_id, scale in itertools.chain.from_iterable(zip([e] * len(s), s, strict=True) for e, s in SCALES.items()):
        cells = []
        for fitting in ("rescale", "clip"):
            returns = [results[env_id, scale, fitting, seed] for seed in seeds]
            cells += [f"{statistics.mean(returns):.0f}", f"{min(returns):.0f}"]
        print(f"| {env_id} | -{scale:g} to {scale:g} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
