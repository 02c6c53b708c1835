"""Rows for sequence models: the log's states, one a row, and which of them stand in each drawn window.

The states of episode e, its final one included, stand at offsets[e] + e … offsets[e + 1] + e, as for goals; after the last of all stands a
row of zeros, with which windows are padded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast, final

import numpy as np
import torch
from torch import Tensor

from stitchrl.core.errors import ConfigError, DataError
from stitchrl.core.frame_batch import FrameTable, Table, gather
from stitchrl.core.spec import Box, Spec, is_image
from stitchrl.core.windows import WindowBatch, Windows
from stitchrl.data.dataset import Dataset
from stitchrl.data.following import in_no_order, returns_to_go
from stitchrl.data.frame_sampling import FramesInPlace, as_tensor
from stitchrl.data.frame_stacks import FrameStacks, frames_of, frames_one_by_one, stacks_of_episodes
from stitchrl.data.sampling import CHUNK, DeviceRows, Rows, StreamedRows, fits_packed, steps_of_states, uniform
from stitchrl.data.transforms import Affine, apply

SAMPLED_STATES = 2**18  # that an algorithm measures its constants from,
SAMPLED_BYTES = 2**28  # but as many images as take this


@final
class WindowRows(Rows):
    """Steps of a log as positions `[…, T]` of states: those of the window that begins there."""

    def __init__(self, states: Rows, offsets: np.ndarray, kind: Windows, spec: Spec, device: torch.device) -> None:
        self.states, self.kind, self.spec = states, kind, spec
        self.ends = torch.as_tensor(np.asarray(offsets[1:], np.int64), device=device)
        self.size = int(offsets[-1])
        self.ages = torch.arange(-kind.history, kind.length - kind.history, device=device)
        self.padding = self.size + len(self.ends)

    def draw(self, seed: int, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
        return self.states_of(uniform(self.size, shape, generator))

    def gather(self, index: Tensor) -> tuple[Table, Tensor]:
        return self.states.gather(index)

    def numbers(self, index: Tensor) -> Tensor:
        return steps_of_states(index, self.ends)

    def states_of(self, steps: Tensor) -> Tensor:
        """Returns int64 `[*steps, T]`, the states of the window that begins at each step."""
        episode = torch.searchsorted(self.ends, steps, right=True)
        first = torch.where(episode > 0, self.ends[episode - 1], 0) + episode
        last = self.ends[episode] + episode - (0 if self.kind.final_states else 1)
        states = torch.maximum((steps + episode).unsqueeze(-1) + self.ages, first.unsqueeze(-1))
        return torch.where(states <= last.unsqueeze(-1), states, self.padding)

    def sample(self, most: int = SAMPLED_STATES) -> WindowBatch:
        """Returns every episode's first state and at most `most` others, evenly spaced: windows of one state, `[M, 1, …]`."""
        seen = self.spec.observation
        if isinstance(seen, Box) and is_image(seen):
            most = min(most, max(1, SAMPLED_BYTES // seen.size))
        spaced = torch.arange(0, self.padding, -(-self.padding // most), device=self.ends.device)
        starts = torch.cat([self.ends.new_zeros(1), self.ends[:-1]]) + torch.arange(len(self.ends), device=self.ends.device)
        table, position = self.states.gather(torch.unique(torch.cat([spaced, starts])).unsqueeze(-1))
        return self.kind.unpack(gather(table, position, torch.float32), self.spec)


def window_rows_of(dataset: Dataset, kind: Windows, transforms: Sequence[Affine], device: torch.device, memory_limit: int) -> WindowRows:
    """Returns a log's steps as windows, states on the device if they take at most `memory_limit` bytes (on a CPU `PACKED_ON_CPU`), else streamed.

    Raises DataError for a log whose rows are in no order, or with an episode too long for the kind.
    """
    _check(dataset, kind)
    states: Rows
    if is_image(dataset.spec.observation):
        states = _frame_states(dataset, kind, transforms, device, memory_limit)
    elif fits_packed((len(dataset) + dataset.episodes) * sum(kind.columns(dataset.spec).values()), device, memory_limit):
        states = DeviceRows(torch.from_numpy(_all_states(dataset, kind, transforms)).to(device))
    else:
        returns = _returns(dataset, kind, transforms)
        states = StreamedRows(
            len(dataset) + dataset.episodes,
            lambda numbers: pack_window_states(dataset, kind, transforms, numbers, returns),
            device,
        )
    return WindowRows(states, dataset.offsets, kind, dataset.spec, device)


def pack_window_states(
    dataset: Dataset, kind: Windows, transforms: Sequence[Affine], numbers: np.ndarray, returns: np.ndarray
) -> np.ndarray:
    """Returns float32 `[M, width]`: states by number, transformed, with what was done there; zeros for the number after the last.

    returns: `returns_to_go` of all steps, float32 `[N]`.
    """
    first = dataset.offsets[:-1] + np.arange(dataset.episodes)  # each episode's first state
    widths = kind.columns(dataset.spec)
    ends = dict(zip(widths, np.cumsum(list(widths.values())), strict=True))
    packed = np.zeros((len(numbers), sum(widths.values())), np.float32)
    for start in range(0, len(numbers), CHUNK):
        chosen = numbers[start : start + CHUNK]
        part = {name: packed[start : start + CHUNK, ends[name] - size : ends[name]] for name, size in widths.items()}
        episode = np.searchsorted(first, chosen, side="right") - 1
        present = chosen < len(dataset) + dataset.episodes
        final = present & (chosen - first[episode] == dataset.lengths[episode])
        taken = present & ~final
        rows = (chosen - episode)[taken]
        if "observations" in part:
            size = widths["observations"]
            part["observations"][taken] = apply(transforms, "observations", dataset.observations[rows]).reshape(-1, size)
            last = np.asarray(dataset.final_observations[episode[final]])
            part["observations"][final] = apply(transforms, "observations", last).reshape(-1, size)
        part["actions"][taken] = apply(transforms, "actions", dataset.actions[rows]).reshape(len(rows), -1)
        part["rewards"][taken, 0] = apply(transforms, "rewards", np.asarray(dataset.rewards[rows]))
        part["returns_to_go"][taken, 0] = returns[rows]
        part["terminals"][taken, 0] = dataset.terminals[rows]
        part["timesteps"][present, 0] = (chosen - first[episode])[present]
        part["taken"][taken] = 1
        part["present"][present] = 1
        if kind.goals:
            ends_in = np.asarray(dataset.final_observations[episode[present]])
            part["goals"][present] = apply(transforms, "observations", ends_in).reshape(-1, widths["goals"])
        if kind.labels:
            part["labels"][taken, 0] = dataset.columns[kind.labels][rows]
    return packed


def _all_states(dataset: Dataset, kind: Windows, transforms: Sequence[Affine]) -> np.ndarray:
    """The states of the log in order, and the row of zeros."""
    numbers = np.arange(len(dataset) + dataset.episodes + 1)
    return pack_window_states(dataset, kind, transforms, numbers, _returns(dataset, kind, transforms))


def _returns(dataset: Dataset, kind: Windows, transforms: Sequence[Affine]) -> np.ndarray:
    ended = np.ones(dataset.episodes, bool)  # a return is what the log earned: nothing is added where only the clock ended it
    return returns_to_go(apply(transforms, "rewards", np.asarray(dataset.rewards)), dataset.offsets, ended, kind.discount, "nothing")


def _frame_states(dataset: Dataset, kind: Windows, transforms: Sequence[Affine], device: torch.device, memory_limit: int) -> FramesInPlace:
    """The states of a log of images; its frames are the log's own memory on a CPU, and a copy on another device."""
    stacks = frames_of(dataset)
    if stacks is None:
        stacks = cast(FrameStacks, stacks_of_episodes(frames_one_by_one(dataset), dataset.offsets, 1)[0])
    rows = np.arange(len(dataset)) + dataset.episode_of(np.arange(len(dataset)))  # each step's state
    newest, first = np.zeros((2, len(dataset) + dataset.episodes + 1), np.int64)
    newest[rows], first[rows] = stacks.newest, stacks.first
    finals, last = dataset.offsets[1:] + np.arange(dataset.episodes), dataset.offsets[1:] - 1
    newest[finals], first[finals] = np.asarray(stacks.newest)[last] + 1, np.asarray(stacks.first)[last]
    numbers = torch.from_numpy(_all_states(dataset, kind, transforms))
    # at a final state the frame after the newest is another episode's or none: a window's observation never reads it
    ages = torch.arange(1 - stacks.depth, 1)
    table = FrameTable(numbers, as_tensor(stacks.frames), torch.from_numpy(newest), torch.from_numpy(first), ages)
    if device.type == "cpu":
        return FramesInPlace(table)
    if table.frames.numel() + numbers.numel() * 4 > memory_limit:
        raise ConfigError(
            f"the log's images take {table.frames.numel() >> 20:,} MB, more than fits on {device}; train on the CPU, or on fewer episodes"
        )
    return FramesInPlace(FrameTable(*(x.to(device) for x in table)))


def _check(dataset: Dataset, kind: Windows) -> None:
    name = dataset.metadata.get("name", "data")
    if in_no_order(dataset):
        raise DataError(
            f"{name}: every episode is one step and not all end the task; a sequence model needs episodes in their order. Read the log with "
            "its episodes, or choose an algorithm that learns from single transitions, such as iql"
        )
    longest = int(dataset.lengths.max())
    if kind.longest is not None and longest > kind.longest:
        raise DataError(
            f"{name}: an episode has {longest:,} steps and timesteps are told apart up to {kind.longest:,}; "
            "raise the algorithm's longest_episode to at least that"
        )
    if kind.labels:
        _check_labels(dataset, kind.labels, kind.label_count, name)


def _check_labels(dataset: Dataset, column: str, count: int, name: str) -> None:
    if column not in dataset.columns:
        others = ", ".join(map(repr, dataset.columns))
        raise DataError(f"{name}: there is no column '{column}' of labels; it has {others}. Name one of them, or learn without labels")
    labels = dataset.columns[column]
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(
            f"{name}: '{column}' is {labels.dtype} {list(labels.shape)}; labels are one integer a step. Number the kinds from 0"
        )
    least, most = int(labels.min()), int(labels.max())
    if least < 0 or most >= count:
        raise DataError(f"{name}: '{column}' has labels from {least} to {most}; {count} kinds were announced: expected 0 to {count - 1}")
