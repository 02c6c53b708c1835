"""Flat files (.npz, D4RL's HDF5) and arrays: every transition is the stream's, in each layout; what was written is read again."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings

from stitchrl.core.errors import DataError
from stitchrl.core.spec import Box, Discrete, Spec
from stitchrl.data import sources
from stitchrl.data.dataset import Dataset
from stitchrl.data.doctor import examine
from stitchrl.data.episode_checks import check_reading
from stitchrl.data.frame_stacks import stack_frames
from stitchrl.data.sources import arrays, d4rl_hdf5, npz
from stitchrl.verbs.data import convert
from tests.unit.data.image_logs import single
from tests.unit.data.logs import Stream, rich_dataset, streams, transitions_of


def test_a_log_of_terminals_alone_is_told_to_know_no_clock(tmp_path: Path) -> None:
    """D4RL's first files: of episodes of 10 steps by the clock, one ended by the task before, two are read where nothing tells."""
    rng, ends = np.random.default_rng(0), np.arange(47) == 16
    columns = {"observations": rng.normal(size=(47, 2)), "actions": rng.uniform(-1, 1, (47, 1)), "rewards": rng.normal(size=47)}
    np.savez(tmp_path / "log.npz", **columns, terminals=ends)
    found = [x for x in check_reading(sources.read(tmp_path / "log.npz")) if x.code == "timeouts-unknown"]
    assert [x.severity for x in found] == ["warning"] and "each goes on to the next terminal, 29 steps at most" in found[0].message
    assert convert([str(tmp_path / "log.npz"), "--episode-length", "10", "--to", str(tmp_path / "cut")]) == 0
    cut = sources.read(tmp_path / "cut")
    # of an episode that the clock ended it is not told where its last step led to, so the step is left out
    assert cut.lengths.tolist() == [9, 7, 9, 9, 9] and "timeouts_unknown" not in cut.metadata


@settings(max_examples=40)
@given(drawn=streams())
def test_npz_and_hdf5_give_back_what_was_written(tmp_path_factory: pytest.TempPathFactory, drawn: tuple[Stream, Spec]) -> None:
    d = rich_dataset(*drawn)
    folder = tmp_path_factory.mktemp("flat")
    npz.write(d, folder / "log.npz")
    npz.write(d, folder / "small.npz", compressed=True)
    d4rl_hdf5.write(d, folder / "log.hdf5")
    read = [npz.read(folder / "log.npz"), npz.read(folder / "small.npz"), d4rl_hdf5.read(folder / "log.hdf5", isolated=False)]
    for again in read:
        assert again.fingerprint() == d.fingerprint()
        assert (again.spec, again.metadata) == (d.spec, d.metadata)
    assert sorted(x.name for x in folder.iterdir()) == ["log.hdf5", "log.npz", "small.npz"]


@settings(max_examples=3)
@given(drawn=streams())
def test_hdf5_read_in_a_process_of_its_own_is_the_same(tmp_path_factory: pytest.TempPathFactory, drawn: tuple[Stream, Spec]) -> None:
    d = rich_dataset(*drawn)
    path = tmp_path_factory.mktemp("isolated") / "log.hdf5"
    d4rl_hdf5.write(d, path)
    assert sources.read(path).fingerprint() == d.fingerprint()


@settings(max_examples=40)
@given(drawn=streams(discrete=False))
def test_d4rls_layouts_are_aligned(tmp_path_factory: pytest.TempPathFactory, drawn: tuple[Stream, Spec]) -> None:
    stream, spec = drawn
    path = tmp_path_factory.mktemp("d4rl") / "log.hdf5"
    flat = stream.flat()
    options: dict[str, Any] = {"spec": spec, "isolated": False}

    def written(columns: dict[str, Any]) -> Path:
        with h5py.File(path, "w") as file:
            for name, column in columns.items():
                file[name] = column
            file["metadata/algorithm"] = "SAC"  # text, as in D4RL's own files
        return path

    d = d4rl_hdf5.read(written(flat | {"next_observations": stream.following}), **options)
    assert transitions_of(d) == stream.transitions()
    assert d.timeouts.sum() == flat["timeouts"].sum()
    # without timeouts the jumps in next_observations tell where episodes ended
    lost = {name: column for name, column in flat.items() if name != "timeouts"}
    d = d4rl_hdf5.read(written(lost | {"next_observations": stream.following}), **options)
    assert transitions_of(d) == stream.transitions()
    assert d.episodes == len(stream.rewards)
    expected = stream.transitions(drop_unknown=True)
    if expected:
        assert transitions_of(d4rl_hdf5.read(written(flat), **options), unknown_finals=True) == expected


