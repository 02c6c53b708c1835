"""Intervals of off-policy estimates: the bootstrap over episodes, Student's t, and bounds that hold at any number of episodes.

The unit is the episode, or the group of episodes (`groups [E]`: a patient's stays, a driver's trips) where what shares a group is not
independent. Bounds by Hoeffding (1963), Maurer & Pontil (2009, arXiv:0907.3740) and Thomas, Theocharous & Ghavamzadeh (2015, "High-confidence
off-policy evaluation"). What these intervals cannot know is a weight that the log never shows: `estimability` refuses such logs first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from stitchrl.core.errors import DataError
from stitchrl.core.intervals import Interval, bca_interval, percentile_interval
from stitchrl.evaluation.evidence import Array, Statistic

Method = Literal["percentile", "expanded", "bca"]
_BLOCK = 2_000_000  # counts held at a time: 16 MB
_JACKKNIFE = 200  # most values of the jackknife: beyond, groups are left out several at a time
_UNDEFINED = 0.2  # of one tail: the share of draws that may be undefined in an interval, 1 % of all at level 0.95


# ----------------------------------------------------------------------------------------------------------------- bootstrap


def draws(statistic: Statistic, *, seed: int, resamples: int = 2000, groups: Array | None = None) -> Array:
    """Returns float64 `[B]`: the statistic of the episodes drawn again with replacement; NaN where it is undefined in a draw.

    groups: `[E]` labels, drawn as a whole; each episode alone unless given. The same seed gives the same draws, and the same episodes for
    every statistic. 16 MB of counts at a time; 50,000 episodes drawn 2,000 times take about a second.
    """
    return np.asarray(draws_together([statistic], seed=seed, resamples=resamples, groups=groups)[0])


def draws_together(statistics: Sequence[Statistic], *, seed: int, resamples: int = 2000, groups: Array | None = None) -> Array:
    """Returns float64 `[K, B]`: row by row what `draws` gives each of K statistics of the same episodes, for one drawing of the counts."""
    if not statistics or len({s.episodes for s in statistics}) != 1:
        raise DataError(
            f"bootstrap: statistics of {[s.episodes for s in statistics]} episodes; expected at least one, all of the same episodes"
        )
    if resamples < 2:
        raise DataError(f"bootstrap: {resamples} resamples; expected at least 2")
    member, number = _members(statistics[0].episodes, groups)
    generator, drawn = np.random.default_rng(seed), np.empty((len(statistics), resamples))
    start = 0
    for counts in _counts(number, resamples, generator, _BLOCK // max(len(member), 1)):
        block = counts if groups is None else counts[:, member]
        for k, statistic in enumerate(statistics):
            drawn[k, start : start + len(block)] = statistic.value(block)
        start += len(block)
    return drawn


def _members(episodes: int, groups: Array | None) -> tuple[Array, int]:
    """Returns the group 0…G-1 of each episode `[E]`, and G."""
    if episodes < 1:
        raise DataError("bootstrap: no episodes; expected at least one")
    if groups is None:
        return np.arange(episodes), episodes
    if np.shape(groups) != (episodes,):
        raise DataError(f"bootstrap: groups have shape {list(np.shape(groups))}; expected one label for each of {episodes} episodes")
    labels, member = np.unique(groups, return_inverse=True)
    return member, len(labels)


def _counts(number: int, resamples: int, generator: np.random.Generator, rows: int) -> Iterator[Array]:
    """Yields float64 `[b, number]` blocks of multinomial counts, each row of sum `number`: `resamples` rows in all, `rows` at most at a time."""
    for start in range(0, resamples, max(rows, 1)):
        block = min(max(rows, 1), resamples - start)
        picks = generator.integers(0, number, (block, number))
        picks += number * np.arange(block)[:, None]
        yield np.bincount(picks.ravel(), minlength=block * number).reshape(block, number).astype(np.float64)


def bootstrap(
    statistic: Statistic,
    *,
    seed: int,
    resamples: int = 2000,
    level: float = 0.95,
    groups: Array | None = None,
    method: Method = "percentile",
) -> Interval:
    """Returns the statistic's bootstrap interval over episodes, or over `groups [E]` of them.

    method: `percentile`; `expanded`, percentiles widened as Student's t widens the normal (Hesterberg 2015, arXiv:1411.5279), which covers
    better with few episodes; `bca`, corrected for bias and skewness (Efron 1987). The ends are NaN with one group, where the statistic is
    undefined, and where it is undefined in more than a fifth of one tail of the draws.
    """
    _check_level(level)
    drawn = draws(statistic, seed=seed, resamples=resamples, groups=groups)
    return interval_of_draws(statistic, drawn, level=level, groups=groups, method=method)


def interval_of_draws(
    statistic: Statistic, drawn: Array, *, level: float = 0.95, groups: Array | None = None, method: Method = "percentile"
) -> Interval:
    """Returns `bootstrap`'s interval from draws `[B]` already made, with the same `groups [E]`.

    The few draws in which the statistic is undefined count as the lowest draw for the low end, and as the highest for the high end.
    """
    _check_level(level)
    if method not in ("percentile", "expanded", "bca"):
        raise DataError(f"bootstrap: method {method!r}; expected 'percentile', 'expanded' or 'bca'")
    point, (member, number) = statistic.point, _members(statistic.episodes, groups)
    undefined = ~np.isfinite(drawn)
    if number == 1 or not math.isfinite(point) or undefined.mean() > _UNDEFINED * (1 - level) / 2:
        return Interval(point, math.nan, math.nan, level)
    left_out = _leave_out(statistic, member, number) if method == "bca" else np.zeros(0)
    wider = _expanded(level, number) if method == "expanded" else level

    def made(replacement: float) -> Interval:
        values = np.where(undefined, replacement, drawn)
        if method == "bca" and np.isfinite(left_out).all():
            return bca_interval(point, values, [left_out], level)
        return percentile_interval(point, values, wider)

    return Interval(point, made(drawn[~undefined].min()).low, made(drawn[~undefined].max()).high, level)


def _expanded(level: float, number: int) -> float:
    """Returns the level whose percentiles stand as far out as Student's t and the variance over n - 1 would (Hesterberg 2015, arXiv:1411.5279)."""
    from scipy.stats import t

    return 2 * NormalDist().cdf(math.sqrt(number / (number - 1)) * float(t.ppf((1 + level) / 2, number - 1))) - 1


