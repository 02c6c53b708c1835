"""Dropout (Srivastava et al., 2014, jmlr v15) whose masks are a pure function of a number that is handed in.

A step of learning draws no random numbers of its own: it is compiled, mapped over seeds and repeated bit for bit. A mask is therefore a hash
of the element's place, of the layer's, and of the step's key: some integer operations an element, which compile to vector instructions.
"""

from __future__ import annotations

import torch
from torch import Tensor

_BITS = 24  # of a uniform float32: so many keys and so many levels of probability can be told apart


def dropout(x: Tensor, rate: float, key: Tensor, place: int) -> Tensor:
    """Returns `x` with a share `rate` of its elements 0 and the others divided by the share that stays: the mean over keys is x.

    key: one number in [0, 1), `[]` or `[1]`; the same key gives the same mask, another (of 2^24) an independent one, as does another `place`.
    Raises ValueError for a rate outside [0, 1).
    """
    if not 0 <= rate < 1:
        raise ValueError(f"the rate of dropout is {rate}; expected at least 0 and less than 1")
    if rate == 0:
        return x
    levels = 1 << _BITS
    kept = max(1, round((1 - rate) * levels))  # of the levels: what is divided by is the share that stays, exactly
    # of one axis: compiled under vmap, a whole number beside a tensor without axes goes through float32 and is rounded (PyTorch 2.13)
    bits = _hashed(x.shape, (key.reshape(1) * levels).to(torch.int32), place) & (levels - 1)
    return torch.where(bits < kept, x * (levels / kept), 0.0)


def _hashed(shape: torch.Size, key: Tensor, place: int) -> Tensor:
    """int32 of a shape, its bits as good as random: the element's number, mixed with one word of the key and place, then with another."""
    first = _mixed(key ^ _signed(0x9E3779B9 * (2 * place + 1)))
    second = _mixed(first + _signed(0x85EBCA6B))
    position = torch.arange(shape.numel(), device=key.device, dtype=torch.int32).view(shape)
    return _mixed(_mixed(position + first) ^ second)


def _mixed(x: Tensor) -> Tensor:
    """A bijection of 32 bits (C. Wellons' `lowbias32`): two rounds of shift, exclusive or and product, which wraps."""
    x = (x ^ _shifted(x, 16)) * _signed(0x7FEB352D)
    x = (x ^ _shifted(x, 15)) * _signed(0x846CA68B)
    return x ^ _shifted(x, 16)


def _shifted(x: Tensor, places: int) -> Tensor:
    """To the right, zeros coming in from the left: int32 alone would repeat its sign."""
    return (x >> places) & ((1 << (32 - places)) - 1)


def _signed(word: int) -> int:
    """The int32 with the lowest 32 bits of a word."""
    word &= 0xFFFFFFFF
    return word - (1 << 32) if word >= 1 << 31 else word
