"""Steps per second of training beside those of the environment alone and of Stable-Baselines3, in one run.

    python benchmarks/throughput.py peers --repeats 5      # our defaults and CleanRL's, against env and SB3
    python benchmarks/throughput.py processes              # one process against two
    python benchmarks/throughput.py sweep                  # 1 to 64 environments, 64 and 256 units
    python benchmarks/throughput.py profile                # where the time goes
    python benchmarks/throughput.py solve --repeats 3      # seconds until LunarLander-v3 is solved, against SB3
    python benchmarks/throughput.py startup                # seconds to the first update, megabytes of memory

Each measurement is a process of its own with one thread; what is compared is measured in turn, as often as `--repeats`
says, and the table gives medians. Stable-Baselines3 is left out where it is not installed (`pip install
stable-baselines3` into an environment of its own, since it may ask for another Gymnasium). `--json FILE` keeps the
single measurements.
"""

import argparse
import importlib
import importlib.util
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
CLEANRL_DISCRETE = "--num-envs 4 --num-steps 128 --num-minibatches 4 --update-epochs 4 --hidden-size 64"
CLEANRL_CONTINUOUS = (
    "--num-envs 1 --num-steps 2048 --num-minibatches 32 --update-epochs 10 --hidden-size 64 --target-kl None"
)
LANDER, LANDER_CONTINUOUS, WALKER = "LunarLander-v3", "LunarLanderContinuous-v3", "BipedalWalker-v3"


def script_for(env_id):
    return "ppo_continuous" if env_id in (LANDER_CONTINUOUS, WALKER) else "ppo_discrete"


def arguments(env_id, flags):
    """The script's own reading of these flags."""
    sys.path.insert(0, str(ROOT))
    import tyro

    return tyro.cli(importlib.import_module(script_for(env_id)).Args, args=["--env-id", env_id, *flags.split()])


# What runs in a process of its own; each prints one JSON value.


def env_alone(env_id, flags, steps):
    """Steps per second of the vector environment under random actions."""
    import gymnasium as gym

    args = arguments(env_id, flags)
    envs = gym.make_vec(env_id, args.num_envs, args.vectorization_mode)
    envs.reset(seed=1)
    envs.action_space.seed(1)
    actions = [envs.action_space.sample() for _ in range(1000)]
    start = time.perf_counter()
    for t in range(steps // args.num_envs):
        envs.step(actions[t % 1000])
    return steps // args.num_envs * args.num_envs / (time.perf_counter() - start)


def stable_baselines3(env_id, flags, steps):
    """Steps per second of PPO.learn with the same sizes."""
    import torch
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env

    torch.set_num_threads(1)
    args = arguments(env_id, flags)
    batch_size = args.num_envs * args.num_steps
    model = PPO(
        "MlpPolicy", make_vec_env(env_id, args.num_envs), n_steps=args.num_steps, n_epochs=args.update_epochs,
        batch_size=batch_size // args.num_minibatches, policy_kwargs={"net_arch": [args.hidden_size] * 2},
        device="cpu", seed=1,
    )  # fmt: skip
    start = time.perf_counter()
    model.learn(steps)
    return model.num_timesteps / (time.perf_counter() - start)


def zoo_solves(env_id, seed, steps):
    """Time and step at which the last 100 episodes first average 200: SB3 with RL Zoo's settings for LunarLander.

    https://github.com/DLR-RM/rl-baselines3-zoo/blob/master/hyperparams/ppo.yml
    """
    import torch
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env

    torch.set_num_threads(1)
    model = PPO(
        "MlpPolicy", make_vec_env(env_id, 16, seed=int(seed)), n_steps=1024, batch_size=64, n_epochs=4, gamma=0.999,
        gae_lambda=0.98, ent_coef=0.01, device="cpu", seed=int(seed),
    )  # fmt: skip
    solved = [None, None]

    def callback(local_variables, global_variables):
        last = [episode["r"] for episode in model.ep_info_buffer]
        if len(last) < 100 or statistics.mean(last) < 200:
            return True
        solved[:] = time.time(), model.num_timesteps
        return False

    model.learn(steps, callback=callback)
    return solved


def profile(env_id, flags, steps):
    """Shares of the training time, by timing the calls that train() makes."""
    script = importlib.import_module(script_for(env_id))
    seconds = dict.fromkeys(("environment", "policy", "advantages", "logging and checkpoints"), 0.0)

    def timed(owner, name, part):
        function = getattr(owner, name)

        def wrapper(*args, **kwargs):
            start = time.perf_counter()
            result = function(*args, **kwargs)
            seconds[part] += time.perf_counter() - start
            return result

        setattr(owner, name, wrapper)

    args = arguments(env_id, flags + f" --total-timesteps {steps} --eval-episodes 1")
    make_envs, starts = script.make_envs, []

    def make_timed_envs(*args, **kwargs):
        envs = make_envs(*args, **kwargs)
        reset = envs.reset
        envs.reset = lambda **kwargs: (starts.append(time.perf_counter()), reset(**kwargs))[1]
        timed(envs, "step", "environment")
        return envs

    script.make_envs = make_timed_envs
    timed(script.Agent, "act", "policy")
    timed(script, "compute_gae", "advantages")
    timed(script.SummaryWriter, "add_scalar", "logging and checkpoints")
    timed(script.SummaryWriter, "add_histogram", "logging and checkpoints")
    timed(script, "save_checkpoint", "logging and checkpoints")

    class TrainingIsOver(Exception):
        pass

    def evaluate(*_, **__):
        raise TrainingIsOver

    script.evaluate = evaluate
    try:
        script.train(args, Path("runs", "profile"))
    except TrainingIsOver:
        total = time.perf_counter() - starts[0]
    seconds["update and all else"] = total - sum(seconds.values())
    return {part: value / total for part, value in seconds.items()}


# What starts them.


def worker(function, *parameters):
    command = [sys.executable, __file__, "worker", function.__name__, *map(str, parameters)]
    return json.loads(run(command).splitlines()[-1])


def run(command):
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"{command}\n{result.stderr}")
    return result.stdout


