"""The numbers of a dataset's description, worked out by hand, and its advice on logs of known kinds."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stitchrl.core.spec import Box, Discrete, Spec
from stitchrl.data.coverage import (
    action_variety,
    cluster,
    coverage_reference,
    entropy,
    nearest_neighbour_entropy,
    normalised_entropy,
    occupancy,
    state_action_coverage,
)
from stitchrl.data.dataset import Dataset
from stitchrl.data.statistics import describe, describe_actions, distribution, trajectory_quality


def log(
    rewards: list[list[float]],
    observations: Any = None,
    actions: Any = None,
    spec: Spec | None = None,
    terminal: bool = True,
    **metadata: Any,
) -> Dataset:
    """A log with the given rewards of each episode; real-valued states and two discrete actions unless told otherwise."""
    lengths = [len(episode) for episode in rewards]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    steps = int(offsets[-1])
    random = np.random.default_rng(0)
    ends = np.zeros(steps, np.bool_)
    ends[offsets[1:] - 1] = True
    seen = random.normal(size=(steps, 2)).astype(np.float32) if observations is None else np.asarray(observations)
    columns = {
        "observations": seen,
        "actions": random.integers(0, 2, steps) if actions is None else np.asarray(actions),
        "rewards": np.concatenate([np.asarray(episode, np.float32) for episode in rewards]),
        "terminals": ends if terminal else np.zeros(steps, np.bool_),
        "timeouts": np.zeros(steps, np.bool_) if terminal else ends,
    }
    return Dataset(spec or Spec(Box((2,)), Discrete(2)), columns, offsets, seen[: len(rewards)], dict(metadata))


def noisy_returns(mean: float, std: float, episodes: int = 60, length: int = 20) -> list[list[float]]:
    random = np.random.default_rng(1)
    totals = mean + std * random.normal(size=episodes)
    return [list(total / length + 0.01 * random.normal(size=length)) for total in totals]


def kinds(dataset: Dataset, reference: dict[str, Any] | None = None) -> list[str]:
    return [item["kind"] for item in describe(dataset, reference).advice]


def test_entropy_of_known_distributions() -> None:
    # 1/2, 1/4, 1/4: (1/2 + 1/4·2 + 1/4·2) log 2 = 1.5 log 2
    assert entropy(np.asarray([2, 1, 1])) == pytest.approx(1.5 * math.log(2))
    assert normalised_entropy(np.asarray([2, 1, 1])) == pytest.approx(1.5 * math.log(2) / math.log(3))
    assert normalised_entropy(np.asarray([5, 5, 5, 5])) == pytest.approx(1.0)
    assert normalised_entropy(np.asarray([7, 0])) == 0.0
    assert entropy(np.asarray([0, 0])) == 0.0
    assert normalised_entropy(np.asarray([3])) == 0.0


def test_nearest_neighbour_entropy_agrees_with_closed_forms() -> None:
    random = np.random.default_rng(0)
    gauss = random.normal(scale=2.0, size=(4000, 1))  # 1/2 log(2 pi e 4) = 2.112
    assert nearest_neighbour_entropy(gauss) == pytest.approx(0.5 * math.log(2 * math.pi * math.e * 4), abs=0.06)
    square = random.uniform(0, 3, size=(4000, 2))  # log 9
    assert nearest_neighbour_entropy(square) == pytest.approx(math.log(9), abs=0.08)


def test_nearest_neighbour_entropy_of_four_points_by_hand() -> None:
    # points 0, 1, 3, 7 and k = 1: distances 1, 1, 2, 4; psi(4) - psi(1) = 1 + 1/2 + 1/3; a ball of the line has length 2
    by_hand = 11 / 6 + math.log(2) + (math.log(1) + math.log(1) + math.log(2) + math.log(4)) / 4
    assert nearest_neighbour_entropy(np.asarray([[0.0], [1.0], [3.0], [7.0]]), k=1) == pytest.approx(by_hand)


def test_nearest_neighbour_entropy_is_none_where_there_is_no_density() -> None:
    assert nearest_neighbour_entropy(np.zeros((100, 2))) is None
    assert nearest_neighbour_entropy(np.zeros((2, 1))) is None


def test_trajectory_quality() -> None:
    assert trajectory_quality(60.0, 20.0, 120.0) == pytest.approx(0.4)  # 40 / 100
    assert trajectory_quality(-5.0, 0.0, 10.0) == pytest.approx(-0.5)
    assert trajectory_quality(1.0, None, 3.0) is None
    assert trajectory_quality(1.0, 2.0, 2.0) is None


def test_distribution_by_hand() -> None:
    found = distribution(np.asarray([1.0, 2.0, 3.0, 6.0]))
    assert (found["count"], found["mean"], found["min"], found["max"]) == (4, 3.0, 1.0, 6.0)
    assert found["std"] == pytest.approx(math.sqrt((4 + 1 + 0 + 9) / 4))
    assert found["quantiles"]["0.5"] == 2.5
    assert found["best_tenth"] == 6.0
    assert found["histogram"] == {"edges": [0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5], "counts": [1, 1, 1, 0, 0, 1]}


def test_returns_lengths_and_endings() -> None:
    report = describe(log([[1, 1, 1], [0, 2]], discount=0.5))
    assert report.returns["mean"] == 2.5
    assert report.discounted_returns["discount"] == 0.5
    assert report.discounted_returns["max"] == 1.75  # 1 + 1/2 + 1/4; the other is 0 + 2/2
    assert report.discounted_returns["min"] == 1.0
    assert (report.lengths["min"], report.lengths["max"]) == (2, 3)
    assert report.endings == {"terminals": 2, "timeouts": 0, "both": 0, "neither": 0}
    assert report.rewards["distinct"] == 3
    assert report.rewards["most_common"] == 1
    assert report.rewards["rare_share"] == pytest.approx(2 / 5)


def test_state_action_coverage_of_a_table() -> None:
    spec = Spec(Discrete(3), Discrete(2))
    data = log([[0, 0, 0, 0]], observations=[0, 0, 0, 2], actions=[0, 0, 1, 1], spec=spec)
    found = state_action_coverage(data, None)  # (0,0), (0,1), (2,1) of six
    assert (found["value"], found["unique"], found["reference"]) == (0.5, 3, "all 6 possible pairs")
    other = log([[0] * 4], observations=[0, 1, 2, 0], actions=[0, 0, 0, 1], spec=spec)
    against = {"unique": [[4, 4]], "steps": 4, "seed": 0, "grid": None}
    assert state_action_coverage(data, against)["value"] == 0.75  # 3 / 4
    reference = coverage_reference(other)
    assert reference["unique"] == [[4, 4]]
    assert state_action_coverage(other, reference)["value"] == 1.0


def test_state_action_coverage_of_real_values_falls_with_the_spread() -> None:
    random = np.random.default_rng(0)
    spec = Spec(Box((2,)), Box((1,), (-1.0,), (1.0,)))

    def walk(scale: float, steps: int = 2000) -> Dataset:
        observations = (scale * random.uniform(-1, 1, size=(steps, 2))).astype(np.float32)
        actions = (scale * random.uniform(-1, 1, size=(steps, 1))).astype(np.float32)
        return log([[0.0] * steps], observations, actions, spec)

    reference = json.loads(json.dumps(coverage_reference(walk(1.0))))  # as metadata keeps it
    assert reference["unique"][0][0] == 2000
    full = state_action_coverage(walk(1.0), reference)
    assert full["value"] == pytest.approx(1.0, abs=0.05)
    tenth = state_action_coverage(walk(0.1), reference)
    assert tenth["unique"] <= 2**3  # a tenth of the range meets at most two cells in each of three directions
    assert state_action_coverage(walk(1.0, 600), reference)["steps"] == 500  # compared at the size that both have
    assert state_action_coverage(walk(1.0), None)["value"] is None


def test_clusters_part_what_is_apart() -> None:
    random = np.random.default_rng(0)
    centres = np.asarray([[0.0, 0.0], [100.0, 0.0], [0.0, 100.0]])
    truth = random.integers(0, 3, 900)
    found = cluster(centres[truth] + random.normal(size=(900, 2)), 3, seed=0)
    pairs = set(zip(truth.tolist(), found.tolist()))
    assert len(pairs) == 3
    assert len(np.unique(cluster(np.zeros((50, 2)), 8, seed=0))) == 1


def test_occupancy_of_a_table_by_hand() -> None:
    spec = Spec(Discrete(4), Discrete(2))
    data = log([[0] * 4], observations=[0, 0, 1, 1], actions=[0, 1, 0, 1], spec=spec)
    found = occupancy(data, seed=0)
    assert found["state"]["entropy"] == pytest.approx(math.log(2) / math.log(4))
    assert (found["state"]["clusters"], found["state"]["of"]) == (2, 4)
    assert found["state_action"]["entropy"] == pytest.approx(math.log(4) / math.log(8))
    assert found["state_action"]["shares"] == [0.25] * 4


def test_occupancy_of_real_values_tells_even_from_uneven() -> None:
    random = np.random.default_rng(0)
    even = log([[0.0] * 3000], observations=random.uniform(size=(3000, 2)).astype(np.float32))
    heap = random.normal(scale=0.01, size=(3000, 2))
    heap[:60] = random.uniform(-1, 1, size=(60, 2))
    uneven = log([[0.0] * 3000], observations=heap.astype(np.float32))
    assert occupancy(even, 0)["state"]["entropy"] > 0.95
    assert occupancy(uneven, 0)["state"]["entropy"] < 0.8


def test_action_variety() -> None:
    random = np.random.default_rng(0)
    spec = Spec(Discrete(2), Discrete(2))
    states = np.arange(4000) % 2
    uniform = log([[0] * 2000] * 2, states, random.integers(0, 2, 4000), spec)
    assert action_variety(uniform, 0)["value"] == pytest.approx(1.0, abs=0.01)
    assert action_variety(log([[0] * 2000] * 2, states, states, spec), 0)["value"] == 0.0  # a function of the state
    real = Spec(Box((1,)), Box((1,), (-2.0,), (2.0,)))
    where = random.uniform(-1, 1, size=(4000, 1)).astype(np.float32)
    rewards = [[0.0] * 100] * 40
    free = random.uniform(-2, 2, size=(4000, 1)).astype(np.float32)
    assert action_variety(log(rewards, where, free, real), 0)["value"] == pytest.approx(1.0, abs=0.04)
    assert action_variety(log(rewards, where, where, real), 0)["value"] < 0.02
    coin = log(
        rewards, where, random.integers(0, 2, 4000), Spec(Box((1,)), Discrete(2))
    )  # half of the neighbours differ, as uniform ones do
    assert action_variety(coin, 0)["value"] == pytest.approx(1.0, abs=0.06)
    rare = log(rewards, where, (random.uniform(size=4000) < 0.1).astype(np.int64), Spec(Box((1,)), Discrete(2)))
    assert action_variety(rare, 0)["value"] == pytest.approx(2 * 0.1 * 0.9 / 0.5, abs=0.05)
    unbounded = Spec(Box((1,)), Box((1,)))
    assert action_variety(log(rewards, where, where, unbounded), 0)["value"] is None


def test_action_marginals() -> None:
    discrete = describe_actions(log([[0] * 4], actions=[0, 0, 1, 2], spec=Spec(Box((2,)), Discrete(3))), 0)
    assert discrete["counts"] == [2, 1, 1]
    assert discrete["entropy_nats"] == pytest.approx(1.5 * math.log(2))
    random = np.random.default_rng(0)
    values = random.uniform(-1, 1, size=(5000, 2)).astype(np.float32)
    spec = Spec(Box((2,)), Box((2,), (-1.0,), (1.0,)))
    found = describe_actions(log([[0.0] * 5000], actions=values, spec=spec), 0)
    assert found["entropy"] == pytest.approx(1.0, abs=0.01)
    assert found["entropy_nats"] == pytest.approx(math.log(4), abs=0.08)  # the log of the area
    assert found["entropy_below_uniform_nats"] == pytest.approx(0.0, abs=0.08)
    assert sum(found["histograms"][0]["counts"]) == 5000
    twice = describe_actions(log([[0.0] * 5000], actions=2 * values, spec=spec), 0)
    assert twice["clipped_share"] == pytest.approx(0.5, abs=0.03)
    half = describe_actions(log([[0.0] * 5000], actions=values * np.float32([0.5, 1]), spec=spec), 0)
    assert half["entropy_below_uniform_nats"] == pytest.approx(math.log(2), abs=0.08)


def test_score_by_hand() -> None:
    # returns 0 and 10 in turn: mean 5, TQ 0.5; 95 % quantile 10, so the spread part is 2 · (1 - 0.5), full
    rewards = [[r] * 10 for r in (0.0, 1.0)] * 50
    report = describe(log(rewards), {"random": 0.0, "expert": 10.0}, findings=[])
    parts = {part["name"]: part["value"] for part in report.quality["parts"]}
    assert parts["return level"] == pytest.approx(5.0)
    assert parts["spread"] == pytest.approx(10.0)
    assert parts["size"] == pytest.approx(10 * min((3 - 2) / 4, 2 / 3))  # 1,000 steps, 100 episodes
    assert parts["cleanliness"] == 10.0
    by_hand = 0.3 * 5 + 0.2 * 10 + 0.2 * parts["coverage"] + 0.15 * 2.5 + 0.15 * 10
    assert report.quality["score"] == pytest.approx(by_hand)
    assert report.quality["known_weight"] == pytest.approx(1.0)


def test_what_is_not_known_is_not_invented() -> None:
    report = describe(log([[r] * 10 for r in (0.0, 1.0)] * 50), findings=[])
    parts = {part["name"]: part for part in report.quality["parts"]}
    assert parts["return level"]["value"] is None
    assert parts["spread"]["value"] is None
    assert report.reference == {"random": None, "expert": None, "trajectory_quality": None, "best_twentieth_quality": None}
    assert report.quality["known_weight"] == pytest.approx(0.5)
    by_hand = (0.2 * parts["coverage"]["value"] + 0.15 * 2.5 + 0.15 * 10) / 0.5
    assert report.quality["score"] == pytest.approx(by_hand)


def test_errors_hold_the_score_down() -> None:
    data = log([[r] * 10 for r in (0.0, 1.0)] * 50)
    data.columns["observations"][7, 0] = np.nan
    report = describe(data, {"random": 0.0, "expert": 10.0})
    assert report.quality["score"] == 2.0
    assert report.quality["capped"]
    assert report.advice[0]["kind"] == "faulty"
    json.dumps(report.to_json(), allow_nan=False)


REFERENCE = {"random": 0.0, "expert": 100.0}


def test_advice() -> None:
    assert kinds(log(noisy_returns(95, 3)), REFERENCE) == ["expert-like"]
    assert kinds(log(noisy_returns(3, 3)), REFERENCE) == ["random"]
    assert kinds(log(noisy_returns(40, 25)), REFERENCE) == ["mixed"]
    assert kinds(log(noisy_returns(45, 3)), REFERENCE) == ["narrow"]
    assert kinds(log(noisy_returns(40, 25))) == ["varied"]
    assert kinds(log(noisy_returns(40, 1))) == ["narrow"]
    assert kinds(log(noisy_returns(40, 25, episodes=5)), REFERENCE)[0] == "too-small"
    assert kinds(log([[0.0] * 20] * 60), REFERENCE) == ["no-reward"]
    sparse = [[0.0] * 39 + [float(k % 2)] for k in range(60)]
    assert kinds(log(sparse), {"random": 0.0, "expert": 1.0}) == ["sparse-reward", "mixed"]


def test_advice_on_a_deterministic_policy() -> None:
    random = np.random.default_rng(0)
    where = random.uniform(-1, 1, size=(1200, 1)).astype(np.float32)
    spec = Spec(Box((1,)), Box((1,), (-2.0,), (2.0,)))
    found = describe(log(noisy_returns(40, 25), where, where, spec), REFERENCE)
    assert [item["kind"] for item in found.advice] == ["mixed", "deterministic"]


def test_same_seed_same_bytes() -> None:
    data = log(noisy_returns(40, 25))
    first, second = (json.dumps(describe(data, REFERENCE, seed=3).to_json()) for _ in range(2))
    assert first == second


def test_reference_comes_from_the_metadata() -> None:
    data = log(noisy_returns(50, 1), reference={"random": 0.0, "expert": 100.0}, name="x", environment="y")
    report = describe(data)
    assert report.reference["trajectory_quality"] == pytest.approx(0.5, abs=0.01)
    assert (report.name, report.environment) == ("x", "y")


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=20))
def test_entropy_is_between_none_and_uniform_and_knows_no_order(counts: list[int]) -> None:
    value = normalised_entropy(np.asarray(counts))
    assert 0 <= value <= 1 + 1e-12
    assert value == pytest.approx(normalised_entropy(np.asarray(counts[::-1])))
    assert entropy(np.asarray([3 * c for c in counts])) == pytest.approx(entropy(np.asarray(counts)))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=60))
def test_a_histogram_holds_every_value(values: list[float]) -> None:
    found = distribution(np.asarray(values))
    assert sum(found["histogram"]["counts"]) == len(values)
    assert len(found["histogram"]["edges"]) == len(found["histogram"]["counts"]) + 1
    assert found["min"] <= found["mean"] + 1e-6
    assert found["mean"] <= found["max"] + 1e-6


@settings(max_examples=15, deadline=None)
@given(st.floats(-5, 5), st.floats(0.1, 10))
def test_quality_does_not_change_with_the_rewards_unit(shift: float, scale: float) -> None:
    rewards = noisy_returns(40, 25, episodes=30)
    moved = [[scale * r + shift / 20 for r in episode] for episode in rewards]  # each episode has 20 steps
    first = describe(log(rewards), REFERENCE, findings=[])
    other = describe(log(moved), {"random": shift, "expert": 100 * scale + shift}, findings=[])
    assert other.quality["score"] == pytest.approx(first.quality["score"], abs=1e-4)
    assert [item["kind"] for item in other.advice] == [item["kind"] for item in first.advice]
