"""Columns brought to their one dtype and shape at the border, and the spaces that they imply."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from stitchrl.core.errors import DataError
from stitchrl.core.spec import Box, Discrete, Space

Array = np.ndarray[Any, np.dtype[Any]]

EPISODE_NAMES = ("episode", "episodes", "episode_id", "episode_ids")  # of a column that says which episode a row is of

_CHUNK = 1 << 18  # rows looked at together, so that a check of a memory-mapped column needs little memory
_FLOAT32_EXACT = 1 << 24  # above this, float32 no longer holds every integer


def float32_column(values: Array, name: str) -> Array:
    """Returns `values` as float32, itself where it already is. Raises DataError for strings, objects and overflow."""
    if values.dtype == np.float32:
        return values
    if values.dtype.kind not in "fiub":
        raise _not_numeric(values, name)
    if values.dtype.kind in "iu" and values.dtype.itemsize > 2 and values.size:
        largest = max(abs(int(values.max())), abs(int(values.min())))
        if largest > _FLOAT32_EXACT:
            raise DataError(f"'{name}' holds the integer {largest:,}; float32 is exact only up to {_FLOAT32_EXACT:,}. Rescale the column")
    with np.errstate(over="ignore"):
        cast = values.astype(np.float32)
    if values.dtype.kind == "f" and values.dtype.itemsize > 4:
        for start in range(0, len(values), _CHUNK):
            lost = np.isinf(cast[start : start + _CHUNK]) & np.isfinite(values[start : start + _CHUNK])
            if lost.any():
                row = start + int(np.argwhere(lost)[0][0])
                raise DataError(f"'{name}' row {row:,} is too large for float32 (largest 3.4e38). Rescale the column")
    return cast


def flag_column(values: Array, name: str) -> Array:
    """Returns a bool column [N] from bool or from numbers that are all 0 or 1. Raises DataError."""
    values = _flat(values, name)
    if values.dtype == np.bool_:
        return values
    if values.dtype.kind not in "fiu":
        raise _not_numeric(values, name)
    wrong = (values != 0) & (values != 1)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise DataError(f"'{name}' row {row:,} is {values[row]}; expected 0 or 1 (false or true)")
    return values.astype(np.bool_)


def reward_column(values: Array, name: str = "rewards") -> Array:
    """Returns a float32 column [N]. Raises DataError."""
    return float32_column(_flat(values, name), name)


def integer_column(values: Array, name: str) -> Array:
    """Returns an int64 column; floats must be whole numbers. Raises DataError."""
    if values.dtype == np.int64:
        return values
    if values.dtype.kind == "f":
        whole = np.isfinite(values) & (values == np.round(values)) & (np.abs(values) < 2.0**53)
        if not whole.all():
            row = int(np.argwhere(~whole)[0][0])
            raise DataError(f"'{name}' row {row:,} is {values[row]}; expected a whole number")
    elif values.dtype.kind not in "iub":
        raise _not_numeric(values, name)
    elif values.dtype == np.uint64 and values.size and int(values.max()) > np.iinfo(np.int64).max:
        raise DataError(f"'{name}' holds {int(values.max()):,}; expected at most 2^63 - 1")
    return values.astype(np.int64)


def observation_column(values: Array, space: Space | None, name: str = "observations") -> tuple[Array, Space]:
    """Returns observations in their one dtype, and their space: [N] int64, [N, *O] uint8 or [N, *O] float32."""
    if isinstance(space, Discrete) or (space is None and values.ndim == 1 and values.dtype.kind in "iub"):
        return _discrete_column(values, space, name)
    if values.ndim == 1:
        values = values[:, None]
    if values.dtype == np.uint8 and (space is None or space.dtype == "uint8"):
        space = space or Box(values.shape[1:], (0.0,), (255.0,), "uint8")
    elif space is not None and space.dtype == "uint8":
        raise DataError(f"'{name}' is {values.dtype}; expected uint8 (0 … 255), as its space says. Convert the images without rescaling")
    else:
        values = float32_column(values, name)
        space = space or Box(values.shape[1:])
    _check_shape(values, space, name)
    return values, space


def action_column(values: Array, space: Space | None, name: str = "actions") -> tuple[Array, Space]:
    """Returns actions in their one dtype, and their space: [N] int64 where discrete, else [N, *A] float32.

    Bounds that are not given are -1 … 1 when all data lie inside (slack 1e-6), else the data's minimum and maximum: a task's own take their
    place where a run knows them (`transforms.within`).
    """
    if isinstance(space, Discrete) or (space is None and values.dtype.kind in "iub"):
        return _discrete_column(values, space, name)
    if values.ndim == 1:
        values = values[:, None]
    values = float32_column(values, name)
    if space is None:
        low, high = _bounds(values)
        space = Box(values.shape[1:], low, high)
    _check_shape(values, space, name)
    return values, space


def extra_column(values: Array, name: str, rows: int) -> Array:
    """Returns an optional column in its dtype: float32, int64, uint8 or bool. Raises DataError."""
    if values.ndim == 0 or len(values) != rows:
        raise DataError(f"'{name}' has {len(values) if values.ndim else 0:,} rows and 'observations' {rows:,}; each step needs one")
    if name == "behaviour_log_probabilities":
        return reward_column(values, name)
    if name == "groups":
        return integer_column(_flat(values, name), name)
    if name == "goals":
        return values if values.dtype == np.uint8 else float32_column(values if values.ndim > 1 else values[:, None], name)
    if values.dtype.kind == "f":
        return float32_column(values, name)
    if values.dtype in (np.bool_, np.uint8):
        return values
    return integer_column(values, name)


def _discrete_column(values: Array, space: Space | None, name: str) -> tuple[Array, Space]:
    if values.ndim == 2 and values.shape[1] > 1:
        hint = "one-hot rows? pass values.argmax(1)" if values.size and np.all((values == 0) | (values == 1)) else "pass one column"
        raise DataError(f"'{name}' has shape {list(values.shape)}; expected [{len(values)}] integers for a discrete space. Perhaps {hint}")
    values = integer_column(_flat(values, name), name)
    if not len(values):
        return values, space or Discrete(1)
    low, high = int(values.min()), int(values.max())
    if low < 0:
        row = int(np.argmin(values))
        raise DataError(f"'{name}' row {row:,} is {low}; expected 0 … n - 1. Renumber the column from 0")
    if space is None:
        if high >= _FLOAT32_EXACT:
            raise DataError(f"'{name}' holds {high:,}, which would need {high + 1:,} classes. Renumber the column from 0, or pass spec=")
        return values, Discrete(high + 1)
    if isinstance(space, Discrete) and high >= space.n:
        row = int(np.argmax(values))
        raise DataError(f"'{name}' row {row:,} is {high}; its space has the values 0 … {space.n - 1}")
    return values, space


def _bounds(values: Array) -> tuple[tuple[float, ...], tuple[float, ...]]:
    width = math.prod(values.shape[1:])
    low, high = np.full(width, np.inf), np.full(width, -np.inf)
    for start in range(0, len(values), _CHUNK):
        chunk = values[start : start + _CHUNK].reshape(-1, width)
        if not np.isfinite(chunk).all():  # the doctor reports it; a bound must be a number all the same
            chunk = np.where(np.isfinite(chunk), chunk, 0.0)
        low, high = np.minimum(low, chunk.min(0)), np.maximum(high, chunk.max(0))
    if not len(values) or (low.min(initial=0.0) >= -1 - 1e-6 and high.max(initial=0.0) <= 1 + 1e-6):
        return (-1.0,), (1.0,)
    return tuple(float(x) for x in low), tuple(float(x) for x in high)


def _check_shape(values: Array, space: Space, name: str) -> None:
    if isinstance(space, Box) and values.shape[1:] != space.shape:
        raise DataError(f"'{name}' has rows of shape {list(values.shape[1:])}; expected {list(space.shape)}, as its space says")


def _flat(values: Array, name: str) -> Array:
    if values.ndim == 2 and values.shape[1] == 1:
        return values[:, 0]
    if values.ndim != 1:
        raise DataError(f"'{name}' has shape {list(values.shape)}; expected one number for each step")
    return values


def _not_numeric(values: Array, name: str) -> DataError:
    kind = {"U": "text", "S": "text", "O": "objects", "M": "dates", "m": "durations", "c": "complex numbers"}.get(
        values.dtype.kind, "records"
    )
    return DataError(f"'{name}' holds {kind} (dtype {str(values.dtype)[:40]}); expected numbers. Encode the column as numbers first")
