"""What choosing the best of several off-policy estimates does to them, and how much better another candidate may be.

The largest of many noisy estimates is too large (the winner's curse); how much is measured by choosing on one half of the episodes and
estimating on the other. Bounds of the regret come from a bootstrap of all candidates on the same episodes, simultaneous over all their
differences, so that they also hold for a choice made from the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from stitchrl.core.errors import DataError
from stitchrl.core.intervals import Interval
from stitchrl.evaluation.confidence import draws_together
from stitchrl.evaluation.evidence import Statistic

Array = np.ndarray[Any, np.dtype[Any]]
_UNDEFINED = 0.05  # the largest share of draws in which a number may be undefined
SPLITS = 20


@final
@dataclass(frozen=True)
class Choice:
    """What the best of several estimates is worth once the choice is accounted for.

    chosen: place of the highest estimate. naive: that estimate. honest: the mean over splits of the other half's estimate of what each half
    chose, with its interval: the value of choosing so, on half of the episodes. optimism: by how much the choosing half's own estimate is
    higher, on the mean. wins: `[n]` share of halves that choose each candidate.
    """

    chosen: int
    naive: float
    honest: Interval
    optimism: float
    wins: Array


def winners_curse(
    statistics: Sequence[Statistic],
    *,
    seed: int,
    splits: int = SPLITS,
    resamples: int = 500,
    level: float = 0.95,
    groups: Array | None = None,
) -> Choice:
    """Returns what choosing the highest of these estimates brings, by `splits` random halves of the episodes, each used both ways.

    The interval is as wide as the mean bootstrap interval of what was chosen, from episodes (whole `groups [E]` where given) drawn again:
    two halves together hold all episodes, and a mean over several choices varies less. What estimates share across halves, such as a model
    fitted to all episodes, is not undone. Raises DataError where an estimate is undefined on too many halves.
    """
    units = _units(statistics, groups)
    generator = np.random.default_rng(seed)
    first = np.zeros((splits, units.max() + 1), np.bool_)
    for row in first:
        row[generator.permutation(len(row))[: len(row) // 2]] = True
    chooses = np.concatenate([first, ~first])[:, units].astype(np.float64)  # [2 splits, E]; the two halves of a split are `splits` apart
    estimates = np.roll(chooses, splits, 0)
    own = np.stack([s.value(chooses) for s in statistics])  # [n, 2 splits]
    if not np.isfinite(own).any(0).all():
        raise DataError("on some halves of the episodes no candidate can be estimated; there are too few of them to correct the choice")
    picked = np.where(np.isfinite(own), own, -np.inf).argmax(0)
    other = np.array([statistics[int(c)].value(estimates[i : i + 1])[0] for i, c in enumerate(picked)])
    known = np.isfinite(other)
    if known.mean() < 1 - _UNDEFINED:
        raise DataError("what one half of the episodes chooses often cannot be estimated from the other; there are too few of them")
    points = np.array([s.point for s in statistics])
    chosen = int(np.where(np.isfinite(points), points, -np.inf).argmax())
    honest = float(other[known].mean())
    wins = np.bincount(picked, minlength=len(statistics)) / len(picked)
    optimism = float((own[picked, np.arange(len(picked))] - other)[known].mean())
    likely = np.flatnonzero(wins)
    draws = draws_together([statistics[int(c)] for c in likely], seed=seed, resamples=resamples, groups=groups)
    ends = np.nanquantile(draws - points[likely, None], [(1 - level) / 2, (1 + level) / 2], axis=1)  # [2, likely]
    low, high = honest + ends @ wins[likely]
    return Choice(chosen, float(points[chosen]), Interval(honest, float(low), float(high), level), optimism, wins)


def regret_bounds(k: int, scores: Array, points: Array, draws: Array, level: float = 0.95) -> Interval:
    """Returns an interval of regret@k of the candidates with the k highest scores, where no true value is known; `estimate` is the plug-in.

    points: `[n]` estimates; draws: `[n, R]` of them together (`confidence.draws_together`). All pairwise differences are bounded at once (studentised
    maximum), as in multiple comparisons with the best (Hsu, 1981): the bounds hold whichever k were chosen. Raises DataError for n < 2.
    """
    n = len(points)
    if n < 2 or not 1 <= k <= n or not np.isfinite(points).all():
        raise DataError(f"bounds of regret@{k} of {n} candidates; expected at least 2 with an estimate, and k among them")
    defined = np.isfinite(draws).all(0)
    if defined.mean() < 1 - _UNDEFINED:
        raise DataError(f"{100 * (1 - defined.mean()):.0f} % of bootstrap draws leave a candidate without an estimate; too few episodes")
    centred = draws[:, defined] - points[:, None]  # [n, R]
    covariance = centred @ centred.T / centred.shape[1]
    spread = np.sqrt(np.maximum(covariance.diagonal()[:, None] + covariance.diagonal()[None] - 2 * covariance, 0.0))
    spread[spread < 1e-12 * max(1.0, float(np.abs(points).max()))] = 0.0
    largest = np.zeros(centred.shape[1])
    for i in range(n):
        apart = spread[i] > 0
        if apart.any():
            largest = np.maximum(largest, (np.abs(centred[apart] - centred[i]) / spread[i][apart, None]).max(0))
    width = float(np.quantile(largest, level)) * spread
    top = np.zeros(n, np.bool_)
    top[np.argsort(np.where(np.isfinite(scores), -np.asarray(scores, np.float64), np.inf), kind="stable")[:k]] = True
    if top.all():
        return Interval(0.0, 0.0, 0.0, level)
    gap = points[:, None] - points[None]  # how much j is better than i

    def worst(bound: Array) -> float:
        return max(0.0, float(bound[~top][:, top].min(1).max()))

    return Interval(worst(gap), worst(gap - width), worst(gap + width), level)


def groups_of(columns: Any, offsets: Array) -> Array | None:
    """Returns the group of each episode `[E]` where the log names one."""
    return np.asarray(columns["groups"])[np.asarray(offsets[:-1])] if "groups" in columns else None


def _units(statistics: Sequence[Statistic], groups: Array | None) -> Array:
    """int64 [E]: what is drawn together, numbered from 0"""
    sizes = {s.episodes for s in statistics}
    if len(sizes) != 1:
        raise DataError(f"estimates of candidates stand on {sorted(sizes)} episodes; expected all on the same, at least one")
    if groups is not None and len(groups) != sizes.copy().pop():
        raise DataError(f"there are {len(groups)} groups of episodes for {sizes.pop()} episodes; each needs one")
    units = np.arange(sizes.pop()) if groups is None else np.unique(groups, return_inverse=True)[1]
    if units.max() < 3:
        raise DataError(f"{units.max() + 1} episodes (or groups) cannot be drawn again or halved; expected at least 4")
    return np.asarray(units)
