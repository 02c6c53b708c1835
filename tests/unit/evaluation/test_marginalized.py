"""Marginalised weights against occupancies solved exactly, and the values they give."""

from __future__ import annotations

import numpy as np
import pytest

from stitchrl.core.errors import DataError
from stitchrl.core.spec import Box, Discrete, Spec
from stitchrl.data.dataset import Dataset
from stitchrl.environments.tabular_logs import sample_log
from stitchrl.environments.tasks.gridworld import gridworld
from stitchrl.environments.tasks.tabular import epsilon_policy, greedy_policy, occupancy, policy_value, solve
from stitchrl.evaluation.evidence import TableTarget, Target
from stitchrl.evaluation.marginalized import Ratios, marginal_ratios
from tests.unit.evaluation.exact_tasks import BEHAVIOUR, LQG_BEHAVIOUR, LQG_POLICY, POLICY, chain, chain_log, lqg_log, lqg_values, table_log


def ratios(dataset: Dataset, table: np.ndarray, discount: float, **more: object) -> Ratios:
    return marginal_ratios(dataset, TableTarget(table, dataset.spec), discount=discount, clock="continues", **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("discount", [1.0, 0.9])
def test_ratios_of_a_chain_are_those_of_the_occupancies(discount: float) -> None:
    mdp, log = chain(discount), chain_log(discount, 3000, 0)
    truth = occupancy(mdp, POLICY) / np.maximum(occupancy(mdp, BEHAVIOUR), 1e-12)
    result = ratios(log, POLICY, discount)
    expected = truth[log.observations, log.actions]
    assert expected.min() < 0.5 and expected.max() > 1.1  # far from the behaviour's own, 1
    assert np.sqrt(np.square(result.mu - expected).mean()) < 0.04
    assert result.diagnostics["mass"] == pytest.approx(1, abs=0.01)
    assert result.diagnostics["balance_error"] < 0.1
    assert result.diagnostics["negative_share"] == 0 and result.warnings == ()


@pytest.mark.parametrize("discount", [1.0, 0.9])
def test_the_estimates_are_right_on_average(discount: float) -> None:
    truth = policy_value(chain(discount), POLICY)
    found = [ratios(chain_log(discount, 500, seed), POLICY, discount, seed=seed) for seed in range(30)]
    for points in ([r.statistic.point for r in found], [r.normalised.point for r in found]):
        assert abs(np.mean(points) - truth) < 3 * np.std(points, ddof=1) / np.sqrt(30)
        assert np.std(points) < 0.03


def test_the_cliff() -> None:
    mdp = gridworld().mdp
    best = greedy_policy(solve(mdp)[1])
    behaviour, policy = epsilon_policy(best, 0.4), epsilon_policy(best, 0.1)
    logs = [sample_log(mdp, np.ones(1), behaviour[None], 1000, np.random.default_rng(i), 100) for i in range(6)]
    points = [ratios(log, policy, 0.97).statistic.point for log in logs]
    assert abs(np.mean(points) - policy_value(mdp, policy)) < 0.015


def test_the_logs_own_policy_has_ratio_one_and_its_mean_return() -> None:
    log = chain_log(1.0, 80, 3)  # every episode ends, so the log's visits are in balance exactly
    counts = np.zeros((6, 2))
    np.add.at(counts, (log.observations, log.actions), 1)
    counts[5] = 1
    result = ratios(log, counts / counts.sum(1, keepdims=True), 1.0, folds=1)
    np.testing.assert_allclose(result.mu, 1, atol=1e-9)
    assert result.statistic.point == pytest.approx(log.returns().mean(), abs=1e-9)
    assert result.diagnostics["ess"] == pytest.approx(len(log))
    assert any("not cross-fitted" in text for text in result.assumptions)


def test_each_fold_is_weighed_by_the_others() -> None:
    from stitchrl.evaluation.crossfit import folds_of

    log = chain_log(0.9, 60, 1)
    of_row = np.repeat(folds_of(log, 2, 0), log.lengths)
    actions = np.where(of_row == 0, 1 - log.actions, log.actions)
    other = Dataset(log.spec, {**log.columns, "actions": actions}, log.offsets, log.final_observations)
    before, after = (ratios(d, POLICY, 0.9).mu for d in (log, other))
    same = (of_row == 0) & (log.observations == 0)
    flipped = after[same & (log.actions == 0)]  # now action 1 of state 0, weighed by the part that did not change
    np.testing.assert_allclose(flipped, before[same & (log.actions == 1)][0])


def test_a_cut_off_log_is_weighed_beyond_its_clock() -> None:
    # one state, reward 1, cut off after 5 steps: only a ratio above 1 reaches the value 10 of the endless task
    log = table_log([[(0, 0, 1.0)] * 5] * 6, [0] * 6, [False] * 6, 1, 1)
    result = ratios(log, np.ones((1, 1)), 0.9)
    np.testing.assert_allclose(result.mu, 1 / (1 - 0.9**5))
    assert result.statistic.point == pytest.approx(10.0) == result.normalised.point
    ended = marginal_ratios(log, TableTarget(np.ones((1, 1)), log.spec), discount=0.9, clock="ends")
    assert ended.statistic.point == pytest.approx((1 - 0.9**5) / 0.1)
    assert "the ratios do not know the time" in ended.warnings[0]


def test_a_linear_quadratic_task() -> None:
    points, errors = [], []
    for seed in range(4):
        log = lqg_log(LQG_BEHAVIOUR, 500, 30, seed)
        result = marginal_ratios(log, LQG_POLICY, discount=0.9, clock="continues", seed=seed)
        first = log.observations[log.offsets[:-1]].astype(np.float64)
        truth = lqg_values(LQG_POLICY, 0.9, first).mean()
        points.append(result.statistic.point - truth)
        errors.append(result.diagnostics["balance_error"])
        gap = truth - lqg_values(LQG_BEHAVIOUR, 0.9, first).mean()
    assert abs(np.mean(points)) < 0.25 * gap, (points, gap)
    assert max(errors) < 0.6  # held-out balance is far better than that of weights of 1


class Leaning(Target):
    """Of two actions, the second with a probability that rises with the observation."""

    def __init__(self, slope: float) -> None:
        self.slope, self.spec = slope, Spec(Box((1,)), Discrete(2))
        self.name, self.deterministic = "leaning", False

    def probabilities(self, observations: np.ndarray) -> np.ndarray:
        second = 1 / (1 + np.exp(-self.slope * np.asarray(observations, np.float64)[:, 0]))
        return np.column_stack([1 - second, second])

    def log_probabilities(self, observations: np.ndarray, actions: np.ndarray) -> np.ndarray:
        raise AssertionError("not read")

    def draw(self, observations: np.ndarray, count: int, seed: int) -> np.ndarray:
        raise AssertionError("not read")


def bandit_log(episodes: int, seed: int) -> Dataset:
    generator = np.random.default_rng(seed)
    x = generator.uniform(-1, 1, (episodes, 1)).astype(np.float32)
    a = (generator.random(episodes) < 0.5).astype(np.int64)
    rewards = (x[:, 0] * (2 * a - 1)).astype(np.float32)  # the second action earns x, the first -x
    return Dataset.from_flat(x, a, rewards, np.ones(episodes, np.bool_), spec=Spec(Box((1,)), Discrete(2)))


def test_one_step_of_discrete_actions_in_real_states() -> None:
    x = np.linspace(-1, 1, 20_001)
    second = 1 / (1 + np.exp(-2 * x))
    truth = float((x * (2 * second - 1)).mean())
    log = bandit_log(3000, 0)
    result = marginal_ratios(log, Leaning(2.0), discount=1.0, clock="continues")
    assert result.statistic.point == pytest.approx(truth, abs=0.04)
    probability = Leaning(2.0).probabilities(log.observations)[np.arange(3000), log.actions]
    assert np.corrcoef(result.mu, probability / 0.5)[0, 1] > 0.95


def test_the_same_seed_gives_the_same_numbers_and_another_others() -> None:
    log = lqg_log(LQG_BEHAVIOUR, 100, 10, 0)
    first, second, other = (marginal_ratios(log, LQG_POLICY, discount=0.9, clock="continues", seed=s).mu for s in (3, 3, 4))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


def test_visits_outside_the_log_are_told() -> None:
    # action 2 is never logged: half of the policy's mass is lost where it takes it
    log = table_log([[(0, 0, 1.0)], [(0, 1, 3.0)]] * 4, [1] * 8, [True] * 8, 2, 3)
    result = ratios(log, np.array([[0.25, 0.25, 0.5], [1, 0, 0]]), 1.0, folds=1)
    assert result.diagnostics["mass"] == pytest.approx(0.5)
    assert result.normalised.point == pytest.approx(2.0) and result.statistic.point == pytest.approx(1.0)
    assert "visits of the policy lie outside the log" in result.warnings[0]


def test_what_cannot_be_weighed_is_not_estimable() -> None:
    stays = table_log([[(0, 0, 1.0), (0, 1, 1.0)]] * 4, [1] * 4, [True] * 4, 2, 2)
    with pytest.raises(DataError, match="not estimable: no weight leaves the task"):
        ratios(stays, np.array([[1.0, 0.0], [1.0, 0.0]]), 1.0)
    with pytest.raises(DataError, match="not estimable: no logged step has any weight"):
        ratios(table_log([[(0, 0, 1.0)]] * 4, [1] * 4, [True] * 4, 2, 2), np.array([[0.0, 1.0], [0.0, 1.0]]), 1.0)
    with pytest.raises(DataError, match="not estimable: 2 episodes are too few"):
        marginal_ratios(lqg_log(LQG_BEHAVIOUR, 2, 5, 0), LQG_POLICY, discount=0.9, clock="continues")
