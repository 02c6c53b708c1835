"""Dropout as a pure function: its mean, its independence over keys, places and elements, and that it maps and compiles."""

from __future__ import annotations

import pytest
import torch
from torch.func import vmap

from stitchrl.nn.dropout import dropout

ONES = torch.ones(64, 40)


def mask(key: float, place: int = 0, rate: float = 0.5, shape: tuple[int, ...] = (64, 40)) -> torch.Tensor:
    return dropout(torch.ones(shape), rate, torch.tensor(key), place) == 0


def test_the_hash_is_the_published_one() -> None:
    from stitchrl.nn.dropout import _mixed

    def by_hand(x: int) -> int:  # in whole numbers without a sign
        x = (x ^ x >> 16) * 0x7FEB352D % 2**32
        x = (x ^ x >> 15) * 0x846CA68B % 2**32
        return x ^ x >> 16

    words = [0, 1, 2, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 123_456_789, 4_000_000_000]
    signed = torch.tensor([w - 2**32 if w >= 2**31 else w for w in words], dtype=torch.int32)
    assert [w % 2**32 for w in _mixed(signed).tolist()] == [by_hand(w) for w in words]


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_share_that_is_dropped_and_the_mean(rate: float) -> None:
    keys = torch.rand(200, generator=torch.Generator().manual_seed(0))
    out = torch.stack([dropout(ONES, rate, key, 3) for key in keys])  # 512,000 elements
    dropped = (out == 0).double().mean().item()
    assert abs(dropped - rate) < 4 * (rate * (1 - rate) / out.numel()) ** 0.5
    assert out[out != 0].unique().tolist() == pytest.approx([1 / (1 - rate)], rel=1e-6)
    # each element by itself over the keys, none of them favoured: a chi-square of 2,560 elements, and of each key's share over its elements
    for axis, count, others in ((0, 200, 2560), ((1, 2), 2560, 200)):
        z2 = ((out == 0).double().mean(axis) - rate).square() * count / (rate * (1 - rate))
        assert abs(z2.mean().item() - 1) < 5 * (2 / others) ** 0.5


def test_masks_of_keys_places_and_neighbours_are_unrelated() -> None:
    base = mask(0.25).double() - 0.5
    step = 2**-24  # the next key that can be told apart
    others = [mask(0.25 + step), mask(0.25 - step), mask(0.0), mask(0.5), mask(0.25, 1), mask(0.25, 2), mask(0.25).roll(1, 1)]
    others += [mask(0.25).roll(1, 0), mask(0.25, shape=(40, 64)).T]
    for other in others:
        product = (base * (other.double() - 0.5)).mean().item() * 4  # a correlation of 2,560 pairs
        assert abs(product) < 4 / 2560**0.5
    assert torch.equal(mask(0.25), mask(0.25))


def test_what_is_kept_keeps_its_gradient() -> None:
    x = torch.randn(30, 5, requires_grad=True)
    out = dropout(x, 0.3, torch.tensor([0.7]), 0)
    (slope,) = torch.autograd.grad(out.sum(), x)
    assert torch.allclose(slope * x, out)
    assert dropout(x, 0.0, torch.tensor(0.1), 0) is x
    with pytest.raises(ValueError, match=r"rate of dropout is 1.*less than 1"):
        dropout(x, 1.0, torch.tensor(0.1), 0)


def test_mapped_over_seeds_it_is_each_alone() -> None:
    x, keys = torch.randn(3, 7, 6), torch.tensor([[0.1], [0.9], [0.5]])
    together = vmap(lambda a, k: dropout(a, 0.4, k, 2))(x, keys)
    assert torch.equal(together, torch.stack([dropout(a, 0.4, k, 2) for a, k in zip(x, keys, strict=True)]))
    assert not torch.equal(together[0] == 0, together[1] == 0)


def test_in_float64_the_mask_is_the_same() -> None:
    x, key = torch.randn(9, 33, dtype=torch.float64), torch.tensor(0.123, dtype=torch.float32)
    assert torch.equal(dropout(x, 0.4, key.double(), 1) == 0, dropout(x.float(), 0.4, key, 1) == 0)


@pytest.mark.slow
def test_compiled_it_is_the_same() -> None:
    # with a rest to the width of the machine's vectors: integers wrap in both alike
    def several(x: torch.Tensor, keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return vmap(lambda a, k: dropout(a, 0.1, k, 5))(x, keys), dropout(x, 0.1, keys[1], 2**20)

    x, keys = torch.randn(3, 60, 33), torch.tensor([0.0, 0.3, 1 - 2**-24])
    for one, own in zip(torch.compile(several, fullgraph=True)(x, keys), several(x, keys), strict=True):
        assert torch.equal(one, own)
