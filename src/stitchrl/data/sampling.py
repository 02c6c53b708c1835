"""From a log to rows that a batch is gathered from: packed once, one row a step, on the device or read block by block."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import final

import numpy as np
import torch
from torch import Tensor

from stitchrl.core.batch import BatchKind
from stitchrl.core.errors import ConfigError
from stitchrl.core.frame_batch import PackedRows, Table, gather
from stitchrl.core.spec import Spec, is_image
from stitchrl.core.windows import Windows
from stitchrl.data.dataset import Dataset
from stitchrl.data.following import computed_columns, next_actions, usable_rows
from stitchrl.data.transforms import Affine, apply

CHUNK = 8_192  # rows packed at a time: they stay in the cache, and packing adds no memory to speak of
# Bytes. Above them a second copy of the log in memory is dearer than to pack the rows of each block of steps: about 0.02 ms a step.
PACKED_ON_CPU = 64 << 20


class Rows(ABC):
    """The steps of a log as packed rows `[N, width]`."""

    size: int

    @abstractmethod
    def draw(self, seed: int, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
        """Returns int64 `[K, B]`: the rows of K batches of the `seed`-th seed."""

    @abstractmethod
    def gather(self, index: Tensor) -> tuple[Table, Tensor]:
        """Returns a table on the device and the positions in it of the rows at `index` (any shape)."""

    def numbers(self, index: Tensor) -> Tensor:
        """Returns the numbers in the log of the rows drawn as `index`: other ones where some of the log is left out, or states are drawn."""
        return index


@final
class DeviceRows(Rows):
    """All rows on the device, moved once: a gather returns the same table and the index unchanged."""

    def __init__(self, table: Tensor) -> None:
        self.table = table
        self.size = len(table)

    def draw(self, seed: int, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
        return uniform(self.size, shape, generator)

    def gather(self, index: Tensor) -> tuple[Tensor, Tensor]:
        return self.table, index


@final
class ChosenRows(Rows):
    """Some rows of a table on the device, by their positions `[M]` in it: parts of one log learn from one table."""

    def __init__(self, table: Tensor, positions: Tensor) -> None:
        self.table, self.positions = table, positions
        self.size = len(positions)

    def draw(self, seed: int, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
        return uniform(self.size, shape, generator)

    def gather(self, index: Tensor) -> tuple[Tensor, Tensor]:
        return self.table, self.positions[index]

    def numbers(self, index: Tensor) -> Tensor:
        return self.positions[index]


@final
class StreamedRows(Rows):
    """Rows packed when a block of steps asks for them, from columns that may be larger than memory.

    pack: returns float32 `[M, width]` for numbers of rows `[M]`, which it is asked for in rising order: a memory map is read from front to back.
    usable: the numbers that may be drawn; None: all up to `size`.
    """

    def __init__(self, size: int, pack: Callable[[np.ndarray], np.ndarray], device: torch.device, usable: np.ndarray | None = None) -> None:
        self.pack, self.device, self.usable = pack, device, usable
        self.size = size if usable is None else len(usable)

    def draw(self, seed: int, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
        return uniform(self.size, shape, generator)

    def gather(self, index: Tensor) -> tuple[Tensor, Tensor]:
        rows = self.numbers(index).cpu().numpy().reshape(-1)
        order = np.argsort(rows)
        position = np.empty_like(order)
        position[order] = np.arange(len(order))
        table = torch.from_numpy(self.pack(rows[order]))  # repeated rows stay, so that all tables have one shape
        return table.to(self.device, non_blocking=True), torch.from_numpy(position.reshape(index.shape)).to(self.device)

    def numbers(self, index: Tensor) -> Tensor:
        return index if self.usable is None else torch.from_numpy(self.usable[index.cpu().numpy()])


def steps_of_states(states: Tensor, ends: Tensor) -> Tensor:
    """Returns the numbers in the log of the steps taken at states, where an episode's final state stands after each; -1 where none was.

    ends: int64 `[E]`, where episodes end in the log: the final state of episode e is `ends[e] + e`.
    """
    finals = ends + torch.arange(len(ends), device=ends.device)
    episode = torch.searchsorted(finals, states)
    none = (states > finals[-1]) | (states == finals[episode.clamp_max(len(ends) - 1)])
    return torch.where(none, -1, states - episode)


def fits_packed(numbers: int, device: torch.device, memory_limit: int) -> bool:
    """Returns whether so many float32 numbers may be packed once: at most `memory_limit` bytes, and on a CPU `PACKED_ON_CPU`."""
    return numbers * 4 <= (min(memory_limit, PACKED_ON_CPU) if device.type == "cpu" else memory_limit)


def uniform(size: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Returns int64 rows from 0 to `size` - 1, each as likely."""
    return torch.randint(size, shape, generator=generator, device=generator.device)


