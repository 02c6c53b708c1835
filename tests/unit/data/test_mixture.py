"""Batches of a log and a replay: how many rows of each, drawn from whom, and that they are the rows themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stitchrl.core.batch import Transitions
from stitchrl.core.errors import CheckpointError
from stitchrl.core.spec import Box, Discrete, Spec
from stitchrl.data.dataset import Dataset
from stitchrl.data.replay import Mixture, Replay
from stitchrl.data.sampling import ChosenRows, DeviceRows, pack_rows, streamed_rows

CPU = torch.device("cpu")


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def replay(count: int, start: float, capacity: int = 20) -> Replay:
    """Rows (start + i, -i)."""
    made = Replay(capacity, 2, CPU)
    made.extend(torch.tensor([[start + i, -float(i)] for i in range(count)]))
    return made


LOG = DeviceRows(torch.stack([torch.arange(10.0), torch.full((10,), 7.0)], 1))


@pytest.mark.parametrize("from_log", [0, 3, 5])
def test_each_batch_holds_exactly_its_share_of_the_log(from_log: int) -> None:
    rows = Mixture(LOG, [replay(4, 100)], from_log)
    index = rows.draw(0, (6, 8), generator())
    assert index.shape == (6, 8) and ((index < 10).sum(1) == from_log).all()
    table, position = rows.gather(index)
    values = table[position]  # [6, 8, 2]
    assert ((values[..., 1] == 7).sum(1) == from_log).all()
    for number, value in zip(index.reshape(-1).tolist(), values.reshape(-1, 2).tolist(), strict=True):
        assert value == ([number, 7] if number < 10 else [100 + number - 10, 10 - number])


def test_all_rows_of_log_and_replay_are_drawn_alike_and_no_others() -> None:
    index = Mixture(LOG, [replay(4, 100)], 4).draw(0, (4_000, 8), generator())
    log, own = index[:, :4].reshape(-1), index[:, 4:].reshape(-1)
    assert torch.bincount(log, minlength=14)[10:].sum() == 0 and set(own.tolist()) == {10, 11, 12, 13}
    # 16,000 draws: 1,600 of each of ten rows (standard deviation 38), 4,000 of each of four (55)
    assert (torch.bincount(log) - 1_600).abs().max() < 5 * 38 and (torch.bincount(own)[10:] - 4_000).abs().max() < 5 * 55


def test_a_poured_log_and_the_replay_are_one() -> None:
    rows = Mixture(LOG, [replay(4, 100)], None)
    index = rows.draw(0, (2_000, 8), generator())
    assert set(index.unique().tolist()) == set(range(14))
    assert (torch.bincount(index.reshape(-1)) - 16_000 / 14).abs().max() < 5 * 33  # standard deviation 32.6
    table, position = rows.gather(index[:5])
    expected = torch.cat([LOG.table, torch.tensor([[100.0 + i, -i] for i in range(4)])])
    assert torch.equal(table[position], expected[index[:5]])


@pytest.mark.parametrize("from_log", [2, None])
def test_each_seed_reads_its_own_replay(from_log: int | None) -> None:
    rows = Mixture(LOG, [replay(4, 100), replay(2, 200)], from_log)
    index = torch.stack([rows.draw(i, (3, 6), generator()) for i in range(2)], 1)  # [K, S, B]
    table, position = rows.gather(index)
    values = table[position]
    assert position.shape == (3, 2, 6) and index[:, 1].max() < 12
    for seed, start in ((0, 100), (1, 200)):
        own = index[:, seed] >= 10
        assert torch.equal(values[:, seed, :, 0][own], (start + index[:, seed] - 10)[own].float())
        assert torch.equal(values[:, seed, :, 0][~own], index[:, seed][~own].float())


def test_the_table_never_moves() -> None:
    """What is recorded as a graph reads the same memory at each block."""
    rows = Mixture(LOG, [replay(4, 100)], 4)
    g = generator()
    tables = [rows.gather(rows.draw(0, (2, 8), g))[0].data_ptr() for _ in range(3)]
    assert len(set(tables)) == 1


def test_a_streamed_log_gives_the_same_rows() -> None:
    rng = np.random.default_rng(0)
    columns = {
        "observations": rng.normal(size=(12, 2)).astype(np.float32),
        "actions": rng.integers(0, 3, 12),
        "rewards": rng.normal(size=12).astype(np.float32),
        "terminals": np.arange(12) == 11,
        "timeouts": np.arange(12) == 5,
    }
    log = Dataset(Spec(Box((2,)), Discrete(3)), columns, np.array([0, 6, 12]), np.ones((2, 2), np.float32), {})
    table = torch.from_numpy(pack_rows(log, Transitions(), []))
    own = Replay(5, table.shape[1], CPU)
    own.extend(torch.randn(3, table.shape[1], generator=generator()))
    whole, streamed = (Mixture(r, [own], 4) for r in (DeviceRows(table), streamed_rows(log, Transitions(), [], CPU)))
    index = whole.draw(0, (2, 8), generator())
    assert torch.equal(index, streamed.draw(0, (2, 8), generator()))
    (a, i), (b, j) = whole.gather(index), streamed.gather(index)
    assert torch.equal(a[i], b[j])


def test_a_replay_overwrites_its_oldest_rows_and_is_restored_with_its_place() -> None:
    made = replay(2, 0, capacity=3)
    made.extend(torch.tensor([[10.0, 0], [11, 0]]))
    assert made.table[:, 0].tolist() == [11, 1, 10] and made.size == 3
    again = Replay(3, 2, CPU)
    again.restore({name: value.clone() for name, value in made.tensors().items()})
    for one in (made, again):
        one.extend(torch.tensor([[12.0, 0]]))
        assert one.table[:, 0].tolist() == [11, 12, 10]
    with pytest.raises(CheckpointError, match="same capacity"):
        Replay(2, 2, CPU).restore(made.tensors())


def test_rows_are_named_by_their_place_in_the_whole_log_and_in_the_replay() -> None:
    log = ChosenRows(torch.zeros(10, 3), torch.tensor([2, 5, 9]))
    index = torch.tensor([[0, 2, 3, 6], [1, 1, 4, 5]])
    assert Mixture(log, [replay(4, 100)], 2).numbers(index).tolist() == [[2, 9, -1, -4], [5, 5, -2, -3]]
