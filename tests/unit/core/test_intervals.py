"""Intervals: hand-computed values, scipy as the oracle, and the coverage that is claimed."""

import math

import numpy as np
import pytest
import scipy.stats

from stitchrl.core import intervals
from stitchrl.core.errors import ConfigError, DataError


def generator() -> np.random.Generator:
    return np.random.default_rng(0)


def test_interquartile_mean_by_hand() -> None:
    assert intervals.interquartile_mean([100.0, 1.0, 2.0, 3.0]) == 2.5  # 1 and 100 cut
    assert intervals.interquartile_mean([1.0, 2.0, 6.0]) == 3.0  # fewer than four: nothing is cut
    assert intervals.interquartile_mean([0, 0, 10, 20, 30, 1000, 1000, 1000.0]) == (10 + 20 + 30 + 1000) / 4


@pytest.mark.parametrize("n", range(1, 23))
def test_interquartile_mean_equals_scipy(n: int) -> None:
    x = np.random.default_rng(n).normal(size=(3, n))
    np.testing.assert_allclose(intervals.interquartile_mean(x), scipy.stats.trim_mean(x, 0.25, axis=-1), rtol=1e-12)


def test_optimality_gap_and_improvement_by_hand() -> None:
    assert intervals.optimality_gap([50.0, 90.0, 130.0], 100.0) == 20.0  # (50 + 10 + 0) / 3
    assert intervals.improvement([1.0, 2.0], [1.0, 0.0]) == (0.5 + 1 + 1 + 1) / 4
    assert intervals.improvement([0.0], [5.0]) == 0.0


def test_improvement_equals_mann_whitney() -> None:
    a, b = np.random.default_rng(1).integers(0, 6, 30).astype(float), np.random.default_rng(2).integers(1, 7, 20).astype(float)
    u = scipy.stats.mannwhitneyu(a, b).statistic
    assert intervals.improvement(a, b) == pytest.approx(u / (30 * 20), abs=1e-12)


@pytest.mark.parametrize("method", ["percentile", "bca"])
@pytest.mark.parametrize("name", ["mean", "iqm"])
def test_interval_agrees_with_scipy_bootstrap(method: str, name: str) -> None:
    x = np.random.default_rng(3).lognormal(0, 1, 40)  # skewed, so that BCa and percentile differ
    ours_statistic, theirs = (
        (intervals.mean, np.mean)
        if name == "mean"
        else (intervals.interquartile_mean, lambda v, axis: scipy.stats.trim_mean(v, 0.25, axis))
    )
    ours = intervals.interval([x], ours_statistic, generator=generator(), resamples=40_000, method=method)  # type: ignore[arg-type]
    scipys = scipy.stats.bootstrap((x,), theirs, n_resamples=40_000, method=method.replace("bca", "BCa"), rng=1, vectorized=True)
    width = ours.high - ours.low
    assert ours.low == pytest.approx(scipys.confidence_interval.low, abs=0.02 * width)
    assert ours.high == pytest.approx(scipys.confidence_interval.high, abs=0.03 * width)


def test_bca_equals_scipy_on_the_same_draws() -> None:
    """The same bootstrap distribution must give the same two numbers, not only similar ones."""
    x = np.random.default_rng(4).exponential(size=25)
    scipys = scipy.stats.bootstrap((x,), np.mean, n_resamples=5000, method="BCa", rng=2, vectorized=True)
    jackknife = np.array([np.delete(x, i).mean() for i in range(25)])
    ours = intervals.bca_interval(x.mean(), scipys.bootstrap_distribution, [jackknife])
    assert ours.low == pytest.approx(scipys.confidence_interval.low, rel=1e-9)
    assert ours.high == pytest.approx(scipys.confidence_interval.high, rel=1e-9)


