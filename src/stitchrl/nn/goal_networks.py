"""Networks on an observation and a goal side by side, as OGBench has them (Park et al., 2024, arXiv:2410.20092): GELU, layer norm after it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from stitchrl.core.errors import ConfigError
from stitchrl.core.policy import Policy
from stitchrl.core.randomness import Noise
from stitchrl.core.spec import Box, Discrete, Spec, is_image
from stitchrl.nn.actors import CategoricalActor
from stitchrl.nn.mlp import MLP


def perceptron(inputs: int, outputs: int, hidden: Sequence[int], *, ensemble: int | None = None, layer_norm: bool = False) -> MLP:
    """Returns a network from vectors `[*batch, inputs]` to `[*batch, outputs]`, or `[E, *batch, outputs]`."""
    return MLP(Box((inputs,)), outputs, hidden, ensemble=ensemble, layer_norm=layer_norm, norm_after=True, activation="gelu")


@final
class GoalValue(nn.Module):
    """Two values V(s, g)."""

    def __init__(self, inputs: int, hidden: Sequence[int], *, layer_norm: bool) -> None:
        super().__init__()
        self.mlp = perceptron(inputs, 1, hidden, ensemble=2, layer_norm=layer_norm)

    def forward(self, pairs: Tensor) -> Tensor:
        """Returns `[2, B]` from observations and goals side by side, `[B, inputs]`."""
        return self.mlp(pairs).squeeze(-1)  # type: ignore[no-any-return]


@final
class ClippedActor(Policy):
    """a = clip(network(s)); learned as the mean of a Gaussian of variance 1, whose width is never used to act."""

    def __init__(self, spec: Spec, hidden: Sequence[int]) -> None:
        super().__init__()
        assert isinstance(spec.observation, Box) and isinstance(spec.action, Box)
        self.mlp = MLP(spec.observation, spec.action.size, hidden, norm_after=True, activation="gelu")

    def noise(self, size: int) -> Noise | None:
        return None

    def forward(self, observations: Tensor, noise: Tensor | None = None) -> Tensor:
        return self.mlp(observations).clamp(-1, 1)  # type: ignore[no-any-return]

    def log_likelihoods(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Returns `[B]`, log-densities without their constant: -½ |a - mean|²."""
        return -0.5 * (self.mlp(observations) - actions).square().sum(-1)  # type: ignore[no-any-return]


def clipped_actor(spec: Spec, hidden: Sequence[int], setting: str, instead: str) -> ClippedActor:
    """Returns the actor that a plain algorithm's setting asks for; raises ConfigError, naming another, where observations are no vectors."""
    if isinstance(spec.observation, Discrete) or is_image(spec.observation):
        raise ConfigError(f"{setting} reads observation vectors, and these data have {spec.observation}; take {instead}")
    return ClippedActor(spec, hidden)


GoalActor = ClippedActor | CategoricalActor


def goal_actor(spec: Spec, hidden: Sequence[int]) -> GoalActor:
    """Returns the actor for a spec's kind of actions."""
    return CategoricalActor(spec, hidden) if isinstance(spec.action, Discrete) else ClippedActor(spec, hidden)


def log_likelihoods(actor: GoalActor, observations: Tensor, actions: Tensor) -> Tensor:
    """Returns `[B]`, how likely the logged actions are to an actor, up to a constant."""
    call = actor.log_likelihoods if isinstance(actor, ClippedActor) else actor.log_probabilities
    return call(observations, actions)


def to_length(x: Tensor) -> Tensor:
    """Returns vectors `[*batch, D]` scaled to the length sqrt(D)."""
    length: Tensor = x.norm(dim=-1, keepdim=True)
    return x / length.clamp_min(1e-6) * math.sqrt(x.shape[-1])


@final
class IntervalQuasimetric(nn.Module):
    """The interval quasimetric embedding (Wang & Isola, 2022, arXiv:2211.15120): d(x, y) ≥ 0, d(x, x) = 0, the triangle inequality, no symmetry."""

    def __init__(self, components: int) -> None:
        super().__init__()
        self.components = components
        self.mix = nn.Parameter(torch.zeros(1))  # of the components' mean and their maximum

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Returns `[*batch]` distances from embeddings x to embeddings y, each `[*batch, D]`."""
        lengths = union_lengths(x.unflatten(-1, (self.components, -1)), y.unflatten(-1, (self.components, -1)))
        share = torch.sigmoid(self.mix.squeeze(0))
        mixed: Tensor = share * lengths.mean(-1) + (1 - share) * lengths.amax(-1)
        return mixed


def union_lengths(starts: Tensor, ends: Tensor) -> Tensor:
    """Returns `[*batch]`: how much of the line the intervals [start, max(start, end)] cover together, each `[*batch, n]`."""
    order = starts.argsort(-1)
    start, end = starts.gather(-1, order), torch.maximum(starts, ends).gather(-1, order)
    covered = end[..., 0] - start[..., 0]
    reach = end[..., 0]  # how far the intervals so far go
    for i in range(1, start.shape[-1]):
        covered = covered + (end[..., i] - torch.maximum(start[..., i], reach)).clamp_min(0)
        reach = torch.maximum(reach, end[..., i])
    return covered
