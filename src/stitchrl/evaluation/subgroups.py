"""A policy's value in each declared subgroup of episodes, and the worst of them, at a level that allows for having looked at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from stitchrl.core.errors import DataError
from stitchrl.core.intervals import Interval
from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.evidence import Statistic

Array = np.ndarray[Any, np.dtype[Any]]
MOST = 20  # subgroups of one column
SMALLEST = 30  # episodes


@final
class Subset(Statistic):
    """A statistic of some of the episodes only, `chosen` bool `[E]`; its counts are theirs, `[B, chosen.sum()]`."""

    def __init__(self, whole: Statistic, chosen: Array) -> None:
        self.whole, self.chosen, self.episodes = whole, np.asarray(chosen, np.bool_), int(np.sum(chosen))

    def value(self, counts: Array) -> Array:
        full = np.zeros((len(counts), self.whole.episodes), counts.dtype)
        full[:, self.chosen] = counts
        return self.whole.value(full)


@final
@dataclass(frozen=True)
class Subgroup:
    """One value of a column: its episodes, and the difference to the logged policy there, or in words why there is none."""

    column: str
    value: str
    episodes: int
    interval: Interval | None
    reason: str | None


def subgroups(
    dataset: Dataset, columns: tuple[str, ...], difference: Statistic, make_interval: Callable[[Statistic, float], Interval], level: float
) -> list[Subgroup]:
    """Returns each column's subgroups with intervals at `1 - (1 - level) / number of subgroups` (Bonferroni); the worst estimate first.

    columns: names of columns of the dataset, read at each episode's first step. Raises DataError for one that is not there.
    """
    found: list[tuple[str, str, Array]] = []
    for column in columns:
        found += [(column, value, chosen) for value, chosen in _values(dataset, column)]
    tested = [chosen.sum() >= SMALLEST for *_, chosen in found]
    each = 1 - (1 - level) / max(sum(tested), 1)
    result = []
    for (column, value, chosen), enough in zip(found, tested, strict=True):
        episodes = int(chosen.sum())
        if not enough:
            result.append(Subgroup(column, value, episodes, None, f"not estimable: {episodes} episodes; expected at least {SMALLEST}"))
            continue
        interval = make_interval(Subset(difference, chosen), each)
        reason = None if np.isfinite([interval.estimate, interval.low, interval.high]).all() else "not estimable: no weight on its episodes"
        result.append(Subgroup(column, value, episodes, None if reason else interval, reason))
    return sorted(result, key=lambda s: np.inf if s.interval is None else s.interval.estimate)


def check_columns(dataset: Dataset, columns: tuple[str, ...]) -> None:
    """Raises DataError where a column cannot part the episodes into subgroups."""
    for column in columns:
        _values(dataset, column)


def _values(dataset: Dataset, column: str) -> list[tuple[str, Array]]:
    """(value, bool [E]) for each value of a column at the episodes' first steps; a column of many numbers is cut at its quartiles."""
    name = dataset.column_of(column)
    if name is None:
        have = ", ".join(sorted(dataset.columns))
        raise DataError(f"the data have no column '{column}' for subgroups; they have {have}")
    first = np.asarray(dataset.columns[name])[dataset.offsets[:-1]]
    if first.ndim != 1:
        raise DataError(f"column '{column}' has rows of shape {list(first.shape[1:])}; a subgroup needs one value a step")
    values = np.unique(first)
    if len(values) <= MOST:
        return [(str(value), first == value) for value in values]
    if first.dtype.kind not in "iuf":
        raise DataError(f"column '{column}' has {len(values)} values; expected at most {MOST} subgroups")
    cuts = np.quantile(first, [0.25, 0.5, 0.75])
    quarter = np.searchsorted(cuts, first, side="right")
    ends = [first.min(), *cuts, first.max()]
    return [(f"{ends[i]:.4g} to {ends[i + 1]:.4g}", quarter == i) for i in range(4) if (quarter == i).any()]
