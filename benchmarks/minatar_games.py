"""MinAtar's games: `--env-id minatar_games:MinAtar/Breakout-v1` with `PYTHONPATH=benchmarks`."""

import minatar.gym

minatar.gym.register_envs()
