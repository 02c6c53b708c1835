"""Bounds beside the bootstrap's: by hand, refused in words where a bound would have to be made up, and covering where it is said that they do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stitchrl.core.errors import ConfigError, DataError
from stitchrl.core.intervals import Interval
from stitchrl.core.spec import Discrete, Spec
from stitchrl.data.dataset import Dataset
from stitchrl.environments.tasks.tabular import policy_value
from stitchrl.evaluation.confidence import draws, hcope_lower_bound, interval_of_draws, student_t
from stitchrl.evaluation.estimability import trajectory_gate
from stitchrl.evaluation.estimates import How, Judged
from stitchrl.evaluation.evidence import Array, Episodes, Estimate
from stitchrl.evaluation.importance_sampling import behaviour_value, trajectory_estimators
from stitchrl.evaluation.other_bounds import ASSUMED, TESTED, Bound, Known, ReturnRange, known_of, other_bounds
from tests.unit.evaluation.chain_log import TARGET, chain, simulate

COIN = np.repeat([0.0, 1.0], 100)
UNIT = ReturnRange(0.0, 1.0, "declared")


def judged(returns: Array, weights: Array | None = None, *, groups: Array | None = None, refused: str | None = None) -> Judged:
    """One policy judged on episodes of one step; `refused` is why its weights are not usable."""
    n = len(returns)
    weights = np.ones(n) if weights is None else weights
    episodes = Episodes(np.arange(n + 1), returns, np.ones(n, np.bool_), 1.0, np.log(weights), groups)
    statistic = trajectory_estimators(episodes)["is"]
    span = Interval(statistic.point, 0.0, 1.0)
    own = Estimate("is", span.estimate, span, statistic=statistic) if refused is None else Estimate.refused("is", refused)
    logged = Estimate("logged", float(returns.mean()), span, statistic=behaviour_value(episodes))
    nothing: Any = None
    return Judged(How(1.0, "ends", quick=True), episodes, nothing, None, None, (own,), logged, None, None, None, {"trajectory": refused})


def by_name(found: list[Bound]) -> dict[tuple[str, str], Bound]:
    return {(bound.estimator, bound.name): bound for bound in found}


def ends(bound: Bound) -> tuple[float, float]:
    assert bound.interval is not None and bound.reason is None
    return bound.interval.low, bound.interval.high


def test_bounds_of_the_logged_value_by_hand() -> None:
    """100 zeros and 100 ones in [0, 1]: the numbers of test_confidence; t(0.975; 199) = 1.9719565, s² = 50 / 199."""
    found = by_name(other_bounds(judged(COIN), Known(UNIT)))
    assert ends(found["logged", "hoeffding"]) == pytest.approx((0.5 - 0.0960323, 0.5 + 0.0960323), abs=1e-6)
    assert ends(found["logged", "bernstein"]) == pytest.approx((0.5 - 0.1563098, 0.5 + 0.1563098), abs=1e-6)
    half = 1.9719565 * (50 / 199 / 200) ** 0.5
    assert ends(found["logged", "t"]) == pytest.approx((0.5 - half, 0.5 + half), abs=1e-7)
    low, high = ends(found["logged", "percentile"])
    assert low == pytest.approx(0.5 - 1.96 * (0.25 / 200) ** 0.5, abs=0.01) and high == pytest.approx(
        0.5 + 1.96 * (0.25 / 200) ** 0.5, abs=0.01
    )
    assert found["logged", "hcope"].one_sided and not found["logged", "t"].one_sided


def test_a_declared_largest_weight_bounds_the_weighted_returns() -> None:
    """Weights of at most 2 make weighted returns of 0 … 2: twice Hoeffding's half-width; a negative range is mirrored."""
    found = by_name(other_bounds(judged(COIN), Known(UNIT, 2.0)))
    low, high = ends(found["is", "hoeffding"])
    assert (low, high) == pytest.approx((0.5 - 0.1920646, 0.5 + 0.1920646), abs=1e-6)
    found = by_name(other_bounds(judged(-COIN), Known(ReturnRange(-1.0, -0.0, "declared"), 2.0)))
    assert ends(found["is", "hoeffding"]) == pytest.approx((-high, -low), abs=1e-6)


def test_the_lower_bound_is_hcopes_and_moves_with_the_returns() -> None:
    weights = np.random.default_rng(0).lognormal(-0.125, 0.5, 200)
    found = by_name(other_bounds(judged(COIN, weights), Known(UNIT)))["is", "hcope"]
    assert found.interval is not None and np.isnan(found.interval.estimate) and found.interval.high == np.inf
    assert found.interval.low == pytest.approx(hcope_lower_bound(weights * COIN, seed=0).low, abs=1e-6)
    shifted = by_name(other_bounds(judged(COIN - 7, weights), Known(ReturnRange(-7.0, -6.0, "declared"))))["is", "hcope"]
    assert shifted.interval is not None and shifted.interval.low == pytest.approx(found.interval.low - 7, abs=1e-6)
    assert shifted.to_json()["interval"] == {"estimate": None, "low": shifted.interval.low, "high": None, "level": 0.95}


def test_no_range_is_taken_from_what_was_seen() -> None:
    found = by_name(other_bounds(judged(COIN), Known()))
    for estimator in ("logged", "is"):
        for name in ("hoeffding", "bernstein"):
            assert found[estimator, name].interval is None and "what was seen is none" in (found[estimator, name].reason or "")
        assert "no floor of the returns" in (found[estimator, "hcope"].reason or "")
        for name in ("t", "bca", "percentile"):
            assert found[estimator, name].reason is None
    weighted = by_name(other_bounds(judged(COIN), Known(UNIT)))["is", "hoeffding"]
    assert "no bound of a whole episode's weight" in (weighted.reason or "")


