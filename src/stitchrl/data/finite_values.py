"""What must hold of a log's numbers before anything is learned from them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stitchrl.core.errors import ConfigError, DataError
from stitchrl.data.dataset import Dataset
from stitchrl.data.transforms import Affine, apply


def check_finite(dataset: Dataset, name: str) -> None:
    """Raises DataError naming episode and step of the first value of a column that is not finite, or of what episodes' last steps led to."""
    final = name == "final_observations"
    row = _first_not_finite(dataset.final_observations if final else dataset.columns[name])
    if row is None:
        return
    if final:
        where = f"episode {row}, after its last step"
    else:
        episode = int(np.searchsorted(dataset.offsets, row, side="right") - 1)
        where = f"episode {episode}, step {row - int(dataset.offsets[episode])} (row {row:,})"
    raise DataError(
        f"{dataset.metadata.get('name', 'data')}: '{name}' is not finite in {where}; every value must be a finite number. "
        "`stitchrl data validate` lists all such rows"
    )


def _first_not_finite(column: np.ndarray) -> int | None:
    if column.dtype.kind != "f":
        return None
    for start in range(0, len(column), 200_000):
        rows = column[start : start + 200_000]
        wrong = np.flatnonzero(~np.isfinite(rows).reshape(len(rows), -1).all(1))
        if len(wrong):
            return start + int(wrong[0])
    return None


def lacks_rewards(dataset: Dataset) -> bool:
    """Whether zeros stand where the log's source found no rewards."""
    return bool(dataset.metadata.get("rewards_missing")) and not dataset.columns["rewards"].any()


def check_rewards_told(dataset: Dataset, reader: str, todo: str) -> None:
    """Raises DataError where the log's source found no rewards, and holds zeros in their place, for whoever reads them."""
    if lacks_rewards(dataset):
        raise DataError(
            f"{dataset.metadata.get('name', 'data')}: has no rewards, which {reader} reads: zeros stand in their place. Give the log a column "
            f"'rewards' (of a table: --table.reward){todo}"
        )


def check_rewards(dataset: Dataset, transforms: Sequence[Affine]) -> None:
    """Raises ConfigError where transforms make rewards that are not finite."""
    extremes = np.array([dataset.rewards.min(), dataset.rewards.max()], dtype=np.float64)
    with np.errstate(over="ignore"):
        scaled = apply(transforms, "rewards", extremes)
    if not np.isfinite(scaled).all():
        raise ConfigError(
            f"preprocessing: rewards from {extremes[0]:g} to {extremes[1]:g} become {scaled[0]:g} to {scaled[1]:g}; "
            "choose another reward_scale, reward_shift or return_range"
        )
