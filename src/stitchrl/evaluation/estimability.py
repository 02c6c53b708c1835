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

MIN_UNITS = 30  # episodes, or groups of them
MIN_EFFECTIVE, MIN_EFFECTIVE_SHARE = 30, 0.05  # Kish's number of units: at least both …
ENOUGH, ENOUGH_SHARE = 50, 0.2  # … and at least one of these
MAX_SHARE = 0.07  # of all weight, in one unit
MAX_K = 0.7
BELOW, ABOVE, MAX_OFF = 2.0, 3.0, 0.05  # standard errors by which the mean weight may miss 1, where it misses by more than 0.05
MAX_CUT_OFF = 0.05  # of the discount left where the clock ended the episodes
_ROUNDING = 1e-9  # of sums of weights


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


# --------------------------------------------------------------------------------------------------------------------- gates


def trajectory_gate(episodes: Episodes) -> str | None:
    """Returns in words why a policy's value cannot be estimated by the weights of whole episodes, or None where it can.

    Refused: no density; under 30 episodes (groups, where there are any); every weight 0; Kish's effective number under 30, under 5 %, or under
    both 50 and 20 %;
    one unit with over 7 % of the weight; Pareto k above 0.7; a mean weight, whose expectation is 1, off by more than 0.05 and 2 standard errors
    below or 3 above (large weights that the log lacks are what misleads most); over 5 % of the discount left where the clock cut episodes off.

    Measured on random tabular tasks, expanded percentiles at 0.95 (benchmarks/trust/gate_calibration.py, GATES.md). On 218 settings not used to
    choose these bounds, 56 % of 17,440 logs are admitted, of which the intervals of IS, WIS, PDIS, WPDIS cover 0.947, 0.941, 0.944, 0.944; of
    the refused, 0.815, 0.867, 0.896, 0.913. Two limits remain. WIS is weakest with few effective episodes: 0.925 at 20 to 50 % of the episodes,
    0.892 below (251 logs). And a log admitted in a setting that is mostly refused is a lucky one: 0.916, 0.904, 0.904, 0.876 in settings with
    under 30 % admitted (2 % of what is admitted).
    """
    if episodes.log_ratios is None:
        return _refusal(
            "a deterministic or implicit policy of continuous actions has no density to weight episodes by",
            "a stochastic policy, or an estimator of values",
        )
    units = _unit_count(episodes)
    if units < MIN_UNITS:
        return _few(units, episodes)
    log_weights = trajectory_log_weights(episodes)
    reason = _spread(_by_unit(log_weights, episodes), episodes, "whole-episode weights") or _heavy(log_weights, "whole-episode weights")
    return reason or _off_one(log_weights, episodes) or _cut(episodes)


def marginal_gate(ratios: Array, episodes: Episodes) -> str | None:
    """Returns in words why a policy's value cannot be estimated by ratios `[N]` of visits to logged steps, or None where it can.

    An episode weighs sum of discount^t · ratio. The bounds are `trajectory_gate`'s for the number of episodes, Kish's effective number, the largest
    share and Pareto k, measured there and not anew for ratios. What the clock cut off is no reason: ratios can follow what goes on.
    Raises DataError where ratios are not of shape `[N]`, negative or not finite.
    """
    mu = np.asarray(ratios, np.float64)
    if mu.shape != np.shape(episodes.rewards):
        raise DataError(f"marginal ratios have shape {list(mu.shape)}; expected one for each of {len(episodes.rewards)} steps")
    if not (np.isfinite(mu) & (mu >= 0)).all():
        raise DataError(
            f"marginal ratios: {int((~(np.isfinite(mu) & (mu >= 0))).sum())} of {len(mu)} are negative or not finite; expected numbers from 0"
        )
    units = _unit_count(episodes)
    if units < MIN_UNITS:
        return _few(units, episodes)
    with np.errstate(divide="ignore"):
        log_weights = np.log(episodes.discounted(mu))
    return _spread(_by_unit(log_weights, episodes), episodes, "marginal weights") or _heavy(log_weights, "marginal weights")


def _refusal(found: str, needed: str) -> str:
    return f"not estimable: {found}; needs {needed}"


def _unit_count(episodes: Episodes) -> int:
    return episodes.count if episodes.groups is None else len(np.unique(episodes.groups))


def _word(episodes: Episodes) -> str:
    return "episodes" if episodes.groups is None else "groups of episodes"


def _few(units: int, episodes: Episodes) -> str:
    return _refusal(f"{units} {_word(episodes)}", f"at least {MIN_UNITS}")


def _by_unit(log_weights: Array, episodes: Episodes) -> Array:
    """Returns the log of each unit's sum of weights: an episode's own, or its group's `[G]`."""
    if episodes.groups is None:
        return log_weights
    _, member = np.unique(episodes.groups, return_inverse=True)
    top = float(log_weights.max())
    if top == -math.inf:
        return np.full(member.max() + 1, -np.inf)
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(np.bincount(member, np.exp(log_weights - top))) + top)


def _spread(log_weights: Array, episodes: Episodes, name: str) -> str | None:
    """Returns why too few units carry the weight."""
    units, word = len(log_weights), _word(episodes)
    size = kish(log_weights)
    if size == 0:
        return _refusal(f"the {name} are 0 in all {units} {word}: the policy never does what was logged", "a policy nearer to the log")
    needed = max(MIN_EFFECTIVE, MIN_EFFECTIVE_SHARE * units, min(ENOUGH, ENOUGH_SHARE * units))
    if size < needed - _ROUNDING * units:
        return _refusal(f"the {name} of {units} {word} are worth {size:.1f} equal ones", f"at least {needed:.0f}")
    share = largest_share(log_weights)
    if share > MAX_SHARE + _ROUNDING:
        return _refusal(f"one of {units} {word} has {share:.1%} of the {name}", f"at most {MAX_SHARE:.0%}")
    return None


def _heavy(log_weights: Array, name: str) -> str | None:
    k = pareto_k(log_weights)
    return _refusal(f"the tail of the {name} has Pareto k {k:.2f}", f"at most {MAX_K}") if k > MAX_K else None


def _off_one(log_weights: Array, episodes: Episodes) -> str | None:
    """Returns why the mean weight cannot be that of a log that holds what the policy does."""
    with np.errstate(over="ignore", invalid="ignore"):  # weights beyond what a float holds are off, too
        units = np.exp(_by_unit(log_weights, episodes))
        mean, error = float(units.sum() / episodes.count), float(units.std(ddof=1)) * math.sqrt(len(units)) / episodes.count
    if math.isfinite(mean) and -max(BELOW * error, MAX_OFF) <= mean - 1 <= max(ABOVE * error, MAX_OFF):
        return None
    found = f"the mean whole-episode weight is {mean:.3g}, its standard error {error:.2g}, where 1 is right"
    why = "the log lacks episodes as the policy would have them" if mean < 1 else "large weights came by chance"
    return _refusal(
        f"{found}: {why}, or the propensities are wrong", f"at most {BELOW:.0f} standard errors below 1, {ABOVE:.0f} above, or {MAX_OFF}"
    )


def _cut(episodes: Episodes) -> str | None:
    cut = episodes.cut_off()
    if cut <= MAX_CUT_OFF:
        return None
    return _refusal(
        f"the clock ended episodes with {cut:.1%} of the discount left, worth what no log shows",
        f"at most {MAX_CUT_OFF:.0%}, a smaller discount, or a task that the clock ends",
    )
