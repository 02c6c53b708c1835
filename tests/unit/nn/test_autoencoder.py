"""The autoencoder of actions against torch.distributions and a sum by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from stitchrl.core.spec import Box, Spec
from stitchrl.nn.autoencoder import ActionAutoencoder

BOX = Spec(Box((5,)), Box((2,), (-1.0,), (1.0,)))


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_its_losses() -> None:
    torch.manual_seed(0)
    model = ActionAutoencoder(BOX, 3, (8,)).double()
    s, a, noise = random(6, 5), torch.tanh(random(6, 2, seed=1)), random(6, 3, seed=2)
    error, divergence = model.losses(s, a, noise)
    mean, log_std = model.encoder(s, a).split(3, dim=-1)
    torch.testing.assert_close(divergence, kl_divergence(Normal(mean, log_std.exp()), Normal(0.0, 1.0)).mean())
    made = torch.tanh(model.decoder.mlp(s, mean + log_std.exp() * noise))
    torch.testing.assert_close(error, ((made - a) ** 2).mean())


def test_a_latent_that_is_the_prior_diverges_by_nothing() -> None:
    model = ActionAutoencoder(BOX, 3, ())
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            parameter.zero_()
    _, divergence = model.losses(torch.zeros(4, 5), torch.zeros(4, 2), torch.zeros(4, 3))
    assert divergence.item() == 0


@pytest.mark.parametrize(("log_std", "held"), [(-9.0, -4.0), (40.0, 15.0)])
def test_the_latents_deviation_is_held(log_std: float, held: float) -> None:
    model = ActionAutoencoder(BOX, 1, ()).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.encoder.layers[0].bias.copy_(torch.tensor([0.0, log_std]))
    _, divergence = model.losses(torch.zeros(1, 5).double(), torch.zeros(1, 2).double(), torch.zeros(1, 1).double())
    assert divergence.item() == pytest.approx(-0.5 * (1 + 2 * held - math.exp(2 * held)))
