"""A dataset as the table of its steps: the rows and columns that `tables.py` reads back."""

from __future__ import annotations

import numpy as np

from stitchrl.core.errors import DataError
from stitchrl.data.columns import Array
from stitchrl.data.dataset import Dataset
from stitchrl.data.finite_values import lacks_rewards


def rows_of(dataset: Dataset, where: str) -> tuple[dict[str, Array], dict[str, Array]]:
    """Returns the table of a dataset and its empty cells: T + 1 rows an episode, the last one with its final observation."""
    if dataset.observations.ndim > 2 or (dataset.actions.ndim > 2):
        raise DataError(f"{where}: observations of shape {list(dataset.observations.shape[1:])} do not fit a table; write .npz instead")
    size, ends = len(dataset) + dataset.episodes, dataset.offsets[1:] + np.arange(dataset.episodes)
    steps = np.ones(size, dtype=np.bool_)
    steps[ends] = False
    lengths = dataset.lengths + 1
    table: dict[str, Array] = {"episode": np.repeat(np.arange(dataset.episodes), lengths)}
    table["time"] = np.arange(size) - np.repeat(dataset.offsets[:-1] + np.arange(dataset.episodes), lengths)
    seen = np.empty((size, *dataset.observations.shape[1:]), dataset.observations.dtype)
    seen[steps], seen[ends] = dataset.observations, dataset.final_observations
    table |= _spread("obs", seen, always=True)
    empty: dict[str, Array] = {}
    names = {"rewards": "reward", "terminals": "terminal", "timeouts": "timeout", "groups": "group"}
    names |= {"behaviour_log_probabilities": "behaviour_log_probability", "goals": "goal", "actions": "action"}
    for name, column in dataset.columns.items():
        if name == "observations" or (name == "rewards" and lacks_rewards(dataset)):
            continue
        if column.ndim > 2:
            raise DataError(f"{where}: column '{name}' of shape {list(column.shape[1:])} does not fit a table; write .npz instead")
        full = np.zeros((size, *column.shape[1:]), column.dtype)
        full[steps] = column
        spread = _spread(names.get(name, name.replace("infos/", "info_")), full, always=name == "goals")
        table |= spread
        empty |= dict.fromkeys(spread, ~steps)
    return table, empty


def _spread(name: str, column: Array, always: bool = False) -> dict[str, Array]:
    if column.ndim == 1:
        return {f"{name}_0" if always else name: column}
    return {f"{name}_{i}": column[:, i] for i in range(column.shape[1])}
