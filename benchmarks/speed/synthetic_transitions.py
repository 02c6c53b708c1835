"""Synthetic flat columns that every library's speed measurement reads: normal observations, uniform actions, episodes of 1000 steps.

Needs numpy alone, so that it also runs in the peers' environment.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

OBSERVATIONS, ACTIONS, EPISODE = 17, 6, 1000


def synthetic_columns(steps: int, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Returns observations [N, 17], actions [N, 6] in [-1, 1], rewards, terminals (every tenth episode) and timeouts (the others) [N].

    Raises ValueError unless `steps` is whole episodes of 1000.
    """
    if steps <= 0 or steps % EPISODE:
        raise ValueError(f"steps: found {steps}, expected a positive multiple of {EPISODE}")
    random = np.random.default_rng(seed)
    terminals, timeouts = np.zeros(steps, np.bool_), np.zeros(steps, np.bool_)
    timeouts[EPISODE - 1 :: EPISODE] = True
    terminals[10 * EPISODE - 1 :: 10 * EPISODE] = True
    return {
        "observations": random.standard_normal((steps, OBSERVATIONS), dtype=np.float32),
        "actions": (2.0 * random.random((steps, ACTIONS), dtype=np.float32) - 1.0),
        "rewards": random.standard_normal(steps, dtype=np.float32),
        "terminals": terminals,
        "timeouts": timeouts & ~terminals,
    }


def synthetic_choices(steps: int, seed: int = 0) -> NDArray[np.int64]:
    """Returns discrete actions [N] from 0 to 5, for the discrete learners on the same observations."""
    return np.random.default_rng(seed + 1).integers(0, ACTIONS, steps)


def write_synthetic(path: Path, steps: int, seed: int = 0) -> None:
    """Returns nothing; writes the columns to an uncompressed npz file."""
    with path.open("wb") as file:
        np.savez(file, **synthetic_columns(steps, seed))  # type: ignore[arg-type]
