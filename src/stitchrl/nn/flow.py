"""Flow matching (Lipman et al., 2022, arXiv:2210.02747; Liu et al., 2022, arXiv:2209.03003): noise is carried to data along straight lines.

At time 0 a point is noise, at time 1 data. A network learns the velocity of the mean path; integrating it draws from the data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import final

import torch
from torch import Tensor, nn

from stitchrl.core.spec import Spec
from stitchrl.nn.mlp import MLP


@final
class VelocityField(nn.Module):
    """v(s, x, t): the velocity of a point x at time t, given an observation; the time is one more input."""

    def __init__(self, spec: Spec, size: int, hidden: Sequence[int], *, layer_norm: bool = False) -> None:
        super().__init__()
        self.mlp = MLP(spec.observation, size, hidden, actions=size + 1, layer_norm=layer_norm, norm_after=True, activation="gelu")

    def forward(self, observations: Tensor, x: Tensor, time: Tensor) -> Tensor:
        """Returns `[*batch, A]` at points `[*batch, A]` and times of a shape that expands to `[*batch]`."""
        velocity: Tensor = self.mlp(observations, torch.cat([x, time.expand(x.shape[:-1]).unsqueeze(-1)], -1))
        return velocity


def straight_path(noise: Tensor, data: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the point at `time [*batch]` on the line from noise to data, each `[*batch, A]`, and the velocity there, the same at all times."""
    t = time.unsqueeze(-1)
    return (1 - t) * noise + t * data, data - noise


def integrate(velocity: Callable[[Tensor, Tensor], Tensor], start: Tensor, steps: int) -> Tensor:
    """Returns where `start` arrives at time 1 by Euler's method, in equal steps of a velocity called with a point and a time `[]`."""
    x = start
    for step in range(steps):
        x = x + velocity(x, x.new_full((), step / steps)) / steps
    return x
