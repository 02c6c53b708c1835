"""Support and drift: a policy like the log is supported, one that leaves it is not and the right rows are shown; drift tests keep their level."""

from __future__ import annotations

from typing import Any, final

import numpy as np
import pytest

from stitchrl.core.errors import DataError
from stitchrl.core.spec import Box, Discrete, Spec
from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.behaviour_policy import estimate_behaviour
from stitchrl.evaluation.drift import auroc_of, drift
from stitchrl.evaluation.evidence import TableTarget, Target
from stitchrl.evaluation.support import support

Array = np.ndarray[Any, np.dtype[Any]]


@final
class Rule(Target):
    """A deterministic policy given by a function of observations."""

    def __init__(self, spec: Spec, rule: Any) -> None:
        self.spec, self.rule, self.name, self.deterministic = spec, rule, "rule", True

    def probabilities(self, observations: Array) -> Array:
        assert isinstance(self.spec.action, Discrete)
        return np.eye(self.spec.action.n)[self.rule(observations)]

    def log_probabilities(self, observations: Array, actions: Array) -> Array:
        raise AssertionError("support asks for no density")

    def draw(self, observations: Array, count: int, seed: int) -> Array:
        return np.repeat(self.rule(observations)[None], count, 0)


def tabular(seed: int = 0) -> tuple[Dataset, Array]:
    # 6 states, 3 actions; action 2 is never taken in state 4
    generator = np.random.default_rng(seed)
    table = np.tile([0.5, 0.3, 0.2], (6, 1))
    table[4] = [0.6, 0.4, 0.0]
    s = generator.integers(6, size=6_000)
    a = (generator.random(6_000)[:, None] > table[s].cumsum(1)[:, :2]).sum(1)
    dataset = Dataset.from_flat(s, a, np.zeros(6_000, np.float32), np.arange(6_000) % 10 == 9, spec=Spec(Discrete(6), Discrete(3)))
    return dataset, table


def test_the_behaviour_itself_is_supported() -> None:
    dataset, table = tabular()
    found = support(dataset, TableTarget(table, dataset.spec), estimate_behaviour(dataset, seed=0), seed=0)
    assert found.below_1 == 0 and found.below_5 == 0 and found.never == 0
    assert found.logged_below_5 is not None and found.logged_below_5 < 0.005  # the smoothed rest of the action that is never taken
    assert found.judged == found.steps == 6_000 and found.beyond_95 is None


def test_an_action_that_was_never_taken_is_shown_where_it_is_chosen() -> None:
    dataset, _ = tabular()
    table = np.zeros((6, 3))
    table[:, 0], table[4] = 1, (0.25, 0, 0.75)
    found = support(dataset, TableTarget(table, dataset.spec), estimate_behaviour(dataset, seed=0), seed=0)
    share = float((np.asarray(dataset.observations) == 4).mean())
    assert found.below_1 == pytest.approx(0.75 * share) and found.below_5 == pytest.approx(0.75 * share)
    assert found.never == pytest.approx(0.75 * share)
    worst = found.least[0]
    assert (worst.observation, worst.policy_action, worst.policy_probability) == (4, 2, 0.75)
    assert worst.count == (np.asarray(dataset.observations) == 4).sum() and worst.precedents == ()
    row = dataset.offsets[worst.episode] + worst.step
    assert dataset.observations[row] == 4 and dataset.actions[row] == worst.logged_action
    assert len(worst.neighbours) == 3
    for near in worst.neighbours:
        row = dataset.offsets[near.episode] + near.step
        assert (dataset.observations[row], dataset.actions[row]) == (4, near.action) and near.episode != worst.episode
    assert len(found.least) == 6  # each pair of state and action once
    assert found.least[1].probability is not None and found.least[1].probability > 0.4
    assert found.least[1].precedents[0].action == 0


def test_real_valued_states_and_discrete_actions() -> None:
    generator = np.random.default_rng(1)
    x = generator.standard_normal((6_000, 2)).astype(np.float32)
    a = np.where(x[:, 0] > 1, 0, generator.integers(2, size=6_000))  # action 1 is never taken to the right
    spec = Spec(Box((2,)), Discrete(2))
    dataset = Dataset.from_flat(x, a, np.zeros(6_000, np.float32), np.arange(6_000) % 20 == 19, spec=spec)
    behaviour = estimate_behaviour(dataset, seed=0)
    always = support(dataset, Rule(spec, lambda o: np.ones(len(o), np.int64)), behaviour, seed=0)
    right = float((x[:, 0] > 1).mean())
    assert always.below_5 == pytest.approx(right, abs=0.02) and always.never is None
    assert len(always.least) == 20 and len({d.episode for d in always.least}) == 20
    assert all(d.observation[0] > 1 and d.policy_action == 1 for d in always.least)  # type: ignore[index]
    assert all(p.action == 1 for d in always.least for p in d.precedents)
    never = support(dataset, Rule(spec, lambda o: np.zeros(len(o), np.int64)), behaviour, seed=0)
    assert never.below_5 == 0


def continuous(seed: int = 2, width: int = 3) -> Dataset:
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((8_000, width)).astype(np.float32)
    a = (np.tanh(x[:, :1]) + 0.2 * generator.standard_normal((8_000, 1))).astype(np.float32)
    spec = Spec(Box((width,)), Box((1,), (-5.0,), (5.0,)))
    return Dataset.from_flat(x, a, np.zeros(8_000, np.float32), np.arange(8_000) % 40 == 39, spec=spec)


