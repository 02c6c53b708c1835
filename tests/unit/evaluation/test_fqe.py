"""Fitted Q-evaluation against values that are known: solved tasks, hand-computed logs, and the mistakes that others made."""

from __future__ import annotations

import numpy as np
import pytest

from stitchrl.core.errors import DataError
from stitchrl.core.spec import Box, Discrete, Spec
from stitchrl.data.dataset import Dataset
from stitchrl.environments.tabular_logs import sample_log
from stitchrl.environments.tasks.gridworld import gridworld
from stitchrl.environments.tasks.tabular import epsilon_policy, greedy_policy, policy_q, policy_value, solve, state_values
from stitchrl.evaluation import fqe
from stitchrl.evaluation.crossfit import folds_of, policy_at, read_steps, returns_to_go
from stitchrl.evaluation.evidence import TableTarget, Target
from stitchrl.evaluation.linear_values import linear_values
from tests.unit.evaluation.exact_tasks import (
    LQG_BEHAVIOUR,
    LQG_POLICY,
    POLICY,
    LinearPolicy,
    chain,
    chain_log,
    lqg_log,
    lqg_values,
    table_log,
)  # fmt: skip

SMALL = fqe.FQEConfig(hidden=(32, 32), target_rate=0.05, learning_rate=3e-3)  # quick to learn small tasks


