"""Intervals: closed forms, SciPy's bootstrap, groups, borders, and whether they cover as often as they say."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from stitchrl.core.errors import DataError
from stitchrl.core.intervals import Interval
from stitchrl.evaluation.confidence import (
    bootstrap,
    draws,
    draws_together,
    empirical_bernstein,
    hcope_lower_bound,
    hoeffding,
    interval_of_draws,
    student_t,
)
from stitchrl.evaluation.evidence import Array, Difference, Mean, Ratio

SIZES = (10, 100, 1000)


def returns(n: int, seed: int = 0) -> Array:
    """Negative returns between -3 and -1."""
    return np.random.default_rng(seed).uniform(-3, -1, n)


# ------------------------------------------------------------------------------------------------------------ closed forms


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_student_t_is_scipys(n: int, level: float) -> None:
    x = returns(n)
    found = student_t(x, level)
    low, high = stats.t.interval(level, n - 1, x.mean(), stats.sem(x))
    assert (found.estimate, found.low, found.high) == pytest.approx((x.mean(), low, high), rel=1e-12)


def test_hoeffding_by_hand() -> None:
    # 200 values in [0, 1]: sqrt(ln 40 / 400) = sqrt(3.688879 / 400) = 0.0960323
    found = hoeffding(np.full(200, 0.5), 0, 1)
    assert (found.low, found.high) == pytest.approx((0.5 - 0.0960323, 0.5 + 0.0960323), abs=1e-7)
    # Trust row 1: at n = 100 the half-width is 0.1358, not 13.58
    assert hoeffding(np.full(100, 0.5), 0, 1).high - 0.5 == pytest.approx(0.1358, abs=1e-4)


def test_empirical_bernstein_by_hand() -> None:
    # 100 zeros and 100 ones: V = 200 · 0.25 / 199 = 0.2512563, L = ln(4 / 0.05) = 4.3820266
    # sqrt(2 · 0.2512563 · 4.3820266 / 200) = 0.1049291; 7 · 4.3820266 / (3 · 199) = 0.0513807
    found = empirical_bernstein(np.repeat([0.0, 1.0], 100), 0, 1)
    assert (found.low, found.high) == pytest.approx((0.5 - 0.1563098, 0.5 + 0.1563098), abs=1e-6)
    constant = empirical_bernstein(np.full(200, -2.0), -3, 0)  # no variance: 3 · 0.0513807
    assert constant.high - constant.low == pytest.approx(2 * 3 * 0.0513807, abs=1e-6)


def test_hcope_by_hand_where_the_clip_does_not_bite() -> None:
    """Constant values are clipped at nothing less than themselves: 2 (1 - 7 ln(2 / d) / (3 (m - 1))), with m the values not used to choose."""
    found = hcope_lower_bound(np.full(1000, 2.0), seed=0)
    # m = 950; ln 40 = 3.6888795; 7 · 3.6888795 / (3 · 949) = 0.0090700
    assert (found.estimate, found.low, found.high) == (2.0, pytest.approx(2 * (1 - 0.0090700), abs=1e-6), math.inf)
    assert found.to_json() == {"estimate": 2.0, "low": found.low, "high": None, "level": 0.95}
    assert hcope_lower_bound(np.full(1000, 2.0), seed=0, floor=-5).low == pytest.approx(found.low - 5)


def all_of(x: Array) -> dict[str, Interval]:
    mean = Mean(x)
    return {
        "t": student_t(x),
        "hoeffding": hoeffding(x, -3, 0),
        "bernstein": empirical_bernstein(x, -3, 0),
        "hcope": hcope_lower_bound(x + 3, seed=0, floor=-3),
        **{m: bootstrap(mean, seed=0, resamples=400, method=m) for m in ("percentile", "expanded", "bca")},  # type: ignore[arg-type]
    }


def test_more_data_narrower_and_never_crossed() -> None:
    widths = []
    for n in SIZES:
        found = all_of(returns(n))
        assert all(i.low <= i.estimate <= i.high for i in found.values())
        widths.append({k: i.estimate - i.low if k == "hcope" else i.high - i.low for k, i in found.items()})
    for name in widths[0]:
        assert widths[0][name] > widths[1][name] > widths[2][name], name
    for n in SIZES:  # a wider level is a wider interval
        assert student_t(returns(n), 0.9).high < student_t(returns(n), 0.99).high
        assert hoeffding(returns(n), -3, 0, 0.9).high < hoeffding(returns(n), -3, 0, 0.99).high


@pytest.mark.parametrize("n", SIZES)
def test_constant_returns(n: int) -> None:
    found = all_of(np.full(n, -1.5))
    for name in ("t", "percentile", "expanded", "bca"):
        assert (found[name].low, found[name].high) == pytest.approx((-1.5, -1.5), abs=1e-12)
    for name in ("hoeffding", "bernstein", "hcope"):  # what was not seen may still be
        assert found[name].low < -1.5 < found[name].high


def test_one_episode() -> None:
    x = np.array([-1.0])
    for found in (student_t(x), *(bootstrap(Mean(x), seed=0, method=m) for m in ("percentile", "expanded", "bca"))):  # type: ignore[arg-type]
        assert found.estimate == -1 and math.isnan(found.low) and math.isnan(found.high)
    assert hoeffding(x, -3, 0).high == pytest.approx(-1 + 3 * math.sqrt(math.log(40) / 2))
    assert (empirical_bernstein(x, -3, 0).low, empirical_bernstein(x, -3, 0).high) == (-3, 0)
    assert (hcope_lower_bound(x + 3, seed=0, floor=-3).low, hcope_lower_bound(np.zeros(100), seed=0).low) == (-3, 0)


@pytest.mark.parametrize("bad", [[], [np.nan, 1.0], [np.inf, 1.0], [[1.0]]])
def test_bad_values_are_refused(bad: list[float]) -> None:
    calls: list[Callable[[], Interval]] = [
        lambda: student_t(bad),
        lambda: hoeffding(bad, 0, 1),
        lambda: empirical_bernstein(bad, 0, 1),
        lambda: hcope_lower_bound(bad, seed=0),
    ]
    for call in calls:
        with pytest.raises(DataError, match=r"expected \[n\]|not finite"):
            call()


def test_values_outside_their_bounds_and_bad_levels_are_refused() -> None:
    for bounded in (hoeffding, empirical_bernstein):
        with pytest.raises(DataError, match=r"1 of 2 values lie outside \[0, 1\], first 1.5"):
            bounded([0.5, 1.5], 0, 1)
        with pytest.raises(DataError, match="low below high"):
            bounded([0.5], 1, 0)
    with pytest.raises(DataError, match="lie outside"):
        hcope_lower_bound([-0.1, 1.0], seed=0)
    for level in (0.0, 1.0, 95.0):
        with pytest.raises(DataError, match="expected between 0 and 1"):
            student_t([1.0, 2.0], level)
        with pytest.raises(DataError, match="expected between 0 and 1"):
            bootstrap(Mean([1.0, 2.0]), seed=0, level=level)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="method 'normal'"):
        bootstrap(Mean(returns(5)), seed=0, method="normal")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="one label for each of 5"):
        bootstrap(Mean(returns(5)), seed=0, groups=np.zeros(4))
    with pytest.raises(DataError, match="all of the same episodes"):
        draws_together([Mean(returns(5)), Mean(returns(6))], seed=0)


# ------------------------------------------------------------------------------------------------------------ the bootstrap


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_bootstrap_is_scipys(method: str) -> None:
    """Two independent sets of 20,000 draws: their ends differ by the noise of drawing, about 1 % of the width."""
    generator = np.random.default_rng(3)
    x, w = generator.exponential(size=60), generator.lognormal(0, 0.7, 60)
    cases = [
        (Mean(x), (x,), lambda a, axis: a.mean(axis)),
        (Ratio((w * x)[:, None], w[:, None]), (w * x, w), lambda a, b, axis: a.sum(axis) / b.sum(axis)),
    ]
    for statistic, data, function in cases:
        ours = bootstrap(statistic, seed=0, resamples=20_000, method=method)  # type: ignore[arg-type]
        theirs = stats.bootstrap(
            data, function, n_resamples=20_000, vectorized=True, paired=len(data) > 1, method=method, rng=np.random.default_rng(1)
        ).confidence_interval
        width = theirs.high - theirs.low
        assert abs(ours.low - theirs.low) < 0.025 * width and abs(ours.high - theirs.high) < 0.025 * width


def test_bca_moves_with_the_skewness() -> None:
    x = np.random.default_rng(3).exponential(size=60)
    plain, corrected = (bootstrap(Mean(x), seed=0, resamples=20_000, method=m) for m in ("percentile", "bca"))  # type: ignore[arg-type]
    assert corrected.low > plain.low + 0.005 and corrected.high > plain.high + 0.01


def test_the_jackknife_in_parts_finds_the_same_skewness() -> None:
    """1,000 episodes are left out five at a time; the ends are those of scipy's 1,000 leave-one-out values."""
    x = np.random.default_rng(5).exponential(size=1000) ** 2
    ours = bootstrap(Mean(x), seed=0, resamples=10_000, method="bca")
    theirs = stats.bootstrap((x,), np.mean, n_resamples=10_000, method="bca", rng=np.random.default_rng(1)).confidence_interval
    width = theirs.high - theirs.low
    assert abs(ours.low - theirs.low) < 0.03 * width and abs(ours.high - theirs.high) < 0.03 * width


