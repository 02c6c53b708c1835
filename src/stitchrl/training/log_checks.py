"""Whether an algorithm can learn from a log with these settings: told before it begins."""

from __future__ import annotations

from typing import Any

from stitchrl import algorithms
from stitchrl.core.algorithm import Algorithm
from stitchrl.core.errors import ConfigError
from stitchrl.core.spec import Discrete
from stitchrl.data.dataset import Dataset
from stitchrl.data.finite_values import check_finite, check_rewards_told


def check_log(dataset: Dataset, algorithm: str, settings: Any, *, to_goals: bool = False, terminal_reward: float | None = None) -> None:
    """Raises ConfigError for a log of other actions or an unbounded task, DataError for values that are not finite, or rewards that it lacks.

    to_goals: it is paid, and ends, as the goals say that are drawn. terminal_reward: what the steps are paid that end the task; None: as logged.
    """
    found, _ = algorithms.find(algorithm)
    kind = "discrete" if isinstance(dataset.spec.action, Discrete) else "box"
    if found.action_space not in ("any", kind):
        fitting = [name for name, (other, _) in _by_name().items() if other.action_space in ("any", kind)]
        words = {"discrete": "integer", "box": "real-valued"}
        raise ConfigError(
            f"'{algorithm}' needs {words[found.action_space]} actions; these data have {words[kind]} ones. Choose from {', '.join(fitting)}"
        )
    for name in ("observations", "actions", "rewards", "final_observations"):
        check_finite(dataset, name)
    ends = bool(dataset.columns["terminals"].any())
    if terminal_reward is not None and not ends:
        raise ConfigError(
            f"terminal_reward is {terminal_reward:g}, and no step of the data ends the task (no terminal is set): none would be paid; leave it out"
        )
    if not to_goals and terminal_reward is None and found.learns_from_rewards(settings):
        others = [name for name, (other, config) in _by_name().items() if not other.learns_from_rewards(config())]
        check_rewards_told(dataset, f"'{algorithm}'", f", or choose what reads none: {', '.join(others)}, hindsight (--goals.hindsight)")
    if getattr(settings, "discount", None) == 1.0 and not ends and not to_goals:
        raise ConfigError("discount is 1 and no episode of the data ends in a terminal: values would have no bound; use a discount below 1")


def _by_name() -> dict[str, tuple[type[Algorithm], type[Any]]]:
    return {name: algorithms.find(name) for name in algorithms.names()}
