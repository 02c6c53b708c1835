"""Leaks that were planted are found under their own name; clean logs, also those that look a little like leaks, stay silent."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stitchrl.core.spec import Box, Discrete, Spec
from stitchrl.data.dataset import Dataset
from stitchrl.data.leakage import leakage, shared_groups

Array = np.ndarray[Any, np.dtype[Any]]
LENGTH, EPISODES = 25, 160


def clean(seed: int = 0, discrete: bool = True) -> dict[str, Array]:
    """Returns columns of a log: a slow state, a behaviour that reads it, a reward for what it led to; the task ends some episodes."""
    generator = np.random.default_rng(seed)
    steps = LENGTH * EPISODES
    x = np.zeros((steps, 3), np.float32)
    actions = np.zeros(steps, np.int64) if discrete else np.zeros((steps, 1), np.float32)
    for e in range(EPISODES):
        state = generator.standard_normal(3)
        for row in range(e * LENGTH, (e + 1) * LENGTH):
            x[row] = state
            push = np.tanh(2 * state[0]) + 0.7 * generator.standard_normal()
            actions[row] = push > 0 if discrete else push
            state = 0.9 * state + 0.3 * generator.standard_normal(3) - 0.2 * (push if not discrete else 2 * (push > 0) - 1)
    rewards = (-np.abs(x[:, 0]) + 0.3 * generator.standard_normal(steps)).astype(np.float32)
    last = np.arange(steps) % LENGTH == LENGTH - 1
    over = np.repeat(generator.random(EPISODES) < 0.5, LENGTH)
    return {"observations": x, "actions": actions, "rewards": rewards, "terminals": last & over, "timeouts": last & ~over}


def dataset(columns: dict[str, Array], extra: Array | None = None, dropped: bool = False) -> Dataset:
    x = columns["observations"] if extra is None else np.concatenate([columns["observations"], extra.reshape(len(extra), -1)], 1)
    discrete = columns["actions"].ndim == 1
    spec = Spec(Box(x.shape[1:]), Discrete(int(columns["actions"].max()) + 1) if discrete else Box((1,), (-9.0,), (9.0,)))
    final = None if dropped else np.zeros((EPISODES, x.shape[1]), np.float32)
    return Dataset.from_flat(**columns | {"observations": x.astype(np.float32)}, spec=spec, final_observations=final)


def returns_to_go(columns: dict[str, Array]) -> Array:
    rewards = columns["rewards"].reshape(EPISODES, LENGTH).astype(np.float64)
    return np.asarray(rewards[:, ::-1].cumsum(1)[:, ::-1].reshape(-1))


@pytest.mark.parametrize("discrete", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_a_clean_log_is_silent(discrete: bool, seed: int) -> None:
    assert leakage(dataset(clean(seed, discrete))) == []


PLANTED = {
    "the action": (lambda c: c["actions"] * 1.0, "action-in-observation"),
    "the action, other units": (lambda c: 7 - 3.0 * c["actions"], "action-in-observation"),
    "a lab value taken after it": (lambda c: c["actions"] * 1.0 + 0.15 * noise(c), "action-in-observation"),
    "the reward": (lambda c: c["rewards"], "reward-in-observation"),
    "the reward, other units": (lambda c: 100.0 * c["rewards"] - 5, "reward-in-observation"),
    "the return": (lambda c: np.repeat(totals(c), LENGTH), "outcome-in-observation"),
    "a code of the return": (lambda c: np.repeat(np.argsort(np.argsort(totals(c))) * 2.0, LENGTH), "outcome-in-observation"),
    "the return, noted roughly": (lambda c: np.repeat(totals(c), LENGTH) + 0.1 * noise(c), "outcome-in-observation"),
    "what is still to come": (returns_to_go, "return-to-go-in-observation"),
    "a discharge code": (lambda c: np.where(c["terminals"], 2.0, 0.0), "terminal-in-observation"),
}


def noise(columns: dict[str, Array]) -> Array:
    return np.random.default_rng(9).standard_normal(len(columns["rewards"]))


def totals(columns: dict[str, Array]) -> Array:
    return np.asarray(columns["rewards"].reshape(EPISODES, LENGTH).sum(1, dtype=np.float64))


@pytest.mark.parametrize("discrete", [True, False])
@pytest.mark.parametrize("leak", PLANTED)
def test_a_planted_leak_is_found(leak: str, discrete: bool) -> None:
    columns = clean(1, discrete)
    plant, code = PLANTED[leak]
    found = leakage(dataset(columns, plant({**columns, "actions": columns["actions"].reshape(-1)})))
    assert [(f.code, f.column, f.severity) for f in found] == [(code, "observations[3]", "warning")]


HARMLESS = {
    "the action before": lambda c: shifted(c["actions"].reshape(-1) * 1.0),
    "the reward before": lambda c: shifted(c["rewards"]),
    "the clock": lambda c: np.arange(len(c["rewards"])) % LENGTH * 1.0,
    "who it is": lambda c: np.repeat(np.random.default_rng(3).standard_normal(EPISODES), LENGTH),
    "what it started from": lambda c: np.repeat(c["observations"][::LENGTH, 0], LENGTH),
    "the return so far": lambda c: shifted(c["rewards"].reshape(EPISODES, LENGTH).cumsum(1).reshape(-1)),
}


def shifted(values: Array) -> Array:
    moved = np.roll(values, 1)
    moved[::LENGTH] = 0
    return moved


@pytest.mark.parametrize("discrete", [True, False])
@pytest.mark.parametrize("column", HARMLESS)
def test_what_is_known_before_the_action_is_no_leak(column: str, discrete: bool) -> None:
    columns = clean(2, discrete)
    assert leakage(dataset(columns, HARMLESS[column](columns))) == []


def test_a_clock_in_a_task_of_staying_alive_is_no_leak() -> None:
    # reward 1 a step and episodes of one length: the clock tells all that is to come, as it may
    columns = clean(3)
    columns["rewards"] = np.ones_like(columns["rewards"])
    assert leakage(dataset(columns, np.arange(len(columns["rewards"])) % LENGTH * 1.0)) == []


def test_a_clock_is_no_discharge_code() -> None:
    # the step at which the clock ended an episode is left out by the reader: the last value is seen at terminals alone
    columns = clean(3)
    assert leakage(dataset(columns, np.arange(len(columns["rewards"])) % LENGTH * 1.0, dropped=True)) == []


def test_a_one_hot_record_of_the_action_is_found_in_each_of_its_columns() -> None:
    columns = clean(4)
    columns["actions"] = np.random.default_rng(4).integers(6, size=len(columns["actions"]))
    found = leakage(dataset(columns, np.eye(6)[columns["actions"]]))
    assert [(f.code, f.column) for f in found] == [("action-in-observation", f"observations[{k}]") for k in range(3, 9)]
    assert "action 2" in found[2].message


def test_long_logs_are_sampled_and_discrete_states_and_images_passed_over() -> None:
    generator = np.random.default_rng(5)
    a = generator.integers(3, size=200_000)
    x = np.stack([generator.standard_normal(200_000), a], 1).astype(np.float32)
    ends = np.arange(200_000) % 100 == 99
    spec = Spec(Box((2,)), Discrete(3))
    found = leakage(Dataset.from_flat(x, a, np.zeros(200_000, np.float32), ends, spec=spec))
    assert [(f.code, f.column) for f in found] == [("action-in-observation", "observations[1]")]
    states = Dataset.from_flat(a, a, np.zeros(200_000, np.float32), ends, spec=Spec(Discrete(3), Discrete(3)))
    assert leakage(states) == []


def test_groups_and_episodes_in_both_parts() -> None:
    columns = clean(6)
    whole = dataset(columns)
    with_groups = Dataset(
        whole.spec, {**whole.columns, "groups": np.arange(len(whole)) // (2 * LENGTH)}, whole.offsets, whole.final_observations
    )
    train, evaluation = with_groups.select(np.arange(0, 81)), with_groups.select(np.arange(81, EPISODES))
    found = shared_groups(train, evaluation)
    assert [(f.code, f.severity, f.count, f.episodes) for f in found] == [("group-in-several-parts", "error", 1, (0,))]
    assert shared_groups(with_groups.select(np.arange(80)), with_groups.select(np.arange(80, EPISODES))) == []
    twice = shared_groups(whole.select(np.arange(0, 80)), whole.select(np.arange(78, EPISODES)))
    assert [(f.code, f.severity, f.count, f.episodes) for f in twice] == [("episode-in-several-parts", "warning", 2, (0, 1))]
    a = np.zeros(40, np.int64)
    states = Dataset.from_flat(a, a, np.zeros(40, np.float32), np.arange(40) % 4 == 3, spec=Spec(Discrete(1), Discrete(1)))
    assert [f.severity for f in shared_groups(states.select([0, 1]), states.select([2, 3]))] == ["note"]
