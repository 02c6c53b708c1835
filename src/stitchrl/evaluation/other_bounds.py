"""Other intervals beside the bootstrap's: of the logged value and of whole episodes' importance-weighted returns, or why they cannot be claimed.

Student's t, BCa and percentiles hold where there are many episodes. Hoeffding's and Maurer & Pontil's bounds hold for any number of them, but
only of values that are *known* to be bounded: by a range that was declared, never by the least and the greatest that a log happens to show.
Thomas et al.'s lower bound needs no upper end of a weight, only a floor of the returns. What each assumes and where its coverage is tested
stands beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, final

import numpy as np

from stitchrl.core.errors import ConfigError, DataError
from stitchrl.core.intervals import Interval
from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.confidence import (
    draws_together,
    empirical_bernstein,
    hcope_lower_bound,
    hoeffding,
    interval_of_draws,
    student_t,
)
from stitchrl.evaluation.estimability import trajectory_log_weights
from stitchrl.evaluation.estimates import Judged
from stitchrl.evaluation.evidence import Array, Mean
from stitchrl.evaluation.importance_sampling import behaviour_value

_ROUNDING = 1e-9  # of the range: a discounted sum is rounded
MANY = "many episodes, none of which decides: the mean is close to normal"
BOUNDED = "no return (with weights: no weighted return) lies outside the range; holds for any number of episodes"
FLOOR = "no return lies below the range; holds for any number of episodes and however large the weights"
SKEWED = "100 skewed returns, and 200 weighted episodes of a chain with the gate open"
TESTED = {
    "t": SKEWED,
    "bca": SKEWED,
    "percentile": SKEWED,
    "hoeffding": "10 and 100 returns of which 95 % are alike",
    "bernstein": "10 and 100 returns of which 95 % are alike",
    "hcope": "10 and 100 returns of which 95 % are alike, and 2,000 heavy-tailed weights",
}
ASSUMED = {"t": MANY, "bca": MANY, "percentile": MANY, "hoeffding": BOUNDED, "bernstein": BOUNDED, "hcope": FLOOR}


@final
@dataclass(frozen=True)
class ReturnRange:
    """The least and the most that the rewards of an episode, discounted, can sum to; source: who says so."""

    low: float
    high: float
    source: str


@final
@dataclass(frozen=True)
class Known:
    """What is known beforehand. returns: None where nothing is. largest_weight: the most that a whole episode can weigh."""

    returns: ReturnRange | None = None
    largest_weight: float | None = None


@final
@dataclass(frozen=True)
class Bound:
    """An interval by one method, or the reason in words why it cannot be claimed. one_sided: only its low end is bounded."""

    estimator: str
    name: str
    interval: Interval | None
    reason: str | None
    one_sided: bool
    assumption: str
    tested: str

    def to_json(self) -> dict[str, Any]:
        """All fields, the interval as it is written everywhere."""
        return asdict(self) | {"interval": None if self.interval is None else self.interval.to_json()}


def known_of(dataset: Dataset, discount: float, return_range: tuple[float, float] | None, largest_weight: float | None) -> Known:
    """Returns what is declared in the request, else in the log's metadata (`return_range: [low, high]`).

    Raises ConfigError (DataError for metadata) for a range that is none, or that the log's own returns contradict.
    """
    if largest_weight is not None and not (math.isfinite(largest_weight) and largest_weight >= 1):
        raise ConfigError(f"largest weight {largest_weight}; expected a finite number from 1: weights have the mean 1")
    given, source = return_range, "declared in the request"
    if given is None:
        given, source = dataset.metadata.get("return_range"), "declared in the log's metadata"
        if given is None:
            return Known(None, largest_weight)
    error = ConfigError if return_range is not None else DataError
    numbers = list(given) if isinstance(given, (list, tuple)) else []
    if len(numbers) != 2 or not all(isinstance(x, (int, float)) and math.isfinite(x) for x in numbers) or not numbers[0] < numbers[1]:
        raise error(f"return range {given!r} ({source}); expected two finite numbers, the least before the most that an episode can return")
    low, high = float(numbers[0]), float(numbers[1])
    returns, slack = dataset.returns(discount), _ROUNDING * (high - low)
    outside = (returns < low - slack) | (returns > high + slack)
    if outside.any():
        raise error(
            f"return range [{low:g}, {high:g}] ({source}): {int(outside.sum()):,} of {len(returns):,} logged episodes return something else, "
            f"the first {float(returns[outside][0]):.6g}; give the range of what is possible"
        )
    return Known(ReturnRange(low, high, source), largest_weight)


def other_bounds(judged: Judged, known: Known) -> list[Bound]:
    """Returns six intervals of the logged value and six of the whole-episode importance-weighted one (`is`), in the order of TESTED."""
    base, how = behaviour_value(judged.episodes), judged.how
    own = judged.estimate("is")
    targets: dict[str, tuple[Mean, Array, str | None]] = {"logged": (base, np.ones(judged.episodes.count), judged.logged.reason)}
    refused: list[Bound] = []
    if isinstance(own.statistic, Mean):
        targets["is"] = (own.statistic, np.exp(trajectory_log_weights(judged.episodes)), None)
    else:
        refused = [_refused("is", name, own.reason or "") for name in TESTED]
    drawn = draws_together([mean for mean, _, _ in targets.values()], seed=how.seed, resamples=how.resamples, groups=judged.episodes.groups)
    found = []
    for (name, (mean, weights, reason)), values in zip(targets.items(), drawn, strict=True):
        found += [_refused(name, kind, reason) for kind in TESTED] if reason else _bounds(name, mean, weights, values, judged, known)
    return found + refused


def _bounds(estimator: str, mean: Mean, weights: Array, drawn: Array, judged: Judged, known: Known) -> list[Bound]:
    level, groups = judged.how.level, judged.episodes.groups
    span = _span(estimator, known)

    def independent(values: Array) -> Array:
        made = _units(values, groups)
        if isinstance(made, str):
            raise DataError(made)
        return made

    def within(method: Callable[..., Interval]) -> Interval:
        if isinstance(span, str):
            raise DataError(span)
        return method(independent(mean.values), *span, level)

    def floored() -> Interval:
        if known.returns is None:
            raise DataError("not claimed: no floor of the returns is known")
        floor = known.returns.low - _ROUNDING * (known.returns.high - known.returns.low)
        bound = hcope_lower_bound(independent(mean.values - weights * floor), seed=judged.how.seed, level=level, floor=floor)
        return replace(bound, estimate=math.nan)  # what it averages is not the estimator: a bound alone

    makers: dict[str, Callable[[], Interval]] = {
        "t": lambda: student_t(independent(mean.values), level),
        "bca": lambda: interval_of_draws(mean, drawn, level=level, groups=groups, method="bca"),
        "percentile": lambda: interval_of_draws(mean, drawn, level=level, groups=groups, method="percentile"),
        "hoeffding": lambda: within(hoeffding),
        "bernstein": lambda: within(empirical_bernstein),
        "hcope": floored,
    }
    return [_made(estimator, name, make) for name, make in makers.items()]


def _made(estimator: str, name: str, make: Callable[[], Interval]) -> Bound:
    try:
        found = make()
    except DataError as error:
        return _refused(estimator, name, str(error))
    if math.isnan(found.low) or math.isnan(found.high):
        return _refused(estimator, name, "not claimed: undefined on this log or in its bootstrap draws")
    return Bound(estimator, name, found, None, name == "hcope", ASSUMED[name], TESTED[name])


def _refused(estimator: str, name: str, reason: str) -> Bound:
    return Bound(estimator, name, None, reason, name == "hcope", ASSUMED[name], TESTED[name])


def _span(estimator: str, known: Known) -> tuple[float, float] | str:
    """The least and the most that an averaged value can be, or why nobody knows."""
    if known.returns is None:
        return "not claimed: no range of the returns is known, and what was seen is none"
    low, high, slack = known.returns.low, known.returns.high, _ROUNDING * (known.returns.high - known.returns.low)
    if estimator == "logged":
        return low - slack, high + slack
    if known.largest_weight is None:
        return "not claimed: no bound of a whole episode's weight is known, and the largest that was seen is none"
    # a weight lies between 0 and its bound
    return min(0.0, known.largest_weight * (low - slack)), max(0.0, known.largest_weight * (high + slack))


def _units(values: Array, groups: Array | None) -> Array | str:
    """What is independent: the episodes' values `[E]`, or the means `[G]` of groups of one size; or why there is no such list."""
    if groups is None:
        return values
    _, member, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if len(np.unique(sizes)) > 1:
        return "not claimed: groups differ in their number of episodes, so that the mean is no mean of independent values"
    return np.asarray(np.bincount(member, values) / sizes)
