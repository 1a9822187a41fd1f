"""Compares candidates for the defaults of a main script on all of its environments, and keeps the better ones.

    python benchmarks/tune.py benchmarks/candidates/continuous.json

The file names the script and its candidates: flags, and changes of the script's text where a flag can't say it.

    {"script": "ppo_continuous", "rounds": [[0.3, 2], [1, 5]], "candidates": {
        "today": {},
        "gamma 0.995": {"flags": "--gamma 0.995"},
        "two steps": {"changes": [["for _ in range(args.update_epochs)", "for _ in range(2)"]]}
    }}

In rounds: here, all candidates train for 0.3 of the steps with seeds 1 and 2, then the better half of them for all
steps with seeds 1 to 5. A score is (return - random) / (published - random): 0 is what random actions earn, 1 what RL
Zoo publishes for its PPO, tuned for that environment. Candidates are ranked by the mean of all environments and the
score of the worst one, in equal parts. Two runs at a time; runs are kept in results/tune.jsonl and never made twice.
"""

import argparse
import json
import statistics
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from launcher import (
    changed_copy,
    command_for,
    git,
    greedy_return,
    keep,
    key,
    provenance,
    read_rows,
    run,
    table,
)

CANDIDATES = Path(__file__).parent / "candidates"
FIELDS = ("text", "candidate", "script", "environment", "steps", "seed")
ENVIRONMENTS = {  # steps, return of random actions (100 episodes), published return
    "ppo_discrete": {
        "CartPole-v1": (50_000, 21, 500),
        "Acrobot-v1": (500_000, -500, -73.5),
        "LunarLander-v3": (250_000, -186, 242.1),
        "FrozenLake-v1": (200_000, 0.01, 0.74),  # 0.74 is the best policy
        "MountainCar-v0": (300_000, -200, -110.4),
    },
    "ppo_continuous": {
        "LunarLanderContinuous-v3": (300_000, -211, 270.9),
        "Pendulum-v1": (100_000, -1174, -172.2),
        "BipedalWalker-v3": (600_000, -100, 287.9),
        "Hopper-v5": (600_000, 18, 2410),
        "HalfCheetah-v5": (600_000, -281, 5819),
        "Walker2d-v5": (600_000, 2, 3479),
    },
}


def trial(candidate, script, env_id, steps, seed):
    """The greedy return of one run."""
    candidate = json.loads(candidate)
    flags = f"--env-id {env_id} --total-timesteps {steps} --seed {seed} {candidate.get('flags', '')}"
    with changed_copy(script, candidate.get("changes", [])) as folder:
        return greedy_return(run(command_for(script, flags, folder=folder)).stdout)["mean"]


def jobs_of(script, candidates, share, num_seeds):
    """{(name, environment): the fields of a run for each seed}; seeds 11 to 20 are for the report."""
    return {
        (name, env_id): [(json.dumps(candidate), script, env_id, int(share * steps), 1 + i) for i in range(num_seeds)]
        for name, candidate in candidates.items()
        for env_id, (steps, _, _) in ENVIRONMENTS[script].items()
    }


def ranking(script, jobs, greedy):
    """The names of the candidates, best first, and a table of their scores."""
    scores = {}
    for (name, env_id), group in jobs.items():
        _, random, published = ENVIRONMENTS[script][env_id]
        mean = statistics.mean(greedy[job] for job in group)
        scores.setdefault(name, {})[env_id] = (mean - random) / (published - random)
    ranks = {name: (statistics.mean(score.values()) + min(score.values())) / 2 for name, score in scores.items()}
    order = sorted(ranks, key=lambda name: -ranks[name])
    lines = [[name, f"{ranks[name]:.3f}", *(f"{value:.2f}" for value in scores[name].values())] for name in order]
    return order, table("candidate | mean and worst | " + " | ".join(ENVIRONMENTS[script]), lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    file = json.loads(parser.parse_args().file.read_text())
    script, remaining, made_by = file["script"], file["candidates"], provenance()
    text = git("rev-parse", f"HEAD:{script}.py")  # a checksum of the script: runs of another one don't count
    done = {key(row, FIELDS[1:]): row["greedy"] for row in read_rows("tune") if row["text"] == text}
    for share, num_seeds in file["rounds"]:
        jobs = jobs_of(script, remaining, share, num_seeds)
        todo = [job for group in jobs.values() for job in group if job not in done]
        print(f"{len(remaining)} candidates, {share:.0%} of the steps, {num_seeds} seeds: {len(todo)} runs", flush=True)
        with ThreadPoolExecutor(2) as pool:
            for job, greedy in zip(todo, pool.map(lambda job: trial(*job), todo), strict=True):
                done[job] = greedy
                row = dict(zip(FIELDS, (text, *job), strict=True)) | {"greedy": greedy}
                keep("tune", row | made_by, FIELDS)
        order, scores = ranking(script, jobs, done)
        print(scores + "\n", flush=True)
        remaining = {name: remaining[name] for name in order[: max(1, (len(order) + 1) // 2)]}


if __name__ == "__main__":
    main()