def test_continuous_actions_like_the_logs_are_supported_and_others_not() -> None:
    dataset = continuous()
    behaviour = estimate_behaviour(dataset, seed=0)
    like = support(dataset, Rule(dataset.spec, lambda o: np.tanh(o[:, :1])), behaviour, seed=0)
    assert like.beyond_95 is not None and like.beyond_95 < 0.07 and like.beyond_99 is not None and like.beyond_99 < 0.02
    assert like.below_1 is None and like.never is None

    def stray(o: Array) -> Array:  # far from the log where the second observation is above 1
        return np.where(o[:, 1:2] > 1, 4.0, np.tanh(o[:, :1]))

    found = support(dataset, Rule(dataset.spec, stray), behaviour, seed=0)
    share = float((dataset.observations[:, 1] > 1).mean())
    assert found.beyond_99 == pytest.approx(share, abs=0.02)
    assert len(found.least) == 20
    for decision in found.least:
        row = dataset.offsets[decision.episode] + decision.step
        assert decision.observation == pytest.approx(dataset.observations[row].tolist())
        assert decision.policy_action == [4.0] and dataset.observations[row, 1] > 1 and decision.distance > 1  # type: ignore[operator]
        assert all(p.episode != decision.episode and p.distance > q.distance for p, q in zip(decision.precedents, decision.neighbours))


def test_wide_observations_and_the_same_seed() -> None:
    dataset = continuous(width=12)
    behaviour, rule = estimate_behaviour(dataset, method="linear", seed=0), Rule(dataset.spec, lambda o: np.full((len(o), 1), 4.0))
    first, second = (support(dataset, rule, behaviour, seed=5) for _ in range(2))
    assert first == second and first.to_json() == second.to_json()
    assert first.beyond_99 is not None and first.beyond_99 > 0.3


def test_another_space_and_actions_that_are_not_finite_are_refused() -> None:
    dataset = continuous()
    behaviour = estimate_behaviour(dataset, method="linear", seed=0)
    with pytest.raises(DataError, match="its spaces are"):
        support(dataset, Rule(Spec(Box((3,)), Discrete(2)), lambda o: o), behaviour, seed=0)
    with pytest.raises(DataError, match="not finite at"):
        support(dataset, Rule(dataset.spec, lambda o: np.full((len(o), 1), np.nan)), behaviour, seed=0)


def episodes_with_offsets(shift: float, seed: int, episodes: int = 60) -> Dataset:
    # each episode has its own level: its steps are far from independent
    generator = np.random.default_rng(seed)
    level = np.repeat(generator.standard_normal((episodes, 3)), 20, 0)
    x = (level + 0.3 * generator.standard_normal((episodes * 20, 3))).astype(np.float32)
    x[:, 1] += shift
    a = generator.integers(2, size=len(x))
    spec = Spec(Box((3,)), Discrete(2))
    return Dataset.from_flat(x, a, np.zeros(len(x), np.float32), np.arange(len(x)) % 20 == 19, spec=spec)


def test_drift_is_found_in_the_column_that_drifts() -> None:
    found = drift(episodes_with_offsets(0, 0), episodes_with_offsets(2.0, 1), seed=0)
    assert found.drifted == ("observations[1]",)
    column = next(c for c in found.columns if c.column == "observations[1]")
    assert column.mean_difference == pytest.approx(2 / np.sqrt(1 + 1.09), abs=0.3) and column.p == 0.005
    assert found.auroc is not None and found.auroc > 0.8 and found.auroc_p is not None and found.auroc_p <= 0.01
    assert found.beyond_95 is not None and found.beyond_95 > 0.2


def test_no_drift_keeps_the_level_although_steps_of_an_episode_are_alike() -> None:
    # tests on steps would reject nearly always here; of 30 pairs without drift, at 5 %, 1.5 are expected
    results = [drift(episodes_with_offsets(0, 2 * k, 16), episodes_with_offsets(0, 2 * k + 1, 16), seed=k) for k in range(30)]
    assert sum(min(c.p for c in r.columns) <= 0.05 for r in results) <= 5  # above 5: p < 0.004
    assert sum(r.auroc_p is not None and r.auroc_p <= 0.05 for r in results) <= 5


def test_discrete_drift_and_too_few_episodes() -> None:
    first, _ = tabular(0)
    second, _ = tabular(1)
    assert drift(first, second, seed=0).drifted == ()
    moved = Dataset(second.spec, {**second.columns, "actions": np.zeros_like(second.actions)}, second.offsets, second.final_observations)
    found = drift(first, moved, seed=0)
    assert found.drifted == ("actions",) and found.auroc is not None and found.auroc > 0.6 and found.unseen == 0
    column = next(c for c in found.columns if c.column == "actions")
    assert column.mean_difference is None and column.distance == pytest.approx(float((first.actions != 0).mean()), abs=1e-6)
    assert drift(first, second.select([0, 1]), seed=0).reason is not None


def test_the_area_under_the_curve_by_hand() -> None:
    labels = np.array([[False, True, False, True], [True, True, False, False]])
    assert auroc_of(np.array([0.1, 0.4, 0.4, 0.9]), labels) == pytest.approx([3.5 / 4, 0.5 / 4])
