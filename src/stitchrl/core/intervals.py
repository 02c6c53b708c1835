"""Aggregate scores and their bootstrap intervals over tasks, seeds and episodes (Agarwal et al., 2021, arXiv:2108.13264).

A *score* is one run's (one seed's) mean over its evaluation episodes. Tasks are strata: seeds are drawn again within each task,
and where episodes are given, episodes within each drawn seed. Plain NumPy, so that evaluation and report can both import it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stitchrl.core.errors import ConfigError, DataError

Array = NDArray[np.float64]
Statistic = Callable[[Array], Array]  # reduces the last axis: [..., n] -> [...]
Method = Literal["percentile", "bca"]
_CHUNK = 4_000_000  # numbers drawn at a time: 32 MB


@final
@dataclass(frozen=True)
class Interval:
    """A point estimate and the ends of its interval at `level`. `low` and `high` are NaN where one value gives no spread."""

    estimate: float
    low: float
    high: float
    level: float = 0.95

    def to_json(self) -> dict[str, float | None]:
        """{estimate, low, high, level}; what is not finite is null."""
        ends = {"estimate": self.estimate, "low": self.low, "high": self.high}
        return {**{k: v if math.isfinite(v) else None for k, v in ends.items()}, "level": self.level}


# ---------------------------------------------------------------------------------------------------------------- statistics


def mean(values: ArrayLike) -> Array:
    """The mean of the last axis."""
    return np.asarray(np.asarray(values, np.float64).mean(-1))


def median(values: ArrayLike) -> Array:
    """The median of the last axis."""
    return np.asarray(np.median(np.asarray(values, np.float64), -1))


def interquartile_mean(values: ArrayLike) -> Array:
    """The mean of the middle half of the last axis: a quarter of the values is cut at each end (rounded down, as scipy's trim_mean)."""
    x = np.asarray(values, np.float64)
    n = x.shape[-1]
    if n == 0:
        raise DataError("interquartile mean of no values; expected at least one score")
    cut = n // 4
    return np.asarray(np.sort(x, -1)[..., cut : n - cut].mean(-1))


def optimality_gap(values: ArrayLike, target: float) -> Array:
    """The mean shortfall below `target` over the last axis; what lies above counts as reaching it."""
    return np.asarray(np.maximum(target - np.asarray(values, np.float64), 0.0).mean(-1))


def improvement(x: ArrayLike, y: ArrayLike) -> Array:
    """P(X > Y) + P(X = Y) / 2 over the last axes `[..., n]` and `[..., m]`: the chance that a run of X beats a run of Y."""
    a, b = np.asarray(x, np.float64)[..., :, None], np.asarray(y, np.float64)[..., None, :]
    return np.asarray(((a > b) + 0.5 * (a == b)).mean((-2, -1)))


# ---------------------------------------------------------------------------------------------------------------- resampling


def scores_of(task: ArrayLike) -> Array:
    """[S] scores of one task given as scores `[S]`, or as episodes `[S, episodes]`, whose means are the scores."""
    x = np.asarray(task, np.float64)
    if x.ndim not in (1, 2) or x.size == 0:
        raise DataError(f"scores have shape {x.shape}; expected [seeds] or [seeds, episodes], neither empty")
    if not np.isfinite(x).all():
        raise DataError(f"scores hold {int((~np.isfinite(x)).sum())} values that are not finite; leave those runs out and say so")
    return x if x.ndim == 1 else np.asarray(x.mean(1))


def resample(task: ArrayLike, generator: np.random.Generator, resamples: int) -> Array:
    """[resamples, S] scores of one task drawn again with replacement: seeds, then (if given) the episodes of each drawn seed.

    Drawing at both levels counts the noise of episodes a little more than once; this makes up for the well-known narrowness of a
    bootstrap over few seeds (the tests measure the coverage). A single seed is kept and only its episodes are drawn.
    """
    x = np.asarray(task, np.float64)
    scores = scores_of(x)
    seeds = len(scores)
    if x.ndim == 1:
        return np.asarray(scores[generator.integers(0, seeds, (resamples, seeds))])
    episodes = x.shape[1]
    drawn = np.empty((resamples, seeds))
    step = max(1, _CHUNK // (seeds * episodes))
    for start in range(0, resamples, step):
        count = min(step, resamples - start)
        seed = generator.integers(0, seeds, (count, seeds, 1))
        episode = generator.integers(0, episodes, (count, seeds, episodes))
        drawn[start : start + count] = x[seed, episode].mean(-1)
    return drawn


def resample_tasks(tasks: Sequence[ArrayLike], generator: np.random.Generator, resamples: int) -> Array:
    """[resamples, sum of S] scores of all tasks, each task drawn again within itself (a stratified bootstrap)."""
    return np.concatenate([resample(task, generator, resamples) for task in tasks], 1)


# ----------------------------------------------------------------------------------------------------------------- intervals


def percentile_interval(estimate: float, draws: ArrayLike, level: float = 0.95) -> Interval:
    """The interval between the percentiles of bootstrap draws `[R]`."""
    low, high = np.quantile(np.asarray(draws, np.float64), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(estimate), float(low), float(high), level)


def bca_interval(estimate: float, draws: ArrayLike, jackknife: Sequence[ArrayLike], level: float = 0.95) -> Interval:
    """The bias-corrected and accelerated interval (Efron, 1987) from bootstrap draws `[R]` and, per stratum, leave-one-out values.

    Bias from the share of draws below the estimate (ties by half), acceleration from the skewness of the jackknife. Falls back to
    the percentiles where either is undefined: every draw on one side, or a jackknife without spread.
    """
    x = np.asarray(draws, np.float64)
    normal = NormalDist()
    share = float(((x < estimate).sum() + (x <= estimate).sum()) / (2 * len(x)))
    cubes = squares = 0.0
    for left_out in jackknife:
        values = np.asarray(left_out, np.float64)
        n = len(values)
        influence = (n - 1) * (values.mean() - values)
        cubes += float((influence**3).sum()) / n**3
        squares += float((influence**2).sum()) / n**2
    if not 0 < share < 1 or squares == 0:
        return percentile_interval(estimate, x, level)
    bias, acceleration = normal.inv_cdf(share), cubes / (6 * squares**1.5)

    def adjusted(probability: float) -> float:
        z = bias + normal.inv_cdf(probability)
        return normal.cdf(bias + z / (1 - acceleration * z))

    low, high = np.quantile(x, [adjusted((1 - level) / 2), adjusted((1 + level) / 2)])
    return Interval(float(estimate), float(low), float(high), level)


def interval(
    tasks: Sequence[ArrayLike],
    statistic: Statistic = interquartile_mean,
    *,
    generator: np.random.Generator,
    resamples: int = 2000,
    level: float = 0.95,
    method: Method = "percentile",
) -> Interval:
    """`statistic` of all tasks' scores with its stratified bootstrap interval.

    tasks: one array per task, `[S]` scores or `[S, episodes]` returns; numbers of seeds may differ between tasks.
    statistic: reduces the last axis of `[..., sum of S]`.
    With one seed in each task and no episodes nothing can be drawn again: the ends are NaN.
    """
    if not tasks:
        raise DataError("an interval of no tasks; expected at least one array of scores")
    if method not in ("percentile", "bca"):
        raise ConfigError(f"interval method {method!r}; expected 'percentile' or 'bca'")
    if not 0 < level < 1 or resamples < 2:
        raise ConfigError(f"interval level {level} with {resamples} resamples; expected a level between 0 and 1 and at least 2 resamples")
    scores = [scores_of(task) for task in tasks]
    estimate = float(statistic(np.concatenate(scores)))
    if all(np.asarray(task).size == 1 for task in tasks):
        return Interval(estimate, math.nan, math.nan, level)
    draws = statistic(resample_tasks(tasks, generator, resamples))
    if method == "percentile" or all(len(s) == 1 for s in scores):
        return percentile_interval(estimate, draws, level)
    return bca_interval(estimate, draws, _leave_one_out(scores, statistic), level)


def _leave_one_out(scores: Sequence[Array], statistic: Statistic) -> list[Array]:
    """Per task with more than one seed, [S] values of the statistic without each seed in turn."""
    values = []
    for i, task in enumerate(scores):
        if len(task) > 1:
            others = [s for j, s in enumerate(scores) if j != i]
            values.append(np.array([float(statistic(np.concatenate([np.delete(task, k), *others]))) for k in range(len(task))]))
    return values


def probability_of_improvement(
    x: Sequence[ArrayLike], y: Sequence[ArrayLike], *, generator: np.random.Generator, resamples: int = 2000, level: float = 0.95
) -> Interval:
    """P(a run of X beats a run of Y on the same task), averaged over tasks, with a stratified percentile interval."""
    if len(x) != len(y) or not x:
        raise DataError(f"probability of improvement needs the same tasks for both; found {len(x)} and {len(y)}")
    estimate = float(np.mean([improvement(scores_of(a), scores_of(b)) for a, b in zip(x, y, strict=True)]))
    if all(np.asarray(task).size == 1 for task in (*x, *y)):
        return Interval(estimate, math.nan, math.nan, level)
    draws = [improvement(resample(a, generator, resamples), resample(b, generator, resamples)) for a, b in zip(x, y, strict=True)]
    return percentile_interval(estimate, np.mean(draws, 0), level)


def performance_profile(
    tasks: Sequence[ArrayLike],
    thresholds: ArrayLike,
    *,
    generator: np.random.Generator,
    resamples: int = 1000,
    level: float = 0.95,
) -> tuple[Array, Array, Array]:
    """Share of runs whose score is at least each threshold `[n]`, with the ends of its pointwise interval: three arrays `[n]`.

    Every task counts alike, whatever its number of seeds.
    """
    at = np.asarray(thresholds, np.float64)
    share = np.mean([(scores_of(task)[:, None] >= at).mean(0) for task in tasks], 0)
    drawn = [resample(task, generator, resamples) for task in tasks]
    bands = np.stack([np.mean([(d >= t).mean(1) for d in drawn], 0) for t in at], 1)  # [R, n]
    low, high = np.quantile(bands, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return np.asarray(share), np.asarray(low), np.asarray(high)
