"""Whether a log can tell a policy's value by reweighting at all: effective sample sizes, the tail of the weights, and the gates.

Kish (1965) counts how many equal weights would be as informative; Vehtari et al. (2015, arXiv:1507.02646) read from a Pareto fit of the largest
weights (Zhang & Stephens 2009) how heavy their tail is: from k = 0.5 their variance is infinite, from 0.7 their mean is useless in practice.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from stitchrl.core.errors import DataError
from stitchrl.evaluation.evidence import Array, Episodes


def kish(log_weights: ArrayLike) -> float:
    """Returns Kish's effective sample size (sum w)² / sum w² of the weights exp(`log_weights [n]`): n where all are equal, 0 where all are 0."""
    x = _checked(log_weights)
    if x.max() == -np.inf:
        return 0.0
    weights = np.exp(x - x.max())
    return float(weights.sum() ** 2 / (weights**2).sum())


def _log_sum(x: Array) -> float:
    """Returns log sum exp(x); -inf of nothing."""
    top = float(x.max(initial=-np.inf))
    return top + math.log(float(np.exp(x - top).sum())) if top > -math.inf else -math.inf


def _effective(log_sum: float, log_squares: float) -> float:
    return math.exp(2 * log_sum - log_squares) if log_sum > -math.inf else 0.0


def _checked(log_weights: ArrayLike) -> Array:
    x = np.asarray(log_weights, np.float64)
    if x.ndim != 1 or not len(x):
        raise DataError(f"log-weights have shape {list(x.shape)}; expected [n], n at least 1")
    if np.isnan(x).any() or (x == np.inf).any():
        raise DataError(
            f"log-weights hold NaN or infinity at {int((np.isnan(x) | (x == np.inf)).sum())} of {len(x)}; expected numbers, -inf for a weight of 0"
        )
    return x


def trajectory_log_weights(episodes: Episodes) -> Array:
    """Returns float64 `[E]`: the log of each whole episode's weight; raises DataError where the policy has no density."""
    return episodes.sums(_log_ratios(episodes))


def _log_ratios(episodes: Episodes) -> Array:
    if episodes.log_ratios is None:
        raise DataError("importance weights: the policy has no density; expected log-ratios of the logged actions")
    return _checked(episodes.log_ratios)


def effective_sizes(episodes: Episodes) -> Array:
    """Returns float64 `[H]`: Kish's effective number of episodes by the weights up to and with each time 0…H-1; an ended episode keeps its weight.

    Takes time and memory in proportion to the steps, whatever the longest episode. Raises DataError where the policy has no density.
    """
    ratios = _log_ratios(episodes)
    order = np.argsort(-episodes.lengths, kind="stable")
    starts, lengths = episodes.offsets[:-1][order], episodes.lengths[order]
    weights = np.zeros(len(order))  # log-weights so far of the episodes that still run
    ended, ended_squares = -math.inf, -math.inf
    sizes = np.empty(int(lengths[0]))
    for t in range(len(sizes)):
        running = int(np.searchsorted(-lengths, -t, side="left"))  # those longer than t
        ended = float(np.logaddexp(ended, _log_sum(weights[running:])))
        ended_squares = float(np.logaddexp(ended_squares, _log_sum(2 * weights[running:])))
        weights = weights[:running] + ratios[starts[:running] + t]
        sizes[t] = _effective(float(np.logaddexp(ended, _log_sum(weights))), float(np.logaddexp(ended_squares, _log_sum(2 * weights))))
    return sizes


def largest_share(log_weights: ArrayLike) -> float:
    """Returns the share of the sum of weights that the largest one has, 1/n to 1; NaN where every weight is 0."""
    x = _checked(log_weights)
    total = _log_sum(x)
    return math.exp(float(x.max()) - total) if total > -math.inf else math.nan


def pareto_k(log_weights: ArrayLike) -> float:
    """Returns the shape k of a generalised Pareto distribution fitted to the largest weights: finite moments up to the order 1/k.

    The tail is what lies above the M + 1 largest weight, M = min(n / 5, 3 sqrt(n)) rounded up; the fit is drawn towards 0.5 with the strength of
    10 weights as in PSIS. -inf where nothing lies above it (equal weights, or many that share the maximum: there is no tail). NaN where fewer
    than 5 weights do, or all are 0: too few to tell, as it always is below 21 weights.
    """
    x = np.sort(_checked(log_weights))
    tail = math.ceil(min(len(x) / 5, 3 * math.sqrt(len(x))))
    if x[-1] == -np.inf:
        return math.nan
    weights = np.exp(x - x[-1])
    threshold = weights[-tail - 1] if tail < len(x) else 0.0
    above = weights[-tail:][weights[-tail:] > threshold * (1 + 1e-12)] - threshold
    if not len(above):
        return -math.inf
    if len(above) < 5:
        return math.nan
    k = _generalised_pareto_shape(above)
    return float((len(above) * k + 10 * 0.5) / (len(above) + 10))


def _generalised_pareto_shape(exceedances: Array) -> float:
    """Returns Zhang & Stephens' (2009) estimate of k from sorted positive `exceedances [m]`: the posterior mean of b = -k / sigma, then k given b."""
    m = len(exceedances)
    points = 30 + int(math.sqrt(m))
    quartile = exceedances[int(m / 4 + 0.5) - 1]
    b = 1 / exceedances[-1] + (1 - np.sqrt(points / (np.arange(1, points + 1) - 0.5))) / (3 * quartile)
    k = np.log1p(-b[:, None] * exceedances).mean(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        profile = np.nan_to_num(m * (np.log(-b / k) - k - 1), nan=-np.inf)
    posterior = np.exp(profile - profile.max())
    best: Any = (b * posterior).sum() / posterior.sum()
    return float(np.log1p(-best * exceedances).mean())
