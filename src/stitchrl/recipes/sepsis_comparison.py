"""The main job on an embedded log: what each of four algorithms believes of its policy, and what that policy is truly worth.

The task is ICU-Sepsis (Choudhary et al., 2024, arXiv:2406.05646), estimated from real intensive-care records; its model is known,
so the value of any policy can be computed instead of estimated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np

from stitchrl.core.records import Logging
from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.judge import Evaluation
from stitchrl.experiment import Preprocessing, plan, run_experiment
from stitchrl.training.learner import Training

DATA = "icu-sepsis/mixed"
ENVIRONMENT = "stitchrl/ICU-Sepsis-v0"
STEPS = 3_000
NET = {"hidden": (64,)}
# discount 1: a stay ends, and its return is survival itself. CQL's log-sum-exp compares values with log-probabilities, so its rewards
# are scaled until the values of actions differ by more than that (docs/algorithms/cql.md).
METHODS: dict[str, tuple[dict[str, Any], Preprocessing]] = {
    "bc": ({"learning_rate": 1e-3}, Preprocessing()),
    "q_learning": ({"learning_rate": 1e-3, "discount": 1.0}, Preprocessing()),
    "cql": ({"critic_learning_rate": 1e-3, "discount": 1.0, "conservatism": 1.0}, Preprocessing(reward_scale=20.0)),
    "iql": ({"learning_rate": 1e-3, "discount": 1.0, "expectile": 0.8, "inverse_temperature": 30.0}, Preprocessing()),
}


@final
@dataclass(frozen=True)
class Anchors:
    """Exact values on the same scale as the policies': survival rates."""

    random: float
    log: float  # the mean return of the logged episodes
    best: float


def anchors(dataset: Dataset) -> Anchors:
    """Returns the value of uniformly random treatment, of the log, and of the best possible policy."""
    from stitchrl.environments.tasks.icu_sepsis import icu_sepsis
    from stitchrl.environments.tasks.tabular import policy_value, solve, uniform_policy

    mdp = icu_sepsis().mdp
    best = float(np.asarray(mdp.initial) @ solve(mdp)[0])
    return Anchors(policy_value(mdp, uniform_policy(mdp)), float(dataset.returns().mean()), best)


def run_methods(
    dataset: Dataset, directory: Path, seeds: int, steps: int, show: Callable[[str], Any], warn: Callable[[str], Any] | None = None
) -> list[Path]:
    """Returns the run directories of all methods, each with its seeds trained at once.

    `show(name)` gives what is told of a method's progress, `warn(name)` of its alarms.
    """
    paths = []
    for name, (settings, preprocessing) in METHODS.items():
        path = directory / name
        made = plan(
            name,
            settings=settings | NET,
            seeds=seeds,
            training=Training(steps=steps, log_every=max(steps // 10, 1), save_every=steps, compile="off"),
            preprocessing=preprocessing,
            evaluation=Evaluation(episodes=400, parallel=100, processes=1),
        )
        run_experiment(
            made, dataset, path=path, source=DATA, environment=ENVIRONMENT, logging=Logging(quiet=True), overwrite=True, show=show(name),
            warn=None if warn is None else warn(name),
        )  # fmt: skip
        paths.append(path)
    return paths
