"""Index and noise blocks: what the next steps will read, drawn ahead from each seed's own generators.

A block always covers the same number of steps, whatever is logged, saved or evaluated between them, so that those
habits never change what is learned; a checkpoint inside a block stores where the block began and how far it was used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from stitchrl.core import randomness
from stitchrl.core.errors import CheckpointError
from stitchrl.core.frame_batch import Table
from stitchrl.core.randomness import Noise
from stitchrl.data.sampling import Rows

BLOCK_STEPS = 64


@final
@dataclass(frozen=True)
class Block:
    """`table [M, width]` or of frames, `index [K, S, B]`, `noise[name] [K, S, …]`; no `S` axis for one seed. `drawn`: what the index was drawn as."""

    table: Table
    index: Tensor
    noise: dict[str, Tensor]
    drawn: Tensor

    def step(self, k: int) -> tuple[Table, Tensor, dict[str, Tensor]]:
        """Returns table, index and noise of the block's k-th step."""
        return self.table, self.index[k], {name: values[k] for name, values in self.noise.items()}


@final
class Blocks:
    """The sequence of blocks of a run, each seed's drawn from two generators of its own: indices and noise."""

    def __init__(
        self,
        rows: Rows,
        noise: dict[str, Noise],
        batch_size: int,
        seeds: Sequence[int],
        device: torch.device,
        dtype: torch.dtype,
        steps: int = BLOCK_STEPS,
    ) -> None:
        self.steps = steps
        self.rows, self.noise, self.batch_size, self.seeds, self.dtype = rows, noise, batch_size, tuple(seeds), dtype
        self.generators = {
            f"{stream}/{i}": randomness.generator(seed, stream, device) for i, seed in enumerate(seeds) for stream in ("indices", "noise")
        }
        self._began: dict[str, Tensor] = self._states()

    def draw(self) -> Block:
        """Returns the next block."""
        self._began = self._states()
        index = self._stacked([self._indices(i) for i in range(len(self.seeds))])
        noise = {
            name: self._stacked([kind.draw(self.steps, self.generators[f"noise/{i}"], self.dtype) for i in range(len(self.seeds))])
            for name, kind in sorted(self.noise.items())
        }
        table, position = self.rows.gather(index)
        return Block(table, position, noise, index)

    def tensors(self) -> dict[str, Tensor]:
        """Returns the generators' states at the start of the present block, by name: what a checkpoint holds."""
        return {f"generators/{name}": state for name, state in self._began.items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Goes back to where `tensors` were taken; the next `draw` returns that block again."""
        for name, generator in self.generators.items():
            state = tensors[f"generators/{name}"].cpu()
            if state.shape != generator.get_state().shape:
                raise CheckpointError(
                    f"the checkpoint's random state '{name}' is of another kind of device than {generator.device}; resume on the same kind"
                )
            generator.set_state(state)
        self._began = self._states()

    def _indices(self, i: int) -> Tensor:
        generator = self.generators[f"indices/{i}"]
        return self.rows.draw(i, (self.steps, self.batch_size), generator)

    def _states(self) -> dict[str, Tensor]:
        return {name: generator.get_state() for name, generator in self.generators.items()}

    @staticmethod
    def _stacked(parts: list[Tensor]) -> Tensor:
        return parts[0] if len(parts) == 1 else torch.stack(parts, 1)
