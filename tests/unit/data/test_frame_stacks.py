"""Stacked frames: what an observation holds, by hand; and that no frame is stored twice, in memory or on disk."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from stitchrl.core.errors import DataError
from stitchrl.core.spec import Box, Spec
from stitchrl.data.dataset import Dataset, concatenate
from stitchrl.data.frame_stacks import FrameStacks, frames_of, stack_frames, stacks_of_episodes
from stitchrl.data.sources import read, write
from tests.unit.data.image_logs import SIDE, dense, single


def shades(observations: np.ndarray) -> list[list[int]]:
    return np.asarray(observations)[:, :, 0, 0].tolist()


def test_a_stack_is_the_frames_so_far_and_the_first_again() -> None:
    log = stack_frames(single((3, 2)), 3)  # frames 0 … 3 and 4 … 6
    assert shades(log.observations) == [[0, 0, 0], [0, 0, 1], [0, 1, 2], [4, 4, 4], [4, 4, 5]]
    assert shades(log.final_observations) == [[1, 2, 3], [4, 5, 6]]
    assert shades(log.next_observations()) == [[0, 0, 1], [0, 1, 2], [1, 2, 3], [4, 4, 5], [4, 5, 6]]
    assert shades(log.next_observations([4, 2])) == [[4, 5, 6], [1, 2, 3]]
    assert log.spec.observation.shape == (3, SIDE, SIDE)


def test_it_reads_like_an_array() -> None:
    stacks, whole = stack_frames(single(), 3).observations, dense(stack_frames(single(), 3)).observations
    assert isinstance(stacks, FrameStacks)
    assert (stacks.shape, stacks.ndim, stacks.dtype, len(stacks), stacks.size) == (whole.shape, 4, np.uint8, 5, whole.size)
    for rows in (2, -1, slice(1, 4), [4, 0, 0], np.array([True, False, True, False, True]), np.array([[0, 1], [2, 3]]), (slice(0, 3), 2)):
        assert np.array_equal(stacks[rows], whole[rows])
    assert np.array_equal(np.asarray(stacks), whole)
    assert np.asarray(stacks, np.float32).dtype == np.float32


def test_choosing_and_joining_episodes_moves_no_frame() -> None:
    log = stack_frames(single((3, 2, 4, 1)), 2)
    whole = dense(log)
    frames = log.observations.frames
    first, second = log.split(0.5, seed=0)
    for part, same in [
        (log.select([2, 0]), whole.select([2, 0])),
        (concatenate([second, first]), concatenate([dense(second), dense(first)])),
    ]:
        assert part.fingerprint() == same.fingerprint()
        assert frames_of(part) is not None and part.observations.frames is frames
    other = stack_frames(single((2, 2), seed=1), 2)
    both = concatenate([log.select([1, 3]), other])
    assert both.fingerprint() == concatenate([whole.select([1, 3]), dense(other)]).fingerprint()
    assert len(both.observations.frames) == (2 + 1) + (1 + 1) + (2 + 1) + (2 + 1)


def test_a_directory_and_a_file_hold_each_frame_once(tmp_path: Path) -> None:
    log = stack_frames(single((40, 30)), 4)
    chosen = log.select([1])
    for name, part in (("all", log), ("one", chosen)):
        part.save(tmp_path / name)
        opened = Dataset.open(tmp_path / name)
        assert opened.fingerprint() == part.fingerprint() == dense(part).fingerprint()
        assert isinstance(opened.observations.frames, np.memmap)
    assert sum(f.stat().st_size for f in (tmp_path / "all").iterdir()) < 72 * SIDE * SIDE + 6_000
    assert sum(f.stat().st_size for f in (tmp_path / "one").iterdir()) < 31 * SIDE * SIDE + 6_000
    write(log, tmp_path / "log.npz")
    assert (tmp_path / "log.npz").stat().st_size < 72 * SIDE * SIDE + 8_000
    back = read(tmp_path / "log.npz")
    assert frames_of(back) is not None and back.fingerprint() == log.fingerprint()


@pytest.mark.parametrize(
    ("stack", "words"), [(0, "'frame_stack' is 0"), ("4", "'frame_stack' is 4"), (True, "frame_stack"), (10**6, "frame_stack")]
)
def test_a_directory_with_a_wrong_stack_is_refused(tmp_path: Path, stack: object, words: str) -> None:
    stack_frames(single(), 4).save(tmp_path / "log")
    record = json.loads((tmp_path / "log" / "dataset.json").read_text())
    (tmp_path / "log" / "dataset.json").write_text(json.dumps({**record, "frame_stack": stack}))
    with pytest.raises(DataError, match=words):
        Dataset.open(tmp_path / "log")


def test_another_depth_than_the_spec_s_is_refused(tmp_path: Path) -> None:
    stack_frames(single(), 4).save(tmp_path / "log")
    record = json.loads((tmp_path / "log" / "dataset.json").read_text())
    (tmp_path / "log" / "dataset.json").write_text(json.dumps({**record, "frame_stack": 3}))
    with pytest.raises(DataError, match="rows of shape"):
        Dataset.open(tmp_path / "log")


def reshaped(dataset: Dataset, shape: tuple[int, ...], repeats: int = 1) -> Dataset:
    """The same frames in another shape, each pixel so often."""
    frames, final = (np.repeat(x.reshape(-1), repeats).reshape(-1, *shape) for x in (dataset.observations, dataset.final_observations))
    spec = Spec(Box(shape, (0.0,), (255.0,), "uint8"), dataset.spec.action)
    return Dataset(spec, {**dataset.columns, "observations": frames}, dataset.offsets, final, dataset.metadata)


@pytest.mark.parametrize("shape", [(1, SIDE, SIDE), (SIDE, SIDE, 1)])
def test_frames_with_an_axis_of_one_are_stacked_without_it(shape: tuple[int, ...]) -> None:
    log = single((3, 2))
    assert stack_frames(reshaped(log, shape), 4).fingerprint() == stack_frames(log, 4).fingerprint()
    assert stack_frames(stack_frames(log, 1), 4).fingerprint() == stack_frames(log, 4).fingerprint()


@pytest.mark.parametrize("shape", [(SIDE, SIDE, 3), (3, SIDE, SIDE)])
def test_coloured_frames_are_refused_with_a_way_to_go_on(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"uint8 \[.*grey frames \[H, W\].*cv2.cvtColor\(frame, cv2.COLOR_RGB2GRAY\), \(84, 84\)"):
        stack_frames(reshaped(single(), shape, 3), 4)


def test_mistakes_are_told() -> None:
    log = single()
    with pytest.raises(DataError, match="7 frames for 6 steps in 2 episodes"):
        stacks_of_episodes(np.zeros((7, 2, 2), np.uint8), np.array([0, 3, 6]), 4)
    with pytest.raises(DataError, match="expected single frames"):
        stack_frames(stack_frames(log, 2), 2)
    with pytest.raises(DataError, match="a stack of 0 frames"):
        stack_frames(log, 0)
