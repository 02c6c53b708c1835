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
    """The descent of a temporal U-Net, halved at every level and twice more, then two layers on what is left and the time.

    It speaks of returns in their standard deviations: `returns` knows those of the log.
    """

    def __init__(self, channels: int, length: int, width: int = 32, multipliers: Sequence[int] = (1, 2, 4, 8), *, kernel: int = 5) -> None:
        super().__init__()
        self.embedding = TimeEmbedding(width, 4 * width)
        sizes = [width * multiplier for multiplier in multipliers]
        steps = [*zip([channels, *sizes[:-1]], sizes, strict=True)]
        last = sizes[-1]
        blocks: list[nn.Module] = []
        for inputs, outputs in steps:
            blocks += [TemporalBlock(i, outputs, width, kernel, scaled=False) for i in (inputs, outputs)]
            blocks.append(nn.Conv1d(outputs, outputs, 3, stride=2, padding=1))
        for inputs, outputs in ((last, max(1, last // 2)), (max(1, last // 2), max(1, last // 4))):
            blocks += [TemporalBlock(inputs, outputs, width, kernel, scaled=False), nn.Conv1d(outputs, outputs, 3, stride=2, padding=1)]
        self.blocks = nn.ModuleList(blocks)
        for _ in range(len(sizes) + 2):
            length = -(-length // 2)
        left = max(1, last // 4) * length
        self.returns = Measured()
        self.first, self.out = nn.Linear(left + width, max(1, left // 2)), nn.Linear(max(1, left // 2), 1)

    def forward(self, x: Tensor, times: Tensor) -> Tensor:
        """Returns `[B]` for noised trajectories `[B, T, C]` at times `[]` or `[B]`."""
        time = self.embedding(times).expand(x.shape[0], -1)
        h = x.transpose(1, 2)
        for block in self.blocks:
            h = block(h, time) if isinstance(block, TemporalBlock) else block(h)
        value: Tensor = self.out(nn.functional.mish(self.first(torch.cat([h.flatten(1), time], -1))))
        return value.squeeze(-1)
