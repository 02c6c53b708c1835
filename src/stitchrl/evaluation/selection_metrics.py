"""How good a ranking of policies is, where their true values are known, and what a few online trials would bring.

Regret@k and rank correlation as in Fu et al. (2021, arXiv:2103.16596), SharpeRatio@k of Kiyohara et al. (2024, arXiv:2311.18206),
expected online performance of Kurenkov & Kolesnikov (2022, arXiv:2110.04156). A score that is not finite is "not estimable": such
candidates are ranked last and never among the chosen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import ArrayLike

from stitchrl.core.errors import DataError

Array = np.ndarray[Any, np.dtype[Any]]


def order(scores: ArrayLike) -> Array:
    """Returns int64 `[n]`: the candidates from the highest score to the lowest, ties as given, those without a finite score last."""
    values = np.asarray(scores, np.float64)
    return np.asarray(np.argsort(np.where(np.isfinite(values), -values, np.inf), kind="stable"))


def rank(scores: ArrayLike) -> Array:
    """Returns float64 `[n]` ranks, 1 for the highest score; equal scores share the mean of their ranks; those without a score share the last."""
    values = np.asarray(scores, np.float64)
    values = np.where(np.isfinite(values), values, -np.inf)
    above = (values[None] > values[:, None]).sum(1)
    equal = (values[None] == values[:, None]).sum(1)
    return np.asarray(above + (equal + 1) / 2)


def best_at(k: int, scores: ArrayLike, truth: ArrayLike) -> float:
    """Returns the best true value among the k candidates of the highest scores; NaN where no candidate has a score.

    Where equal scores straddle the k-th place, the mean over all ways to pick among them. Fewer than k scores: all of those.
    """
    values, true = _pair(scores, truth)
    _check_count(k, len(values))
    finite = np.isfinite(values)
    values, true = values[finite], true[finite]
    if not len(values):
        return math.nan
    k = min(k, len(values))
    cut = np.sort(values)[::-1][k - 1]
    sure = true[values > cut]
    floor = sure.max() if len(sure) else -np.inf
    tied = np.maximum(np.sort(true[values == cut]), floor)
    return float(_largest_of(k - len(sure), len(tied)) @ tied)


def regret_at(k: int, scores: ArrayLike, truth: ArrayLike, *, normalised: bool = False) -> float:
    """Returns the best true value minus the best among the k highest scores (`best_at`); `normalised` by the range of the true values."""
    true = np.asarray(truth, np.float64)
    regret = float(true.max()) - best_at(k, scores, truth)
    spread = float(true.max() - true.min())
    return regret if not normalised else (regret / spread if spread > 0 else 0.0 * regret)


def sharpe_ratio_at(k: int, scores: ArrayLike, truth: ArrayLike, baseline: int) -> float:
    """Returns (best true value of the top k − true value of the baseline) / standard deviation of the top k's true values.

    baseline: the behaviour policy's place among the candidates. The deviation is over k, not k − 1. NaN where it is 0; ties as given.
    """
    values, true = _pair(scores, truth)
    _check_count(k, len(values))
    if k < 2 or not 0 <= baseline < len(values):
        raise DataError(
            f"SharpeRatio@{k} with the baseline at {baseline}; expected k of at least 2 and a baseline in 0 … {len(values) - 1}"
        )
    top = true[order(values)[: min(k, int(np.isfinite(values).sum()))]]
    spread = float(top.std()) if len(top) else 0.0
    return float((top.max() - true[baseline]) / spread) if spread > 0 else math.nan


@final
@dataclass(frozen=True)
class RankCorrelation:
    """Of scores with true values, over the `used` candidates that have a score; NaN with fewer than 2, or where either is constant."""

    spearman: float
    kendall: float
    """tau-b: equal values are neither concordant nor discordant"""
    used: int


def rank_correlation(scores: ArrayLike, truth: ArrayLike) -> RankCorrelation:
    """Returns Spearman's and Kendall's correlation of scores with true values."""
    values, true = _pair(scores, truth)
    finite = np.isfinite(values)
    values, true = values[finite], true[finite]
    first, second = (np.sign(x[:, None] - x[None]) for x in (values, true))
    return RankCorrelation(_cosine(rank(values), rank(true)), _cosine(first, second, center=False), int(finite.sum()))


@final
@dataclass(frozen=True)
class SafetyErrors:
    """Of asking "is it at least the threshold?" of a score. NaN where there is no such policy."""

    accepted_unsafe: float
    """type I: the share of policies truly below the threshold that are accepted"""
    refused_safe: float
    """type II: the share of policies truly at or above it that are not accepted, one without a score included"""


def safety_errors(threshold: float, scores: ArrayLike, truth: ArrayLike) -> SafetyErrors:
    """Returns how often a policy is wrongly accepted or refused; give lower bounds as scores to accept only what is surely safe."""
    values, true = _pair(scores, truth)
    accepted, safe = np.where(np.isfinite(values), values, -np.inf) >= threshold, true >= threshold

    def share(wrong: Array, of: Array) -> float:
        return float(wrong[of].mean()) if of.any() else math.nan

    return SafetyErrors(share(accepted, ~safe), share(~accepted, safe))


def expected_online_performance(values: ArrayLike, *, replacement: bool = False) -> Array:
    """Returns `[n]`: for k = 1 … n online trials of candidates picked uniformly at random, the expected value of the best one tried.

    In closed form from the order statistics of `values [n]`, true values or estimates. Each candidate is tried at most once;
    `replacement` draws with replacement instead, as the paper's formula does.
    """
    ranked = np.sort(np.asarray(values, np.float64))
    n = len(ranked)
    if not n or not np.isfinite(ranked).all():
        raise DataError("expected online performance needs a finite value for each candidate; leave out those that are not estimable")
    if replacement:
        i = np.arange(n + 1) / n
        return np.array([np.diff(i**k) @ ranked for k in range(1, n + 1)])
    return np.array([_largest_of(k, n) @ ranked for k in range(1, n + 1)])


def ranked_performance(scores: ArrayLike, values: ArrayLike) -> Array:
    """Returns `[n]`: the value of the best of the first k candidates in the order of the scores, for k = 1 … n."""
    return np.array([best_at(k, scores, values) for k in range(1, len(np.asarray(scores)) + 1)])


def _largest_of(k: int, n: int) -> Array:
    """[n] the probability that the i-th smallest of n is the largest of k drawn without replacement: C(i-1, k-1) / C(n, k)."""
    return np.array([math.comb(i, k - 1) / math.comb(n, k) for i in range(n)])


def _cosine(x: Array, y: Array, center: bool = True) -> float:
    if center and x.size:
        x, y = x - x.mean(), y - y.mean()
    scale = math.sqrt(float((x * x).sum()) * float((y * y).sum()))
    return float((x * y).sum()) / scale if scale > 0 else math.nan


def _pair(scores: ArrayLike, truth: ArrayLike) -> tuple[Array, Array]:
    values, true = np.asarray(scores, np.float64), np.asarray(truth, np.float64)
    if values.ndim != 1 or values.shape != true.shape or not len(values):
        raise DataError(
            f"scores have shape {list(values.shape)} and true values {list(true.shape)}; expected one of each for every candidate"
        )
    if not np.isfinite(true).all():
        raise DataError("true values hold one that is not finite; leave that candidate out")
    return values, true


def _check_count(k: int, n: int) -> None:
    if not 1 <= k <= n:
        raise DataError(f"the top {k} of {n} candidates were asked for; expected 1 to {n}")
