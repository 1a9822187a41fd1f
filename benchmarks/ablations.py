"""What each detail is worth: trains without it, all else equal, and compares seed by seed with the script as it is.

    pip install "gymnasium[mujoco]"                           # for Hopper-v5
    python benchmarks/ablations.py                            # all details, four to eight hours on two cores
    python benchmarks/ablations.py "tanh instead of ReLU"     # some of them
    python benchmarks/ablations.py --again                    # twelve cells with today's scripts, 25 minutes

Two runs at a time. Rows are kept as soon as they are there, and what has a row is not measured again: an interrupted
campaign goes on where it stopped. A figure is the mean of the seeds' paired differences, (without the detail - as it
is) / (published - random), where published is what RL Zoo reports for its PPO and random is what random actions earn.
It is bold where the 95 % bootstrap interval of the mean excludes 0; elsewhere, these seeds show no clear difference.
Greedy returns are means of 30 episodes. The area is the mean of the training return over all steps: it tells how fast
a run learns.
"""

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from launcher import (
    changed_copy,
    command_for,
    greedy_return,
    keep,
    key,
    origin,
    provenance,
    read_rows,
    rows_of,
    run,
    table,
)
from tune import ENVIRONMENTS as SCALES

ENVIRONMENTS = {  # script, steps, seeds, seconds of a run beside another
    "CartPole-v1": ("ppo_discrete", 50_000, range(11, 21), 8),
    "LunarLander-v3": ("ppo_discrete", 250_000, range(11, 16), 28),
    "Acrobot-v1": ("ppo_discrete", 100_000, range(11, 21), 14),
    "Pendulum-v1": ("ppo_continuous", 100_000, range(11, 21), 16),
    "LunarLanderContinuous-v3": ("ppo_continuous", 200_000, range(11, 16), 28),
    "Hopper-v5": ("ppo_continuous", 300_000, range(11, 16), 65),
}
SCRIPTS = tuple(dict.fromkeys(script for script, *_ in ENVIRONMENTS.values()))
FIELDS = ("detail", "environment", "steps", "seed")
MEASURES = ("greedy", "area")


class Detail(NamedTuple):
    name: str  # what a reader deletes or changes
    flags: str = ""
    changes: tuple = ()  # (old text, new text) of the script
    script: str = ""  # the only one that it is about

    def concerns(self, env_id):
        return self.script in ("", ENVIRONMENTS[env_id][0])


