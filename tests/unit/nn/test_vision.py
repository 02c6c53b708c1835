"""The convolutions of DQN: sizes and values by hand, ensembles and seeds as so many networks alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional

from stitchrl.core.spec import Box, Discrete, Spec, is_image
from stitchrl.nn.mlp import MLP, Critic
from stitchrl.nn.vision import Convolution, Encoder

ATARI = Box((4, 84, 84), (0.0,), (255.0,), "uint8")
SMALL = Box((2, 36, 40), (0.0,), (255.0,), "uint8")


def images(box: Box, count: int = 3, seed: int = 0) -> Tensor:
    return torch.randint(256, (count, *box.shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_layers_have_the_sizes_of_the_paper() -> None:
    encoder = Encoder(ATARI)
    assert [sum(p.numel() for p in layer.parameters()) for layer in encoder.layers] == [
        8 * 8 * 4 * 32 + 32,
        16 * 32 * 64 + 64,
        9 * 64 * 64 + 64,
    ]
    assert encoder.size == 7 * 7 * 64
    assert encoder(images(ATARI)).shape == (3, 3136)
    assert encoder.operations == 20 * 20 * 32 * 256 + 9 * 9 * 64 * 512 + 7 * 7 * 64 * 576


def test_an_image_by_hand() -> None:
    encoder = Encoder(SMALL)
    for layer in encoder.layers:
        assert isinstance(layer, Convolution)
        nn.init.constant_(layer.weight, 1 / layer.weight[0].numel())  # each layer is a mean
        nn.init.zeros_(layer.bias)
    halves = torch.full((1, *SMALL.shape), 51, dtype=torch.uint8)
    halves[:, :, :18] = 153  # the mean is 102: ±0.2 about it
    first = torch.zeros(encoder.layers[0](torch.zeros(1, 2, 36, 40)).shape[-2:])  # 8 rows, 4 apart, of each mean
    first[:3] = 0.2  # the fourth has 6 rows of the upper half and 2 of the lower, the fifth 2 and 6, which a ReLU cuts off
    first[3] = 0.1
    expected = functional.avg_pool2d(functional.avg_pool2d(first[None, None], 4, 2), 3, 1)
    assert torch.allclose(encoder(halves), expected.expand(1, 64, -1, -1).flatten(1))
    nn.init.constant_(encoder.layers[0].bias, -0.3)  # 0.2 - 0.3 is below what a ReLU lets through
    assert not encoder(halves).any()


def test_an_image_of_one_shade_is_nothing() -> None:
    encoder = Encoder(SMALL)
    for shade in (0, 87, 255):
        assert encoder(torch.full((1, *SMALL.shape), shade, dtype=torch.uint8)).abs().max() < 1e-5
    x = images(SMALL) // 2
    assert torch.allclose(encoder(x), encoder(x + 100), atol=1e-5)


def test_a_small_thing_that_moves_is_seen_before_a_background_of_one_shade() -> None:
    """The ball and the white bars of Pong. Uncentred, with weights uniform in ±1/√inputs, it was 3 to 4 % of the features."""
    frames = torch.full((64, *ATARI.shape), 87, dtype=torch.uint8)
    frames[..., 10:13, :] = frames[..., 78:, :] = 236
    for i in range(64):
        frames[i, :, 20 + i % 8 * 7 :, 5 + i // 8 * 9 :][:, :2, :2] = 236
    found = []
    for seed in range(3):
        torch.manual_seed(seed)
        features = Encoder(ATARI)(frames).detach()
        found.append(float(features.std(0).square().mean().sqrt() / features.square().mean().sqrt()))
    assert min(found) > 0.08  # 0.03 to 0.04 before


def test_initial_weights_keep_contrast() -> None:
    layer = Convolution(64, 64, 3, 1)
    assert abs(float(layer.weight.detach().var()) * 576 - 2) < 0.05
    assert not layer.bias.any()


def test_it_is_pytorch_s_convolution() -> None:
    encoder = Encoder(ATARI)
    plain = nn.Sequential(
        nn.Conv2d(4, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Flatten()
    )
    for ours, theirs in zip(encoder.layers, (plain[0], plain[2], plain[4]), strict=True):
        theirs.load_state_dict(ours.state_dict())
    x = images(ATARI)
    assert torch.allclose(encoder(x), plain(x / 255 - (x / 255).mean((1, 2, 3), keepdim=True)), atol=1e-6)


def test_an_ensemble_is_so_many_encoders() -> None:
    together, x = Encoder(SMALL, ensemble=3).double(), images(SMALL)
    found = together(x)
    for i in range(3):
        alone = Encoder(SMALL).double()
        alone.load_state_dict({name: value[i] for name, value in together.state_dict().items()})
        assert torch.allclose(found[i], alone(x))
    assert found.shape == (3, 3, together.size)


def test_channels_may_come_last_or_be_missing() -> None:
    first, last, grey = (
        Encoder(Box((3, 40, 36), dtype="uint8")),
        Encoder(Box((40, 36, 3), dtype="uint8")),
        Encoder(Box((40, 36), dtype="uint8")),
    )
    last.load_state_dict(first.state_dict())
    x = images(Box((3, 40, 36), dtype="uint8"))
    assert torch.equal(last(x.movedim(1, -1)), first(x))
    one = Encoder(Box((1, 40, 36), dtype="uint8"))
    one.load_state_dict(grey.state_dict())
    assert torch.equal(grey(x[:, 0]), one(x[:, :1]))


def test_seeds_are_mapped_over() -> None:
    spec, x = Spec(SMALL, Discrete(3)), torch.stack([images(SMALL, seed=1), images(SMALL, seed=2)])
    critics = [Critic(spec, (8,), 2).double() for _ in range(2)]
    stacked = {name: torch.stack([dict(c.named_parameters())[name] for c in critics]).detach() for name, _ in critics[0].named_parameters()}
    found = vmap(lambda p, o: functional_call(critics[0], p, (o,)))(stacked, x)
    assert found.shape == (2, 2, 3, 3)  # [S, E, B, n]
    assert all(torch.allclose(found[i], critics[i](x[i])) for i in range(2))


@pytest.mark.parametrize("ensemble", [None, 2])
def test_actions_stand_beside_the_features(ensemble: int | None) -> None:
    mlp, x = MLP(SMALL, 1, (8,), actions=2, ensemble=ensemble), images(SMALL, 3)
    a = torch.rand(5, 3, 2)
    found = mlp(x.expand(5, *x.shape), a)
    assert found.shape == (*((2,) if ensemble else ()), 5, 3, 1)
    assert torch.allclose(found[..., 4, :, :], mlp(x, a[4]), atol=1e-6)
    assert not torch.equal(mlp(x, a[0]), mlp(x, a[1]))


def test_what_is_an_image() -> None:
    byte = [Box(shape, dtype="uint8") for shape in [(84, 84), (4, 84, 84), (84, 84, 3), (36, 36)]]
    other = [Box((7, 7, 3), dtype="uint8"), Box((128,), dtype="uint8"), Box((4, 84, 84)), Box((4, 84, 35), dtype="uint8"), Discrete(3)]
    assert [is_image(box) for box in byte] == [True] * 4
    assert [is_image(box) for box in other] == [False] * 5
    assert MLP(other[0], 2, (4,)).layers[0].weight.shape == (147, 4)  # small grids are numbers side by side