def rows_of(dataset: Dataset, kind: BatchKind, transforms: Sequence[Affine], device: torch.device, memory_limit: int) -> Rows:
    """Returns the rows on the device if they take at most `memory_limit` bytes, and on a CPU `PACKED_ON_CPU`; else a stream of them.

    Images are not packed (data/frame_sampling.py); windows are of states (data/window_rows.py).
    """
    if isinstance(kind, Windows):
        from stitchrl.data.window_rows import window_rows_of

        return window_rows_of(dataset, kind, transforms, device, memory_limit)
    if is_image(dataset.spec.observation):
        from stitchrl.data.frame_sampling import frame_rows_of

        return frame_rows_of(dataset, kind, transforms, device, memory_limit)
    if not fits_packed(len(dataset) * row_width(kind, dataset.spec), device, memory_limit):
        return streamed_rows(dataset, kind, transforms, device)
    table, usable = torch.from_numpy(pack_rows(dataset, kind, transforms)).to(device), usable_rows(dataset, kind)
    return DeviceRows(table) if usable is None else ChosenRows(table, torch.from_numpy(usable).to(device))


def streamed_rows(dataset: Dataset, kind: BatchKind, transforms: Sequence[Affine], device: torch.device) -> StreamedRows:
    """Returns the rows of `pack_rows`, packed when they are asked for."""
    computed = computed_columns(dataset, kind, transforms)

    def pack(rows: np.ndarray) -> np.ndarray:
        return pack_rows(dataset, kind, transforms, rows, computed)

    return StreamedRows(len(dataset), pack, device, usable_rows(dataset, kind))


def pack_rows(
    dataset: Dataset,
    kind: BatchKind,
    transforms: Sequence[Affine],
    index: np.ndarray | None = None,
    computed: Mapping[str, np.ndarray] | None = None,
) -> np.ndarray:
    """Returns float32 `[len(index), width]` rows of the kind's columns side by side, transformed; all rows without an index.

    `computed`: `computed_columns` of the log, where they are at hand.
    """
    computed = computed_columns(dataset, kind, transforms) if computed is None else computed
    widths = kind.columns(dataset.spec)
    count = len(dataset) if index is None else len(index)
    packed = np.empty((count, sum(widths.values())), dtype=np.float32)
    for start in range(0, count, CHUNK):
        stop = min(start + CHUNK, count)
        rows: slice | np.ndarray = slice(start, stop) if index is None else index[start:stop]
        left = 0
        for name, columns in widths.items():
            values = computed[name][rows] if name in computed else _column(dataset, name, rows, transforms)
            packed[start:stop, left : left + columns] = values.reshape(stop - start, columns)
            left += columns
    return packed


def _column(dataset: Dataset, name: str, rows: slice | np.ndarray, transforms: Sequence[Affine]) -> np.ndarray:
    if name == "next_observations":
        return apply(transforms, "observations", dataset.next_observations(rows))
    if name == "next_actions":
        return next_actions(dataset, rows, transforms)
    values = dataset.columns[name][rows]
    if name in ("observations", "actions", "rewards"):
        return apply(transforms, name, values)  # type: ignore[arg-type]
    return values


def batch_rows(
    dataset: Dataset, kind: BatchKind, transforms: Sequence[Affine], index: np.ndarray, device: torch.device, dtype: torch.dtype
) -> PackedRows:
    """Returns the rows at `index`, as a batch of the kind unpacks them."""
    if is_image(dataset.spec.observation):
        from stitchrl.data.frame_sampling import frame_table

        rows = gather(frame_table(dataset, kind, transforms, index), torch.arange(len(index)), dtype)
        return type(rows)(*(x.to(device) for x in rows))
    return torch.from_numpy(pack_rows(dataset, kind, transforms, index)).to(device, dtype)


def row_width(kind: BatchKind, spec: Spec) -> int:
    """Returns the numbers in one packed row; raises ConfigError for images, which are not packed."""
    if is_image(spec.observation):
        raise ConfigError(
            "the observations are images, which only a log holds so far; learn from a log, or from observations that are numbers"
        )
    return sum(kind.columns(spec).values())
