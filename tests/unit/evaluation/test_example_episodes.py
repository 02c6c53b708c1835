"""The episodes in which a policy differs most and least: by hand on five episodes of two steps, discrete and continuous."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from stitchrl.core.errors import DataError
from stitchrl.core.spec import Box, Discrete, Spec
from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.behaviour_policy import Behaviour
from stitchrl.evaluation.evidence import Array, TableTarget, Target
from stitchrl.evaluation.example_episodes import STEPS, example_episodes
from stitchrl.evaluation.trust_record import actions_record

# in state 0 the policy does action 0 with 0.9, in state 1 action 1 for certain
TABLE = np.array([[0.9, 0.1], [0.0, 1.0]])
STATES = np.array([0, 1, 0, 1, 0, 1, 0, 1, 0, 1])
ACTIONS = np.array([0, 1, 1, 1, 0, 0, 1, 0, 0, 1])  # differences: 0.1 0 | 0.9 0 | 0.1 1 | 0.9 1 | as the first


def log(observations: Array, actions: Array, spec: Spec, length: int = 2) -> Dataset:
    n = len(actions)
    ends = np.arange(1, n + 1) % length == 0
    columns = {
        "observations": observations, "actions": actions, "rewards": np.arange(n, dtype=np.float32),
        "terminals": ends, "timeouts": np.zeros(n, np.bool_),
    }  # fmt: skip
    return Dataset(spec, columns, np.arange(0, n + 1, length), np.asarray(observations[length - 1 :: length]))


def behaviour(probabilities: Array | None, logged: Array) -> Behaviour:
    return Behaviour(np.log(logged), "logged", probabilities, None, 0.0, 0.0, float(logged.min()))


@pytest.fixture
def discrete() -> Dataset:
    return log(STATES, ACTIONS, Spec(Discrete(2), Discrete(2)))


def test_the_most_and_the_least_different_by_hand(discrete: Dataset) -> None:
    theirs = np.tile(np.array([[0.6, 0.4], [0.3, 0.7]], np.float32), (5, 1))
    found = example_episodes(
        discrete, TableTarget(TABLE, discrete.spec), behaviour(theirs, theirs[np.arange(10), ACTIONS].astype(float)), discount=0.5, seed=0
    )
    assert found.judged == 5
    # means 0.05, 0.45, 0.55, 0.95, 0.05: the fifth repeats the first and is left out
    assert [(e.episode, round(e.difference, 9)) for e in found.most] == [(3, 0.95), (2, 0.55)]
    assert [(e.episode, round(e.difference, 9)) for e in found.least] == [(0, 0.05), (1, 0.45)]
    worst = found.most[0]
    assert worst.length == 2 and worst.total == pytest.approx(6 + 0.5 * 7)
    first, second = worst.steps
    assert (first.step, first.observation, first.logged_action, first.policy_action) == (0, 0, 1, 0)
    assert (first.logged_probability, first.policy_probability, first.probability) == pytest.approx((0.4, 0.9, 0.6))
    assert (second.step, second.policy_action, second.difference) == (1, 1, 1.0)
    assert second.probability == pytest.approx(0.7)


def test_of_a_long_episode_the_steps_that_differ_most_are_shown_in_the_order_of_time() -> None:
    states = np.zeros(40, np.int64)
    actions = np.zeros(40, np.int64)
    actions[[3, 9, 17, 21, 30, 31, 38]] = 1
    dataset = log(states, actions, Spec(Discrete(2), Discrete(2)), length=40)
    found = example_episodes(
        dataset, TableTarget(TABLE, dataset.spec), behaviour(np.full((40, 2), 0.5), np.full(40, 0.5)), discount=1.0, seed=0
    )
    assert len(found.most) == 1 and found.least == ()
    steps = [step.step for step in found.most[0].steps]
    assert len(steps) == STEPS and steps == sorted({0, 3, 9, 17, 21, 30, 31, 38}), "seven that differ, and the first of the others"


class Shift(Target):
    """Always 3 in the first dimension, and in the second what was seen."""

    def __init__(self, spec: Spec, output: float = 3.0) -> None:
        self.spec, self.name, self.deterministic, self.output = spec, "shift", True, output

    def probabilities(self, observations: Array) -> Array:
        raise DataError("continuous")

    def log_probabilities(self, observations: Array, actions: Array) -> Array:
        raise DataError("no density")

    def draw(self, observations: Array, count: int, seed: int) -> Array:
        own = np.stack([np.full(len(observations), self.output), observations[:, 0]], 1)
        return np.repeat(own[None], count, 0)


def test_continuous_actions_are_as_far_as_in_deviations_of_the_logged_ones() -> None:
    """Logged first dimension ±1 (deviation 1) against 3: 2 or 4 apart; the second is the observation itself: sqrt(4 / 2), sqrt(16 / 2)."""
    first = np.array([1.0, 1.0, -1.0, -1.0, 1.0, -1.0])
    seen = np.arange(6.0, dtype=np.float32)[:, None]
    dataset = log(seen, np.stack([first, seen[:, 0]], 1).astype(np.float32), Spec(Box((1,)), Box((2,), (-5.0,), (5.0,))))
    found = example_episodes(dataset, Shift(dataset.spec), behaviour(None, np.full(6, 1.5)), discount=1.0, seed=0)
    assert [(e.episode, e.difference) for e in found.most] == [
        (1, pytest.approx(math.sqrt(8))),
        (2, pytest.approx((math.sqrt(2) + math.sqrt(8)) / 2)),
    ]
    assert [(e.episode, e.difference) for e in found.least] == [(0, pytest.approx(math.sqrt(2)))]
    step = found.most[0].steps[0]
    assert step.policy_action == [3.0, 2.0] and step.logged_action == [-1.0, 2.0] and step.observation == [2.0]
    assert step.logged_probability == pytest.approx(1.5) and step.probability is None and step.policy_probability is None
    with pytest.raises(DataError, match="not finite"):
        example_episodes(dataset, Shift(dataset.spec, math.nan), behaviour(None, np.full(6, 1.5)), discount=1.0, seed=0)


def test_large_logs_are_sampled_by_whole_episodes_the_same_for_the_same_seed() -> None:
    n = 120_000
    generator = np.random.default_rng(0)
    dataset = log(generator.integers(0, 2, n), generator.integers(0, 2, n), Spec(Discrete(2), Discrete(2)), length=100)

    def made(seed: int) -> Any:
        return example_episodes(
            dataset, TableTarget(TABLE, dataset.spec), behaviour(np.full((n, 2), 0.5), np.full(n, 0.5)), discount=1.0, seed=seed
        )

    assert made(0).judged == 500 and made(0) == made(0) and made(0) != made(1)


def test_the_map_of_actions_by_hand(discrete: Dataset) -> None:
    """Of ten steps: action 0 logged thrice in state 0 (0.9 / 0.1) and twice in state 1 (0 / 1); action 1 twice in state 0 and thrice in state 1."""
    found = actions_record(discrete, TableTarget(TABLE, discrete.spec))
    assert found is not None
    assert found["together"] == pytest.approx(np.array([[0.27, 0.23], [0.18, 0.32]]))
    assert found["logged"] == pytest.approx([0.5, 0.5]) and found["policy"] == pytest.approx([0.45, 0.55])
