"""How much hidden confounding a conclusion survives: the marginal sensitivity model (Tan, 2006; Kallus & Zhou, 2020, arXiv:2002.04518).

If what moved the logger's hand also moved the outcome, and the log does not hold it, the true weights are not the ones computed. Here
every weight may be wrong by a factor of up to gamma either way, their sum fixed: the worst case of the estimate is a linear program whose
solution is a threshold on the values. No test of data can rule confounding out; this says how strong it would have to be.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np

from stitchrl.core.errors import DataError

Array = np.ndarray[Any, np.dtype[Any]]

GAMMAS = (1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0)


@final
@dataclass(frozen=True)
class Sensitivity:
    """`curve`: (gamma, lowest, highest) of the estimate, without its sampling error.

    `flips`: the least gamma at which the estimate may lie on the other side of the baseline; None if none up to `limit`.
    """

    curve: list[tuple[float, float, float]]
    flips: float | None
    limit: float


def extremes(weights: Array, values: Array, gamma: float) -> tuple[float, float]:
    """Returns the least and greatest of sum(x · values) / sum(weights) over x within [weights / gamma, weights · gamma] of the same sum.

    weights: `[M]`, none negative. values: `[M]`. Raises DataError for gamma below 1 or weights without a positive sum.
    """
    w, v = np.asarray(weights, np.float64), np.asarray(values, np.float64)
    if gamma < 1:
        raise DataError(f"gamma is {gamma}; expected a factor of at least 1")
    if not w.sum() > 0 or (w < 0).any():
        raise DataError("weights must not be negative, and some must be positive")
    order = np.argsort(v, kind="stable")
    return _least(w[order], v[order], gamma), -_least(w[order][::-1], -v[order][::-1], gamma)


def _least(weights: Array, values: Array, gamma: float) -> float:
    """The least weighted mean for values in rising order: the smallest take all they may, as far as the sum allows."""
    total = weights.sum()
    spare = total - total / gamma  # to hand out beyond the floors
    room = weights * (gamma - 1 / gamma)
    before = np.concatenate([[0.0], np.cumsum(room)[:-1]])
    taken = weights / gamma + np.clip(spare - before, 0.0, room)
    return float(taken @ values / total)


def sensitivity(weights: Array, values: Array, baseline: float, gammas: tuple[float, ...] = GAMMAS, limit: float = 20.0) -> Sensitivity:
    """Returns how the weighted mean of `values` may move, and the gamma at which it is no longer surely on its side of `baseline`.

    The same values give a curve that widens with gamma, and contains the estimate itself at gamma 1.
    """
    curve = [(gamma, *extremes(weights, values, gamma)) for gamma in gammas]
    estimate = curve[0][1] if gammas[0] == 1 else extremes(weights, values, 1.0)[0]
    above = estimate > baseline

    def sure(gamma: float) -> bool:
        low, high = extremes(weights, values, gamma)
        return low > baseline if above else high < baseline

    if estimate == baseline or not sure(1.0):
        return Sensitivity(curve, 1.0, limit)
    if sure(limit):
        return Sensitivity(curve, None, limit)
    low, high = 1.0, limit
    for _ in range(40):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if sure(middle) else (low, middle)
    return Sensitivity(curve, high, limit)