def test_expanded_percentiles_of_ten_values() -> None:
    """Half-widths: t(0.975; 9) s / sqrt(10) with t = 2.262157 and s over n - 1; plain percentiles 1.959964 s / sqrt(10) with s over n."""
    x = np.arange(10.0)  # s squared: 82.5 / 9 and 82.5 / 10
    wide, plain = (bootstrap(Mean(x), seed=0, resamples=50_000, method=m) for m in ("expanded", "percentile"))  # type: ignore[arg-type]
    assert (wide.high - wide.low) / 2 == pytest.approx(2.262157 * math.sqrt(82.5 / 90), rel=0.04)
    assert (plain.high - plain.low) / 2 == pytest.approx(1.959964 * math.sqrt(8.25 / 10), rel=0.03)


def test_groups_of_alike_episodes_widen_the_interval() -> None:
    """Each of 50 values four times: drawn alone they feign 200 episodes and half the width."""
    x = np.repeat(np.random.default_rng(0).normal(size=50), 4)
    groups = np.repeat(np.arange(50) * 7 - 20, 4)
    alone, together, few = bootstrap(Mean(x), seed=0), bootstrap(Mean(x), seed=0, groups=groups), bootstrap(Mean(x[::4]), seed=0)
    assert (together.high - together.low) / (alone.high - alone.low) == pytest.approx(2.0, abs=0.15)
    assert (together.low, together.high) == pytest.approx((few.low, few.high), abs=1e-12)  # the very draws of the 50
    one = bootstrap(Mean(x), seed=0, groups=np.zeros(200))
    assert math.isnan(one.low) and math.isnan(one.high)


