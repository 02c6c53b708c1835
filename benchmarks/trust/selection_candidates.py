"""The candidates of the selection benchmark: 36 + 36 policies trained on half of a log, and their true values.

`OMP_NUM_THREADS=1 .venv/bin/python -m benchmarks.trust.selection_candidates --cache ../selection` (about 12 minutes on one core)
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from stitchrl import api
from stitchrl.core.records import Logging
from stitchrl.data.dataset import Dataset

# task -> its log, its environment, the discount of training and truth, episodes to roll out for the truth (ICU-Sepsis: solved instead)
TASKS: dict[str, dict[str, Any]] = {
    "icu-sepsis": {"data": "icu-sepsis/mixed", "environment": "stitchrl/ICU-Sepsis-v0", "discount": 1.0, "episodes": 10},
    "pendulum": {"data": "pendulum/mixed", "environment": "Pendulum-v1", "discount": 0.97, "episodes": 200},
}
SEEDS = 3
Setting = tuple[str, dict[str, Any], dict[str, Any], int]  # algorithm, settings, preprocessing, steps

_FAST = {"learning_rate": 1e-3, "hidden": (64,)}
_CQL = {"critic_learning_rate": 1e-3, "hidden": (64,)}
_ICU: dict[str, Setting] = {
    "bc": ("bc", _FAST, {}, 2000),
    "bc-short": ("bc", _FAST, {}, 200),
    "bc-decay": ("bc", _FAST | {"weight_decay": 0.1}, {}, 2000),
    "bc-best-half": ("bc", _FAST, {"best_episodes": 0.5}, 2000),
    "q": ("q_learning", _FAST, {}, 2000),
    "q-short": ("q_learning", _FAST, {}, 400),
    "cql-0.1": ("cql", _CQL | {"conservatism": 0.1}, {"reward_scale": 20.0}, 2000),
    "cql-1": ("cql", _CQL | {"conservatism": 1.0}, {"reward_scale": 20.0}, 2000),
    "cql-10": ("cql", _CQL | {"conservatism": 10.0}, {"reward_scale": 20.0}, 2000),
    "iql-mild": ("iql", _FAST | {"expectile": 0.7, "inverse_temperature": 3.0}, {}, 2000),
    "iql-sharp": ("iql", _FAST | {"expectile": 0.8, "inverse_temperature": 30.0}, {}, 2000),
    "iql-greedy": ("iql", _FAST | {"expectile": 0.95, "inverse_temperature": 100.0}, {}, 2000),
}
_NET = {"learning_rate": 1e-3, "hidden": (64, 64)}
_RATES = {"actor_learning_rate": 1e-3, "critic_learning_rate": 1e-3, "temperature_learning_rate": 1e-3, "hidden": (64, 64)}
_PENDULUM: dict[str, Setting] = {
    "bc": ("bc", _NET, {}, 3000),
    "bc-best-tenth": ("bc", _NET, {"best_episodes": 0.1}, 3000),
    "bc-best-third": ("bc", _NET, {"best_episodes": 0.3}, 3000),
    "td3_bc-0.5": ("td3_bc", _NET | {"alpha": 0.5}, {}, 4000),
    "td3_bc-2.5": ("td3_bc", _NET | {"alpha": 2.5}, {}, 4000),
    "td3_bc-20": ("td3_bc", _NET | {"alpha": 20.0}, {}, 4000),
    "td3_bc-short": ("td3_bc", _NET | {"alpha": 2.5}, {}, 800),
    "sac": ("sac", _RATES, {}, 4000),
    "cql-0.5": ("cql", _RATES | {"conservatism": 0.5, "sampled_actions": 4}, {}, 2500),
    "cql-5": ("cql", _RATES | {"conservatism": 5.0, "sampled_actions": 4}, {}, 2500),
    "iql-mild": ("iql", _NET | {"expectile": 0.7, "inverse_temperature": 1.0}, {"reward_scale": 0.1}, 4000),
    "iql-sharp": ("iql", _NET | {"expectile": 0.9, "inverse_temperature": 10.0}, {"reward_scale": 0.1}, 4000),
}
SETTINGS = {"icu-sepsis": _ICU, "pendulum": _PENDULUM}


def halves(task: str) -> tuple[Dataset, Dataset]:
    """Returns the episodes to train on and those to estimate from: none in common, so that no estimate is of what was fitted."""
    return api.load(TASKS[task]["data"]).split(0.5, seed=0)


def train_candidates(cache: Path) -> None:
    """Trains what `cache` does not hold yet; each run's evaluations.jsonl holds its policies' true values."""
    for task, about in TASKS.items():
        dataset = None
        for name, (algorithm, settings, preprocessing, steps) in SETTINGS[task].items():
            run = cache / task / name
            if (run / "policy" / "config.json").is_file():
                continue
            dataset = dataset or halves(task)[0]
            started = time.perf_counter()
            given = settings if algorithm == "bc" else settings | {"discount": about["discount"]}
            api.train(
                algorithm, dataset, run=run, seeds=SEEDS, settings=given, preprocessing=preprocessing, environment=about["environment"],
                training={"steps": steps, "log_every": steps // 4, "save_every": steps, "compile": "off", "threads": 1},
                evaluation={"episodes": about["episodes"], "parallel": 50, "processes": 1},
                logging=Logging(tensorboard=False, quiet=True), overwrite=True,
            )  # fmt: skip
            print(f"{task} {name}: {time.perf_counter() - started:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, required=True, help="where runs are kept; outside the repository")
    train_candidates(parser.parse_args().cache)


if __name__ == "__main__":
    main()