def training(env_id, flags, steps, num_processes=1):
    """Steps per second as the script prints them: from the first rollout to the last update, logging included."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num_processes)]
    command = [sys.executable, *(launcher if num_processes > 1 else []), ROOT / f"{script_for(env_id)}.py"]
    flags = f"--env-id {env_id} --total-timesteps {steps} --eval-episodes 1 {flags}"
    return int(re.search(r"(\d+) steps per second", run([*command, *flags.split()]))[1])


def compare(jobs, repeats):
    """{name: function} to {name: measurements}, one of each in turn."""
    results = {name: [] for name in jobs}
    for repeat in range(repeats):
        for name, job in jobs.items():
            results[name].append(job())
            print(f"  {repeat + 1}/{repeats} {name}: {results[name][-1]:.0f}", file=sys.stderr)
    return results


def table(title, results, baselines):
    """Prints medians, and their ratios to the medians of the baselines."""
    print(f"\n**{title}**\n\n| | steps/s | from | to |" + "".join(f" x {name} |" for name in baselines))
    print("|---|---|---|---|" + "---|" * len(baselines))
    medians = {name: statistics.median(values) for name, values in results.items()}
    for name, values in results.items():
        ratios = "".join(f" {medians[name] / medians[baseline]:.2f} |" for baseline in baselines)
        print(f"| {name} | {medians[name]:,.0f} | {min(values):,.0f} | {max(values):,.0f} |{ratios}")


def peers(repeats):
    sb3 = bool(importlib.util.find_spec("stable_baselines3"))
    kept = {}
    for title, env_id, flags in (
        ("our defaults", LANDER, ""),
        ("CleanRL's defaults", LANDER, CLEANRL_DISCRETE),
        ("CleanRL's defaults with 16 environments", LANDER, CLEANRL_DISCRETE.replace("envs 4", "envs 16")),
        ("CleanRL's defaults", LANDER_CONTINUOUS, CLEANRL_CONTINUOUS),
    ):
        jobs = {
            "environment alone": lambda e=env_id, f=flags: worker(env_alone, e, f, 60_000),
            "ours": lambda e=env_id, f=flags: training(e, f, 100_000),
        }
        if sb3:
            jobs["Stable-Baselines3"] = lambda e=env_id, f=flags: worker(stable_baselines3, e, f, 20_480)
        kept[f"{env_id}, {title}"] = results = compare(jobs, repeats)
        table(f"{env_id}, {title}", results, [name for name in results if name != "ours"])
    return kept


def processes(repeats):
    kept = {}
    for env_id in (WALKER, LANDER):
        for title, flags in (("our defaults", ""), ("4 minibatches", "--num-minibatches 4")):
            jobs = {
                "one process": lambda e=env_id, f=flags: training(e, f, 61_440),
                "two processes": lambda e=env_id, f=flags: training(e, f, 61_440, num_processes=2),
            }
            kept[f"{env_id}, {title}"] = results = compare(jobs, repeats)
            table(f"{env_id}, {title}", results, ["one process"])
    return kept


def sweep(repeats):
    jobs = {
        f"{num_envs} environments, {width} units": lambda n=num_envs, w=width: training(
            LANDER, f"--num-envs {n} --hidden-size {w}", max(20_480, 10 * n * 128)
        )
        for width in (64, 256)
        for num_envs in (1, 2, 4, 8, 16, 32, 64)
    }
    results = compare(jobs, repeats)
    table(f"{LANDER}, batches of num-envs * 128 steps", results, ["16 environments, 64 units"])
    return results


def profiles(repeats):
    kept = {}
    for env_id, flags in (
        (LANDER, ""),
        (LANDER, CLEANRL_DISCRETE),
        (LANDER_CONTINUOUS, CLEANRL_CONTINUOUS),
        (WALKER, ""),
    ):
        shares = [worker(profile, env_id, flags, 61_440) for _ in range(repeats)]
        kept[f"{env_id} {flags}"] = shares
        print(f"\n**{env_id} {flags or 'our defaults'}**\n\n| part | share of the time |\n|---|---|")
        for part in shares[0]:
            print(f"| {part} | {statistics.median(share[part] for share in shares):.0%} |")
    return kept


def solve(repeats):
    """Seconds from the start of the command until the last 100 training episodes first average 200, seed by seed."""
    import learning

    kept = {"ours": [], "Stable-Baselines3": []}
    print("| seed | ours | Stable-Baselines3 with RL Zoo's settings |\n|---|---|---|")
    for seed in range(1, repeats + 1):
        row = learning.run("ppo_discrete", LANDER, 250_000, seed, "")
        solved = bool(row["solved_step"])
        kept["ours"].append((float(row["solved_seconds"]), int(row["solved_step"])) if solved else (None, None))
        start = time.time()
        solved_at, step = worker(zoo_solves, LANDER, seed, 1_000_000)
        kept["Stable-Baselines3"].append((solved_at and solved_at - start, step))
        last = [seconds_and_steps[-1] for seconds_and_steps in kept.values()]
        cells = [f"{s:.0f} s, {n / 1000:.0f} k steps" if n else "not in 1 M steps" for s, n in last]
        print(f"| {seed} |", " | ".join(cells), "|", flush=True)
    return kept


def startup(repeats):
    """From the start of the command to the first TensorBoard entry, which follows the first update; peak memory."""
    kept = {}
    for num_envs in (16, 64):
        seconds, megabytes = [], []
        for _ in range(repeats):
            flags = f"--num-envs {num_envs} --total-timesteps {num_envs * 128 * 20} --eval-episodes 1"
            with tempfile.TemporaryDirectory() as folder:
                start = time.perf_counter()
                process = subprocess.Popen(
                    [sys.executable, ROOT / "ppo_discrete.py", *flags.split()],
                    cwd=folder,
                    env=os.environ | {"OMP_NUM_THREADS": "1"},
                    stdout=subprocess.PIPE,
                    text=True,
                )
                process.stdout.readline()  # the first line of progress: one of twenty iterations
                seconds.append(time.perf_counter() - start)
                process.stdout.read()
                _, status, usage = os.wait4(process.pid, 0)
                assert status == 0
                megabytes.append(usage.ru_maxrss / 1024)
        kept[f"{num_envs} environments"] = {"seconds": seconds, "megabytes": megabytes}
        print(
            f"{num_envs} environments: {statistics.median(seconds):.1f} s to the end of the first update, "
            f"{statistics.median(megabytes):.0f} MB at most"
        )
    return kept


SUITES = {
    "peers": peers,
    "processes": processes,
    "sweep": sweep,
    "profile": profiles,
    "solve": solve,
    "startup": startup,
}


def main():
    if sys.argv[1:2] == ["worker"]:
        function, env_id, flags, steps = sys.argv[2:]
        print(json.dumps(globals()[function](env_id, flags, int(steps))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the single measurements to this file")
    args = parser.parse_args()
    results = SUITES[args.suite](args.repeats)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