def fitted(dataset: Dataset, table: np.ndarray, discount: float, clock: str = "continues", **more: object) -> fqe.Fitted:
    target = TableTarget(np.asarray(table, np.float64), dataset.spec)
    return fqe.cross_fitted(dataset, target, discount=discount, clock=clock, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("discount", [1.0, 0.9])
def test_tabular_nears_the_value_as_the_log_grows(discount: float) -> None:
    truth = policy_value(chain(discount), POLICY)
    errors = {
        n: np.array([fitted(chain_log(discount, n, seed), POLICY, discount).statistic.point - truth for seed in range(12)])
        for n in (100, 2000)
    }
    small, large = errors[100], errors[2000]
    assert abs(large.mean()) < 4 * large.std(ddof=1) / np.sqrt(12) + 0.003
    assert np.sqrt(np.square(large).mean()) < 0.4 * np.sqrt(np.square(small).mean())  # 1/sqrt(20) is 0.22


def test_tabular_values_of_every_step_near_the_truth() -> None:
    mdp = chain(0.9)
    log = chain_log(0.9, 4000, 0)
    model = fitted(log, POLICY, 0.9).model
    values, q = state_values(mdp, POLICY), policy_q(mdp, POLICY)
    assert np.abs(model.q - q[log.observations, log.actions]).max() < 0.06
    assert np.abs(model.v - values[log.observations]).max() < 0.05
    assert np.abs(model.v_next - values[log.next_observations()]).max() < 0.05
    assert (model.v_next[log.terminals] == 0).all()
    np.testing.assert_array_equal(model.v_start, model.v[log.offsets[:-1]])


def test_the_cliff() -> None:
    mdp = gridworld().mdp
    best = greedy_policy(solve(mdp)[1])
    behaviour, policy = epsilon_policy(best, 0.4), epsilon_policy(best, 0.1)
    points = [
        fitted(sample_log(mdp, np.ones(1), behaviour[None], 1000, np.random.default_rng(i), 100), policy, 0.97).statistic.point
        for i in range(6)
    ]
    assert abs(np.mean(points) - policy_value(mdp, policy)) < 0.012


def test_the_logs_own_policy_earns_its_mean_return_exactly() -> None:
    log = chain_log(1.0, 80, 3)  # every episode ends, so the counted task's visits are the log's
    counts = np.zeros((6, 2))
    np.add.at(counts, (log.observations, log.actions), 1)
    counts[5] = 1
    own = fitted(log, counts / counts.sum(1, keepdims=True), 1.0, folds=1)
    assert own.statistic.point == pytest.approx(log.returns().mean(), abs=1e-9)
    assert any("not cross-fitted" in text for text in own.assumptions)


def test_each_fold_is_fitted_on_the_others() -> None:
    log = chain_log(0.9, 60, 1)
    fold = folds_of(log, 2, 0)
    changed = dict(log.columns)
    of_row = np.repeat(fold, log.lengths)
    changed["rewards"] = np.where(of_row == 0, log.rewards + 5, log.rewards).astype(np.float32)
    other = Dataset(log.spec, changed, log.offsets, log.final_observations)
    before, after = (fitted(d, POLICY, 0.9, seeds=(0,)).model for d in (log, other))
    np.testing.assert_array_equal(before.q[of_row == 0], after.q[of_row == 0])  # fitted on part 1, which did not change
    assert (after.q[of_row == 1] > before.q[of_row == 1] + 4).all()


def test_returns_to_go_stop_at_the_episodes_end() -> None:
    log = table_log([[(0, 0, 1.0), (0, 0, 2.0)], [(0, 0, 4.0)]], [0, 0], [False, True], 1, 1)
    np.testing.assert_allclose(returns_to_go(read_steps(log, 0.5, "continues"), 0.5), [2.0, 2.0, 4.0])


def test_groups_stay_whole() -> None:
    log = chain_log(0.9, 60, 1)
    groups = np.repeat(np.arange(60) // 3, log.lengths)
    grouped = Dataset(log.spec, {**log.columns, "groups": groups}, log.offsets, log.final_observations)
    fold = folds_of(grouped, 4, 0).reshape(20, 3)
    assert (fold == fold[:, :1]).all() and sorted(np.bincount(fold[:, 0])) == [5, 5, 5, 5]


def hand_log() -> Dataset:
    """0 → 1 → cut off before 2; 2 earns 10 and ends. What follows the cut is state 2, and never the next row's state 0."""
    cut = [(0, 0, 0.0), (1, 0, 0.0)]
    return table_log([cut, cut, [(2, 0, 10.0)], [(2, 0, 10.0)]], [2, 2, 3, 3], [False, False, True, True], 4, 1)


@pytest.mark.parametrize("method", ["tabular", "neural"])
def test_a_timeout_goes_on_and_a_terminal_does_not(method: str) -> None:
    model = fitted(hand_log(), np.ones((4, 1)), 0.9, folds=1, method=method, steps=800, batch_size=64, seeds=(0,), config=SMALL).model
    expected = np.array([8.1, 9.0, 8.1, 9.0, 10.0, 10.0])  # 0.9² · 10, 0.9 · 10, …, 10
    np.testing.assert_allclose(model.q, expected, atol=1e-6 if method == "tabular" else 0.15)
    np.testing.assert_allclose(model.v_next, [9.0, 10.0, 9.0, 10.0, 0, 0], atol=1e-6 if method == "tabular" else 0.15)


@pytest.mark.parametrize("method", ["tabular", "neural"])
def test_a_clock_that_is_part_of_the_task_ends_it(method: str) -> None:
    loop = [(0, 0, 1.0)] * 5
    log = table_log([loop] * 4, [0] * 4, [False] * 4, 1, 1)
    going = fitted(log, np.ones((1, 1)), 0.9, method="tabular", folds=1)
    assert going.statistic.point == pytest.approx(10.0)  # 1 / (1 - 0.9)
    if method == "tabular":
        model = fitted(log, np.ones((1, 1)), 0.9, "ends").model
        left = np.tile([5, 4, 3, 2, 1], 4)
        np.testing.assert_allclose(model.q, (1 - 0.9**left) / 0.1)
        assert (model.v_next[4::5] == 0).all()
        return
    columns = {**log.columns, "observations": np.zeros((20, 1), np.float32)}  # the time stands beside the observation
    real = Dataset(Spec(Box((1,)), Discrete(1)), columns, log.offsets, np.zeros((4, 1), np.float32))
    model = fqe.cross_fitted(
        real, Uniform(real.spec), discount=0.9, clock="ends", folds=1, steps=800, batch_size=64, seeds=(0,), config=SMALL
    ).model
    np.testing.assert_allclose(model.q, (1 - 0.9 ** np.tile([5, 4, 3, 2, 1], 4)) / 0.1, atol=0.15)


class Uniform(Target):
    """Every discrete action as likely, in any state."""

    def __init__(self, spec: Spec) -> None:
        self.spec, self.name, self.deterministic = spec, "uniform", False

    def probabilities(self, observations: np.ndarray) -> np.ndarray:
        assert isinstance(self.spec.action, Discrete)
        return np.full((len(observations), self.spec.action.n), 1 / self.spec.action.n)

    def log_probabilities(self, observations: np.ndarray, actions: np.ndarray) -> np.ndarray:
        raise AssertionError("not read")

    def draw(self, observations: np.ndarray, count: int, seed: int) -> np.ndarray:
        raise AssertionError("not read")


def test_discount_zero_is_the_mean_reward_of_the_policys_first_action() -> None:
    log = table_log([[(0, 0, 1.0)], [(0, 1, 3.0)], [(0, 0, 1.0)], [(0, 1, 5.0)]], [1] * 4, [True] * 4, 2, 2)
    assert fitted(log, np.array([[0.25, 0.75], [0.5, 0.5]]), 0.0, folds=1).statistic.point == pytest.approx(0.25 * 1 + 0.75 * 4)


def test_what_was_never_logged_is_neutral_and_told() -> None:
    log = table_log([[(0, 0, 1.0)], [(0, 1, 3.0)]] * 2, [1] * 4, [True] * 4, 2, 3)
    result = fitted(log, np.array([[0.0, 0.5, 0.5], [1, 0, 0]]), 0.9, folds=1)
    assert result.statistic.point == pytest.approx(0.5 * 3 + 0.5 * 2)  # the action never logged is worth the state's mean, 2
    assert result.diagnostics["unlogged_share"] == pytest.approx(0.5)
    assert "50% of the policy's expected visits" in result.warnings[0]


def test_shift_and_scale_of_rewards_where_nothing_ends() -> None:
    log = chain_log(0.9, 60, 2, limit=4)
    going = Dataset(
        log.spec,
        {**log.columns, "terminals": np.zeros(len(log), np.bool_), "timeouts": log.terminals | log.timeouts},
        log.offsets,
        log.final_observations,
    )
    rewards = (3 * log.rewards + 2).astype(np.float32)
    other = Dataset(log.spec, {**going.columns, "rewards": rewards}, log.offsets, log.final_observations)
    before, after = fitted(going, POLICY, 0.9).model, fitted(other, POLICY, 0.9).model
    np.testing.assert_allclose(after.q, 3 * before.q + 2 / (1 - 0.9), rtol=1e-5)


def test_neural_agrees_with_exact() -> None:
    log = chain_log(0.9, 400, 5)
    exact = fitted(log, POLICY, 0.9)
    learned = fitted(log, POLICY, 0.9, method="neural", steps=600, batch_size=128, config=SMALL)
    assert learned.statistic.point == pytest.approx(exact.statistic.point, abs=0.03)
    assert learned.seed_spread < 0.03 and learned.direct.shape == (2,) and learned.history.shape == (20, 2)
    assert learned.direct[0] != learned.direct[1]
    assert not learned.warnings and not learned.alarms
    assert learned.direct.mean() == pytest.approx(learned.statistic.point)
    assert learned.history[-1] == pytest.approx(learned.direct)  # every first state was watched, after the last step too


def test_the_same_seeds_give_the_same_numbers() -> None:
    log = lqg_log(LQG_BEHAVIOUR, 12, 5, 0)
    first, second, other = (
        fqe.cross_fitted(log, LQG_POLICY, discount=0.9, clock="continues", steps=40, seeds=seeds).model.q for seeds in ((3,), (3,), (4,))
    )
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("std", [0.3, 0.0])
def test_neural_on_a_linear_quadratic_task(std: float) -> None:
    policy = LinearPolicy([-0.5, -0.6], std)
    log = lqg_log(LQG_BEHAVIOUR, 150, 30, 0)
    result = fqe.cross_fitted(log, policy, discount=0.9, clock="continues", steps=600, batch_size=128, seeds=(0,), config=SMALL)
    first = log.observations[log.offsets[:-1]].astype(np.float64)
    truth, behaviour = lqg_values(policy, 0.9, first), lqg_values(LQG_BEHAVIOUR, 0.9, first)
    assert abs(result.model.v_start.mean() - truth.mean()) < 0.35 * abs(behaviour.mean() - truth.mean())
    assert np.corrcoef(result.model.v_start, truth)[0, 1] > 0.95


def test_the_baseline_is_exact_where_the_value_is_quadratic() -> None:
    log = lqg_log(LQG_BEHAVIOUR, 400, 30, 0)
    steps = read_steps(log, 0.9, "continues")
    policies = policy_at(LQG_POLICY, log.observations[steps.first], 8, 0), policy_at(LQG_POLICY, steps.following, 8, 1)
    everything = [np.ones(len(log), np.bool_), np.arange(len(log)) < 500]
    found = linear_values(log, LQG_POLICY, 0.9, steps, policies, everything, (-1e3, 1e3), 0)
    truth = lqg_values(LQG_POLICY, 0.9, log.observations[steps.first].astype(np.float64))
    assert found[0].linear and abs(found[0].start.mean() - truth.mean()) < 0.05 * abs(truth.mean())
    assert np.corrcoef(found[0].start, truth)[0, 1] > 0.97
    assert not found[1].linear  # too few rows
    np.testing.assert_allclose(found[1].q, log.rewards[:500].astype(np.float64).mean() / (1 - 0.9))


def test_learning_that_is_too_short_or_still_moves_is_told() -> None:
    log = chain_log(0.9, 100, 0)
    short = fitted(log, POLICY, 0.9, method="neural", steps=60, seeds=(0,), config=fqe.FQEConfig(target_rate=0.05))
    assert any("learning was short: 0." in text for text in short.warnings)
    going = Dataset(
        log.spec, {**log.columns, "terminals": np.zeros(len(log), np.bool_), "timeouts": log.terminals}, log.offsets, log.final_observations
    )
    moving = fitted(going, POLICY, 0.99, method="neural", steps=150, seeds=(0,), config=fqe.FQEConfig(target_rate=0.3, learning_rate=1e-2))
    assert any("not converged" in text for text in moving.warnings), moving.history


def test_impossible_values_are_an_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    log = chain_log(0.9, 40, 0)
    result = fitted(log, POLICY, 0.9)
    assert result.diagnostics["outside_share"] == 0 and not result.alarms
    low, high = result.diagnostics["possible_low"], result.diagnostics["possible_high"]
    monkeypatch.setattr(fqe, "possible_returns", lambda dataset, discount: (low, (low + high) / 2))
    alarmed = fitted(log, POLICY, 0.9)
    assert alarmed.diagnostics["outside_share"] == pytest.approx(
        float((alarmed.model.q > (low + high) / 2 + 0.05 * (high - low) / 2).mean())
    )
    assert "leave the possible range of returns" in alarmed.alarms[0]


def test_a_value_without_bound_is_not_estimable() -> None:
    endless = table_log([[(0, 0, 1.0)]] * 4, [0] * 4, [False] * 4, 2, 2)
    with pytest.raises(DataError, match="not estimable: discount is 1"):
        fitted(endless, np.full((2, 2), 0.5), 1.0)


def test_a_policy_that_never_ends_in_the_log_rests_on_what_is_assumed() -> None:
    stays = table_log([[(0, 0, 1.0), (0, 1, 1.0)]] * 4, [1] * 4, [True] * 4, 2, 2)  # action 0 stays, action 1 ends
    result = fitted(stays, np.array([[1.0, 0.0], [1.0, 0.0]]), 1.0, folds=1)
    # of five steps one is the log's average, half of which end: V = 1 + (0.8 + 0.2 * 0.5) V
    assert result.statistic.point == pytest.approx(10.0)
    assert result.diagnostics["unlogged_share"] == pytest.approx(0.2) and result.diagnostics["stuck_states"] == 1
    assert any("leads to an end" in text for text in result.warnings)
    assert fitted(stays, np.array([[0.5, 0.5], [1.0, 0.0]]), 1.0, folds=1).diagnostics["stuck_states"] == 0


def test_wrong_inputs_are_named() -> None:
    log = chain_log(0.9, 10, 0)
    with pytest.raises(DataError, match="clock is 'stops'"):
        fitted(log, POLICY, 0.9, "stops")
    with pytest.raises(DataError, match="those of the log discrete"):
        fqe.cross_fitted(log, LQG_POLICY, discount=0.9, clock="continues")
    with pytest.raises(DataError, match="11 parts of 10 episodes"):
        fitted(log, POLICY, 0.9, folds=11)
    with pytest.raises(DataError, match="both be discrete"):
        fqe.cross_fitted(lqg_log(LQG_BEHAVIOUR, 4, 3, 0), LQG_POLICY, discount=0.9, clock="continues", method="tabular")
    bad = Dataset(log.spec, {**log.columns, "rewards": np.full(len(log), np.nan, np.float32)}, log.offsets, log.final_observations)
    with pytest.raises(DataError, match="'rewards' holds a number that is not finite"):
        fitted(bad, POLICY, 0.9)


def test_drawn_actions_are_packed_in_order() -> None:
    states = np.random.default_rng(0).standard_normal((20_000, 2)).astype(np.float32)
    still = policy_at(LinearPolicy([-0.5, -0.6], 0.0), states, 3, 0)
    np.testing.assert_allclose(still[:, 0, 0], states @ [-0.5, -0.6], atol=1e-6)
    assert still.shape == (20_000, 1, 1)
    drawn = policy_at(LQG_POLICY, states, 3, 0)
    assert drawn.shape == (20_000, 3, 1)
    np.testing.assert_array_equal(drawn, policy_at(LQG_POLICY, states, 3, 0))
    noise = drawn[:, :, 0] - still[:, :, 0]
    assert abs(noise.std() - 0.3) < 0.01 and abs(np.corrcoef(noise.T)[0, 1]) < 0.03
    assert abs(np.corrcoef(noise[:3000, 0], noise[16384 : 16384 + 3000, 0])[0, 1]) < 0.1  # chunks do not share noise