def test_bca_of_two_strata_equals_scipy() -> None:
    x, y = np.random.default_rng(5).exponential(size=12), np.random.default_rng(6).exponential(size=9)

    def statistic(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
        return intervals.mean(np.concatenate([a, b], -1))

    scipys = scipy.stats.bootstrap((x, y), statistic, n_resamples=20_000, method="BCa", rng=3, vectorized=True)
    ours = intervals.interval([x, y], intervals.mean, generator=generator(), resamples=20_000, method="bca")
    width = ours.high - ours.low
    assert ours.low == pytest.approx(scipys.confidence_interval.low, abs=0.03 * width)
    assert ours.high == pytest.approx(scipys.confidence_interval.high, abs=0.03 * width)


def test_resampling_stays_within_its_task() -> None:
    draws = intervals.resample_tasks([np.zeros(3), np.full(5, 7.0)], generator(), 50)
    assert draws.shape == (50, 8)
    assert (draws[:, :3] == 0).all() and (draws[:, 3:] == 7).all()


def test_two_levels_draw_seeds_and_episodes() -> None:
    episodes = np.array([[0.0, 0.0], [10.0, 12.0]])
    draws = intervals.resample(episodes, generator(), 4000)
    assert set(np.unique(draws)) == {0.0, 10.0, 11.0, 12.0}  # a seed's mean of two of its own episodes, never mixed
    assert draws.mean() == pytest.approx(5.5, abs=0.2)
    assert (draws == 0).mean() == pytest.approx(0.5, abs=0.03)


def test_chunked_draws_have_the_right_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(7).normal(3.0, 1.0, (4, 10))
    monkeypatch.setattr(intervals, "_CHUNK", 100)
    draws = intervals.resample(x, generator(), 1001)
    assert draws.shape == (1001, 4)
    assert draws.mean() == pytest.approx(x.mean(), abs=0.05)


def _coverage(seeds: int, episodes: int, between: float, trials: int = 600) -> float:
    """Share of trials whose interval of the mean holds the true mean 0."""
    random = np.random.default_rng(8)
    inside = 0
    for _ in range(trials):
        x = random.normal(0, between, (seeds, 1)) + random.normal(0, 1, (seeds, episodes))
        result = intervals.interval([x], intervals.interquartile_mean, generator=random, resamples=400)
        inside += result.low <= 0 <= result.high
    return inside / trials


@pytest.mark.parametrize(
    ("seeds", "episodes", "between", "least"),
    [(20, 10, 1.0, 0.90), (10, 10, 1.0, 0.88), (10, 10, 0.0, 0.95), (4, 10, 0.0, 0.93), (4, 10, 1.0, 0.74)],
)
def test_coverage_of_the_two_level_interval(seeds: int, episodes: int, between: float, least: float) -> None:
    """Nominal 95 %. Four seeds that differ much cover clearly less; the reports say so where there are fewer than five."""
    share = _coverage(seeds, episodes, between)
    assert least <= share <= 0.999
    if seeds == 4 and between:
        assert share < 0.93  # the warning is true


@pytest.mark.parametrize(("seeds", "percent"), [(2, 50), (3, 73), (4, 87)])
def test_few_seeds_cover_what_the_reports_say(seeds: int, percent: int) -> None:
    """The worst case: only seeds differ. These numbers are report.summary.COVERAGE."""
    assert 100 * _coverage(seeds, 10, 100.0, trials=1000) == pytest.approx(percent, abs=4)


def test_coverage_over_tasks() -> None:
    random = np.random.default_rng(9)
    inside = 0
    for _ in range(500):
        tasks = [random.normal(m, 1.0, 5) for m in (-2.0, 0.0, 2.0, 4.0)]
        result = intervals.interval(tasks, intervals.mean, generator=random, resamples=300)
        inside += result.low <= 1.0 <= result.high
    assert 0.87 <= inside / 500 <= 0.97


def test_probability_of_improvement() -> None:
    result = intervals.probability_of_improvement([[2.0, 3.0], [0.0, 0.0]], [[1.0, 1.0], [0.0, 0.0]], generator=generator())
    assert result.estimate == 0.75  # certain on the first task, a tie on the second
    assert result.low == result.high == 0.75
    with pytest.raises(DataError, match="same tasks"):
        intervals.probability_of_improvement([[1.0]], [], generator=generator())


def test_performance_profile_by_hand() -> None:
    share, low, high = intervals.performance_profile([[0.0, 10.0], [20.0]], [0.0, 5.0, 15.0, 25.0], generator=generator())
    assert share.tolist() == [1.0, 0.75, 0.5, 0.0]  # tasks count alike: (1/2 + 1) / 2 at 5
    assert low.tolist() == [1.0, 0.5, 0.5, 0.0]
    assert high.tolist() == [1.0, 1.0, 0.5, 0.0]


def test_one_score_has_no_interval_and_one_seed_has_one_from_its_episodes() -> None:
    alone = intervals.interval([[3.0]], generator=generator())
    assert alone.estimate == 3.0 and math.isnan(alone.low)
    assert alone.to_json() == {"estimate": 3.0, "low": None, "high": None, "level": 0.95}
    episodes = intervals.interval([[[1.0, 2.0, 3.0, 4.0]]], generator=generator())
    assert episodes.estimate == 2.5 and 1.0 <= episodes.low < 2.5 < episodes.high <= 4.0
    same = intervals.interval([[5.0, 5.0, 5.0]], generator=generator(), method="bca")  # no spread: BCa is undefined
    assert (same.low, same.high) == (5.0, 5.0)


def test_seeded() -> None:
    x = [np.arange(8.0)]
    a, b = (intervals.interval(x, generator=np.random.default_rng(11)) for _ in range(2))
    assert a == b


def test_refusals() -> None:
    with pytest.raises(DataError, match="not finite"):
        intervals.interval([[1.0, math.nan]], generator=generator())
    with pytest.raises(DataError, match="shape"):
        intervals.interval([[]], generator=generator())
    with pytest.raises(ConfigError, match="method"):
        intervals.interval([[1.0, 2.0]], generator=generator(), method="magic")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="level"):
        intervals.interval([[1.0, 2.0]], generator=generator(), level=95)
