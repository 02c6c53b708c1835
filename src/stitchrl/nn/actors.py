"""Networks that act: deterministic, Gaussian, squashed Gaussian, categorical, and greedy in a critic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from stitchrl.core.policy import Policy
from stitchrl.core.randomness import Noise, Normal, Uniform
from stitchrl.core.spec import Box, Discrete, Spec
from stitchrl.nn.mlp import MLP, Critic


@final
class DeterministicActor(Policy):
    """a = tanh(network(s))."""

    def __init__(self, spec: Spec, hidden: Sequence[int]) -> None:
        super().__init__()
        self.size = _box(spec).size
        self.mlp = MLP(spec.observation, self.size, hidden)

    def noise(self, size: int) -> Noise | None:
        return None

    def forward(self, observations: Tensor, noise: Tensor | None = None) -> Tensor:
        return torch.tanh(self.mlp(observations))


@final
class GaussianActor(Policy):
    """a ~ N(tanh(mean(s)), std) with one standard deviation a dimension, learned and the same in every state (as IQL's code has it)."""

    LOG_STD = (-5.0, 2.0)  # not in a paper; in IQL's code

    def __init__(self, spec: Spec, hidden: Sequence[int]) -> None:
        super().__init__()
        self.size = _box(spec).size
        self.mlp = MLP(spec.observation, self.size, hidden)
        self.log_std = nn.Parameter(torch.zeros(self.size))

    def noise(self, size: int) -> Noise | None:
        return Normal((size, self.size))

    def forward(self, observations: Tensor, noise: Tensor | None = None) -> Tensor:
        mean = torch.tanh(self.mlp(observations))
        return mean if noise is None else (mean + self.log_std.clamp(*self.LOG_STD).exp() * noise).clamp(-1, 1)

    def log_probabilities(self, observations: Tensor, actions: Tensor) -> Tensor:
        mean = torch.tanh(self.mlp(observations))
        return _normal_log_density(actions, mean, self.log_std.clamp(*self.LOG_STD))


@final
class SquashedGaussianActor(Policy):
    """a = tanh(u), u ~ N(mean(s), std(s)) (Haarnoja et al., 2018, arXiv:1812.05905, appendix C)."""

    LOG_STD = (-20.0, 2.0)
    samples_have_density = True

    def __init__(self, spec: Spec, hidden: Sequence[int]) -> None:
        super().__init__()
        self.size = _box(spec).size
        self.mlp = MLP(spec.observation, 2 * self.size, hidden)

    def noise(self, size: int) -> Noise | None:
        return Normal((size, self.size))

    def gaussian(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Returns mean and log standard deviation of u, each `[*batch, A]`."""
        mean, log_std = self.mlp(observations).chunk(2, dim=-1)
        return mean, log_std.clamp(*self.LOG_STD)

    def sample(self, observations: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Returns actions `[K, *batch, A]` and their log-densities `[K, *batch]`, K times for each observation where noise is `[K, *batch, A]`."""
        mean, log_std = self.gaussian(observations)
        u = mean + log_std.exp() * noise
        log_density = (-0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)
        return torch.tanh(u), log_density - _log_tanh_slope(u).sum(-1)

    def forward(self, observations: Tensor, noise: Tensor | None = None) -> Tensor:
        mean, log_std = self.gaussian(observations)
        return torch.tanh(mean if noise is None else mean + log_std.exp() * noise)

    def log_probabilities(self, observations: Tensor, actions: Tensor) -> Tensor:
        mean, log_std = self.gaussian(observations)
        # a logged action of exactly ±1 has no finite u: it is read as the nearest float32 inside
        u = torch.atanh(actions.clamp(-1 + 1e-6, 1 - 1e-6))
        return _normal_log_density(u, mean, log_std) - _log_tanh_slope(u).sum(-1)


@final
class CategoricalActor(Policy):
    """Probabilities over n actions: softmax(network(s))."""

    samples_have_density = True

    def __init__(self, spec: Spec, hidden: Sequence[int]) -> None:
        super().__init__()
        assert isinstance(spec.action, Discrete)
        self.n = spec.action.n
        self.mlp = MLP(spec.observation, self.n, hidden)

    def noise(self, size: int) -> Noise | None:
        return Uniform((size, self.n))

    def forward(self, observations: Tensor, noise: Tensor | None = None) -> Tensor:
        logits: Tensor = self.mlp(observations)
        if noise is not None:  # Gumbel's trick: the largest of logit + Gumbel noise is a draw from the softmax
            logits = logits - torch.log(-torch.log(noise.clamp_min(torch.finfo(noise.dtype).tiny)))
        return logits.argmax(-1)

    def all_log_probabilities(self, observations: Tensor) -> Tensor:
        """Returns `[B, n]`."""
        return functional.log_softmax(self.mlp(observations), -1)

    def log_probabilities(self, observations: Tensor, actions: Tensor) -> Tensor:
        return self.all_log_probabilities(observations).gather(-1, actions.unsqueeze(-1)).squeeze(-1)

    def action_probabilities(self, observations: Tensor) -> Tensor:
        return functional.one_hot(self(observations), self.n)


@final
class GreedyPolicy(Policy):
    """The action of the largest value, averaged over the critic's ensemble."""

    def __init__(self, critic: Critic) -> None:
        super().__init__()
        self.critic = critic

    def noise(self, size: int) -> Noise | None:
        return None

    def forward(self, observations: Tensor, noise: Tensor | None = None) -> Tensor:
        return self.critic(observations).mean(0).argmax(-1)  # type: ignore[no-any-return]

    def action_probabilities(self, observations: Tensor) -> Tensor:
        values = self.critic(observations).mean(0)
        return functional.one_hot(values.argmax(-1), values.shape[-1])


def _box(spec: Spec) -> Box:
    assert isinstance(spec.action, Box)
    return spec.action


def _normal_log_density(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    return (-0.5 * ((x - mean) * (-log_std).exp()).square() - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)


def _log_tanh_slope(u: Tensor) -> Tensor:
    # log(1 - tanh(u)^2) without the cancellation near ±1
    return 2 * (math.log(2) - u - functional.softplus(-2 * u))
