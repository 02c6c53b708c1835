"""The step that is recorded once and replayed, its recordings stood in for: which calls are run, recorded and replayed, on which table."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from stitchrl.training import compilation
from stitchrl.training.compilation import WARM_STEPS, GraphedStep


class Recording:
    """Stands in for a CUDA graph: keeps what was called while it recorded, and calls it again with the same tensors."""

    recording: Recording | None = None

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def replay(self) -> None:
        for step, inputs in self.calls:
            step(*inputs)


@contextmanager
def recorded(graph: Recording) -> Iterator[None]:
    Recording.recording = graph
    yield
    Recording.recording = None


class Stream:
    def wait_stream(self, other: object) -> None:
        pass


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """The devices that were made the current one."""
    made: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Recording)
    monkeypatch.setattr(torch.cuda, "graph", recorded)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "device", lambda device: (made.append(device), nullcontext())[1])
    return made


class Reader:
    """A step that takes the sum of the rows it is told of; while a recording goes on, it is noted and not run."""

    def __init__(self) -> None:
        self.sums: list[float] = []

    def __call__(self, table: Tensor, index: Tensor, noise: dict[str, Tensor]) -> None:
        if Recording.recording is not None:
            Recording.recording.calls.append((self._run, (table, index, noise)))
        else:
            self._run(table, index, noise)

    def _run(self, table: Tensor, index: Tensor, noise: dict[str, Tensor]) -> None:
        self.sums.append(float(table[index].sum() + noise["x"].sum()))


def test_a_table_that_stays_is_recorded_and_replayed_with_each_steps_own_rows_and_noise(devices: list[torch.device]) -> None:
    reader, table = Reader(), torch.arange(10.0)
    step = GraphedStep(reader)
    for k in range(8):
        step(table, torch.tensor([k, k + 1]), {"x": torch.tensor([100.0 * k])})
    assert reader.sums == [2 * k + 1 + 100 * k for k in range(8)]
    assert isinstance(step.graph, Recording)
    assert devices == [torch.device("cpu")] * 8, "recorded with another device current than the run's"


def test_a_table_that_moves_from_block_to_block_is_read_where_it_is(devices: list[torch.device]) -> None:
    reader = Reader()
    step, expected, tables = GraphedStep(reader), [], []
    for block in range(3):
        tables.append(torch.arange(10.0) + 1000 * block)
        for k in range(WARM_STEPS + 3):
            step(tables[-1], torch.tensor([k]), {"x": torch.zeros(1)})
            expected.append(1000.0 * block + k)
    assert reader.sums == expected, "a recording of an earlier block's table was replayed"
    assert compilation.address(tables[0]) != compilation.address(tables[1])
    assert step.graph is None
