"""The transformer of every sequence model: pre-norm blocks, causal unless told, with a cache of keys and values for decoding.

Blocks as GPT-2's (Radford et al., 2019): x + attention(norm(x)), then x + feedforward(norm(x)), a last norm, weights normal with deviation 0.02,
those that write to the residual stream smaller by sqrt(2 layers). A model brings its own tokens and embeddings of positions.
Shapes: B batch, T positions, D width, H heads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from stitchrl.core.errors import ConfigError
from stitchrl.nn.dropout import dropout
from stitchrl.nn.mlp import LayerNorm

Activation = Literal["relu", "gelu"]


@final
@dataclass
class Level:
    """Keys and values `[2, layers, N G, H, length, D / H]` of successive positions, `used` of them, each for a group of rows side by side."""

    held: Tensor
    groups: int
    used: int = 0


@final
class Cache:
    """Keys and values of N sequences, each with `rows` continuations, as a tree: what rows have in common is held once.

    A past is held for all rows of its sequence, a beam's history for all that it was split into; a row's query looks through every level.
    `extend` writes into it.
    """

    def __init__(self, length: int) -> None:
        """length: how many positions there can be, from the first to a row's last."""
        self.length, self.rows = length, 1
        self.levels: list[Level] = []

    @property
    def used(self) -> int:
        """How many positions each row has."""
        return sum(level.used for level in self.levels)

    def split(self, times: int) -> None:
        """Each row goes on as several, side by side."""
        self.rows *= times

    def select(self, index: Tensor) -> None:
        """Keeps the rows at `index [N, R']` of each sequence, any of them as often as wanted: how beams are dropped and doubled."""
        shared, apart = ([level for level in self.levels if (level.groups == 1) is whole] for whole in (True, False))
        if apart:  # what is no longer shared in blocks becomes one level, a group for each row
            length = self.length - sum(level.used for level in shared)
            two, layers, _, heads, _, size = apart[0].held.shape
            kept = Level(apart[0].held.new_empty(two, layers, index.numel(), heads, length, size), index.shape[1])
            first = torch.arange(len(index), device=index.device).unsqueeze(1)
            for level in apart:
                group = (first * level.groups + index // (self.rows // level.groups)).flatten()
                stop = kept.used + level.used
                kept.held[..., kept.used : stop, :] = level.held[..., : level.used, :].index_select(2, group)
                kept.used = stop
            self.levels = [*shared, kept]
        self.rows = index.shape[1]

    def room(self, positions: int, shape: tuple[int, int, int, int], like: Tensor) -> Level:
        """Returns the level of all rows as they are now, with room for as many more positions; shape: layers, N, H, D / H."""
        if self.used + positions > self.length:
            told = f"{self.used} positions are in a cache of {self.length} and {positions} were to follow"
            raise ValueError(f"{told}; make it longer")
        if not self.levels or self.levels[-1].groups != self.rows:
            layers, sequences, heads, size = shape
            self.levels.append(Level(like.new_empty(2, layers, sequences * self.rows, heads, self.length - self.used, size), self.rows))
        return self.levels[-1]


@final
class Block(nn.Module):
    """One layer: attention and feedforward, each on a normalised copy and added to the stream."""

    def __init__(self, width: int, heads: int, feedforward: int, layers: int, activation: Activation) -> None:
        super().__init__()
        self.heads, self.activation = heads, activation
        self.attention_norm, self.feedforward_norm = LayerNorm(width), LayerNorm(width)
        self.to_query, self.to_key_value, self.from_heads = _linear(width, width), _linear(width, 2 * width), _linear(width, width, layers)
        self.up, self.down = _linear(width, feedforward * width), _linear(feedforward * width, width, layers)

    def heads_of(self, x: Tensor) -> Tensor:
        """Returns `[B, H, T, D / H]` from `[B, T, D]`."""
        split: Tensor = x.unflatten(-1, (self.heads, -1))
        return split.transpose(1, 2)

    def keys_and_values(self, normalised: Tensor) -> tuple[Tensor, Tensor]:
        """Returns both, `[B, H, T, D / H]`."""
        keys, values = self.to_key_value(normalised).chunk(2, -1)
        return self.heads_of(keys), self.heads_of(values)

    def merged(self, found: Tensor) -> Tensor:
        """Returns what attention writes to the stream, `[B, T, D]`, from what its heads found."""
        result: Tensor = self.from_heads(found.transpose(1, 2).flatten(2))
        return result

    def fed(self, x: Tensor) -> Tensor:
        """Returns what the feedforward layers write to the stream."""
        hidden = self.up(self.feedforward_norm(x))
        # GELU by its tanh form, as GPT-2 has it
        result: Tensor = self.down(torch.relu(hidden) if self.activation == "relu" else functional.gelu(hidden, approximate="tanh"))
        return result


@final
class Transformer(nn.Module):
    """Tokens `[B, T, D]` to outputs of the same shape; causal: the output at t depends on the tokens 0 … t alone."""

    def __init__(
        self,
        width: int,
        layers: int,
        heads: int,
        *,
        activation: Activation = "gelu",
        dropout: float = 0.0,
        causal: bool = True,
        feedforward: int = 4,
    ) -> None:
        """feedforward: units of the hidden layer, in widths. Raises ConfigError where the heads do not divide the width."""
        super().__init__()
        if width % heads:
            raise ConfigError(f"a transformer of width {width} has {heads} heads; expected a number of heads that divides the width")
        self.dropout, self.causal = dropout, causal
        self.blocks = nn.ModuleList(Block(width, heads, feedforward, layers, activation) for _ in range(layers))
        self.norm = LayerNorm(width)

    def forward(self, x: Tensor, key: Tensor | None = None, at: slice | None = None) -> Tensor:
        """Returns outputs `[B, T, D]`, or those at some positions alone, for which the last layer spares what no other needs.

        key: the number that dropout's masks are a function of (see nn/dropout.py), used on tokens, on attention and on both additions to the
        stream, as GPT-2 does; None: no dropout.
        """
        x = self._dropped(x, key, 0)
        visible = _visible(x.shape[1], x.device) if self.causal else None
        for i, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            normalised = block.attention_norm(x)
            keys, values = block.keys_and_values(normalised)
            if at is not None and i == len(self.blocks) - 1:
                x, normalised = x[:, at], normalised[:, at]
                visible = None if visible is None else visible[at]
            query = block.heads_of(block.to_query(normalised))
            found = self._attended(query, keys, values, visible, key, 3 * i + 1)
            x = x + self._dropped(block.merged(found), key, 3 * i + 2)
            x = x + self._dropped(block.fed(x), key, 3 * i + 3)
        result: Tensor = self.norm(x)
        return result

    def extend(self, x: Tensor, cache: Cache, at: slice | None = None) -> Tensor:
        """Returns outputs `[N R, T, D]` of tokens that follow what the cache holds of each row, as `forward` of all gives them, or at some alone.

        No dropout, no gradients: keys and values are written in place. Raises ValueError where the cache is too short, or the transformer not
        causal.
        """
        if not self.causal:
            raise ValueError("only a causal transformer can be extended: others look ahead")
        first, new = self.blocks[0], x.shape[1]
        assert isinstance(first, Block)
        shape = (len(self.blocks), len(x) // cache.rows, first.heads, x.shape[-1] // first.heads)
        top = cache.room(new, shape, first.to_query.weight)
        start, top.used = top.used, top.used + new
        visible = None if new == 1 else _visible(new, x.device)
        for i, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            normalised = block.attention_norm(x)
            top.held[0, i, :, :, start : top.used], top.held[1, i, :, :, start : top.used] = block.keys_and_values(normalised)
            if at is not None and i == len(self.blocks) - 1:
                x, normalised = x[:, at], normalised[:, at]
                visible = None if visible is None else visible[at]
            x = x + block.merged(_found(block.heads_of(block.to_query(normalised)), cache, i, visible))
            x = x + block.fed(x)
        result: Tensor = self.norm(x)
        return result

    def _dropped(self, x: Tensor, key: Tensor | None, place: int) -> Tensor:
        return x if key is None else dropout(x, self.dropout, key, place)

    def _attended(self, query: Tensor, keys: Tensor, values: Tensor, visible: Tensor | None, key: Tensor | None, place: int) -> Tensor:
        """What each query finds, `[B, H, t, D / H]`.

        Written out on a CPU: PyTorch's own attention has no rule for vmap there, and compiled at 60 positions it takes 1.6 times as long.
        """
        if query.is_cuda and (key is None or self.dropout == 0):
            return functional.scaled_dot_product_attention(query, keys, values, visible)
        scores = (query / math.sqrt(query.shape[-1])) @ keys.transpose(-1, -2)
        if visible is not None:
            scores = scores.masked_fill(~visible, -torch.inf)
        return self._dropped(scores.softmax(-1), key, place) @ values


def _found(query: Tensor, cache: Cache, layer: int, visible: Tensor | None) -> Tensor:
    """What queries `[N R, H, t, D / H]` find in all levels; visible `[t, new]`: which of the newest positions each may look at."""
    query = query / math.sqrt(query.shape[-1])
    held = [level.held[:, layer, :, :, : level.used] for level in cache.levels]
    together = [cache.rows // level.groups for level in cache.levels]
    scores = torch.cat([_apart(_together(query, n) @ keys.mT, n) for (keys, _), n in zip(held, together, strict=True)], -1)
    if visible is not None:
        scores[..., scores.shape[-1] - visible.shape[1] :].masked_fill_(~visible, -torch.inf)
    weights = scores.softmax(-1).split([level.used for level in cache.levels], -1)
    found = [_apart(_together(weight, n) @ values, n) for weight, (_, values), n in zip(weights, held, together, strict=True)]
    return sum(found[1:], found[0])


def _together(x: Tensor, rows: int) -> Tensor:
    """`[G, H, rows t, …]` from `[G rows, H, t, …]`: rows that look at the same keys are one matrix."""
    return x if rows == 1 else x.unflatten(0, (-1, rows)).transpose(1, 2).flatten(2, 3)


def _apart(x: Tensor, rows: int) -> Tensor:
    """The inverse of `_together`."""
    return x if rows == 1 else x.unflatten(2, (rows, -1)).transpose(1, 2).flatten(0, 1)


def _visible(positions: int, device: torch.device) -> Tensor:
    """`[positions, positions]`, whether one may look at another: at itself and at what was before."""
    return torch.ones(positions, positions, dtype=torch.bool, device=device).tril()


def _linear(inputs: int, outputs: int, layers: int | None = None) -> nn.Linear:
    """A layer with GPT-2's first weights; `layers` is given where it writes to the residual stream, two of them a block."""
    layer = nn.Linear(inputs, outputs)
    nn.init.normal_(layer.weight, std=0.02 if layers is None else 0.02 / math.sqrt(2 * layers))
    nn.init.zeros_(layer.bias)
    return layer