def _leave_out(statistic: Statistic, member: Array, number: int) -> Array:
    """Returns the statistic without each group in turn; beyond 200 groups without each 200th of them, which has the same skewness to estimate."""
    parts = min(number, _JACKKNIFE)
    part = member % parts
    rows = max(1, _BLOCK // len(member))
    starts = range(0, parts, rows)
    return np.concatenate([statistic.value((part != np.arange(s, min(s + rows, parts))[:, None]).astype(np.float64)) for s in starts])


# ------------------------------------------------------------------------------------------------------- intervals of a mean


def student_t(values: ArrayLike, level: float = 0.95) -> Interval:
    """Returns the mean of `values [n]` with Student's t interval, two-sided. The ends are NaN for one value. Close where n is not small."""
    from scipy.stats import t

    x = _checked("student_t", values, level)
    n = len(x)
    if n == 1:
        return Interval(float(x[0]), math.nan, math.nan, level)
    half = float(t.ppf((1 + level) / 2, n - 1)) * float(x.std(ddof=1)) / math.sqrt(n)
    return Interval(float(x.mean()), float(x.mean()) - half, float(x.mean()) + half, level)


def hoeffding(values: ArrayLike, low: float, high: float, level: float = 0.95) -> Interval:
    """Returns the mean of `values [n]` with Hoeffding's two-sided interval, which holds for any n: half-width (high - low) sqrt(ln(2 / d) / 2n).

    low, high: the least and the greatest that a value *can* be, not what was seen; d = 1 - level. The ends may pass these bounds.
    """
    x = _checked("hoeffding", values, level, low, high)
    half = (high - low) * math.sqrt(math.log(2 / (1 - level)) / (2 * len(x)))
    return Interval(float(x.mean()), float(x.mean()) - half, float(x.mean()) + half, level)


def empirical_bernstein(values: ArrayLike, low: float, high: float, level: float = 0.95) -> Interval:
    """Returns the mean of `values [n]` with Maurer & Pontil's two-sided interval, which holds for any n and is narrow where the variance is small.

    Theorem 4 on each side with d / 2, d = 1 - level: half-width sqrt(2 V L / n) + 7 (high - low) L / (3 (n - 1)), L = ln(4 / d), V the sample
    variance. low, high: the least and the greatest that a value *can* be. For one value the ends are these bounds.
    """
    x = _checked("empirical_bernstein", values, level, low, high)
    if len(x) == 1:
        return Interval(float(x[0]), float(low), float(high), level)
    half = float(_bernstein(x.var(ddof=1), high - low, len(x), (1 - level) / 2))
    return Interval(float(x.mean()), float(x.mean()) - half, float(x.mean()) + half, level)


def _bernstein(variance: Any, span: Any, n: int, delta: float) -> Any:
    """Returns how far the mean of n values can fall below its expectation, except with probability delta (Maurer & Pontil, theorem 4)."""
    log = math.log(2 / delta)
    return np.sqrt(2 * variance * log / n) + 7 * span * log / (3 * (n - 1))


def hcope_lower_bound(values: ArrayLike, *, seed: int, level: float = 0.95, floor: float = 0.0, split: float = 0.05) -> Interval:
    """Returns the mean of `values [n]` plus `floor`, with a *one-sided* lower bound that holds for any n with probability `level`; high is inf.

    values: importance-weighted returns, none below 0, with no bound above. Where returns can be negative give weight · (return - floor) and
    the `floor` that no return can be below. They are clipped at c, which only lowers their mean, and theorem 1 of Thomas et al. (2015) with one
    c for all bounds the clipped mean from below, with the same d = 1 - level throughout. c is what promises the best bound on a part of the values
    drawn by `seed` (a twentieth as in the paper, but at least 20 where there are 40 or more, else half); the bound is made of the others alone.
    """
    x = _checked("hcope_lower_bound", values, level, 0.0, math.inf)
    if not 0 < split < 1:
        raise DataError(f"hcope_lower_bound: split {split}; expected the share of values that choose the clip, between 0 and 1")
    if not math.isfinite(floor):
        raise DataError(f"hcope_lower_bound: floor {floor}; expected a finite number that no return can be below")
    n = len(x)
    number = min(max(round(split * n), 20), n // 2)
    bound = 0.0  # no value is below it
    if number >= 2:
        order = np.random.default_rng(seed).permutation(n)
        choosing, rest = x[order[:number]], x[order[number:]]
        clip = _best_clip(choosing, len(rest), 1 - level)
        kept = np.minimum(rest, clip)
        bound = max(bound, float(kept.mean() - _bernstein(kept.var(ddof=1), clip, len(rest), 1 - level)))
    return Interval(float(x.mean()) + floor, bound + floor, math.inf, level)


def _best_clip(choosing: Array, n: int, delta: float) -> float:
    """Returns the clip c whose bound over n values would be highest if they had the clipped mean and variance of `choosing`."""
    top = float(choosing.max())
    if top == 0:
        return 1.0  # every clip promises nothing
    clips = top * np.geomspace(1e-4, 1.0, 200)
    clipped = np.minimum(choosing[:, None], clips)  # [m, 200]
    promised = clipped.mean(0) - _bernstein(clipped.var(0, ddof=1), clips, n, delta)
    return float(clips[np.argmax(promised)])


# -------------------------------------------------------------------------------------------------------------------- checks


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise DataError(f"interval level {level}; expected between 0 and 1, such as 0.95")


def _checked(name: str, values: ArrayLike, level: float, low: float = -math.inf, high: float = math.inf) -> Array:
    """Returns `values` as float64 `[n]`; raises DataError where empty, not finite, or outside the bounds they were said to have."""
    _check_level(level)
    x = np.asarray(values, np.float64)
    if x.ndim != 1 or not len(x):
        raise DataError(f"{name}: values have shape {list(x.shape)}; expected [n], n at least 1")
    if not np.isfinite(x).all():
        raise DataError(f"{name}: {int((~np.isfinite(x)).sum())} of {len(x)} values are not finite; leave them out and say so")
    if not low <= high:
        raise DataError(f"{name}: bounds {low} to {high}; expected low below high")
    outside = (x < low) | (x > high)
    if outside.any():
        raise DataError(
            f"{name}: {int(outside.sum())} of {len(x)} values lie outside [{low}, {high}], first {x[outside][0]}; give the bounds of the possible"
        )
    return x
