"""Whether an algorithm can learn from a log with these settings: told before it begins."""

from __future__ import annotations

from typing import Any

from stitchrl import algorithms
from stitchrl.core.errors import ConfigError
from stitchrl.core.spec import Discrete
from stitchrl.data.dataset import Dataset
from stitchrl.data.finite_values import check_finite


def check_log(dataset: Dataset, algorithm: str, settings: Any) -> None:
    """Raises ConfigError for a log of other actions or an unbounded task, DataError for values that are not finite."""
    found, _ = algorithms.find(algorithm)
    kind = "discrete" if isinstance(dataset.spec.action, Discrete) else "box"
    if found.action_space not in ("any", kind):
        fitting = [name for name in algorithms.names() if algorithms.find(name)[0].action_space in ("any", kind)]
        words = {"discrete": "integer", "box": "real-valued"}
        raise ConfigError(
            f"'{algorithm}' needs {words[found.action_space]} actions; these data have {words[kind]} ones. Choose from {', '.join(fitting)}"
        )
    for name in ("observations", "actions", "rewards"):
        check_finite(dataset, name)
    if getattr(settings, "discount", None) == 1.0 and not bool(dataset.columns["terminals"].any()):
        raise ConfigError("discount is 1 and no episode of the data ends in a terminal: values would have no bound; use a discount below 1")
