"""The value network of Diffuser (Janner et al., 2022, arXiv:2205.09991): how good a noised trajectory is, one number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from stitchrl.nn.denoisers import TemporalBlock, TimeEmbedding
from stitchrl.nn.planning import Measured


@final
class TemporalValue(nn.Module):
    """The descent of a temporal U-Net and two blocks more, then two layers on what is left and the time.

    Each halves the sequence while it is longer than 4. It speaks of returns in their standard deviations: `returns` knows those of the log.
    """

    def __init__(self, channels: int, length: int, width: int = 32, multipliers: Sequence[int] = (1, 2, 4, 8), *, kernel: int = 5) -> None:
        super().__init__()
        self.embedding = TimeEmbedding(width, 4 * width)
        sizes = [width * multiplier for multiplier in multipliers]
        narrower = [max(width, sizes[-1] // 2), max(width, sizes[-1] // 4)]
        blocks: list[nn.Module] = []
        levels = zip([channels, *sizes, narrower[0]], [*sizes, *narrower], [2] * len(sizes) + [1, 1], strict=True)
        for inputs, outputs, count in levels:
            blocks += [TemporalBlock(size, outputs, width, kernel, scaled=False) for size in (inputs, outputs)[:count]]
            # blocks normalise groups of channels over time: of few numbers little would be left
            stride = 2 if length > 4 else 1
            blocks.append(nn.Conv1d(outputs, outputs, 3, stride=stride, padding=1))
            length = -(-length // stride)
        self.blocks = nn.ModuleList(blocks)
        left = narrower[1] * length
        self.returns = Measured()
        self.first, self.out = nn.Linear(left + width, left // 2), nn.Linear(left // 2, 1)

    def forward(self, x: Tensor, times: Tensor) -> Tensor:
        """Returns `[B]` for noised trajectories `[B, T, C]` at times `[]` or `[B]`."""
        time = self.embedding(times).expand(x.shape[0], -1)
        h = x.transpose(1, 2)
        for block in self.blocks:
            h = block(h, time) if isinstance(block, TemporalBlock) else block(h)
        value: Tensor = self.out(nn.functional.mish(self.first(torch.cat([h.flatten(1), time], -1))))
        return value.squeeze(-1)
