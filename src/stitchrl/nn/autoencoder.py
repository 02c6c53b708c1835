"""The variational autoencoder (Kingma & Welling, 2013, arXiv:1312.6114) of actions given an observation: a model of what a log does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from stitchrl.core.spec import Box, Spec
from stitchrl.nn.mlp import MLP


@final
class Decoder(nn.Module):
    """a = tanh(network(s, z))."""

    def __init__(self, spec: Spec, latent: int, hidden: Sequence[int]) -> None:
        super().__init__()
        assert isinstance(spec.action, Box)
        self.latent = latent
        self.mlp = MLP(spec.observation, spec.action.size, hidden, actions=latent)

    def forward(self, observations: Tensor, z: Tensor) -> Tensor:
        """Returns actions `[*batch, A]` from latents `[*batch, Z]`."""
        return torch.tanh(self.mlp(observations, z))


@final
class ActionAutoencoder(nn.Module):
    """z ~ N(mean(s, a), std(s, a)) and a = decoder(s, z)."""

    LOG_STD = (-4.0, 15.0)  # for numerical stability: not in the paper of BCQ; in its code

    def __init__(self, spec: Spec, latent: int, hidden: Sequence[int]) -> None:
        super().__init__()
        assert isinstance(spec.action, Box)
        self.encoder = MLP(spec.observation, 2 * latent, hidden, actions=spec.action.size)
        self.decoder = Decoder(spec, latent, hidden)

    def losses(self, observations: Tensor, actions: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Returns, both `[]`, the squared error of reconstructed actions and the KL divergence from N(0, I), a mean over latent dimensions.

        noise: standard normal `[B, Z]`.
        """
        mean, log_std = self.encoder(observations, actions).chunk(2, dim=-1)
        log_std = log_std.clamp(*self.LOG_STD)
        reconstructed = self.decoder(observations, mean + log_std.exp() * noise)
        divergence = -0.5 * (1 + 2 * log_std - mean.square() - (2 * log_std).exp())
        return (reconstructed - actions).square().mean(), divergence.mean()
