"""Importance sampling over episodes: IS, WIS, PDIS, WPDIS (Thomas, 2015) and the distribution of returns (CDF-OPE, arXiv:2104.08977).

Weights are products of ratios over an episode, kept as sums of logarithms. The weighted estimators divide by sums of weights, so each
time's weights are scaled by the largest of them before they leave log space; IS and PDIS need the weights themselves, and are inf or NaN
where those exceed float64. After an episode's end its last weight is carried on (ratio 1, reward 0), so that every episode counts
at every time. Whatever the log's clock cut off counts as worth nothing here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from stitchrl.core.errors import ConfigError, DataError
from stitchrl.evaluation.evidence import Episodes, Mean, Ratio, Statistic

Array = np.ndarray[Any, np.dtype[Any]]

_CHUNK = 4_000_000  # numbers worked on at a time: 32 MB
_WIDTH = 4096  # times worked on at a time


def running_sums(episodes: Episodes, values: Array) -> Array:
    """Returns float64 `[N]`: the sum of `values [N]` within the episode up to and including each row, added in the order of time."""
    sums = np.array(values, np.float64)
    order = np.argsort(-episodes.lengths, kind="stable")
    first, lengths = episodes.offsets[:-1][order], episodes.lengths[order]
    time, wide = 1, math.isqrt(len(sums))  # many alive: all of them, time by time; few: the rest of each at once
    alive = _count_longer(lengths, time)
    while alive > wide:
        rows = first[:alive] + time
        sums[rows] += sums[rows - 1]
        time += 1
        alive = _count_longer(lengths, time)
    for start, length in zip(first[:alive], lengths[:alive]):
        rest = slice(start + time - 1, start + length)
        sums[rest] = np.add.accumulate(sums[rest])
    return sums


def log_weights(episodes: Episodes) -> Array:
    """Returns float64 `[N]`: log of the product of the episode's ratios up to and including each row; -inf where one of them was 0.

    Raises DataError where the log has no ratios, or a ratio is infinite or NaN: the behaviour cannot have probability 0 of what it did.
    """
    if episodes.log_ratios is None:
        raise DataError("log_ratios: none, this policy has no density at the logged actions; use an estimator without importance weights")
    ratios = np.asarray(episodes.log_ratios, np.float64)
    bad = np.flatnonzero(np.isnan(ratios) | np.isposinf(ratios))
    if len(bad):
        raise DataError(
            f"log_ratios: {len(bad):,} of {len(ratios):,} are NaN or +inf, the first at row {bad[0]:,}; expected finite numbers or -inf. "
            "A logged action needs a behaviour probability above 0"
        )
    return running_sums(episodes, ratios)


def weighted(log_weight: Array, values: Array) -> Array:
    """Returns exp(`log_weight`) · `values`, elementwise: 0 where the value is 0 whatever the weight, inf where it exceeds float64."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(np.where(values == 0, 0.0, np.exp(log_weight) * values))


def relative_weights(log_weight: Array) -> Array:
    """Returns the weights divided by the largest of them, for any shape; all 0 where every weight is 0."""
    return _exp_difference(log_weight, np.max(log_weight, initial=-np.inf))


def trajectory_estimators(episodes: Episodes) -> dict[str, Statistic]:
    """Returns the statistics `is`, `wis`, `pdis` and `wpdis` of the policy's value.

    `is` and `pdis` are unbiased where the ratios are the true ones and cover the policy; `wis` and `wpdis` are biased, consistent, and far
    less noisy. Undefined numbers are NaN: a weighted estimator whose weights are all 0 (at any time, for `wpdis`), an overflow in the others.
    Raises DataError, see `log_weights`.
    """
    log_weight = log_weights(episodes)
    gains = np.power(episodes.discount, episodes.step) * episodes.rewards
    last, returns = log_weight[episodes.offsets[1:] - 1], episodes.sums(gains)
    scaled = relative_weights(last)[:, None]
    with np.errstate(invalid="ignore", over="ignore"):
        per_decision = episodes.sums(weighted(log_weight, gains))
    return {
        "is": Mean(weighted(last, returns)),
        "wis": Ratio(scaled * returns[:, None], scaled),
        "pdis": Mean(per_decision),
        "wpdis": StepRatios(episodes, log_weight, gains),
    }


def behaviour_value(episodes: Episodes) -> Mean:
    """Returns the behaviour's own value: the mean over episodes of the discounted sum of logged rewards."""
    return Mean(episodes.discounted(episodes.rewards))


@final
@dataclass(frozen=True)
class _Block:
    """Some consecutive times at which the same n episodes are alive: the longest n, in the order of falling length."""

    time: int
    alive: int  # n
    before: int  # the episodes alive in the block before
    ended: Array  # [before - alive] weights of those that ended in between, on the scale of the carried sum
    rescale: float  # from the block before's scale of the carried sum to this one's
    carried: Array  # [w] from the scale of the carried sum to each column's
    weights: Array  # [n, w] on each column's scale: the largest weight of the column, carried ones included, is 1
    gains: Array  # [n, w] weights · gains
    shares: Array  # [w]