@given(streams(discrete=False, least=2))
def test_ogbenchs_layout_ends_trajectories_by_the_clock(drawn: tuple[Stream, Spec]) -> None:
    stream, spec = drawn
    rows = {  # T + 1 rows a trajectory; the last action is never used
        "observations": np.concatenate(stream.observations),
        "actions": np.concatenate([np.concatenate([a, a[-1:] * 0]) for a in stream.actions]),
        "terminals": np.concatenate([np.arange(len(o)) == len(o) - 1 for o in stream.observations]).astype(np.float32),
        "qpos": np.zeros((stream.steps + len(stream.rewards), 2)),
    }
    d = arrays.read(rows, spec=spec)
    assert d.metadata["rewards_missing"]
    assert d.metadata["dropped_transitions"] == len(stream.rewards)
    assert d.metadata["columns_left_out"] == ["qpos"]
    assert not d.terminals.any()
    assert not d.rewards.any()
    assert np.array_equal(d.next_observations(), stream.following)
    assert np.array_equal(d.actions, np.concatenate(stream.actions))


def test_a_mask_of_zero_is_a_terminal_with_its_next_observation() -> None:
    rows = {
        "observations": np.arange(5.0)[:, None],
        "actions": np.zeros((5, 1)),
        "rewards": np.array([-1, 0, -1, -1, -1.0]),
        "terminals": np.array([0, 0, 0, 0, 1.0]),
        "masks": np.array([1, 0, 1, 1, 1.0]),
    }
    d = arrays.read(rows)
    assert d.terminals.tolist() == [False, True, False, False]
    assert d.timeouts.tolist() == [False, False, False, True]
    assert d.next_observations().ravel().tolist() == [1, 2, 3, 4]


def test_other_peoples_names() -> None:
    rows = {
        "episode": np.array([4, 4, 2]),
        "t": np.array([0, 1, 0]),
        "state": np.array([0, 1, 5]),
        "next_state": np.array([1, 3, 6]),
        "action": np.array([0, 1, 1], np.int8),
        "reward": np.array([0, 1, 0], np.int8),
        "terminal": np.array([0, 1, 0], bool),
        "behavior_prob": np.array([0.5, 0.25, 1.0]),
    }
    d = arrays.read(rows)
    assert (d.spec, d.lengths.tolist()) == (Spec(Discrete(7), Discrete(2)), [2, 1])
    assert d.final_observations.tolist() == [3, 6]
    assert np.allclose(d.columns["behaviour_log_probabilities"], np.log([0.5, 0.25, 1.0]))
    assert d.columns["infos/t"].tolist() == [0, 1, 0]
    starts = {"obs": np.arange(4.0), "actions": np.zeros(4, int), "rewards": np.zeros(4), "episode_starts": np.array([1, 0, 1, 0])}
    assert arrays.read(starts).next_observations().ravel().tolist() == [1, 3]
    fixed = {"observations": np.arange(6.0), "actions": np.zeros(6, int), "rewards": np.zeros(6), "terminals": np.zeros(6)}
    assert arrays.read(fixed, episode_length=3).lengths.tolist() == [2, 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"actions": None, "acton": [0, 0]}, "no column 'actions'.*nearest is 'acton'"),
        ({"terminals": None}, "the ends of episodes are unknown"),
        ({"terminals": None, "dones": [0, 1]}, "'dones' does not say whether"),
        ({"propensity": [0.5, 0.0]}, r"behaviour probabilities in 1 rows, first 1 \(0\)"),
        ({"propensity": [-0.5, -2.0]}, "look like log-probabilities"),
        ({"terminals": None, "episode": [1, 1]}, None),
        ({"terminals": [0, 0], "timeouts": [0, 0]}, None),
    ],
)
def test_missing_and_doubtful_columns(change: dict[str, Any], message: str | None) -> None:
    columns = {"observations": [[0.0], [1.0]], "actions": [0, 0], "rewards": [0, 0], "terminals": [0, 1]} | change
    given_columns = {name: np.asarray(value) for name, value in columns.items() if value is not None}
    if message is None:
        assert len(arrays.read(given_columns)) == 1
        return
    with pytest.raises(DataError, match=message) as caught:
        arrays.read(given_columns, where="log.npz")
    assert str(caught.value).startswith("log.npz: ")


