"""Random numbers as data: an algorithm declares their shapes, the engine draws them from each seed's own generator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from stitchrl.core.errors import ConfigError


@final
@dataclass(frozen=True)
class Normal:
    """Independent standard normal numbers of one shape."""

    shape: tuple[int, ...]

    def draw(self, count: int, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
        """Returns `[count, *shape]`."""
        return torch.randn((count, *self.shape), generator=generator, device=generator.device, dtype=dtype)


@final
@dataclass(frozen=True)
class Uniform:
    """Independent numbers of one shape, uniform in [0, 1)."""

    shape: tuple[int, ...]

    def draw(self, count: int, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
        """Returns `[count, *shape]`."""
        return torch.rand((count, *self.shape), generator=generator, device=generator.device, dtype=dtype)


Noise = Normal | Uniform

# Streams of one seed never mix: drawing more of one leaves the others as they were.
STREAMS = ("initial_weights", "indices", "noise", "acting", "environment", "evaluation")


def stream_seed(seed: int, stream: str, *, number: int | None = None) -> int:
    """Returns a 63-bit number that seeds one stream of a seed, or the one of that number; raises ConfigError for a seed that is no integer
    from 0 to 2^32 - 1."""
    # numpy reads the pair as 32-bit words and ignores zeros at its end: a larger seed would share streams with a small one
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ConfigError(f"seed is {seed!r}; expected an integer from 0 to {2**32 - 1:,}")
    numbered = () if number is None else (number,)
    state = np.random.SeedSequence([seed, STREAMS.index(stream)], spawn_key=numbered).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


def generator(seed: int, stream: str, device: torch.device | str = "cpu", *, number: int | None = None) -> torch.Generator:
    """Returns a torch generator at the start of one stream of a seed, or of the one of that number."""
    return torch.Generator(device=device).manual_seed(stream_seed(seed, stream, number=number))
