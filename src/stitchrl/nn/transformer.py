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
@dataclass(frozen=True)
class Cache:
    """Keys and values of the positions so far, `[layers, B, H, length, D / H]` each, of which `used` are filled.

    `extend` writes into the buffers and returns a Cache that holds them: the one it was given is spent.
    """

    keys: Tensor
    values: Tensor
    used: int = 0


def select(cache: Cache, index: Tensor) -> Cache:
    """Returns a cache whose batch is the rows at `index [B']` of this one's, any of them as often as wanted: how beams are kept or split."""
    buffers = []
    for held in (cache.keys, cache.values):
        chosen = held.new_empty((held.shape[0], len(index), *held.shape[2:]))
        chosen[:, :, :, : cache.used] = held[:, :, :, : cache.used].index_select(1, index)
        buffers.append(chosen)
    return Cache(buffers[0], buffers[1], cache.used)


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
        visible = _visible(x.shape[1], x.shape[1], x.device) if self.causal else None
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

    def empty_cache(self, batch: int, length: int) -> Cache:
        """Returns a cache for `batch` sequences of at most `length` positions."""
        block = self.blocks[0]
        assert isinstance(block, Block)
        weight = block.to_query.weight
        shape = (len(self.blocks), batch, block.heads, length, weight.shape[0] // block.heads)
        return Cache(weight.new_empty(shape), weight.new_empty(shape))

    def extend(self, x: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
        """Returns outputs `[B, t, D]` of t tokens that follow what the cache holds, as `forward` of all gives them, and the longer cache.

        No dropout, no gradients: it writes in place. Raises ValueError where the cache is too short, or the transformer not causal.
        """
        used, most = cache.used + x.shape[1], cache.keys.shape[3]
        if not self.causal or used > most:
            told = f"{cache.used} positions are in a cache of {most} and {x.shape[1]} were to follow"
            raise ValueError(f"{told}; make it longer" if self.causal else "only a causal transformer can be extended: others look ahead")
        visible = None if x.shape[1] == 1 else _visible(x.shape[1], used, x.device)
        for i, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            normalised = block.attention_norm(x)
            cache.keys[i, :, :, cache.used : used], cache.values[i, :, :, cache.used : used] = block.keys_and_values(normalised)
            query = block.heads_of(block.to_query(normalised))
            keys, values = cache.keys[i, :, :, :used], cache.values[i, :, :, :used]
            x = x + block.merged(functional.scaled_dot_product_attention(query, keys, values, visible))
            x = x + block.fed(x)
        return self.norm(x), Cache(cache.keys, cache.values, used)

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


def _visible(queries: int, positions: int, device: torch.device) -> Tensor:
    """`[queries, positions]`, whether a query may look at a position: the queries are the last ones, and see themselves and what was before."""
    return torch.ones(queries, positions, dtype=torch.bool, device=device).tril(positions - queries)


def _linear(inputs: int, outputs: int, layers: int | None = None) -> nn.Linear:
    """A layer with GPT-2's first weights; `layers` is given where it writes to the residual stream, two of them a block."""
    layer = nn.Linear(inputs, outputs)
    nn.init.normal_(layer.weight, std=0.02 if layers is None else 0.02 / math.sqrt(2 * layers))
    nn.init.zeros_(layer.bias)
    return layer
