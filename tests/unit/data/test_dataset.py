"""The dataset: alignment by construction, what becomes of an episode's end, selection, splitting, files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stitchrl.core.errors import DataError
from stitchrl.core.spec import Box, Discrete, Spec
from stitchrl.data.dataset import Dataset, concatenate
from tests.unit.data.logs import Stream, rich_dataset, streams, transitions_of

PLAIN = Spec(Box((1,)), Discrete(3))


def small() -> Dataset:
    """Two episodes: 1 → 2 → (3) ends the task, 4 → (5) ends by the clock."""
    return Dataset.from_flat([[1], [2], [4]], [0, 1, 2], [1, 10, 100], [0, 1, 0], [0, 0, 1], PLAIN, final_observations=[[3], [5]])


def test_worked_by_hand() -> None:
    d = small()
    assert (len(d), d.episodes, d.lengths.tolist(), d.offsets.tolist()) == (3, 2, [2, 1], [0, 2, 3])
    assert d.next_observations().ravel().tolist() == [2, 3, 5]
    assert d.next_observations([2, 0, -2]).ravel().tolist() == [5, 2, 3]
    assert d.next_observations(1).tolist() == [3]
    for start in range(4):
        for stop in range(4):
            assert d.next_observations(slice(start, stop)).ravel().tolist() == [2, 3, 5][start:stop]
    with pytest.raises(DataError, match="step 2; expected 1"):
        d.next_observations(slice(0, 3, 2))
    assert d.returns().tolist() == [11, 100]
    assert d.returns(0.5).tolist() == [6, 100]
    assert d.episode(1).observations.tolist() == [[4]]
    assert d.episode(-1).final_observations.tolist() == [[5]]
    with pytest.raises(DataError, match="row 3 does not exist"):
        d.next_observations([3])
    with pytest.raises(DataError, match="episode 2 does not exist"):
        d.episode(2)


@given(streams())
def test_every_transition_is_the_streams(drawn: tuple[Stream, Spec]) -> None:
    stream, spec = drawn
    flat = stream.flat()
    assert transitions_of(stream.dataset(spec)) == stream.transitions()
    from_next = Dataset.from_flat(**flat, spec=spec, next_observations=stream.following)
    assert transitions_of(from_next) == stream.transitions()
    episodes = [
        {"observations": o, "actions": a, "rewards": r, "terminals": e}
        for o, a, r, e in zip(stream.observations, stream.actions, stream.rewards, stream.ended, strict=True)
    ]
    joined = Dataset.from_episodes(episodes, spec)
    assert joined.fingerprint() == from_next.fingerprint() == stream.dataset(spec).fingerprint()


@given(streams())
def test_without_final_observations_timeouts_lose_their_last_step(drawn: tuple[Stream, Spec]) -> None:
    stream, spec = drawn
    expected = stream.transitions(drop_unknown=True)
    if not expected:
        with pytest.raises(DataError, match="no transition is left"):
            Dataset.from_flat(**stream.flat(), spec=spec)
        return
    d = Dataset.from_flat(**stream.flat(), spec=spec)
    assert transitions_of(d, unknown_finals=True) == expected
    clock = [len(r) for r, ended in zip(stream.rewards, stream.ended, strict=True) if not ended]
    assert d.metadata.get("dropped_transitions", 0) == len(clock)
    assert d.metadata.get("dropped_episodes", 0) == clock.count(1)
    assert (d.terminals | d.timeouts)[d.offsets[1:] - 1].all()


@given(streams())
def test_unordered_transitions_are_episodes_of_one_step(drawn: tuple[Stream, Spec]) -> None:
    stream, spec = drawn
    order = np.random.default_rng(0).permutation(stream.steps)
    flat = {name: column[order] for name, column in stream.flat().items()}
    d = Dataset.from_flat(**flat, spec=spec, next_observations=stream.following[order], transitions=True)
    assert d.episodes == len(d) == stream.steps
    assert transitions_of(d) == stream.transitions()


def test_a_shuffled_log_is_refused_with_its_place() -> None:
    with pytest.raises(DataError, match=r"episode 0 step 1 \(row 1\).*transitions=True"):
        Dataset.from_flat([[1], [2], [9], [4]], [0] * 4, [0] * 4, [0, 0, 0, 1], next_observations=[[2], [3], [4], [5]])


def test_an_unfinished_episode_is_noted_and_a_double_end_is_a_terminal() -> None:
    d = Dataset.from_flat([[1], [2], [3]], [0, 1, 0], [0, 0, 0], [1, 0, 0], [1, 0, 0])
    assert d.metadata == {"terminal_and_timeout": 1, "unfinished_episode": 1, "dropped_transitions": 1}
    assert d.timeouts.tolist() == [False, True]
    assert d.terminals.tolist() == [True, False]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rewards": [0, 0]}, "'rewards' has 2 rows and 'observations' 3"),
        ({"rewards": [0, 1e39, 0]}, "'rewards' row 1 is too large for float32"),
        ({"actions": ["a", "b", "c"]}, "'actions' holds text"),
        ({"actions": [0, -1, 0]}, "'actions' row 1 is -1"),
        ({"actions": np.eye(3)[[0, 1, 2]], "spec": Spec(Box((1,)), Discrete(3))}, "argmax"),
        ({"actions": [0, 1.5, 0], "spec": PLAIN}, "'actions' row 1 is 1.5; expected a whole number"),
        ({"actions": [0, 7, 0], "spec": PLAIN}, r"row 1 is 7; its space has the values 0 … 2"),
        ({"observations": [[1], [2, 3], [4]]}, "rows differ in shape"),
        ({"observations": []}, "0 rows"),
        ({"terminals": [0, 2, 0]}, "'terminals' row 1 is 2; expected 0 or 1"),
        ({"final_observations": [[1], [2], [3]]}, "'final_observations' has 3 rows and the log 1 episodes"),
        ({"extra": {"colour": [1, 2, 3]}}, "column 'colour' is unknown"),
        ({"extra": {"behaviour_log_probabilities": [0.5, 0.5, 1]}}, "looks like probabilities"),
        ({"extra": {"behaviour_log_probabilities": [-0.5, -math.inf, 0]}}, "-inf in episode 0 step 1"),
        ({"transitions": True}, "transitions=True without 'next_observations'"),
        ({"spec": Spec(Box((2,)), Discrete(3))}, r"rows of shape \[1\]; expected \[2\]"),
        ({"spec": Spec(Box((1,), dtype="uint8"), Discrete(3))}, "expected uint8"),
    ],
)
def test_what_is_wrong_is_refused_in_one_line(change: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {
        "observations": [[1.0], [2.0], [3.0]],
        "actions": [0, 1, 0],
        "rewards": [0, 0, 0],
        "terminals": [0, 0, 1],
    }
    with pytest.raises(DataError, match=message) as caught:
        Dataset.from_flat(**(arguments | change))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_spaces_and_types_are_inferred() -> None:
    def spec_of(observations: object, actions: object) -> tuple[Spec, Dataset]:
        d = Dataset.from_flat(observations, actions, [0, 0], [0, 1])  # type: ignore[arg-type]
        return d.spec, d

    spec, d = spec_of(np.array([[1.0], [2.0]]), np.array([[-1.0], [1.0 + 5e-7]]))
    assert spec == Spec(Box((1,)), Box((1,), (-1.0,), (1.0,)))
    assert d.observations.dtype == np.float32
    assert spec_of([4, 2], np.array([[-3.0, 0.0], [2.0, 0.5]]))[0] == Spec(Discrete(5), Box((2,), (-3.0, 0.0), (2.0, 0.5)))
    frames = np.zeros((2, 4, 4), np.uint8)
    spec, d = spec_of(frames, np.array([0, 5], np.int8))
    assert spec == Spec(Box((4, 4), (0.0,), (255.0,), "uint8"), Discrete(6))
    assert d.observations.dtype == np.uint8
    assert d.actions.dtype == np.int64
    assert spec_of([1.0, 2.0], [True, False])[1].observations.shape == (2, 1)
    half = spec_of(np.array([[1], [2]], np.float16), [0, 1])[1]
    assert half.observations.dtype == np.float32
    reached = Dataset.from_flat([0, 1], [0, 0], [0, 0], [0, 1], next_observations=[1, 7])
    assert reached.spec.observation == Discrete(8)  # a state that is only ever reached last still counts


@given(streams(), st.data())
def test_selection_is_of_whole_episodes(drawn: tuple[Stream, Spec], data: st.DataObject) -> None:
    d = rich_dataset(*drawn)
    chosen = data.draw(st.lists(st.integers(0, d.episodes - 1), min_size=1, max_size=6))
    part = d.select(chosen)
    for place, episode in enumerate(chosen):
        start, stop = d.offsets[episode], d.offsets[episode + 1]
        for name in d.columns:
            assert np.array_equal(part.columns[name][part.offsets[place] : part.offsets[place + 1]], d.columns[name][start:stop])
        assert np.array_equal(part.final_observations[place], d.final_observations[episode])
    together = concatenate([d.episode(i) for i in range(d.episodes)])
    assert together.fingerprint() == d.fingerprint()


def test_neighbours_are_views() -> None:
    d = small()
    assert np.shares_memory(d.select([1]).observations, d.observations)
    assert np.shares_memory(d.select([0, 1]).rewards, d.rewards)


@given(streams(least=2), st.floats(0.05, 0.95), st.integers(0, 5))
def test_a_split_parts_episodes_and_groups(drawn: tuple[Stream, Spec], fraction: float, seed: int) -> None:
    d = rich_dataset(*drawn)
    if d.episodes < 2:
        with pytest.raises(DataError, match="only one episode"):
            d.split(fraction, seed)
        return
    for by in ("episode", "group"):
        first, second = d.split(fraction, seed, by=by)  # type: ignore[arg-type]
        groups = [set(x.columns["groups"].tolist()) for x in (first, second)]
        assert not groups[0] & groups[1]
        assert first.episodes + second.episodes == d.episodes
        assert first.episodes == min(max(round(fraction * d.episodes), 1), d.episodes - 1)
        assert d.split(fraction, seed, by=by)[0].fingerprint() == first.fingerprint()  # type: ignore[arg-type]


def test_a_group_with_two_episodes_is_never_parted() -> None:
    flat = {"observations": np.arange(8.0)[:, None], "actions": [0] * 8, "rewards": [0] * 8, "terminals": [0, 1] * 4}
    d = Dataset.from_flat(**flat, extra={"groups": [7, 7, 3, 3, 7, 7, 3, 3]})
    for seed in range(8):
        assert all(len(set(part.columns["groups"].tolist())) == 1 and part.episodes == 2 for part in d.split(0.5, seed, by="group"))
    mixed = Dataset.from_flat(**flat, extra={"groups": [7, 7, 3, 4, 7, 7, 3, 3]})
    with pytest.raises(DataError, match="changes within episode 1 at step 1"):
        mixed.split(0.5, 0, by="group")


@settings(max_examples=30)
@given(drawn=streams())
def test_saved_and_opened_it_is_the_same(tmp_path_factory: pytest.TempPathFactory, drawn: tuple[Stream, Spec]) -> None:
    d = rich_dataset(*drawn)
    directory = tmp_path_factory.mktemp("saved") / "log"
    d.save(directory)
    opened = Dataset.open(directory)
    assert opened.fingerprint() == d.fingerprint()
    assert opened.spec == d.spec
    assert opened.metadata == d.metadata
    assert isinstance(opened.observations, np.memmap)
    assert isinstance(opened.episode(0).observations, np.memmap)
    opened.save(directory.with_name("again"))
    for file in sorted(directory.iterdir()):
        assert file.read_bytes() == (directory.with_name("again") / file.name).read_bytes()


def test_saving_is_complete_or_not_at_all(tmp_path: Path) -> None:
    d = small()
    d.save(tmp_path / "log")
    with pytest.raises(DataError, match="exists already"):
        d.save(tmp_path / "log")
    bad = Dataset(d.spec, d.columns, d.offsets, d.final_observations, {"x": math.nan})
    with pytest.raises(DataError, match="metadata must be plain JSON"):
        bad.save(tmp_path / "log", overwrite=True)
    assert Dataset.open(tmp_path / "log").metadata == {}
    d.select([0]).save(tmp_path / "log", overwrite=True)
    assert Dataset.open(tmp_path / "log").episodes == 1
    (tmp_path / "precious").mkdir()
    with pytest.raises(DataError, match="is no dataset"):
        d.save(tmp_path / "precious", overwrite=True)
    assert sorted(x.name for x in tmp_path.iterdir()) == ["log", "precious"]


def test_the_fingerprint_sees_every_number_and_no_metadata() -> None:
    d = small()
    columns = {name: np.array(column) for name, column in d.columns.items()}
    assert Dataset(d.spec, columns, d.offsets, d.final_observations, {"name": "other"}).fingerprint() == d.fingerprint()
    columns["rewards"][1] += 1
    assert Dataset(d.spec, columns, d.offsets, d.final_observations).fingerprint() != d.fingerprint()
    assert Dataset(d.spec, d.columns, d.offsets, d.final_observations + 1).fingerprint() != d.fingerprint()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda r: r | {"surprise": 1}, "unknown or missing keys: surprise"),
        (lambda r: r | {"version": 2}, "Upgrade"),
        (lambda r: r | {"format": "pickle"}, "expected 'stitchrl-dataset'"),
        (lambda r: r | {"columns": r["columns"] | {"rewards": "../rewards.npy"}}, "expected a .npy file in the directory"),
        (lambda r: r | {"columns": r["columns"] | {"rewards": "absent.npy"}}, "cannot be opened"),
        (lambda r: r | {"steps": 4}, "the columns hold 3 and 2"),
        (lambda r: r | {"spec": {"observation": {"kind": "os.system"}, "action": {}}}, "'spec' is not understood"),
    ],
)
def test_a_changed_record_is_refused(tmp_path: Path, edit: object, message: str) -> None:
    small().save(tmp_path / "log")
    record = tmp_path / "log" / "dataset.json"
    record.write_text(json.dumps(edit(json.loads(record.read_text()))))  # type: ignore[operator]
    with pytest.raises(DataError, match=message):
        Dataset.open(tmp_path / "log")


def test_concatenation_wants_one_shape() -> None:
    other = Dataset.from_flat([[1.0]], [[0.5]], [0], [1])
    with pytest.raises(DataError, match="dataset 1 has spaces"):
        concatenate([small(), other])
    d = small()
    grouped = Dataset(d.spec, {**d.columns, "groups": np.zeros(3, np.int64)}, d.offsets, d.final_observations)
    with pytest.raises(DataError, match="'groups'"):
        concatenate([d, grouped])


@pytest.mark.parametrize("ends", [True, [False, True]])
def test_an_episode_that_says_only_that_its_task_ended_has_no_timeout(ends: object) -> None:
    episode = {"observations": [[1.0], [2.0], [3.0]], "actions": [0, 1], "rewards": [0.0, 1.0]}
    d = Dataset.from_episodes([episode | {"terminals": ends}, episode | {"terminals": False}])
    assert d.terminals.tolist() == [False, True, False, False]
    assert d.timeouts.tolist() == [False, False, False, True]
    assert "terminal_and_timeout" not in d.metadata
    assert Dataset.from_episodes([episode]).timeouts.tolist() == [False, True]
    both = Dataset.from_episodes([episode | {"terminals": True, "timeouts": True}])
    assert (both.timeouts.any(), both.metadata["terminal_and_timeout"]) == (False, 1)


def test_episodes_that_do_not_fit_are_named() -> None:
    good = {"observations": [[1.0], [2.0]], "actions": [0], "rewards": [0.0], "terminals": True}
    with pytest.raises(DataError, match="episode 1: 'observations' has 1 rows; expected 2 for 1 actions"):
        Dataset.from_episodes([good, good | {"observations": [[1.0]]}])
    with pytest.raises(DataError, match="episode 1: 'observations' has rows of shape"):
        Dataset.from_episodes([good, good | {"observations": [[1.0, 2.0], [2.0, 3.0]]}])
    with pytest.raises(DataError, match="0 episodes"):
        Dataset.from_episodes([])
