"""Values in fitted models against solved tasks, and what is said where the model leaves its data."""

from __future__ import annotations

import numpy as np
import pytest

from stitchrl.core.errors import DataError
from stitchrl.core.spec import Box, Spec
from stitchrl.data.dataset import Dataset
from stitchrl.environments.tasks.tabular import TabularMDP, policy_value
from stitchrl.evaluation import fqe
from stitchrl.evaluation.evidence import TableTarget
from stitchrl.evaluation.model_based import ModelValue, model_based_value
from tests.unit.evaluation.exact_tasks import LQG_BEHAVIOUR, LQG_POLICY, POLICY, LinearPolicy, chain, chain_log, lqg_log, lqg_values


def valued(log: Dataset, discount: float, clock: str = "continues", **more: object) -> ModelValue:
    return model_based_value(log, TableTarget(POLICY, log.spec), discount=discount, clock=clock, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(("discount", "horizon"), [(1.0, None), (0.9, None), (0.9, 7)])
def test_counts_are_solved_as_the_task_they_make(discount: float, horizon: int | None) -> None:
    log = chain_log(discount, 200, 1)
    transition, rewards = np.zeros((6, 2, 6)), np.zeros((6, 2, 6))
    np.add.at(transition, (log.observations, log.actions, log.next_observations()), 1)
    np.add.at(rewards, (log.observations, log.actions, log.next_observations()), log.rewards)
    rewards /= np.maximum(transition, 1)
    transition[5] = 1
    initial = np.bincount(log.observations[log.offsets[:-1]], minlength=6) / 200
    counted = TabularMDP.from_dense(transition / transition.sum(2, keepdims=True), rewards, initial, np.arange(6) == 5, discount)
    result = valued(log, discount, horizon=horizon)
    assert result.kind == "counts" and result.value == pytest.approx(policy_value(counted, POLICY, steps=horizon), abs=1e-6)
    if horizon is None:
        same = fqe.cross_fitted(log, TableTarget(POLICY, log.spec), discount=discount, clock="continues", folds=1)
        assert result.value == pytest.approx(same.statistic.point)


def test_drawn_logs_spread_as_the_error_does() -> None:
    truth = policy_value(chain(0.9), POLICY)
    found = [valued(chain_log(0.9, 300, seed), 0.9, seed=seed, members=15) for seed in range(15)]
    error = float(np.std([r.value - truth for r in found], ddof=1))
    assert 0.5 < np.mean([r.diagnostics["spread"] for r in found]) / error < 1.8
    assert abs(np.mean([r.value for r in found]) - truth) < 4 * error / np.sqrt(15)


def test_a_clock_that_ends_the_task_is_a_horizon() -> None:
    mdp = chain(1.0)
    log = chain_log(1.0, 3000, 0, limit=6)
    assert valued(log, 1.0, "ends").value == pytest.approx(policy_value(mdp, POLICY, steps=6), abs=0.03)
    assert valued(log, 1.0).value == pytest.approx(policy_value(mdp, POLICY), abs=0.05)
    assert policy_value(mdp, POLICY, steps=6) < policy_value(mdp, POLICY) - 0.1  # the two questions differ


def test_a_linear_quadratic_task_has_a_linear_model() -> None:
    log = lqg_log(LQG_BEHAVIOUR, 100, 20, 0)
    result = model_based_value(log, LQG_POLICY, discount=0.9, clock="continues", steps=150)
    first = log.observations[log.offsets[:-1]].astype(np.float64)
    truth, behaviour = lqg_values(LQG_POLICY, 0.9, first).mean(), lqg_values(LQG_BEHAVIOUR, 0.9, first).mean()
    assert result.kind == "ridge" and result.statistic is not None and result.statistic.point == pytest.approx(result.value)
    assert abs(result.value - truth) < 0.2 * (truth - behaviour)
    assert result.members.shape == (3,) and 0 < result.diagnostics["spread"] < 0.2
    assert result.diagnostics["beyond"] < 0.011 and result.alarms == ()


def test_a_short_horizon_says_what_it_leaves_out() -> None:
    log = lqg_log(LQG_BEHAVIOUR, 20, 10, 0)
    result = model_based_value(log, LQG_POLICY, discount=0.9, clock="continues", steps=20, horizon=5)
    assert result.diagnostics["beyond"] == pytest.approx(0.9**5)
    assert "59% of the discounted time lies beyond the horizon of 5 steps" in result.warnings[0]
    ended = model_based_value(log, LQG_POLICY, discount=0.9, clock="ends", steps=20)
    assert ended.diagnostics["horizon"] == 10 and ended.diagnostics["beyond"] == 0 and ended.warnings == ()


def test_a_policy_that_leaves_the_data_is_an_alarm() -> None:
    log = lqg_log(LQG_BEHAVIOUR, 40, 10, 0)
    away = LinearPolicy([2.0, 2.0], 0.0)  # an unstable loop
    result = model_based_value(log, away, discount=0.95, clock="continues", steps=20)
    assert result.diagnostics["left_share"] > 0.5 and "left the logged range" in result.alarms[0]
    assert np.isfinite(result.value)


def walk_log(episodes: int, seed: int) -> Dataset:
    """A walk on the line from 0 that ends beyond 1, the action its mean step; each step costs 0.1."""
    generator = np.random.default_rng(seed)
    rows = []
    for _ in range(episodes):
        x, steps = 0.0, []
        while x <= 1 and len(steps) < 60:
            a = generator.uniform(-0.2, 0.6)
            steps.append((x, a))
            x += a + 0.05 * generator.standard_normal()
        rows.append({
            "observations": np.array([[s, s] for s, _ in steps] + [[x, x]], np.float32),
            "actions": np.array([[a] for _, a in steps], np.float32),
            "rewards": np.full(len(steps), -0.1, np.float32),
            "terminals": np.bool_(x > 1),
        })  # fmt: skip
    return Dataset.from_episodes(rows, spec=Spec(Box((2,)), Box((1,))))


class Constant(LinearPolicy):
    """0.3 whatever is seen."""

    def draw(self, observations: np.ndarray, count: int, seed: int) -> np.ndarray:
        return np.full((count, len(observations), 1), 0.3, np.float32)


def test_networks_learn_where_a_task_ends() -> None:
    log = walk_log(200, 0)
    result = model_based_value(log, Constant([0.0, 0.0], 0.0), discount=1.0, clock="continues", steps=500, members=1)
    generator = np.random.default_rng(1)
    steps = 1 + (np.cumsum(0.3 + 0.05 * generator.standard_normal((20_000, 12)), 1) <= 1).cumprod(1).sum(1)
    assert result.kind == "network"
    assert result.value == pytest.approx(-0.1 * steps.mean(), abs=0.06)
    assert abs(log.returns().mean() + 0.1 * steps.mean()) > 0.1  # the log took longer
    assert "spread" not in result.diagnostics  # of one member alone


def test_the_same_seed_gives_the_same_numbers() -> None:
    log = lqg_log(LQG_BEHAVIOUR, 20, 8, 0)
    first, second, other = (model_based_value(log, LQG_POLICY, discount=0.9, clock="continues", steps=10, seed=s).value for s in (1, 1, 2))
    assert first == second != other


def test_wrong_inputs_are_named() -> None:
    log = lqg_log(LQG_BEHAVIOUR, 4, 5, 0)
    with pytest.raises(DataError, match="horizon is 0"):
        model_based_value(log, LQG_POLICY, discount=0.9, clock="continues", horizon=0)
    with pytest.raises(DataError, match="not estimable: discount is 1"):
        model_based_value(log, LQG_POLICY, discount=1.0, clock="continues")
    with pytest.raises(DataError, match="at least two episodes"):
        model_based_value(log.select([0]), LQG_POLICY, discount=0.9, clock="continues")