def test_same_seed_same_draws_whatever_the_block() -> None:
    x = returns(40)
    first, again, other = draws(Mean(x), seed=1), draws(Mean(x), seed=1), draws(Mean(x), seed=2)
    assert np.array_equal(first, again) and not np.array_equal(first, other) and len(first) == 2000
    pair = draws_together([Mean(x), Mean(2 * x)], seed=1)
    assert np.array_equal(pair[0], first) and np.allclose(pair[1], 2 * first)
    assert draws(Difference(Mean(x), Mean(x - 1)), seed=1) == pytest.approx(1.0)  # paired: what is shared cancels
    many = Mean(np.random.default_rng(0).normal(size=30_000))  # several blocks
    found = draws(many, seed=0, resamples=200)
    assert found.std() == pytest.approx(1 / math.sqrt(30_000), rel=0.2) and len(np.unique(found)) == 200


def test_undefined_draws_are_kept_and_end_the_interval_where_many() -> None:
    one = np.eye(20)[:1].T  # one episode of twenty holds every weight: (19 / 20)^20 = 0.358 of the draws never draw it
    ratio = Ratio(one, one)
    found = draws(ratio, seed=0)
    assert np.isnan(found).mean() == pytest.approx(0.358, abs=0.03)
    for method in ("percentile", "expanded", "bca"):
        made = interval_of_draws(ratio, found, method=method)  # type: ignore[arg-type]
        assert made.estimate == 1 and math.isnan(made.low) and math.isnan(made.high)
    nothing = bootstrap(Ratio(0 * one, 0 * one), seed=0)
    assert math.isnan(nothing.estimate) and math.isnan(nothing.low)
    few = np.r_[np.nan, np.nan, np.linspace(0, 1, 998)]  # two of a thousand: the worst for either end
    kept = interval_of_draws(Mean(np.array([0.0, 1.0])), few)
    assert kept.low == pytest.approx(np.quantile(np.r_[0, 0, few[2:]], 0.025)) and kept.high == pytest.approx(
        np.quantile(np.r_[1, 1, few[2:]], 0.975)
    )


