"""Several actions drawn at one observation, and the choice among them: how diffusion Q-learning, IDQL and batch-constrained Q-learning act."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from stitchrl.core.randomness import Normal, generator
from stitchrl.nn.diffusion import Diffusion, draws
from stitchrl.nn.noise_schedules import Chain

ROWS_AT_ONCE = 256  # observations whose candidates are drawn together: 64 of each through 1,024 units are 67 MB, 100 through 750 77 MB


@final
@dataclass(frozen=True)
class Candidates:
    """K actions of `size` numbers a state, each by a whole chain of its own; their noise lies in one tensor, with one number to choose by."""

    chain: Chain
    count: int
    size: int

    def noise(self, states: int) -> Normal:
        """Returns the random numbers `[states, K, …]` of all candidates at so many states."""
        return Normal((states, self.count, (1 + draws(self.chain)) * self.size + 1))

    def fixed(self) -> Tensor:
        """Returns `[K, …]`, the noise of candidates that are the same at every state."""
        return self.noise(1).draw(1, generator(0, "acting"))[0, 0]

    def drawn(self, diffusion: Diffusion, observations: Tensor, noise: Tensor) -> Tensor:
        """Returns actions `[K, B, A]` in [-1, 1] at observations `[B, *O]`, from noise `[B, K, …]`."""
        z = noise[..., :-1].unflatten(-1, (-1, self.size)).permute(2, 1, 0, 3)  # [steps, K, B, A]
        s = observations.expand(self.count, *observations.shape)
        return diffusion.sample(z[0], self.chain, s, noise=z[1:] if len(z) > 1 else None)


def in_pieces(
    choose: Callable[[Tensor, Tensor], Tensor], observations: Tensor, noise: Tensor | None, fixed: Tensor, like: Tensor
) -> Tensor:
    """Returns `choose(observations, noise)` of a piece of the observations `[B, *O]` at a time; without noise that of `fixed [K, …]` at each.

    like: whose device and type fixed noise takes.
    """
    if noise is None:
        noise = fixed.to(like.device, like.dtype).expand(len(observations), *fixed.shape)
    pieces = zip(observations.split(ROWS_AT_ONCE), noise.split(ROWS_AT_ONCE), strict=True)
    return torch.cat([choose(s, z) for s, z in pieces])


def chosen(actions: Tensor, log_weights: Tensor, noise: Tensor | None = None) -> Tensor:
    """Returns `[B, A]` of candidates `[K, B, A]`: the heaviest of `log_weights [K, B]`, or with noise `[B, K, …]` one drawn by its weight.

    Its last number decides: a normal one through its distribution function is uniform, that by -log(-log u) Gumbel's, and the largest sum
    of log-weight and Gumbel number falls on each candidate as often as its weight's share (Gumbel, 1954).
    """
    if noise is not None:
        uniform = 0.5 * (1 + torch.erf(noise[..., -1] / math.sqrt(2)))  # [B, K]
        log_weights = log_weights - torch.log(-torch.log(uniform)).T
    best = log_weights.argmax(0)  # [B]
    return actions.gather(0, best.unsqueeze(-1).expand(actions.shape[1:]).unsqueeze(0)).squeeze(0)
