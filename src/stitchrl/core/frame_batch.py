"""Batches of images: frames stay uint8 and are gathered once for an observation and the one after it, which share all but one of them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from stitchrl.core.errors import ConfigError
from stitchrl.core.spec import Space, is_image


class FrameTable(NamedTuple):
    """What a batch of stacked frames is gathered from: M steps, F frames of shape `*F`, D frames to an observation."""

    numbers: Tensor  # float32 [M, width]: the packed columns that are no images
    frames: Tensor  # uint8 [F, *F]: an episode's frames in order, the one after its last action included
    newest: Tensor  # int64 [M]: the newest frame of each step's observation; the next observation's is the one after it
    first: Tensor  # int64 [M]: the first frame of each step's episode, which stands for the frames before it
    ages: Tensor  # int64 [D + 1]: -(D - 1) … 0, 1, the frames of an observation and of the next one, relative to the newest


class FrameRows(NamedTuple):
    """Gathered rows: `numbers [*batch, width]` and the D + 1 frames of both observations, `windows [*batch, D + 1, *F]` uint8."""

    numbers: Tensor
    windows: Tensor


Table = Tensor | FrameTable
PackedRows = Tensor | FrameRows


def gather(table: Table, index: Tensor, dtype: torch.dtype) -> PackedRows:
    """Returns the rows at `index` (any shape), numbers as `dtype`, images as they are."""
    if isinstance(table, Tensor):
        return table[index].to(dtype)
    position = table.newest[index].unsqueeze(-1) + table.ages  # [*batch, D + 1]
    position = torch.maximum(position, table.first[index].unsqueeze(-1))  # never a frame of the episode before: the first is repeated
    return FrameRows(table.numbers[index].to(dtype), table.frames[position])


def address(table: Table) -> int:
    """Returns where a table lies in memory: two that lie elsewhere are not the same."""
    return table.data_ptr() if isinstance(table, Tensor) else table.frames.data_ptr()


def named(rows: PackedRows) -> dict[str, Tensor]:
    """Returns gathered rows as tensors by name, for a file."""
    return {"rows": rows} if isinstance(rows, Tensor) else {"rows": rows.numbers, "frames": rows.windows}


def observations(rows: FrameRows, space: Space) -> tuple[Tensor, Tensor]:
    """Returns the observations and the next ones, uint8 `[B, *O]` each: views of the same frames where observations are stacks."""
    if not is_image(space) or isinstance(rows, Tensor):
        raise ConfigError(f"these rows hold images and the observation space is {space}; expected a uint8 Box")
    shape = space.shape  # type: ignore[union-attr]
    return tuple(w if w.shape[1:] == shape else w.reshape(-1, *shape) for w in (rows.windows[:, :-1], rows.windows[:, 1:]))  # type: ignore[return-value]
