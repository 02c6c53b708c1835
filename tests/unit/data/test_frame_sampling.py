"""Batches of images: the log's own observations, uint8, from frames that are gathered and never packed."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from stitchrl import algorithms
from stitchrl.core.algorithm import build
from stitchrl.core.batch import NextActionTransitions, Transitions
from stitchrl.core.errors import ConfigError, DataError
from stitchrl.core.frame_batch import FrameRows, gather
from stitchrl.core.spec import Box, Discrete, Spec
from stitchrl.core.windows import Windows
from stitchrl.data.dataset import Dataset
from stitchrl.data.frame_sampling import READERS, FramesInPlace, StreamedFrames, frame_table
from stitchrl.data.frame_stacks import stack_frames
from stitchrl.data.sampling import batch_rows, row_width, rows_of
from stitchrl.data.transforms import affine_rewards, standardize_observations
from tests.unit.data.image_logs import dense, single

CPU = torch.device("cpu")
SCALED = [affine_rewards(2.0, 1.0)]


def log(depth: int = 4) -> Dataset:
    return stack_frames(single((9, 1, 12, 3)), depth)


@pytest.mark.parametrize("depth", [1, 4])
@pytest.mark.parametrize("stored", ["once", "whole"])
def test_a_batch_holds_the_log_s_observations(depth: int, stored: str) -> None:
    dataset = log(depth) if stored == "once" else dense(log(depth))
    rows = rows_of(dataset, Transitions(), SCALED, CPU, 1 << 30)
    index = torch.tensor([[0, 8, 9], [24, 10, 0]])
    for source in (rows, StreamedFrames(rows.table, CPU)):
        found = gather(*source.gather(index), torch.float32)
        assert isinstance(found, FrameRows)
        batch = Transitions().unpack(FrameRows(*(x.flatten(0, 1) for x in found)), dataset.spec)
        chosen = index.flatten().numpy()
        assert batch.observations.dtype == batch.next_observations.dtype == torch.uint8
        assert np.array_equal(batch.observations, dataset.observations[chosen])
        assert np.array_equal(batch.next_observations, dataset.next_observations(chosen))
        assert np.allclose(batch.rewards, 2 * dataset.rewards[chosen] + 1)
        assert batch.actions.tolist() == dataset.actions[chosen].tolist()
        assert batch.terminals.tolist() == dataset.terminals[chosen].tolist()


def test_on_a_cpu_frames_are_the_log_s_own_memory(tmp_path: Path) -> None:
    dataset = log()
    rows = rows_of(dataset, Transitions(), [], CPU, 0)
    assert isinstance(rows, FramesInPlace)
    assert rows.table.frames.data_ptr() == dataset.observations.frames.ctypes.data
    dataset.save(tmp_path / "log")
    opened = Dataset.open(tmp_path / "log")  # read-only: no warning either
    assert frame_table(opened, Transitions(), []).frames.data_ptr() == opened.observations.frames.ctypes.data


def test_a_streamed_table_has_one_size_whatever_is_drawn() -> None:
    rows = StreamedFrames(frame_table(log(), Transitions(), []), CPU)
    sizes = [rows.gather(torch.randint(rows.size, (2, 8), generator=torch.Generator().manual_seed(s)))[0].frames.shape for s in range(3)]
    assert sizes == [(2 * 8 * 5, 36, 36)] * 3


def test_chosen_rows_are_a_batch() -> None:
    found = batch_rows(log(), Transitions(), [], np.array([3, 24]), CPU, torch.float64)
    batch = Transitions().unpack(found, log().spec)
    assert np.array_equal(batch.observations, log().observations[[3, 24]])
    assert batch.rewards.dtype == torch.float64


def test_chosen_rows_of_whole_images_are_read_alone() -> None:
    dataset, rows = dense(stack_frames(single((400, 300)), 4)), np.array([699, 3, 399])
    tracemalloc.start()
    found = batch_rows(dataset, Transitions(), SCALED, rows, CPU, torch.float32)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < dataset.observations.nbytes / 10
    batch = Transitions().unpack(found, dataset.spec)
    assert np.array_equal(batch.observations, dataset.observations[rows])
    assert np.array_equal(batch.next_observations, dataset.next_observations(rows))
    assert np.allclose(batch.rewards, 2 * dataset.rewards[rows] + 1)


@pytest.mark.parametrize(
    ("action", "words"), [(Discrete(3), "with integer actions learn with bc, bcq, cql, dec"), (Box((2,)), "real-valued")]
)
def test_those_that_read_images_are_named_by_the_kind_of_action(action: Discrete | Box, words: str) -> None:
    spec = Spec(log().spec.observation, action)
    columns = {**log().columns} | ({} if isinstance(action, Discrete) else {"actions": np.zeros((25, 2), np.float32)})
    with pytest.raises(ConfigError, match=f"NextActionTransitions do not read; .*{words}"):
        rows_of(Dataset(spec, columns, log().offsets, log().final_observations), NextActionTransitions(), [], CPU, 1 << 30)

    def reads(name: str) -> bool:
        algorithm, config = algorithms.find(name)
        if algorithm.action_space not in ("any", "discrete" if isinstance(action, Discrete) else "box"):
            return False
        try:  # windows are refused by the network that does not read them, others by the data
            return isinstance(algorithm.batch, Transitions) or bool(
                isinstance(algorithm.batch, Windows) and build(algorithm, config(), spec, 0)
            )
        except ConfigError:
            return False

    assert READERS[type(action)] == tuple(name for name in algorithms.names() if reads(name))


def test_what_does_not_read_images_says_so() -> None:
    with pytest.raises(ConfigError, match="images, which only a log holds"):
        row_width(Transitions(), Spec(log().spec.observation, log().spec.action))
    with pytest.raises(DataError, match="images, which the network divides by 255"):
        standardize_observations(log())
