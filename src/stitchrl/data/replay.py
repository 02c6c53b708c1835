"""A replay of an agent's own steps: rows as a log's, in a table that fills and then overwrites its oldest."""

from __future__ import annotations

from typing import final

import numpy as np
import torch
from torch import Tensor

from stitchrl.data.sampling import Rows, uniform


@final
class Replay(Rows):
    """At most `capacity` packed rows `[capacity, width]` on the device. A block drawn now sees the rows that are there now."""

    def __init__(self, capacity: int, width: int, device: torch.device) -> None:
        self.table = torch.zeros(capacity, width, device=device)
        self.size = 0
        self._next = 0

    def add(self, row: np.ndarray) -> None:
        """Stores one packed row `[width]`."""
        self.table[self._next] = torch.from_numpy(row)
        self._next = (self._next + 1) % len(self.table)
        self.size = min(self.size + 1, len(self.table))

    def draw(self, seed: int, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
        return uniform(self.size, shape, generator)

    def gather(self, index: Tensor) -> tuple[Tensor, Tensor]:
        return self.table, index
