"""Behaviour policies: what is logged is refused when impossible and doubted when unlikely; estimates are out of fold, calibrated, near the truth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stitchrl.core.errors import ConfigError, DataError
from stitchrl.core.spec import Box, Discrete, Spec
from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.action_models import gaussian_log_density
from stitchrl.evaluation.behaviour_policy import behaviour_of, calibration_of, estimate_behaviour, logged_probabilities
from stitchrl.evaluation.nearest_steps import folds_of, neighbours, units_of

Array = np.ndarray[Any, np.dtype[Any]]
LOGS = "behaviour_log_probabilities"


def log_of(x: Array, a: Array, length: int = 20, logs: Array | None = None, groups: Array | None = None, n: int = 0) -> Dataset:
    """Returns episodes of `length` steps of these observations and actions; `n` tells the number of discrete actions."""
    steps = np.arange(len(x))
    extra = {name: column for name, column in ((LOGS, logs), ("groups", groups)) if column is not None}
    observation = Discrete(int(x.max()) + 1) if x.dtype.kind == "i" else Box(x.shape[1:])
    spec = Spec(observation, Discrete(n) if n else Box(a.shape[1:], (-10.0,), (10.0,)))
    dataset = Dataset.from_flat(x, a, np.zeros(len(x), np.float32), steps % length == length - 1, spec=spec)
    return Dataset(spec, {**dataset.columns, **extra}, dataset.offsets, dataset.final_observations)  # as if no reader had checked


def drawn(probabilities: Array, generator: np.random.Generator) -> Array:
    return np.minimum((probabilities.cumsum(1) < generator.random((len(probabilities), 1))).sum(1), probabilities.shape[1] - 1)


def softmax(scores: Array) -> Array:
    powers = np.exp(scores - scores.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


def tabular(steps: int = 20_000, states: int = 20, n: int = 4, seed: int = 0) -> tuple[Dataset, Array, Array]:
    generator = np.random.default_rng(seed)
    table = generator.dirichlet(np.full(n, 0.7), states) * 0.96 + 0.04 / n
    s = generator.integers(states, size=steps)
    a = drawn(table[s], generator)
    logs = np.log(table[s, a])
    return log_of(s, a, logs=logs.astype(np.float32), n=n), table[s], logs


def test_logged_probabilities_come_back() -> None:
    dataset, _, logs = tabular(400)
    assert logged_probabilities(dataset) == pytest.approx(logs, abs=1e-6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda logs: np.exp(logs), r"look like probabilities: declare .*behaviour_probability"),
        (lambda logs: 100 * np.exp(logs), "look like percentages"),
        (lambda logs: np.where(np.arange(len(logs)) == 23, 0.5, logs), r"above 1 \(0.5\) in episode 1 step 3 and in 1 rows"),
        (
            lambda logs: np.where(np.arange(len(logs)) == 41, -np.inf, logs),
            r"probability 0 at an action that was logged .* episode 2 step 1",
        ),
        (lambda logs: np.where(np.arange(len(logs)) == 41, np.nan, logs), "is NaN .* episode 2 step 1"),
        (lambda logs: np.stack([logs, logs], 1), "2 numbers a step; expected one"),
    ],
)
def test_impossible_propensities_are_refused_in_words(change: Any, words: str) -> None:
    dataset, _, logs = tabular(400)
    broken = Dataset(dataset.spec, {**dataset.columns, LOGS: change(logs)}, dataset.offsets, dataset.final_observations)
    with pytest.raises(DataError, match=words):
        logged_probabilities(broken)


def test_densities_may_be_above_one_but_not_look_like_probabilities() -> None:
    generator = np.random.default_rng(0)
    a = 0.05 * generator.standard_normal((400, 1)).astype(np.float32)
    density = -0.5 * (a[:, 0] / 0.05) ** 2 - np.log(0.05 * np.sqrt(2 * np.pi))
    x = generator.standard_normal((400, 2)).astype(np.float32)
    assert density.max() > 1
    assert logged_probabilities(log_of(x, a, logs=density)) == pytest.approx(density, abs=1e-6)
    with pytest.raises(DataError, match="look like probabilities"):
        logged_probabilities(log_of(x, a, logs=np.exp(-0.5 * (a[:, 0] / 0.05) ** 2)))


def test_a_log_without_propensities_says_so() -> None:
    with pytest.raises(DataError, match="has no column 'behaviour_log_probabilities'"):
        logged_probabilities(log_of(np.zeros(40, np.int64), np.arange(40) % 2, n=2))


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda logs, a: logs, None),
        (lambda logs, a: logs - 1.0, "propensities-too-small"),
        (lambda logs, a: np.where(a == 2, logs - 1.5, logs), "propensities-too-small"),
        (lambda logs, a: np.full_like(logs, -0.05), "propensities-too-large"),
        (lambda logs, a: np.roll(logs, 1), "propensities-do-not-fit"),
        (lambda logs, a: np.full_like(logs, np.log(0.2)), "propensities-do-not-fit"),
    ],
)
def test_propensities_that_contradict_the_log_are_doubted(change: Any, code: str | None) -> None:
    dataset, _, logs = tabular(20_000, n=5)
    changed = change(logs, np.asarray(dataset.actions)).astype(np.float32)
    behaviour = behaviour_of(Dataset(dataset.spec, {**dataset.columns, LOGS: changed}, dataset.offsets, dataset.final_observations), 0)
    codes = {finding.code for finding in behaviour.findings}
    assert codes == set() if code is None else code in codes
    assert behaviour.source == "logged" and behaviour.estimated is not None and behaviour.probabilities is not None
    assert behaviour.log_probabilities == pytest.approx(changed, abs=1e-6)


def test_densities_of_other_rows_are_doubted() -> None:
    generator = np.random.default_rng(1)
    x = generator.standard_normal((4_000, 2)).astype(np.float32)
    z = generator.standard_normal((4_000, 1))
    a, logs = (x[:, :1] + 0.3 * z).astype(np.float32), -0.5 * z[:, 0] ** 2 - np.log(0.3 * np.sqrt(2 * np.pi))
    assert behaviour_of(log_of(x, a, logs=logs.astype(np.float32)), 0, folds=2).findings == ()
    codes = [f.code for f in behaviour_of(log_of(x, a, logs=np.roll(logs, 1).astype(np.float32)), 0, folds=2).findings]
    assert codes == ["propensities-do-not-fit"]


def test_counts_find_a_known_table() -> None:
    dataset, truth, logs = tabular(40_000)
    behaviour = estimate_behaviour(dataset, seed=0)
    assert behaviour.source == "counts" and behaviour.probabilities is not None and behaviour.calibration is not None
    assert behaviour.probabilities == pytest.approx(truth, abs=0.06)
    assert behaviour.log_loss == pytest.approx(-logs.mean(), abs=0.01)
    assert behaviour.calibration.error < 0.01
    assert behaviour.probabilities.sum(1) == pytest.approx(np.ones(len(dataset)), abs=1e-5)


def test_counts_are_those_of_other_episodes() -> None:
    # state 1 is seen in the last episode alone, always with action 1: no other episode tells of it
    s, a = np.zeros(200, np.int64), np.zeros(200, np.int64)
    s[180:], a[180:] = 1, 1
    behaviour = estimate_behaviour(log_of(s, a, n=2), seed=0)
    assert np.exp(behaviour.log_probabilities[180:]).max() <= 0.5
    assert np.exp(behaviour.log_probabilities[:180]).min() > 0.8


@pytest.mark.parametrize("method", ["boosting", "knn", "linear"])
@pytest.mark.parametrize("by", ["episode", "group"])
def test_an_estimate_never_saw_its_own_episode_or_group(method: Any, by: str) -> None:
    # the first observation names the unit, whose action is a fair coin kept throughout: only its own rows could tell it
    generator = np.random.default_rng(1)
    span = 20 if by == "episode" else 80
    unit = np.arange(4_000) // span
    coin = generator.integers(2, size=unit.max() + 1)[unit]
    x = np.stack([generator.permutation(unit.max() + 1)[unit] * 1.0, generator.standard_normal(4_000)], 1).astype(np.float32)
    dataset = log_of(x, coin, n=2, groups=unit if by == "group" else None)
    behaviour = estimate_behaviour(dataset, method=method, folds=2, seed=0)
    assert behaviour.log_loss > np.log(2) - 0.03
    if by == "group":  # split by episode alone, the same log gives the coin away
        leaked = estimate_behaviour(log_of(x, coin, n=2), method="knn", seed=0)
        assert leaked.log_loss < 0.55


def test_a_classifier_finds_what_the_behaviour_reads() -> None:
    generator = np.random.default_rng(2)
    x = generator.standard_normal((6_000, 4)).astype(np.float32)
    truth = softmax(np.stack([2 * np.sin(2 * x[:, 0]), x[:, 1], 0 * x[:, 0]], 1))
    a = drawn(truth, generator)
    best = -np.log(truth[np.arange(len(a)), a]).mean()
    behaviour = estimate_behaviour(log_of(x, a, n=3), folds=3, seed=0)
    assert behaviour.source == "boosting" and behaviour.calibration is not None and behaviour.probabilities is not None
    assert best - 0.01 < behaviour.log_loss < best + 0.06
    assert behaviour.calibration.error < 0.02
    assert np.abs(behaviour.probabilities - truth).mean() < 0.1


def test_a_linear_behaviour_is_recognised() -> None:
    generator = np.random.default_rng(3)
    x = generator.standard_normal((6_000, 12)).astype(np.float32)
    truth = softmax(x @ generator.standard_normal((12, 6)))
    a = drawn(truth, generator)
    behaviour = estimate_behaviour(log_of(x, a, n=6), seed=0)
    assert behaviour.source == "linear"
    assert behaviour.log_loss < -np.log(truth[np.arange(len(a)), a]).mean() + 0.05


def test_noise_is_estimated_as_noise() -> None:
    generator = np.random.default_rng(4)
    x, a = generator.standard_normal((4_000, 6)).astype(np.float32), generator.integers(5, size=4_000)
    behaviour = estimate_behaviour(log_of(x, a, n=5), method="boosting", folds=2, seed=0)
    assert np.log(5) - 0.005 < behaviour.log_loss < np.log(5) + 0.02
    assert behaviour.near_deterministic == 0


def test_an_action_that_is_never_taken_keeps_a_small_probability() -> None:
    x = np.random.default_rng(5).standard_normal((2_000, 3)).astype(np.float32)
    behaviour = estimate_behaviour(log_of(x, (x[:, 0] > 0).astype(np.int64), n=3), seed=0)
    assert behaviour.probabilities is not None
    assert 0 < behaviour.probabilities[:, 2].min() and behaviour.probabilities[:, 2].max() < 0.01
    assert behaviour.near_deterministic > 0.9
    only = estimate_behaviour(log_of(x, np.zeros(2_000, np.int64), n=3), seed=0)
    assert only.near_deterministic == 1 and only.smallest > 0.99


@pytest.mark.parametrize("varying", [False, True])
def test_a_gaussian_behaviour_is_found(varying: bool) -> None:
    generator = np.random.default_rng(6)
    x = generator.standard_normal((8_000, 3)).astype(np.float32)
    deviation = 0.2 + 0.6 * (x[:, 1] > 0) if varying else np.full(len(x), 0.4)
    noise = deviation[:, None] * generator.standard_normal((len(x), 2)) @ np.array([[1.0, 0.6], [0.0, 0.8]])
    a = (np.stack([np.tanh(2 * x[:, 0]), x[:, 1]], 1) + noise).astype(np.float32)
    truth = -(((noise @ np.linalg.inv([[1.0, 0.6], [0.0, 0.8]])) / deviation[:, None]) ** 2).sum(1) / 2
    truth = truth - np.log(2 * np.pi) - 2 * np.log(deviation) - np.log(0.8)
    behaviour = estimate_behaviour(log_of(x, a), folds=2, seed=0)
    assert behaviour.source == "gaussian" and behaviour.probabilities is None and behaviour.calibration is not None
    assert -truth.mean() - 0.02 < behaviour.log_loss < -truth.mean() + (0.2 if varying else 0.09)
    assert behaviour.calibration.error < 0.02
    assert behaviour.findings == ()


def test_discrete_states_with_continuous_actions_and_clipped_ones() -> None:
    generator = np.random.default_rng(7)
    s = generator.integers(6, size=4_000)
    a = np.clip(s[:, None] - 2.5 + 0.5 * generator.standard_normal((4_000, 1)), -2.0, 2.0).astype(np.float32)
    behaviour = estimate_behaviour(log_of(s, a), seed=0)
    assert [finding.code for finding in behaviour.findings] == ["behaviour-has-atoms"]
    inner = (s == 2) | (s == 3)
    assert behaviour.log_probabilities[inner].mean() > -1.0  # the truth is -0.73
    assert np.isfinite(behaviour.log_probabilities).all()


def test_the_density_by_hand() -> None:
    found = gaussian_log_density(np.array([[1.0, 2.0]]), np.array([[0.0, 2.0]]), np.array([[1.0, 2.0]]), np.eye(2))
    assert found == pytest.approx([-0.5 - np.log(2 * np.pi) - np.log(2)])


def test_calibration_by_hand() -> None:
    # two steps that say 0.85 for action 0, which is taken once: 0.35 of the mass of each step is misplaced
    found = calibration_of(np.array([[0.85, 0.15], [0.85, 0.15]]), np.array([0, 1]))
    assert found.predicted == pytest.approx((0.15, 0.85)) and found.observed == (0.5, 0.5) and found.count == (2, 2)
    assert found.error == pytest.approx(0.35)


def test_folds_hold_whole_groups_and_single_episodes_are_cut() -> None:
    dataset = log_of(np.zeros(400, np.int64), np.arange(400) % 2, groups=np.arange(400) // 40, n=2)
    fold = folds_of(units_of(dataset), 5, 0)
    assert [len(np.unique(fold[dataset.columns["groups"] == g])) for g in range(10)] == [1] * 10
    assert np.bincount(fold).tolist() == [80] * 5
    single = log_of(np.zeros(400, np.int64), np.arange(400) % 2, length=400, n=2)
    assert len(np.unique(units_of(single))) == 10
    assert np.isfinite(estimate_behaviour(single, seed=0).log_loss)


def test_the_same_seed_gives_the_same_estimate_and_wrong_requests_are_refused() -> None:
    x = np.random.default_rng(8).standard_normal((1_000, 2)).astype(np.float32)
    dataset = log_of(x, (x[:, 0] > 0).astype(np.int64), n=2)
    first, second = (estimate_behaviour(dataset, method="boosting", folds=2, seed=3) for _ in range(2))
    assert (first.log_probabilities == second.log_probabilities).all()
    with pytest.raises(ConfigError, match="counts need discrete states"):
        estimate_behaviour(dataset, method="counts", seed=0)
    x[77, 1] = np.nan
    with pytest.raises(DataError, match="'observations' is not finite in episode 3 step 17"):
        estimate_behaviour(log_of(x, np.arange(1_000) % 2, n=2), seed=0)


@pytest.mark.parametrize("dimensions", [3, 12])
def test_neighbours_are_the_nearest(dimensions: int) -> None:
    generator = np.random.default_rng(9)
    points, queries = generator.standard_normal((300, dimensions)).astype(np.float32), generator.standard_normal((40, dimensions))
    distance, position = neighbours(points, queries, 4)
    everything = np.sqrt(((queries[:, None] - points[None]) ** 2).sum(2))
    assert position.tolist() == np.argsort(everything, 1)[:, :4].tolist()
    assert distance == pytest.approx(np.sort(everything, 1)[:, :4], rel=1e-5)