@final
class StepRatios(Statistic):
    """The mean of `starts [E]` plus the sum over times t of share_t · (sum over episodes of weight · gain) / (sum of weights).

    log_weight, gains: float64 `[N]`, see `log_weights`; a gain holds its discount^t, and an ended episode's gains are 0 at its last weight.
    starts: `[E]`, 0 without. shares: `[H]`, never rising, 1 without; times from the first share of 0 on, and those whose discount^t is 0,
    are left out, whatever their weights. Holds 2 N numbers, however uneven the lengths. A time at which all weights are 0 makes it NaN,
    and so does a draw all of whose weights are below e^-745 of the log's largest.
    """

    def __init__(
        self, episodes: Episodes, log_weight: Array, gains: Array, *, starts: Array | None = None, shares: Array | None = None
    ) -> None:
        self.episodes = episodes.count
        self.starts = None if starts is None else np.asarray(starts, np.float64)
        times = np.arange(int(episodes.lengths.max()))
        self.shares = np.ones(len(times)) if shares is None else np.asarray(shares, np.float64)
        horizon = int(np.count_nonzero((np.power(episodes.discount, times) > 0) & (self.shares != 0)))
        lengths = np.minimum(episodes.lengths, horizon)
        self._order = np.argsort(-lengths, kind="stable")
        lengths, first = lengths[self._order], episodes.offsets[:-1][self._order]
        final = log_weight[episodes.offsets[1:] - 1][self._order]
        self._blocks: list[_Block] = []
        before, carried = self.episodes, -math.inf  # carried: log of the largest weight of an ended episode
        for start, stop in _spans(lengths):
            alive = _count_longer(lengths, start)
            ended = final[alive:before]
            scale = max(carried, float(np.max(ended, initial=-np.inf)))
            rows = first[:alive, None] + np.arange(start, stop)
            block_weights = log_weight[rows]
            largest = np.maximum(block_weights.max(0), scale)  # [w]
            weights = _exp_difference(block_weights, largest)
            rescale, onto = float(_exp_difference(np.array(carried), np.array(scale))), _exp_difference(np.array(scale), largest)
            ended_weights = _exp_difference(ended, np.array(scale))
            part = self.shares[start:stop]
            self._blocks.append(_Block(start, alive, before, ended_weights, rescale, onto, weights, weights * gains[rows], part))
            before, carried = alive, scale

    def value(self, counts: Array) -> Array:
        size = max(1, _CHUNK // max(self.episodes, _WIDTH))
        return np.concatenate([self._value(np.asarray(counts[i : i + size], np.float64)) for i in range(0, len(counts), size)])

    def contributions(self, times: Array) -> Array:
        """Returns float64 `[E, len(times)]`: each episode's part of the sum over times up to and including each of `times` (rising), every
        share taken as 1. Summed over episodes, and the mean of `starts` added, it is the estimate from so many steps."""
        running, table = np.zeros(self.episodes), np.zeros((self.episodes, len(times)))
        for block, below in self._denominators(np.ones((1, self.episodes))):
            with np.errstate(invalid="ignore", divide="ignore"):
                sums = np.cumsum(block.gains / np.where(below > 0, below, np.nan), 1)  # [n, w]
            inside = np.flatnonzero((times >= block.time) & (times < block.time + sums.shape[1]))
            for column in inside:
                table[self._order, column] = running
                table[self._order[: block.alive], column] += sums[:, times[column] - block.time]
            running[: block.alive] += sums[:, -1]
        return table

    def _value(self, counts: Array) -> Array:
        total = np.zeros(len(counts)) if self.starts is None else Mean(self.starts).value(counts)
        ordered = counts[:, self._order]
        for block, below in self._denominators(ordered):
            with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
                ratios = (ordered[:, : block.alive] @ block.gains) / np.where(below > 0, below, np.nan)
                total = total + ratios @ block.shares
        return np.asarray(total)

    def _denominators(self, ordered: Array) -> Iterator[tuple[_Block, Array]]:
        """Each block with the sums of weights `[B, w]` at its times, carried ones included."""
        carried = np.zeros(len(ordered))
        for block in self._blocks:
            carried = carried * block.rescale + ordered[:, block.alive : block.before] @ block.ended
            yield block, ordered[:, : block.alive] @ block.weights + carried[:, None] * block.carried


# ------------------------------------------------------------------------------------------------------- distribution of returns


@final
class WeightedQuantile(Statistic):
    """The least of `values [E]` at or below which at least `level` of the `weights [E]` lie; NaN where all weights are 0."""

    def __init__(self, values: Array, weights: Array, level: float) -> None:
        if not 0 < level <= 1:
            raise ConfigError(f"level is {level}; expected a number above 0 and up to 1")
        order = np.argsort(values, kind="stable")
        self.sorted_values, self._order, self._weights = np.asarray(values, np.float64)[order], order, np.asarray(weights)[order]
        self.level, self.episodes = level, len(order)

    def value(self, counts: Array) -> Array:
        found = [np.zeros(0)]
        for cumulative in _cumulative_shares(counts, self._order, self._weights):
            at = (cumulative >= self.level * (1 - 1e-12)).argmax(1)  # 1e-12: level · total is rounded
            found.append(np.where(np.isnan(cumulative[:, -1]), np.nan, self.sorted_values[at]))
        return np.concatenate(found)


@final
class WeightedTail(Statistic):
    """The mean of the lowest `share` of `values [E]` by `weights [E]` (CVaR); the value at the edge counts in part. NaN where all weights
    are 0."""

    def __init__(self, values: Array, weights: Array, share: float) -> None:
        if not 0 < share <= 1:
            raise ConfigError(f"share is {share}; expected a number above 0 and up to 1")
        order = np.argsort(values, kind="stable")
        self.sorted_values, self._order, self._weights = np.asarray(values, np.float64)[order], order, np.asarray(weights)[order]
        self.share, self.episodes = share, len(order)

    def value(self, counts: Array) -> Array:
        found = [np.zeros(0)]
        for cumulative in _cumulative_shares(counts, self._order, self._weights):
            parts = np.diff(np.minimum(cumulative, self.share), axis=1, prepend=0.0)
            with np.errstate(invalid="ignore"):
                found.append(parts @ self.sorted_values / self.share)
        return np.concatenate(found)


@final
@dataclass(frozen=True)
class ReturnDistribution:
    """The distribution of the policy's discounted returns up to the log's clock, from self-normalised weights.

    returns: float64 `[E]` rising. weights: `[E]` beside them, the largest is 1 (all 0 where the policy shares no episode with the log).
    order: int64 `[E]`, the episode each of them is of.
    """

    returns: Array
    weights: Array
    order: Array

    def cumulative(self) -> Array:
        """Returns float64 `[E]`: the probability of a return up to each of `returns` (the last of equal ones); NaN where all weights are 0."""
        with np.errstate(invalid="ignore"):
            return np.asarray(np.cumsum(self.weights) / self.weights.sum())

    def quantile(self, level: float) -> Statistic:
        """Returns the least return whose cumulative probability reaches `level`, in (0, 1]."""
        return WeightedQuantile(*self._logged(), level)

    def tail(self, share: float) -> Statistic:
        """Returns CVaR: the mean of the worst `share` of returns, in (0, 1]; with 1, the mean (WIS)."""
        return WeightedTail(*self._logged(), share)

    def below(self, threshold: float) -> Statistic:
        """Returns the probability that a return is less than `threshold`."""
        returns, weights = self._logged()
        return Ratio((weights * (returns < threshold))[:, None], weights[:, None])

    def statistics(self, share: float = 0.1) -> dict[str, Statistic]:
        """Returns `lower_quartile`, `median`, `upper_quartile` and `cvar` (the mean of the worst `share`)."""
        levels = {"lower_quartile": 0.25, "median": 0.5, "upper_quartile": 0.75}
        return {**{name: self.quantile(level) for name, level in levels.items()}, "cvar": self.tail(share)}

    def _logged(self) -> tuple[Array, Array]:
        """Returns and weights in the order of the log, as counts are."""
        returns, weights = np.empty_like(self.returns), np.empty_like(self.weights)
        returns[self.order], weights[self.order] = self.returns, self.weights
        return returns, weights


def return_distribution(episodes: Episodes) -> ReturnDistribution:
    """Returns the weighted distribution of discounted returns under the policy. Raises DataError, see `log_weights`.

    For the behaviour's own distribution, give `log_ratios` of 0.
    """
    returns = episodes.discounted(episodes.rewards)
    order = np.argsort(returns, kind="stable")
    weights = relative_weights(log_weights(episodes)[episodes.offsets[1:] - 1])
    return ReturnDistribution(returns[order], weights[order], order)


def _cumulative_shares(counts: Array, order: Array, weights: Array) -> Iterator[Array]:
    """`[B, E]` in parts of B: the share of the weight that lies up to and including each episode in `order`; NaN where there is none."""
    size = max(1, _CHUNK // max(1, len(order)))
    for start in range(0, len(counts), size):
        cumulative = np.cumsum(counts[start : start + size][:, order] * weights, 1)
        with np.errstate(invalid="ignore"):
            yield cumulative / cumulative[:, -1:]


def _spans(lengths: Array) -> Iterator[tuple[int, int]]:
    """Times from 0 to the longest, parted where an episode ends and where a table of the episodes alive would grow large."""
    start = 0
    for end in np.unique(lengths):
        width = max(1, min(_WIDTH, _CHUNK // max(1, _count_longer(lengths, start))))
        for begin in range(start, int(end), width):
            yield begin, min(begin + width, int(end))
        start = int(end)


def _count_longer(lengths: Array, time: int) -> int:
    """The number of episodes that have a step at `time`; `lengths` fall."""
    return int(np.searchsorted(-lengths, -time, side="left"))


def _exp_difference(above: Array, below: Array) -> Array:
    """exp(above - below), 0 where `above` is -inf, also where both are."""
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(np.isneginf(above), 0.0, np.exp(above - below)))
