"""Packed rows: one row a step, on the device at once or block by block, the same numbers either way."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stitchrl.algorithms.td3_bc import TD3BC, TD3BCConfig
from stitchrl.core.batch import Transitions
from stitchrl.core.spec import Box, Spec
from stitchrl.data import sampling
from stitchrl.data.dataset import Dataset
from stitchrl.data.sampling import DeviceRows, StreamedRows, pack_rows, rows_of, streamed_rows
from stitchrl.data.transforms import affine_rewards
from stitchrl.training.learner import Learner, Training

CPU = torch.device("cpu")
SPEC = Spec(Box((3,)), Box((2,), (-1.0,), (1.0,)))
SCALED = [affine_rewards(2.0, 1.0)]


def log(steps: int = 200) -> Dataset:
    rng = np.random.default_rng(0)
    ends = rng.random(steps) < 0.1
    ends[-1] = True
    terminals = ends & (rng.random(steps) < 0.5)
    columns = rng.standard_normal((steps, 3)), np.tanh(rng.standard_normal((steps, 2))), rng.standard_normal(steps)
    final = rng.standard_normal((int(ends.sum()), 3))
    return Dataset.from_flat(*columns, terminals, ends & ~terminals, SPEC, final_observations=final)


def test_a_row_holds_one_step_side_by_side() -> None:
    d = Dataset.from_flat([[1], [2]], [[0.5], [0.25]], [10, 20], [0, 1], [0, 0], final_observations=[[3]])
    assert pack_rows(d, Transitions(), SCALED).tolist() == [[1, 0.5, 21, 0, 2], [2, 0.25, 41, 1, 3]]


def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pack_rows(log(), Transitions(), SCALED)
    monkeypatch.setattr(sampling, "CHUNK", 7)
    assert np.array_equal(pack_rows(log(), Transitions(), SCALED), whole)
    order = np.random.default_rng(1).permutation(200)
    assert np.array_equal(pack_rows(log(), Transitions(), SCALED, order), whole[order])


def test_streamed_rows_are_those_on_the_device() -> None:
    whole = torch.from_numpy(pack_rows(log(), Transitions(), SCALED))
    streamed = streamed_rows(log(), Transitions(), SCALED, CPU)
    index = torch.randint(200, (6, 2, 50), generator=torch.Generator().manual_seed(0))  # with repeats
    table, position = streamed.gather(index)
    assert torch.equal(table[position], whole[index])
    assert table.shape == (600, 10)  # of one shape whatever is drawn: a compiled step is compiled once


def test_where_rows_are_kept_depends_on_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    size = 200 * 10 * 4
    assert isinstance(rows_of(log(), Transitions(), [], CPU, size), DeviceRows)
    assert isinstance(rows_of(log(), Transitions(), [], CPU, size - 1), StreamedRows)
    monkeypatch.setattr(sampling, "PACKED_ON_CPU", size - 1)
    assert isinstance(rows_of(log(), Transitions(), [], CPU, size), StreamedRows)


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_learning_is_the_same_bit_for_bit(seeds: tuple[int, ...]) -> None:
    learners = []
    for limit in (1 << 30, 0):
        rows = rows_of(log(), Transitions(), SCALED, CPU, limit)
        settings = Training(steps=100, batch_size=16, compile="off")
        learner = Learner(TD3BC, TD3BCConfig(hidden=(8, 8)), SPEC, rows, seeds, settings, CPU)
        for _ in range(70):
            learner.advance()
        learners.append(learner)
    here, streamed = (learner.tensors() for learner in learners)
    assert all(torch.equal(here[name], streamed[name]) for name in here)
    (batch, numbers), (batch_streamed, numbers_streamed) = (learner.last_batch() for learner in learners)
    assert torch.equal(batch, batch_streamed)
    assert torch.equal(numbers, numbers_streamed)
    assert torch.equal(batch, torch.from_numpy(pack_rows(log(), Transitions(), SCALED))[numbers])
