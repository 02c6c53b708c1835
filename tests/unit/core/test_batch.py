"""Packed rows come apart as they were put together."""

from __future__ import annotations

import torch

from stitchrl.core.batch import Transitions
from stitchrl.core.spec import Box, Discrete, Spec


def test_continuous_rows() -> None:
    spec = Spec(Box((3,)), Box((2,)))
    assert list(Transitions().columns(spec).items()) == [
        ("observations", 3), ("actions", 2), ("rewards", 1), ("terminals", 1), ("next_observations", 3)
    ]  # fmt: skip
    rows = torch.arange(20.0).reshape(2, 10)
    batch = Transitions().unpack(rows, spec)
    assert batch.observations.tolist() == [[0, 1, 2], [10, 11, 12]]
    assert batch.actions.tolist() == [[3, 4], [13, 14]]
    assert batch.rewards.tolist() == [5, 15] and batch.terminals.tolist() == [6, 16]
    assert batch.next_observations.tolist() == [[7, 8, 9], [17, 18, 19]]


def test_integers_come_back_as_integers() -> None:
    rows = torch.tensor([[715.0, 24.0, 1.0, 0.0, 3.0], [2**24 - 1, 0.0, 0.0, 1.0, 0.0]])
    batch = Transitions().unpack(rows, Spec(Discrete(2**24), Discrete(25)))
    assert batch.observations.dtype == torch.int64 and batch.observations.tolist() == [715, 2**24 - 1]
    assert batch.actions.tolist() == [24, 0] and batch.next_observations.tolist() == [3, 0]
    assert batch.terminals.dtype == torch.float32


def test_observations_of_more_axes() -> None:
    spec = Spec(Box((2, 3)), Discrete(4))
    rows = torch.arange(15.0).reshape(1, 15)
    batch = Transitions().unpack(rows, spec)
    assert batch.observations.tolist() == [[[0, 1, 2], [3, 4, 5]]]
    assert batch.next_observations.tolist() == [[[9, 10, 11], [12, 13, 14]]]
