"""Numbers without a processor's own last digits, so that what is made of them is the same on every machine."""

from __future__ import annotations

import numpy as np


def rounded(values: np.ndarray, step: float) -> np.ndarray:
    """Returns real numbers as the nearest multiples of a power of two, float32; integers as they are."""
    return values if values.dtype.kind in "iu" else (np.rint(values.astype(np.float64) / step) * step).astype(np.float32)
