"""What a policy may be shown: observations of the shape and kind of the log's, for each of its seeds."""

from __future__ import annotations

import numpy as np

from stitchrl.core.errors import DataError
from stitchrl.core.spec import Discrete, Space


def check_rows(observations: np.ndarray, space: Space) -> None:
    """Raises DataError for observations that are not `[N, *O]` of a space."""
    shape = () if isinstance(space, Discrete) else space.shape
    if observations.shape[1:] != shape or observations.ndim != len(shape) + 1:
        expected, hint = ", ".join(["N", *map(str, shape)]), _goal_hint(observations, shape)
        raise DataError(f"observations have shape {list(observations.shape)}; expected [{expected}] as in the data{hint}")


def check_observations(observations: np.ndarray, space: Space, seeds: int) -> None:
    """Raises DataError for observations that are not `[S, N, *O]` of a space, or hold what it cannot."""
    shape = () if isinstance(space, Discrete) else space.shape
    if observations.ndim < 2 or observations.shape[:1] != (seeds,) or observations.shape[2:] != shape:
        expected = ", ".join(["N", *map(str, shape)])
        raise DataError(
            f"observations of {seeds} seeds have shape {list(observations.shape)}; expected [S, {expected}]{_goal_hint(observations, shape)}"
        )
    if observations.dtype.kind not in "buif":
        raise DataError(f"observations are {observations.dtype}; expected numbers")
    if observations.dtype.kind == "f" and not np.isfinite(observations).all():
        raise DataError("observations hold a number that is not finite; every value must be a finite number")
    if isinstance(space, Discrete):
        if observations.size and (observations.min() < 0 or observations.max() >= space.n or (observations % 1 != 0).any()):
            raise DataError(f"observations hold a value outside the states 0 … {space.n - 1} of the data")
    elif space.dtype == "uint8" and _outside_bytes(observations):
        raise DataError(f"observations hold {int(observations.min())} … {int(observations.max())}; expected the 0 … 255 of uint8")
    elif space.dtype == "uint8" and observations.dtype.kind == "f":
        raise DataError("observations are real numbers; the policy learned from frames of uint8, 0 … 255")


def _goal_hint(observations: np.ndarray, shape: tuple[int, ...]) -> str:
    """What to do where observations are half as long as they must be: they may lack the goal."""
    if len(shape) != 1 or observations.ndim < 2 or 2 * observations.shape[-1] != shape[0]:
        return ""
    return ". A policy that learned to reach goals reads [observation, goal]: np.concatenate([observations, goals], -1)"


def _outside_bytes(values: np.ndarray) -> bool:
    """Whether integers are not all from 0 to 255."""
    return bool(values.dtype.kind in "iu" and values.dtype.itemsize > 1 and values.size and (values.min() < 0 or values.max() > 255))