BASELINE = Detail("as it is")
AGAIN = {  # cells to measure anew with changed scripts, chosen before that was done; their results stand apart
    "CartPole-v1": ("ratios not clipped", "64 environments, same batch size"),
    "LunarLander-v3": ("lambda of GAE 1", "tanh instead of ReLU"),
    "Acrobot-v1": ("4 update epochs", "rewards not scaled"),
    "Pendulum-v1": ("time limits taken for terminations", "advantages not normalized"),
    "LunarLanderContinuous-v3": ("one body for actor and critic", "rewards not scaled"),
    "Hopper-v5": ("1 minibatch", "ratios not clipped"),
}
DETAILS = (
    Detail(
        "PyTorch's initialization instead of orthogonal",
        changes=(
            ("nn.init.orthogonal_(layer.weight, gain)", "pass"),
            ("        nn.init.zeros_(layer.bias)\n", ""),
        ),
    ),
    Detail(
        "gain 1 in the policy's last layer",
        changes=(("self.critic =", "nn.init.orthogonal_(self.actor[-1].weight)\n        self.critic ="),),
    ),
    Detail(
        "one body for actor and critic",
        changes=(
            ("self.device =", "self.critic = nn.Sequential(*self.actor[:4], self.critic[4])\n        self.device ="),
        ),
    ),
    Detail("observations not normalized", "--no-norm-obs"),
    Detail("normalized observations not clipped", changes=((".clamp(-10, 10)", ""),)),
    Detail("rewards not scaled", "--no-norm-reward"),
    Detail(
        "time limits taken for terminations",
        changes=(("next_values, terminated, done, args", "next_values, done, done, args"),),
    ),
    Detail("advantages not normalized", "--no-norm-adv"),
    Detail(
        "advantages never centered",
        changes=(("(advantages - advantages.mean()) / ", "advantages / "),),
    ),
    Detail(
        "advantages normalized per minibatch",
        "--no-norm-adv",
        ((
            "    log_ratio = policy",
            "    advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)\n    log_ratio = policy",
        ),),
    ),
    Detail("lambda of GAE 0", "--gae-lambda 0"),
    Detail("lambda of GAE 1", "--gae-lambda 1"),
    Detail("learning rate not annealed", "--no-anneal-lr"),
    Detail("Adam's epsilon 1e-8", changes=(("eps=1e-5", "eps=1e-8"),)),
    Detail("gradients not clipped", "--max-grad-norm inf"),
    Detail("ratios not clipped", "--clip-coef inf"),
    Detail("values clipped", "--clip-vloss"),
    Detail("entropy bonus of 0.01", "--ent-coef 0.01"),
    Detail("KL early stop at 0.05", "--target-kl 0.05", script="ppo_discrete"),
    Detail("no KL early stop", "--target-kl None", script="ppo_continuous"),
    Detail("1 update epoch", "--update-epochs 1"),
    Detail("4 update epochs", "--update-epochs 4"),
    Detail("1 minibatch", "--num-minibatches 1"),
    Detail("twice as many minibatches", "--num-minibatches 16", script="ppo_discrete"),
    Detail("twice as many minibatches", "--num-minibatches 32", script="ppo_continuous"),
    Detail("tanh instead of ReLU", changes=(("nn.ReLU(), second, nn.ReLU()", "nn.Tanh(), second, nn.Tanh()"),)),
    Detail("1 environment, same batch size", "--num-envs 1 --num-steps 2048", script="ppo_discrete"),
    Detail("1 environment, same batch size", "--num-envs 1 --num-steps 4096", script="ppo_continuous"),
    Detail("64 environments, same batch size", "--num-envs 64 --num-steps 32", script="ppo_discrete"),
    Detail("64 environments, same batch size", "--num-envs 64 --num-steps 64", script="ppo_continuous"),
    Detail(
        "actions clipped instead of rescaled",
        changes=(("middle + half_width * actions", "actions"),),
        script="ppo_continuous",
    ),
    Detail(
        "deviation depends on the state",
        changes=(
            ("action_dim, last_gain=0.01)", "2 * action_dim, last_gain=0.01)"),
            ("log_std = nn.Parameter(torch.full([action_dim], args.init_log_std))", "offset = args.init_log_std"),
            ("policy = Normal(self.actor(obs), self.log_std.exp())",
             "mean, log_std = self.actor(obs).chunk(2, -1)\n"
             "        policy = Normal(mean, (log_std + self.offset).exp())"),
            ("mean = self.actor(self.normalize(torch.as_tensor(obs, device=self.device)))",
             "obs = self.normalize(torch.as_tensor(obs, device=self.device))\n"
             "        mean, log_std = self.actor(obs).chunk(2, -1)"),
            ("torch.normal(mean, self.log_std.exp())", "torch.normal(mean, (log_std + self.offset).exp())"),
        ),
        script="ppo_continuous",
    ),
)  # fmt: skip


def pairs(details=DETAILS):
    """All (detail, environment) that are compared."""
    return [(detail, env_id) for env_id in ENVIRONMENTS for detail in details if detail.concerns(env_id)]


def pairs_again():
    """The (detail, environment) of AGAIN."""
    return [(detail, env_id) for detail, env_id in pairs() if detail.name in AGAIN[env_id]]


def jobs(compared):
    """(detail, environment, seed) of all runs for these pairs, the baseline's included: five seeds of all first."""
    cells = [(BASELINE, env_id) for env_id in dict.fromkeys(env_id for _, env_id in compared)] + list(compared)
    return sorted(
        [(detail, env_id, seed) for detail, env_id in cells for seed in ENVIRONMENTS[env_id][2]],
        key=lambda job: (job[2] > 15, list(ENVIRONMENTS).index(job[1])),
    )


def identity(detail, env_id, seed):
    """The values of FIELDS."""
    return detail.name, env_id, ENVIRONMENTS[env_id][1], seed


def train(detail, env_id, seed):
    script, steps, _, _ = ENVIRONMENTS[env_id]
    flags = f"--env-id {env_id} --total-timesteps {steps} --seed {seed} --eval-episodes 30 {detail.flags}"
    with changed_copy(script, detail.changes) as folder:
        done = run(command_for(script, flags, folder=folder))
    steps, _, returns = np.transpose(done.scalars["charts/episodic_return"])
    area = np.trapezoid(returns, steps) / (steps[-1] - steps[0])
    return {"greedy": greedy_return(done.stdout)["mean"], "area": area, "args": done.args}


def pairs_of(script, details=DETAILS):
    return [(detail, env_id) for detail, env_id in pairs(details) if ENVIRONMENTS[env_id][0] == script]


