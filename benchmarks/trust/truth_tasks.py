"""The exactly solved tasks of the truth table: a way to log each, and target policies near to and far from the one that logged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from stitchrl.core.errors import DataError
from stitchrl.core.spec import Discrete, Spec
from stitchrl.data.dataset import Dataset
from stitchrl.environments.tabular_logs import sample_log
from stitchrl.environments.tasks import lqg
from stitchrl.environments.tasks.chain import chain
from stitchrl.environments.tasks.cliff import cliff
from stitchrl.environments.tasks.gridworld import gridworld
from stitchrl.environments.tasks.icu_sepsis import icu_sepsis
from stitchrl.environments.tasks.tabular import TabularMDP, epsilon_policy, greedy_policy, policy_value, soft_policy, solve
from stitchrl.evaluation.evidence import TableTarget, Target

Array = np.ndarray[Any, np.dtype[Any]]


@final
@dataclass(frozen=True)
class TruthTask:
    """episodes: of one log. sample: episodes and a generator → a log without any timeout. targets: what judges, and its exact value."""

    name: str
    discount: float
    episodes: int
    behaviour: str
    sample: Callable[[int, np.random.Generator], Dataset]
    targets: dict[str, tuple[Target, float, str]]


@final
class GaussianTarget(Target):
    """A linear policy with Gaussian noise."""

    def __init__(self, policy: lqg.LinearGaussian, spec: Spec, name: str) -> None:
        self.policy, self.spec, self.name = policy, spec, name
        self.deterministic = policy.deviation == 0

    def probabilities(self, observations: Array) -> Array:
        raise DataError(f"{self.name}: actions are continuous; their probabilities cannot be listed")

    def log_probabilities(self, observations: Array, actions: Array) -> Array:
        if self.deterministic:
            raise DataError(f"{self.name}: a deterministic policy of continuous actions has no density")
        return self.policy.log_probabilities(observations, actions)

    def draw(self, observations: Array, count: int, seed: int) -> Array:
        noise = np.random.default_rng(seed).standard_normal((count, len(observations)))
        return np.asarray((self.policy.mean(observations) + self.policy.deviation * noise)[:, :, None], np.float32)


def tasks() -> dict[str, Callable[[], TruthTask]]:
    """Returns by name what makes each task."""
    return {"chain": _chain, "cliff": _cliff, "gridworld": _gridworld, "lqg": _lqg, "icu-sepsis": _icu_sepsis}


def _tabular(name: str, mdp: TabularMDP, episodes: int, behaviour: tuple[str, Array], targets: dict[str, tuple[str, Array]]) -> TruthTask:
    spec = Spec(Discrete(mdp.states), Discrete(mdp.actions))

    def sample(count: int, generator: np.random.Generator) -> Dataset:
        return sample_log(mdp, np.ones(1), behaviour[1][None], count, generator)

    judged: dict[str, tuple[Target, float, str]] = {
        near: (TableTarget(table, spec, f"{name}, {words}"), policy_value(mdp, table), words)
        for near, (words, table) in {"same": behaviour, **targets}.items()
    }
    return TruthTask(name, mdp.discount, episodes, behaviour[0], sample, judged)


def _chain() -> TruthTask:
    right = {p: np.tile([1 - p, p], (7, 1)) for p in (0.6, 0.7, 1.0)}
    return _tabular(
        "chain", chain(), 200, ("right 60 %", right[0.6]), {"near": ("right 70 %", right[0.7]), "far": ("always right", right[1.0])}
    )


def _cliff() -> TruthTask:
    mdp = cliff().mdp
    best = greedy_policy(solve(mdp)[1])
    near, far = epsilon_policy(best, 0.3), best
    return _tabular(
        "cliff",
        mdp,
        200,
        ("optimum, 40 % random", epsilon_policy(best, 0.4)),
        {"near": ("optimum, 30 % random", near), "far": ("optimum", far)},
    )


def _gridworld() -> TruthTask:
    mdp = gridworld("cliff").mdp
    q = solve(mdp)[1]
    soft = {t: soft_policy(q, t) for t in (0.1, 0.07)}
    targets = {"near": ("softmax of Q*, 0.07", soft[0.07]), "far": ("optimum", greedy_policy(q))}
    return _tabular("gridworld", mdp, 200, ("softmax of Q*, temperature 0.1", soft[0.1]), targets)


def _icu_sepsis() -> TruthTask:
    task = icu_sepsis()
    # Where one action alone is admissible, all are as good; the optimum that the log can judge takes those that clinicians took.
    best = greedy_policy(np.where(task.clinicians > 0, solve(task.mdp)[1], -np.inf))
    near = 0.9 * task.clinicians + 0.1 * best
    targets = {"near": ("clinicians, 10 % optimum", near), "far": ("optimum", best)}
    return _tabular("icu-sepsis", task.mdp, 1000, ("clinicians", task.clinicians), targets)


def _lqg() -> TruthTask:
    task = lqg.LQG()
    best = np.array(lqg.optimal_gain(task))

    def policy(share: float, deviation: float) -> lqg.LinearGaussian:
        return lqg.LinearGaussian((float(share * best[0]), float(share * best[1])), deviation)

    behaviour = policy(0.5, 0.5)
    policies = {
        "same": (behaviour, "half the optimal gain, deviation 0.5"),
        "near": (policy(0.55, 0.45), "0.55 of the optimal gain, deviation 0.45"),
        "far": (policy(1.0, 0.1), "the optimal gain, deviation 0.1"),
    }
    targets: dict[str, tuple[Target, float, str]] = {
        name: (GaussianTarget(chosen, task.spec, f"lqg, {words}"), lqg.value(task, chosen), words)
        for name, (chosen, words) in policies.items()
    }

    def sample(count: int, generator: np.random.Generator) -> Dataset:
        return lqg.sample_lqg(task, behaviour, count, generator)

    return TruthTask("lqg", task.discount, 200, policies["same"][1], sample, targets)