def test_a_largest_weight_that_the_log_contradicts_is_not_used() -> None:
    weights = np.full(200, 1.0)
    weights[-1] = 5.0
    found = by_name(other_bounds(judged(COIN, weights), Known(UNIT, 2.0)))["is", "hoeffding"]
    assert found.interval is None and "1 of 200 values lie outside" in (found.reason or "")


def test_a_closed_gate_refuses_all_six_with_its_words() -> None:
    why = "not estimable: 3 effective episodes"
    found = other_bounds(judged(COIN, refused=why), Known(UNIT, 2.0))
    assert [(b.estimator, b.name) for b in found] == [(e, n) for e in ("logged", "is") for n in TESTED]
    assert all((b.reason == why and b.interval is None) == (b.estimator == "is") for b in found)
    assert all(b.assumption == ASSUMED[b.name] and b.tested == TESTED[b.name] for b in found)


def test_groups_of_one_size_are_the_units_and_uneven_ones_have_no_such_bound() -> None:
    """Each value four times: the interval of the 50, not of 200 feigned ones."""
    few = np.random.default_rng(0).random(50)
    groups = np.repeat(np.arange(50), 4)
    found = by_name(other_bounds(judged(np.repeat(few, 4), groups=groups), Known(UNIT)))
    wanted = student_t(few)
    assert ends(found["logged", "t"]) == pytest.approx((wanted.low, wanted.high), abs=1e-12)
    groups[0] = 1
    uneven = by_name(other_bounds(judged(np.repeat(few, 4), groups=groups), Known(UNIT)))
    for name in ("t", "hoeffding", "bernstein", "hcope"):
        assert "groups differ" in (uneven["logged", name].reason or "")
    assert uneven["logged", "percentile"].reason is None and uneven["logged", "bca"].reason is None


# ----------------------------------------------------------------------------------------------------------- what is known


def log(rewards: list[float], **metadata: Any) -> Dataset:
    """Episodes of one step."""
    n = len(rewards)
    ends_ = np.ones(n, np.bool_)
    columns = {
        "observations": np.zeros(n, np.int64), "actions": np.zeros(n, np.int64), "rewards": np.array(rewards, np.float32),
        "terminals": ends_, "timeouts": ~ends_,
    }  # fmt: skip
    return Dataset(Spec(Discrete(1), Discrete(1)), columns, np.arange(n + 1), np.zeros(n, np.int64), metadata)


def test_a_range_is_the_requests_else_the_logs() -> None:
    assert known_of(log([0, 1]), 1.0, None, None) == Known(None, None)
    assert known_of(log([0, 1], return_range=[0, 2]), 1.0, None, 3.0) == Known(ReturnRange(0, 2, "declared in the log's metadata"), 3.0)
    found = known_of(log([0, 1], return_range=[0, 2]), 1.0, (-1.0, 1.0), None)
    assert found == Known(ReturnRange(-1, 1, "declared in the request"), None)


def test_a_range_that_cannot_be_is_told() -> None:
    with pytest.raises(ConfigError, match=r"1 of 3 logged episodes return something else, the first 1.5"):
        known_of(log([0, 1.5, 1]), 1.0, (0.0, 1.0), None)
    with pytest.raises(DataError, match="declared in the log's metadata"):
        known_of(log([0, 1.5, 1], return_range=[0, 1]), 1.0, None, None)
    for wrong in ((1.0, 0.0), (0.0, float("inf"))):
        with pytest.raises(ConfigError, match="two finite numbers"):
            known_of(log([0, 1]), 1.0, wrong, None)
    with pytest.raises(DataError, match="two finite numbers"):
        known_of(log([0, 1], return_range="0 to 1"), 1.0, None, None)
    with pytest.raises(ConfigError, match="from 1"):
        known_of(log([0, 1]), 1.0, None, 0.5)


# ---------------------------------------------------------------------------------------------------------------- coverage


@pytest.mark.slow
def test_coverage_on_weighted_episodes_where_the_gate_is_open() -> None:
    """Logs of 200 episodes of a chain: t, BCa and percentiles of whole episodes' weighted returns hold the true value in 0.93 to 0.99 of those
    admitted (1,155 logs measured once: 0.971, 0.964, 0.966). Of 500 logs the noise is 0.009; an interval of 80 % would be seen."""
    task, size, logs = chain(), 200, 500
    truth = policy_value(task, TARGET)
    every = simulate(task, size * logs, 11).episodes
    hits = {"t": 0, "bca": 0, "percentile": 0, "t at 0.8": 0}
    admitted = 0
    for k in range(logs):
        offsets = every.offsets[k * size : (k + 1) * size + 1]
        rows = slice(offsets[0], offsets[-1])
        assert every.log_ratios is not None
        one = Episodes(offsets - offsets[0], every.rewards[rows], every.terminals[rows], every.discount, every.log_ratios[rows])
        if trajectory_gate(one) is not None:
            continue
        admitted += 1
        mean: Any = trajectory_estimators(one)["is"]
        drawn = draws(mean, seed=k, resamples=200)
        found = {"t": student_t(mean.values), "t at 0.8": student_t(mean.values, 0.8)}
        found |= {m: interval_of_draws(mean, drawn, method=m) for m in ("bca", "percentile")}  # type: ignore[arg-type]
        for name, interval in found.items():
            hits[name] += interval.low <= truth <= interval.high
    assert admitted > 0.9 * logs
    assert all(0.93 < hits[name] / admitted < 0.99 for name in ("t", "bca", "percentile")), hits
    assert hits["t at 0.8"] / admitted < 0.93