def rows(compared, name="ablations"):
    """All rows of these (detail, environment) in results/{name}.jsonl; ends this process where one is missing."""
    return rows_of(name, FIELDS, [identity(*job) for job in jobs(compared)])


def differences(compared, name="ablations"):
    """{(detail's name, environment, measure): (mean, lower end, upper end)} in units of the environment's scale."""
    rows_by_job = {key(row, FIELDS): row for row in rows(compared, name)}
    result = {}
    for detail, env_id in compared:
        script, _, seeds, _ = ENVIRONMENTS[env_id]
        _, random, published = SCALES[script][env_id]
        for measure in MEASURES:
            without, as_it_is = (
                np.array([rows_by_job[identity(one, env_id, seed)][measure] for seed in seeds])
                for one in (detail, BASELINE)
            )
            difference = (without - as_it_is) / (published - random)
            rng = np.random.default_rng(0)  # anew: a line is then the same, whatever others are shown with it
            means = rng.choice(difference, (10_000, len(difference))).mean(1)
            result[detail.name, env_id, measure] = difference.mean(), *np.percentile(means, (2.5, 97.5))
    return result


def ranking(values):
    """The details' names, from what costs most to what gains most: by the mean of all environments and measures."""
    means = {name: np.mean([value[0] for key, value in values.items() if key[0] == name]) for name, *_ in values}
    return sorted(means, key=means.get)


def summary(script, details=DETAILS):
    """A line for each detail, a column for each measure and environment; bold where the interval does not hold 0."""
    values = differences(pairs_of(script, details))
    columns = [(measure, env_id) for measure in MEASURES for env_id in dict.fromkeys(key[1] for key in values)]
    lines = []
    for name in ranking(values):
        cells = [values[name, env_id, measure] for measure, env_id in columns]
        lines.append([name, *map(shown, cells)])
    header = " | ".join([f"`{script}`", *(f"{env_id}, {measure}" for measure, env_id in columns)])
    return table(header, lines) + f"\n\n{origin(rows(pairs_of(script, details)))}"


def shown(cell):
    """A mean with two digits, bold where its interval does not hold 0."""
    mean, low, high = cell
    return f"**{mean:+.2f}**" if low > 0 or high < 0 else f"{mean:+.2f}"


def summary_again():
    """A line for each cell of AGAIN: what the rows of before say, and what was measured anew."""
    before, now = differences(pairs_again()), differences(pairs_again(), "ablations_again")
    lines = []
    for detail, env_id in pairs_again():
        cells = [values[detail.name, env_id, measure] for measure in MEASURES for values in (before, now)]
        lines.append([env_id, detail.name, *map(shown, cells)])
    header = "| | greedy, before | greedy, again | area, before | area, again"
    return table(header, lines) + f"\n\n{origin(rows(pairs_again(), 'ablations_again'))}"


def main():
    again = sys.argv[1:] == ["--again"]
    names = [] if again else sys.argv[1:]
    if unknown := set(names) - {detail.name for detail in DETAILS}:
        sys.exit(f"error: there is no detail {unknown.pop()!r}; there are: {', '.join(d.name for d in DETAILS)}")
    details = [detail for detail in DETAILS if not names or detail.name in names]
    for detail, env_id in pairs():  # stops here where a text no longer matches
        with changed_copy(ENVIRONMENTS[env_id][0], detail.changes):
            pass
    provenance()
    compared, results = (pairs_again(), "ablations_again") if again else (pairs(details), "ablations")
    have = {key(row, FIELDS) for row in read_rows(results)}
    todo = [job for job in jobs(compared) if identity(*job) not in have]
    hours = sum(ENVIRONMENTS[env_id][3] for _, env_id, _ in todo) / 3600 / 2
    print(f"{len(todo)} runs, about {hours:.1f} hours", flush=True)
    start = time.perf_counter()
    with ThreadPoolExecutor(2) as pool:
        for number, (job, row) in enumerate(zip(todo, pool.map(lambda job: train(*job), todo), strict=True), 1):
            keep(results, dict(zip(FIELDS, identity(*job), strict=True)) | row | provenance(), FIELDS)
            minutes = (time.perf_counter() - start) / 60
            print(f"{number}/{len(todo)}, {minutes:.0f} minutes: {job[0].name}, {job[1]}: {row['greedy']}", flush=True)
    if again:
        print(summary_again())
        return
    for script in dict.fromkeys(ENVIRONMENTS[env_id][0] for _, env_id in pairs(details)):
        print(summary(script, details), end="\n\n")


if __name__ == "__main__":
    main()