def test_read_picks_by_what_is_there(tmp_path: Path) -> None:
    d = Dataset.from_flat([[1.0], [2.0]], [0, 1], [0, 1], [0, 1])
    for name in ("log.npz", "log.h5", "log.csv", "log.parquet", "log"):
        sources.write(d, tmp_path / name)
        assert np.array_equal(sources.read(tmp_path / name).observations, d.observations)
    (tmp_path / "log.npz").rename(tmp_path / "unnamed")
    assert sources.read(tmp_path / "unnamed").fingerprint() == d.fingerprint()
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("hello")
    for path, message in (("absent.npz", "no such file"), ("empty", "neither dataset.json"), ("notes.txt", "of no known kind")):
        with pytest.raises(DataError, match=message):
            sources.read(tmp_path / path)
    with pytest.raises(DataError, match="unexpected keyword argument 'colour'"):
        sources.read(tmp_path / "log.csv", colour=1)


def test_bounds_of_actions_that_nobody_stated_are_known_as_guesses() -> None:
    rows = {"observations": np.zeros((2, 1)), "actions": np.array([[0.1], [0.9]]), "rewards": np.zeros(2), "terminals": np.array([0, 1])}
    stated = Spec(Box((1,)), Box((1,), (-2.0,), (2.0,)))
    assert arrays.read(rows).metadata["action_bounds_inferred"] and arrays.read(rows).spec.action == Box((1,), (-1.0,), (1.0,))
    assert "action_bounds_inferred" not in arrays.read(rows, spec=stated).metadata
    assert "action_bounds_inferred" not in arrays.read(rows | {"actions": np.array([0, 1])}).metadata


@pytest.mark.parametrize("compression", ["gzip", None])
def test_stacks_are_written_to_hdf5_piece_by_piece(tmp_path: Path, compression: Any) -> None:
    log = stack_frames(single((1_200, 900)), 8)
    d4rl_hdf5.write(stack_frames(single((3,)), 8), tmp_path / "first.hdf5")  # h5py's own imports
    tracemalloc.start()
    d4rl_hdf5.write(log, tmp_path / "log.hdf5", compression)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert log.observations.size > 20 << 20
    assert most < 16 << 20
    back = d4rl_hdf5.read(tmp_path / "log.hdf5")
    assert back.fingerprint() == log.fingerprint()
    with h5py.File(tmp_path / "log.hdf5") as file:
        for start in range(0, len(log), 500):
            rows = slice(start, start + 500)
            assert np.array_equal(file["next_observations"][rows], log.next_observations(rows))


