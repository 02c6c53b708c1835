"""Sines that no processor computes by itself, for the built-in logs of Gymnasium's Pendulum and CartPole."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, final

import numpy as np

_MODULES = ("gymnasium.envs.classic_control.pendulum", "gymnasium.envs.classic_control.cartpole")


@final
class _Numpy:
    """numpy, but for the sine and cosine of one number: the C library's."""

    sin = staticmethod(lambda x: np.float64(math.sin(x)))
    cos = staticmethod(lambda x: np.float64(math.cos(x)))

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


@contextmanager
def same_sines() -> Iterator[None]:
    """Within it both tasks compute sines by the C library, whatever the processor.

    NumPy takes instructions of its own where there is AVX-512, whose last digits are others; either task, unstable, makes another episode of
    one digit. Where there is none NumPy takes the C library's too: then nothing changes.
    """
    modules = [import_module(name) for name in _MODULES]
    for module in modules:
        module.np = _Numpy()  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for module in modules:
            module.np = np  # type: ignore[attr-defined]
