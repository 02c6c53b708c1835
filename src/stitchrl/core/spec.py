"""Spaces of observations and actions: all that an algorithm knows of a task before it sees data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, final

import numpy as np

from stitchrl.core.errors import ConfigError


@final
@dataclass(frozen=True)
class Box:
    """Real-valued arrays of one shape. `low` and `high` are flat, or one number for every dimension."""

    shape: tuple[int, ...]
    low: tuple[float, ...] = (-math.inf,)
    high: tuple[float, ...] = (math.inf,)
    dtype: str = "float32"  # "uint8" for stacked frames

    def __post_init__(self) -> None:
        if self.dtype not in ("float32", "uint8"):
            raise ConfigError(f"Box.dtype is {self.dtype!r}; expected 'float32', or 'uint8' for frames")
        for name, bound in (("low", self.low), ("high", self.high)):
            if len(bound) not in (1, self.size):
                raise ConfigError(f"Box.{name} has {len(bound)} numbers; expected 1 or {self.size}, one for each of {self.shape}")

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def bounded(self) -> bool:
        return all(math.isfinite(x) for x in self.low + self.high)


@final
@dataclass(frozen=True)
class Discrete:
    """The integers 0 … n-1."""

    n: int

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ConfigError(f"Discrete space has n = {self.n}; expected at least 1")


Space = Box | Discrete


SMALLEST_IMAGE = 36  # pixels a side: fewer leave the third convolution of nn/vision.py nothing to see


def is_image(space: Space) -> bool:
    """Returns whether observations are images that a convolution reads: uint8, `[H, W]`, `[C, H, W]` or `[H, W, C]`, 36 pixels a side or more.

    Smaller ones, such as the grids of MiniGrid, are numbers side by side.
    """
    if isinstance(space, Discrete) or space.dtype != "uint8" or len(space.shape) not in (2, 3):
        return False
    sides = space.shape if len(space.shape) == 2 else sorted((space.shape[0], space.shape[-1]))[1:] + [space.shape[1]]
    return min(sides) >= SMALLEST_IMAGE


def looks_like_image(space: Space) -> bool:
    """Returns whether observations seem to be images that `is_image` does not know: two neighbouring axes of 36 or more, whatever their type."""
    if isinstance(space, Discrete) or is_image(space):
        return False
    return any(min(sides) >= SMALLEST_IMAGE for sides in pairwise(space.shape))


@final
@dataclass(frozen=True)
class Spec:
    """What goes into a policy and what comes out of it."""

    observation: Space
    action: Space

    def to_json(self) -> dict[str, Any]:
        return {"observation": _space_to_json(self.observation), "action": _space_to_json(self.action)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Spec:
        return cls(_space_from_json(value["observation"]), _space_from_json(value["action"]))


def _space_to_json(space: Space) -> dict[str, Any]:
    if isinstance(space, Discrete):
        return {"kind": "discrete", "n": space.n}
    # JSON has no infinity; an unbounded side is written as null
    low, high = ([x if math.isfinite(x) else None for x in bound] for bound in (space.low, space.high))
    return {"kind": "box", "shape": list(space.shape), "low": low, "high": high, "dtype": space.dtype}


def _space_from_json(value: dict[str, Any]) -> Space:
    match value:
        case {"kind": "discrete", "n": int(n)}:
            return Discrete(n)
        case {"kind": "box", "shape": list(shape), "low": list(low), "high": list(high), "dtype": str(dtype)}:
            lows = tuple(-math.inf if x is None else float(x) for x in low)
            highs = tuple(math.inf if x is None else float(x) for x in high)
            return Box(tuple(int(x) for x in shape), lows, highs, dtype)
    raise ConfigError(f"a space must be {{kind: box | discrete, …}}; found {str(value)[:200]}")


def bounds_of(space: Box) -> tuple[np.ndarray, np.ndarray]:
    """Returns the lowest and the highest values of a Box in its own shape, float64."""
    low, high = (np.array(np.broadcast_to(np.array(bound, np.float64), space.size)) for bound in (space.low, space.high))
    return low.reshape(space.shape), high.reshape(space.shape)


def words_of(space: Space) -> str:
    """Returns a space in few words: `box[3]`, `discrete(5)`."""
    return f"discrete({space.n})" if isinstance(space, Discrete) else f"box{list(space.shape)}"