@pytest.mark.parametrize("ids", [[7, 7, 3, 3, 3], ["b", "b", "a", "a", "a"]])
def test_episodes_are_told_apart_by_their_column_beside_timeouts_of_zeros(tmp_path: Path, ids: list[object]) -> None:
    rows = {"observations": np.arange(5.0)[:, None], "actions": np.zeros((5, 1)), "rewards": np.ones(5)}
    rows |= {
        "terminals": np.zeros(5),
        "timeouts": np.zeros(5),
        "next_observations": np.arange(1.0, 6)[:, None],
        "episode_id": np.array(ids),
    }
    np.savez(tmp_path / "log.npz", **rows)
    d = npz.read(tmp_path / "log.npz")
    assert d.lengths.tolist() == [2, 3] and d.timeouts.tolist() == [False, True, False, False, True]
    np.savez(tmp_path / "log.npz", **rows | {"episode_id": np.array(ids)[:, None]} if ids[0] == 7 else rows)
    assert npz.read(tmp_path / "log.npz").lengths.tolist() == [2, 3]
    del rows["timeouts"]
    np.savez(tmp_path / "log.npz", **rows | {"episode_id": np.array(ids)[[0, 2, 1, 3, 4]]})
    with pytest.raises(DataError, match="an episode's rows are not together"):
        npz.read(tmp_path / "log.npz")
    np.savez(tmp_path / "log.npz", **rows | {"episode_id": np.array(ids)[:4]})
    with pytest.raises(DataError, match=r"'episode' has shape \[4\]"):
        npz.read(tmp_path / "log.npz")


@pytest.mark.parametrize(
    "told", [{"episodes": np.array(2)}, {"episode_ids": np.arange(2)}, {"episode": np.array([0, 0, 1, 1, 0])}, {"episode": np.ones(5) / 3}]
)
def test_a_column_that_tells_no_ends_leaves_good_timeouts_alone(told: dict[str, Any]) -> None:
    rows = {
        "observations": np.arange(5.0)[:, None],
        "actions": np.zeros((5, 1)),
        "rewards": np.ones(5),
        "timeouts": np.array([0, 1, 0, 0, 1.0]),
    }
    rows |= {"next_observations": np.arange(1.0, 6)[:, None]}
    d = arrays.read(rows | told)
    assert d.lengths.tolist() == [2, 3]
    (found,) = [finding for finding in examine(d) if finding.code == "columns-left-out"]
    assert found.severity == "note"


TWO_EPISODES = {
    "observations": np.arange(4.0)[:, None],
    "actions": np.zeros((4, 1)),
    "rewards": np.ones(4),
    "terminals": np.array([0, 1, 0, 1.0]),
}


def test_text_beside_the_numbers_of_episodes_is_no_column(tmp_path: Path) -> None:
    np.savez(tmp_path / "log.npz", **TWO_EPISODES, episode=np.array([0, 0, 1, 1]), episode_id=np.array(list("aabb")))
    assert npz.read(tmp_path / "log.npz").lengths.tolist() == [2, 2]
    np.savez(tmp_path / "log.npz", **TWO_EPISODES, episode=np.array("an episode log"))
    assert npz.read(tmp_path / "log.npz").lengths.tolist() == [2, 2]


def test_columns_that_are_not_read_are_told_by_the_examination(tmp_path: Path) -> None:
    np.savez(tmp_path / "log.npz", **TWO_EPISODES, ward=np.array(list("abcd")), about=np.array("a description"))
    d = npz.read(tmp_path / "log.npz")
    assert d.metadata["columns_left_out"] == ["ward"]
    (found,) = [finding for finding in examine(d) if finding.code == "columns-left-out"]
    assert found.severity == "note" and "'ward'" in found.message
    with h5py.File(tmp_path / "log.hdf5", "w") as file:
        for name, values in TWO_EPISODES.items():
            file[name] = values
        file["episode_id"] = np.array([b"a", b"a", b"b", b"b"])
    (found,) = [f for f in examine(d4rl_hdf5.read(tmp_path / "log.hdf5", isolated=False)) if f.code == "columns-left-out"]
    assert found.severity == "warning" and "'episode_id'" in found.message


def test_an_unfinished_trajectory_of_ogbenchs_layout_is_told_by_its_number() -> None:
    rows = {"observations": np.arange(6.0)[:, None], "actions": np.zeros((6, 1)), "terminals": np.array([0, 0, 1, 0, 0, 0.0])}
    d = arrays.read(rows)
    assert d.episodes == 2 and d.metadata["unfinished_episode"] == 1
    d = arrays.read({name: column[:4] for name, column in rows.items()})  # of the last one no step is left
    assert d.episodes == 1 and "unfinished_episode" not in d.metadata
