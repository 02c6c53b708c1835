"""From a log of images to batches: frames stay where they are, uint8, and a batch reads only its own."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import cast, final

import numpy as np
import torch
from torch import Tensor

from stitchrl.core.batch import BatchKind, Transitions
from stitchrl.core.errors import ConfigError
from stitchrl.core.frame_batch import FrameTable
from stitchrl.core.spec import Box, Discrete, Space
from stitchrl.data.dataset import Array, Dataset
from stitchrl.data.frame_stacks import FrameStacks, frames_of, frames_one_by_one, stacks_of_episodes
from stitchrl.data.sampling import Rows, pack_rows, uniform
from stitchrl.data.transforms import Affine

# Algorithms that read images, by the space of actions that they then take.
READERS: Mapping[type[Space], tuple[str, ...]] = {
    Discrete: ("bc", "bcq", "cql", "decision_transformer", "iql", "q_learning"),
    Box: (
        *("awac", "bc", "bcq", "cql", "decision_transformer", "diffusion_policy", "diffusion_ql"),
        *("edac", "fql", "idql", "iql", "sac", "td3_bc"),
    ),
}
_ACTIONS: Mapping[type[Space], str] = {Discrete: "integer actions", Box: "real-valued actions"}


@final
class FramesInPlace(Rows):
    """All frames where the learner reads them: on a CPU the log's own memory (or memory map), on another device a copy moved once."""

    def __init__(self, table: FrameTable) -> None:
        self.table = table
        self.size = len(table.newest)

    def draw(self, seed: int, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
        return uniform(self.size, shape, generator)

    def gather(self, index: Tensor) -> tuple[FrameTable, Tensor]:
        return self.table, index


@final
class StreamedFrames(Rows):
    """Frames moved to the device when a block of steps asks for them: D + 1 for each of its rows."""

    def __init__(self, table: FrameTable, device: torch.device) -> None:
        self.table, self.device = table, device
        self.size = len(table.newest)

    def draw(self, seed: int, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
        return uniform(self.size, shape, generator)

    def gather(self, index: Tensor) -> tuple[FrameTable, Tensor]:
        t = self.table
        rows = index.cpu().reshape(-1)
        position = torch.maximum(t.newest[rows].unsqueeze(-1) + t.ages, t.first[rows].unsqueeze(-1))  # [n, D + 1]
        order = torch.argsort(position.reshape(-1))  # so that a memory map is read front to back
        frames = torch.empty((len(order), *t.frames.shape[1:]), dtype=t.frames.dtype)
        frames[order] = t.frames[position.reshape(-1)[order]]
        span = len(t.ages)
        first = torch.arange(len(rows)) * span
        moved = (t.numbers[rows], frames, first + span - 2, first, t.ages)
        return FrameTable(*(x.to(self.device, non_blocking=True) for x in moved)), torch.arange(len(rows), device=self.device).view(
            index.shape
        )


def frame_rows_of(
    dataset: Dataset, kind: BatchKind, transforms: Sequence[Affine], device: torch.device, memory_limit: int
) -> FramesInPlace | StreamedFrames:
    """Returns the rows of a log of images: in place on a CPU, and on another device if they take at most `memory_limit` bytes there.

    A log whose observations are whole images, not stacks, is copied once. Raises ConfigError for a kind of batch that reads no images.
    """
    table = frame_table(dataset, kind, transforms)
    if device.type == "cpu":
        return FramesInPlace(table)
    if table.frames.numel() + table.numbers.numel() * 4 > memory_limit:
        return StreamedFrames(table, device)
    return FramesInPlace(FrameTable(*(x.to(device) for x in table)))


def frame_table(dataset: Dataset, kind: BatchKind, transforms: Sequence[Affine], index: Array | None = None) -> FrameTable:
    """Returns the table of a log of images, of the steps at `index` or of all.

    Its frames are the log's own memory; of a log of whole images a copy of those that the steps read. Raises ConfigError for a kind of batch
    that reads no images.
    """
    if not isinstance(kind, Transitions):
        raise ConfigError(
            f"the observations are images, which batches of {type(kind).__name__} do not read; "
            f"with {_ACTIONS[type(dataset.spec.action)]} learn with {', '.join(READERS[type(dataset.spec.action)])}"
        )
    numbers = torch.from_numpy(pack_rows(dataset, kind, transforms, index))
    stacks = frames_of(dataset)
    if stacks is None and index is not None:
        pairs = np.stack([dataset.observations[index], dataset.next_observations(index)], 1)  # [M, 2, *O]
        even = torch.arange(0, 2 * len(index), 2)
        return FrameTable(numbers, torch.from_numpy(pairs.reshape(-1, *pairs.shape[2:])), even, even, torch.arange(2))
    if stacks is None:
        stacks = cast(FrameStacks, stacks_of_episodes(frames_one_by_one(dataset), dataset.offsets, 1)[0])
    rows = slice(None) if index is None else index
    newest, first = (torch.from_numpy(np.ascontiguousarray(x[rows], np.int64)) for x in (stacks.newest, stacks.first))
    return FrameTable(numbers, as_tensor(stacks.frames), newest, first, torch.arange(1 - stacks.depth, 2))


def as_tensor(frames: Array) -> Tensor:
    """Returns the same memory as a tensor."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)  # frames are read and never written
        return torch.from_numpy(frames)
