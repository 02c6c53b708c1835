"""A replay of an agent's own steps: rows as a log's, in a table that fills and then overwrites its oldest; and batches from both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import final

import numpy as np
import torch
from torch import Tensor

from stitchrl.core.errors import CheckpointError
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

    def extend(self, rows: Tensor) -> None:
        """Stores packed rows `[n, width]`, in order."""
        for start in range(0, len(rows), len(self.table)):
            part = rows[start : start + len(self.table)].to(self.table)
            self.table[(self._next + torch.arange(len(part), device=self.table.device)) % len(self.table)] = part
            self._next = (self._next + len(part)) % len(self.table)
            self.size = min(self.size + len(part), len(self.table))

    def tensors(self) -> dict[str, Tensor]:
        """Returns the rows that are there and where the next one goes: what a checkpoint holds."""
        return {"rows": self.table[: self.size], "next": torch.tensor(self._next)}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Holds what `tensors` did; raises CheckpointError where it does not fit in."""
        rows = tensors["rows"]
        if len(rows) > len(self.table) or rows.shape[1:] != self.table.shape[1:]:
            raise CheckpointError(
                f"the checkpoint's replay has rows {list(rows.shape)}; expected at most {list(self.table.shape)}. Resume with the same capacity"
            )
        self.table[: len(rows)] = rows.to(self.table)
        self.size = len(rows)
        self._next = int(tensors["next"]) if self.size == len(self.table) else self.size  # a larger replay goes on behind its rows

    def draw(self, seed: int, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
        return uniform(self.size, shape, generator)

    def gather(self, index: Tensor) -> tuple[Tensor, Tensor]:
        return self.table, index


@final
class Mixture(Rows):
    """Batches of a log and of one replay a seed. A row's number is its place in the log, or the log's size plus its place in the replay.

    `from_log` of a batch's rows are the log's, exactly, the others the replay's; None: all are drawn alike from log and replay taken
    together, as though the log had been poured into the replay. What a block needs is copied into one table, which never moves.
    """

    def __init__(self, log: Rows, replays: Sequence[Replay], from_log: int | None) -> None:
        self.log, self.replays, self.from_log = log, tuple(replays), from_log
        self._table = torch.empty(0)

    @property
    def size(self) -> int:  # type: ignore[override]
        return self.log.size + max(replay.size for replay in self.replays)

    def draw(self, seed: int, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
        count, batch = shape
        gathered = self.replays[seed].size
        if self.from_log is None:
            return uniform(self.log.size + gathered, shape, generator)
        parts = [uniform(self.log.size, (count, self.from_log), generator)] if self.from_log else []
        return torch.cat([*parts, self.log.size + uniform(gathered, (count, batch - self.from_log), generator)], 1)

    def gather(self, index: Tensor) -> tuple[Tensor, Tensor]:
        by_seed = index.reshape(len(index), len(self.replays), -1)  # [K, S, B]
        first = self.replays[0].table
        if self._table.shape != (index.numel(), first.shape[1]):
            self._table = torch.empty(index.numel(), first.shape[1], device=first.device)
        rows = self._table.view(*by_seed.shape, -1)
        logged = by_seed.shape[-1] if self.from_log is None else self.from_log
        if logged:
            table, position = self.log.gather(by_seed[..., :logged].clamp_max(self.log.size - 1))
            rows[..., :logged, :] = table[position]
        start = 0 if self.from_log is None else self.from_log
        for i, replay in enumerate(self.replays):
            numbers = by_seed[:, i, start:] - self.log.size
            own = replay.table[numbers.clamp_min(0)]
            rows[:, i, start:] = own if self.from_log is not None else torch.where((numbers < 0).unsqueeze(-1), rows[:, i, start:], own)
        return self._table, torch.arange(index.numel(), device=first.device).view(index.shape)

    def numbers(self, index: Tensor) -> Tensor:
        """Returns the log's numbers of its rows, and of a replay's -1 less their place in it."""
        logged = self.log.numbers(index.clamp_max(self.log.size - 1)).to(index)
        return torch.where(index < self.log.size, logged, self.log.size - 1 - index)
