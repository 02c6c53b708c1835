"""Each check of a log: found where a fault is planted, at the planted place, and silent on clean data."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stitchrl.core.spec import Box, Discrete, Spec
from stitchrl.data.dataset import Dataset
from stitchrl.data.doctor import Finding, examine, examine_parts, examine_transitions, findings_to_json, verdict

LENGTHS = (30, 25, 41, 28, 33, 37, 29, 45, 31, 26) * 5


def point_mass(seed: int = 0, lengths: tuple[int, ...] = LENGTHS) -> Dataset:
    """A log without faults: position and speed under a noisy push towards 0; reward -position² - 0.1 action²."""
    random = np.random.default_rng(seed)
    states, finals, actions = [], [], []
    for length in lengths:
        state = random.normal(size=2)
        for _ in range(length):
            action = np.clip(-0.5 * state[0] - 0.5 * state[1] + 0.4 * random.normal(), -0.99, 0.99)
            states.append(state)
            actions.append([action])
            state = np.asarray([state[0] + 0.3 * state[1], 0.9 * state[1] + 0.5 * action + 0.02 * random.normal()])
        finals.append(state)
    observations, taken = np.asarray(states, np.float32), np.asarray(actions, np.float32)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    timeouts = np.zeros(len(taken), np.bool_)
    timeouts[offsets[1:] - 1] = True
    columns = {
        "observations": observations,
        "actions": taken,
        "rewards": (-(observations[:, 0] ** 2) - 0.1 * taken[:, 0] ** 2).astype(np.float32),
        "terminals": np.zeros(len(taken), np.bool_),
        "timeouts": timeouts,
    }
    return Dataset(Spec(Box((2,)), Box((1,), (-1.0,), (1.0,))), columns, offsets, np.asarray(finals, np.float32), {"name": "point mass"})


def tabular(seed: int = 0, episodes: int = 60, states: int = 7, actions: int = 3) -> Dataset:
    """A log without faults of discrete states and actions, uniform behaviour."""
    random = np.random.default_rng(seed)
    lengths = random.integers(8, 30, episodes)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    steps = int(offsets[-1])
    terminals = np.zeros(steps, np.bool_)
    terminals[offsets[1:] - 1] = True
    columns = {
        "observations": random.integers(0, states, steps),
        "actions": random.integers(0, actions, steps),
        "rewards": random.normal(size=steps).astype(np.float32),
        "terminals": terminals,
        "timeouts": np.zeros(steps, np.bool_),
        "behaviour_log_probabilities": np.full(steps, -np.log(actions), np.float32),
    }
    return Dataset(Spec(Discrete(states), Discrete(actions)), columns, offsets, random.integers(0, states, episodes))


def changed(dataset: Dataset, **columns: Any) -> Dataset:
    """The dataset with whole columns replaced (`infos__x` is infos/x) or cells set: name=(index, value)."""
    result = dict(dataset.columns)
    for key, value in columns.items():
        name = key.replace("__", "/")
        if isinstance(value, tuple):
            result[name] = np.array(result[name])
            result[name][value[0]] = value[1]
        else:
            result[name] = np.asarray(value)
    return dataclasses.replace(dataset, columns=result)


def rolled(dataset: Dataset, name: str, shift: int) -> Dataset:
    parts = [np.roll(part, shift, axis=0) for part in np.split(dataset.columns[name], dataset.offsets[1:-1])]
    return changed(dataset, **{name: np.concatenate(parts)})


def only(dataset: Dataset, code: str) -> Finding:
    """The one finding of this code; no other code may have been set off."""
    found = examine(dataset)
    assert {finding.code for finding in found} == {code}, found
    assert len(found) == 1, found
    return found[0]


@pytest.mark.parametrize("seed", range(5))
def test_clean_logs_have_no_findings(seed: int) -> None:
    assert examine(point_mass(seed)) == []
    assert examine(tabular(seed)) == []


@pytest.mark.parametrize(("value", "code"), [(np.nan, "not-a-number"), (np.inf, "infinite"), (-np.inf, "infinite")])
def test_non_finite_values_are_placed(value: float, code: str) -> None:
    # episode 2 begins at row 30 + 25
    finding = only(changed(point_mass(), observations=((55 + 7, 1), value)), code)
    assert (finding.severity, finding.column, finding.episodes, finding.steps, finding.count) == ("error", "observations", (2,), (7,), 1)
    assert "'observations[1]'" in finding.message
    assert "episode 2, step 7" in finding.message
    assert only(changed(point_mass(), rewards=(3, value)), code).steps == (3,)


def test_nan_in_an_info_is_a_warning_and_in_a_final_observation_an_error() -> None:
    data = point_mass()
    info = np.linspace(0, 1, len(data), dtype=np.float32)
    info[5] = np.nan
    assert only(changed(data, infos__heart_rate=info), "not-a-number").severity == "warning"
    final = data.final_observations.copy()
    final[4, 0] = np.nan
    finding = only(dataclasses.replace(data, final_observations=final), "not-a-number")
    assert (finding.severity, finding.column, finding.episodes) == ("error", "final_observations", (4,))


def test_huge_rewards_and_outliers() -> None:
    data = point_mass()
    finding = only(changed(data, rewards=(31, 1e38)), "reward-overflow")  # 1e76 is above float32's 3.4e38
    assert (finding.severity, finding.episodes, finding.steps) == ("error", (1,), (1,))
    assert only(changed(data, rewards=([2, 60], 1e6)), "reward-outlier").count == 2


def test_large_observations() -> None:
    finding = only(changed(point_mass(), observations=((10, 0), 9_999_999.0)), "large-value")
    assert (finding.severity, finding.steps, finding.count) == ("warning", (10,), 1)


def test_constant_rewards() -> None:
    data = point_mass()
    zero, one = (np.full(len(data), value, np.float32) for value in (0, 1))
    assert only(changed(data, rewards=zero), "constant-reward").severity == "warning"
    assert only(changed(data, rewards=one), "constant-reward").severity == "note"  # a return is a length
    assert only(changed(point_mass(lengths=(35,) * 40), rewards=np.ones(1400, np.float32)), "constant-reward").severity == "warning"


def test_actions_outside_their_bounds() -> None:
    data = point_mass()
    far = only(changed(data, actions=((55 + 3, 0), 10.0)), "action-outside")
    assert (far.severity, far.count, far.episodes, far.steps) == ("error", 1, (2,), (3,))
    near = only(changed(data, actions=(([4, 9], 0), 1 + 1e-6)), "action-rounding")
    assert (near.severity, near.count) == ("note", 2)
    exact = only(changed(data, actions=(([4, 9, 11], 0), -1.0)), "action-at-bound")
    assert (exact.severity, exact.count) == ("note", 3)


def test_float32_bounds_that_are_no_float32_numbers_are_not_outside() -> None:
    data = point_mass()
    data = dataclasses.replace(data, spec=Spec(data.spec.observation, Box((1,), (-0.99,), (0.99,))))
    data = changed(data, actions=((0, 0), np.float32(0.99)))
    assert [finding.code for finding in examine(data)] == ["action-at-bound"]


def test_discrete_spaces() -> None:
    data = tabular()
    assert only(changed(data, actions=(6, 3)), "action-outside").severity == "error"
    wider = dataclasses.replace(data, spec=Spec(Discrete(7), Discrete(5)))
    unused = only(wider, "action-unused")
    assert (unused.severity, unused.count) == ("note", 2)
    assert "3, 4" in unused.message
    assert only(changed(data, observations=(2, 7)), "observation-outside").steps == (2,)
    final = data.final_observations.copy()
    final[9] = -1
    assert only(dataclasses.replace(data, final_observations=final), "observation-outside").episodes == (9,)


def test_propensities() -> None:
    data = tabular()
    probabilities = only(changed(data, behaviour_log_probabilities=np.full(len(data), 1 / 3, np.float32)), "propensity-above-one")
    assert probabilities.severity == "error"
    assert "look like probabilities" in probabilities.advice
    impossible = only(changed(data, behaviour_log_probabilities=(0, -np.inf)), "propensity-zero")
    assert (impossible.severity, impossible.count, impossible.episodes, impossible.steps) == ("error", 1, (0,), (0,))
    # a density may be above 1
    assert examine(changed(point_mass(), behaviour_log_probabilities=np.full(len(point_mass()), 0.5, np.float32))) == []


def test_ends() -> None:
    data = point_mass()
    both = only(changed(data, terminals=(29, True)), "terminal-and-timeout")
    assert (both.severity, both.episodes, both.steps) == ("warning", (0,), (29,))
    assert only(changed(data, timeouts=(54, False)), "open-end").episodes == (1,)
    inside = only(changed(data, terminals=(12, True)), "end-inside-episode")
    assert (inside.severity, inside.column, inside.steps) == ("error", "terminals", (12,))


def test_timeouts_marked_as_terminals() -> None:
    lengths = (50,) * 12 + LENGTHS[:20]  # a limit of 50 steps
    data = point_mass(lengths=lengths)
    assert examine(data) == []
    as_terminals = changed(data, terminals=data.timeouts, timeouts=np.zeros(len(data), np.bool_))
    finding = only(as_terminals, "timeouts-as-terminals")
    assert (finding.severity, finding.count) == ("warning", 12)
    geometric = np.random.default_rng(0).geometric(0.1, 300)  # lengths that tail off, all true terminals
    tail = point_mass(lengths=tuple(int(n) for n in geometric))
    assert examine(changed(tail, terminals=tail.timeouts, timeouts=np.zeros(len(tail), np.bool_))) == []


def test_duplicates_are_warnings_where_chance_cannot_make_them() -> None:
    data = point_mass()
    finding = only(data.select([0, 1, 2, *range(50), 2]), "duplicate-episode")
    assert (finding.severity, finding.count, finding.episodes) == ("warning", 4, (3, 4, 5, 53))
    discrete = tabular()
    assert only(discrete.select([0, *range(60)]), "duplicate-episode").severity == "note"
    bandit = point_mass(lengths=(1,) * 60)
    assert not [f for f in examine(bandit.select([0, *range(60)])) if f.code == "duplicate-episode"]  # one step: contexts come again


def test_groups() -> None:
    data = point_mass()
    episode = np.repeat(np.arange(50), data.lengths)
    assert examine(changed(data, groups=episode)) == []
    note = only(changed(data, groups=episode // 2), "group-of-several-episodes")
    assert (note.severity, note.count) == ("note", 25)
    assert only(changed(changed(data, groups=episode), groups=(3, 999)), "group-changes").steps == (3,)


def test_parts_that_share_groups_or_episodes() -> None:
    data = point_mass()
    data = changed(data, groups=np.repeat(np.arange(50) // 2, data.lengths))
    by_group = data.split(0.6, seed=1, by="group")
    assert examine_parts({"train": by_group[0], "evaluation": by_group[1]}) == []
    found = examine_parts({"train": data.select(range(31)), "evaluation": data.select(range(30, 50))})
    assert [(finding.code, finding.count) for finding in found] == [("group-in-several-parts", 1), ("episode-in-several-parts", 1)]
    assert found[0].severity == "error"
    assert found[0].episodes == (0, 1)  # the second episode of the pair is a copy of nothing, but of the same group


def test_time() -> None:
    data = point_mass()
    clock = np.arange(len(data), dtype=np.float64)
    assert examine(changed(data, infos__time=clock)) == []
    back = only(changed(changed(data, infos__time=clock), infos__time=(33, 0.5)), "time-backwards")
    assert (back.severity, back.episodes, back.steps) == ("error", (1,), (3,))
    assert only(changed(changed(data, infos__time=clock), infos__time=(8, 7.0)), "time-repeats").severity == "warning"
    groups = np.arange(len(data)) * 0 + np.repeat(np.arange(50), data.lengths)
    groups[:55] = 0  # episodes 0 and 1 are one patient's
    overlapping = clock.copy()
    overlapping[30:55] -= 10
    codes = [finding.code for finding in examine(changed(data, infos__time=overlapping, groups=groups))]
    assert codes == ["overlapping-episodes", "group-of-several-episodes"]


def of_shape(shape: tuple[int, ...], dtype: str) -> Dataset:
    rng = np.random.default_rng(0)
    episodes = [
        {
            "observations": rng.integers(256, size=(6, *shape)).astype(dtype),
            "actions": rng.integers(2, size=5),
            "rewards": rng.normal(size=5),
        }
        for _ in range(2)
    ]
    return Dataset.from_episodes(episodes)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((4, 84, 84, 1), "uint8"), ((4, 84, 84, 3), "uint8"), ((84, 84), "float32"), ((4, 84, 84), "float32"), ((36, 40, 3), "float64")],
)
def test_images_that_are_not_read_as_images(shape: tuple[int, ...], dtype: str) -> None:
    found = [finding for finding in examine(of_shape(shape, dtype)) if finding.code == "unread-images"]
    assert [finding.severity for finding in found] == ["warning"]
    assert f"{list(shape)}" in found[0].message and f"{np.prod(shape):,} numbers" in found[0].message
    assert "[H, W], [C, H, W] or [H, W, C]" in found[0].advice


@pytest.mark.parametrize(
    ("shape", "dtype"), [((84, 84), "uint8"), ((4, 36, 36), "uint8"), ((7, 7, 3), "uint8"), ((35, 35), "float32"), ((4, 84), "float32")]
)
def test_what_is_read_as_it_is_meant_is_no_such_image(shape: tuple[int, ...], dtype: str) -> None:
    assert "unread-images" not in [finding.code for finding in examine(of_shape(shape, dtype))]


def test_constant_columns() -> None:
    data = point_mass()
    note = only(changed(data, observations=((slice(None), 1), 0.25)), "constant-observation")
    assert note.severity == "note"
    assert "[1]" in note.message
    warning = only(changed(data, actions=np.full_like(data.actions, 0.5)), "constant-action")
    assert warning.severity == "warning"


def test_leaks() -> None:
    data = point_mass()
    assert examine(changed(data, infos__noise=np.random.default_rng(0).normal(size=len(data)))) == []
    told = only(changed(data, infos__dose=3 * data.actions[:, 0] + 1), "column-tells-action")
    assert (told.severity, told.column) == ("note", "infos/dose")
    discrete = tabular()
    assert only(changed(discrete, infos__code=discrete.actions * 10.0), "column-tells-action").column == "infos/code"
    outcome = np.repeat(data.returns() * 2, data.lengths)
    observations = np.stack([data.observations[:, 0], outcome.astype(np.float32)], axis=1)
    assert only(changed(data, observations=observations), "column-knows-outcome").column == "observations[1]"


def test_wrong_dtypes() -> None:
    data = tabular()
    assert only(changed(data, infos__notes=np.array(["x"] * len(data), dtype=object)), "wrong-dtype").severity == "error"
    assert only(changed(data, behaviour_log_probabilities=np.zeros(len(data), np.int64)), "wrong-dtype").severity == "error"


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("column", "shift"), [("rewards", 1), ("rewards", -1), ("actions", -1), ("actions", 1)])
def test_columns_off_by_one(seed: int, column: str, shift: int) -> None:
    found = {finding.code: finding for finding in examine(rolled(point_mass(seed), column, shift))}
    code = f"{column[:-1]}-shifted"
    assert code in found
    assert found[code].severity == "warning"
    assert len(found[code].episodes) == 5
    # a reward rolled back fits the next step: what was r[t + 1] now stands at t
    if column == "rewards":
        assert set(found) == {code}
        assert ("previous" if shift == 1 else "next") in found[code].message


def stored_next(data: Dataset) -> np.ndarray[Any, Any]:
    return np.asarray(data.next_observations())


def test_stored_next_observations() -> None:
    data = point_mass()
    right = stored_next(data)
    assert examine(changed(data, infos__next_observations=right)) == []
    assert examine_transitions(data.observations, right, data.offsets) == []
    (behind,) = examine_transitions(data.observations, data.observations, data.offsets)
    assert (behind.code, behind.severity) == ("next-observation-shifted", "error")
    assert "one step behind" in behind.message
    ahead = np.concatenate([right[1:], right[-1:]])
    assert any("one step ahead" in finding.message for finding in examine_transitions(data.observations, ahead, data.offsets))
    few = right.copy()
    few[[3, 57, 58]] += 1
    (differs,) = examine_transitions(data.observations, few, data.offsets)
    assert (differs.code, differs.count, differs.episodes, differs.steps) == ("next-observation-differs", 3, (0, 2, 2), (3, 2, 3))


def test_next_observation_of_another_episode() -> None:
    data = point_mass()
    rolled_over = np.roll(data.observations, -1, axis=0)
    (finding,) = examine_transitions(data.observations, rolled_over, data.offsets)
    assert (finding.code, finding.severity, finding.count) == ("next-observation-crosses", "warning", 49)
    assert finding.steps[0] == 29


def test_transitions_agree_across_pieces() -> None:
    # rows of 64 KiB: a piece of 16 MiB holds 256, so three pieces
    observations = np.zeros((600, 1 << 14), np.float32)
    observations[:, 0] = np.arange(600)
    offsets = np.asarray([0, 600])
    right = np.roll(observations, -1, axis=0)
    assert examine_transitions(observations, right, offsets) == []
    right[[255, 256, 511], 0] += 1
    (finding,) = examine_transitions(observations, right, offsets)
    assert finding.steps == (255, 256, 511)


def test_places_are_right_beyond_the_first_piece() -> None:
    observations = np.zeros((600, 1 << 14), np.float32)  # as above: row 300 is in the second piece
    observations[:, 0] = np.random.default_rng(0).normal(size=600)
    observations[[300, 555], 5] = np.nan
    flat = point_mass(lengths=(200, 200, 200))
    wide = {**flat.columns, "observations": observations}
    data = Dataset(Spec(Box((1 << 14,)), flat.spec.action), wide, flat.offsets, observations[:3])
    (finding,) = (finding for finding in examine(data) if finding.severity == "error")
    assert (finding.episodes, finding.steps, finding.count) == ((1, 2), (100, 155), 2)


def test_images_and_tiny_logs_are_examined() -> None:
    random = np.random.default_rng(0)
    columns = {
        "observations": random.integers(0, 255, (40, 8, 8), dtype=np.uint8),
        "actions": random.integers(0, 2, 40),
        "rewards": random.normal(size=40).astype(np.float32),
        "terminals": np.arange(40) % 10 == 9,
        "timeouts": np.zeros(40, np.bool_),
    }
    spec = Spec(Box((8, 8), (0.0,), (255.0,), "uint8"), Discrete(2))
    offsets = np.asarray([0, 10, 20, 30, 40])
    data = Dataset(spec, columns, offsets, columns["observations"][:4])
    assert [finding.code for finding in examine(data)] == ["timeouts-as-terminals"]  # four episodes, all of 10 steps
    assert verdict(examine(point_mass(lengths=(1,)))) == "usable with care"  # one step: its reward is constant


def test_verdict_and_json() -> None:
    note, warning, error = (Finding("x", severity, "y") for severity in ("note", "warning", "error"))
    assert verdict([]) == verdict([note]) == "sound"
    assert verdict([note, warning]) == "usable with care"
    assert verdict([error, warning]) == "unusable"
    bad = changed(point_mass(), observations=((62, 1), np.nan), terminals=(29, True))
    document = findings_to_json(examine(bad))
    assert document == json.loads(json.dumps(document, allow_nan=False))
    assert (document["verdict"], document["errors"], document["warnings"], document["notes"]) == ("unusable", 1, 1, 0)
    assert [item["severity"] for item in document["findings"]] == ["error", "warning"]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 49), st.integers(0, 1), st.sampled_from([np.nan, np.inf, -np.inf]))
def test_any_bad_cell_is_found_where_it_is(seed: int, episode: int, dimension: int, value: float) -> None:
    data = point_mass()
    step = seed % int(data.lengths[episode])
    bad = changed(data, observations=((int(data.offsets[episode]) + step, dimension), value))
    errors = [finding for finding in examine(bad) if finding.severity == "error"]
    assert [(finding.episodes, finding.steps, finding.count) for finding in errors] == [((episode,), (step,), 1)]
    assert f"[{dimension}]" in errors[0].message


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(20)))
def test_the_order_of_episodes_changes_no_code(order: list[int]) -> None:
    data = changed(point_mass(), actions=((7, 0), 3.0), terminals=(29, True))
    assert [f.code for f in examine(data.select(order))] == [f.code for f in examine(data.select(range(20)))]


def test_what_the_reader_left_out_is_told() -> None:
    steps = 8
    log = Dataset.from_flat(
        np.arange(steps, dtype=np.float32)[:, None] ** 2,
        np.linspace(-0.9, 0.9, steps, dtype=np.float32)[:, None],
        np.arange(steps, dtype=np.float32),
        np.zeros(steps, np.bool_),
        np.isin(np.arange(steps), (3, 7)),  # two episodes that the clock ended, and nothing of what followed
    )
    [found] = [f for f in examine(log) if f.code == "dropped-step"]
    assert (found.severity, found.count, found.column) == ("warning", 2, "terminals")
    ended = Dataset.from_flat(
        log.observations, log.actions, log.rewards, np.isin(np.arange(len(log)), (2, 5)), np.zeros(len(log), np.bool_)
    )
    assert not [f for f in examine(ended) if f.code == "dropped-step"]