# ------------------------------------------------------------------------------------------------------------------ coverage


def covered(make: Callable[[Array, int], Interval], sample: Callable[[np.random.Generator], Array], truth: float, times: int) -> float:
    hits = 0
    for i in range(times):
        found = make(sample(np.random.default_rng([7, i])), i)
        hits += found.low <= truth <= found.high
    return hits / times


@pytest.mark.parametrize("method", ["t", "percentile", "expanded", "bca"])
def test_coverage_on_skewed_returns(method: str) -> None:
    """100 returns -x, x from a gamma of shape 2 (skewness -1.4): 0.92–0.98. Of 1,200 repetitions the noise is 0.006; a 90 % interval would fail."""
    make = {
        "t": lambda x, i: student_t(x),
        **{m: lambda x, i, m=m: bootstrap(Mean(x), seed=i, resamples=300, method=m) for m in ("percentile", "expanded", "bca")},
    }[method]
    found = covered(make, lambda g: -g.gamma(2.0, size=100), -2.0, 1200)
    assert 0.925 < found < 0.975
    if method == "t":  # the test would notice an interval of 90 %
        assert covered(lambda x, i: student_t(x, 0.9), lambda g: -g.gamma(2.0, size=100), -2.0, 1200) < 0.92


@pytest.mark.parametrize("n", [10, 100])
def test_bounds_cover_at_any_size(n: int) -> None:
    """Returns that are almost always -1 and rarely 0: the mean of ten often shows none of the rare. Bounds hold, Student's t does not."""

    def sample(g: np.random.Generator) -> Array:
        return -(g.random(n) > 0.05).astype(float)

    assert covered(lambda x, i: hoeffding(x, -1, 0), sample, -0.95, 2000) >= 0.95
    assert covered(lambda x, i: empirical_bernstein(x, -1, 0), sample, -0.95, 2000) >= 0.95
    assert covered(lambda x, i: hcope_lower_bound(x + 1, seed=i, floor=-1), sample, -0.95, 2000) >= 0.95
    assert covered(lambda x, i: student_t(x), sample, -0.95, 2000) < (0.5 if n == 10 else 0.93)


def test_hoeffding_is_not_idle() -> None:
    """At the variance where it is tightest, fair coins, 80 % intervals still cover more than they say but miss at times."""
    found = covered(lambda x, i: hoeffding(x, 0, 1, 0.8), lambda g: g.integers(0, 2, 100).astype(float), 0.5, 2000)
    assert 0.9 < found < 0.999


def test_hcope_lower_bound_on_heavy_weights() -> None:
    """Lognormal weights whose largest are rarely seen: at or below the truth 1 in at least 95 % of logs, and of use: above half of it on average."""

    def sample(g: np.random.Generator) -> Array:
        return g.lognormal(-0.5, 1.0, 2000)

    found = [hcope_lower_bound(sample(np.random.default_rng([3, i])), seed=i).low for i in range(500)]
    assert np.mean(np.array(found) <= 1.0) >= 0.95
    assert np.mean(found) > 0.5


def test_hcope_bound_uses_the_same_delta_to_choose_and_to_bound() -> None:
    """A bound of 95 % lies below one of 50 % on the same values (trust row 5 took 1 - d in the bound); the caller's values stay as they were."""
    x = np.random.default_rng(0).lognormal(-0.5, 1.0, 2000)
    before = x.copy()
    bounds = [hcope_lower_bound(x, seed=0, level=level).low for level in (0.5, 0.8, 0.95, 0.999)]
    assert bounds == sorted(bounds, reverse=True) and len(set(bounds)) == 4
    assert np.array_equal(x, before)
    assert hcope_lower_bound(x, seed=0) == hcope_lower_bound(x, seed=0) and hcope_lower_bound(x, seed=1).low != bounds[2]
    state = np.random.get_state()[1].copy()  # noqa: NPY002 - the global generator is left alone
    hcope_lower_bound(x, seed=0)
    assert np.array_equal(state, np.random.get_state()[1])  # noqa: NPY002
