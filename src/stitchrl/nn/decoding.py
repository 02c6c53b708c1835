"""Decoding many continuations of one past at once, token by token, with what was computed before kept and shared.

Rows are continuations: N environments with R rows each, all rows of an environment from the same past. What they have in common is held
once: a past for the environment, a beam's history for all that it was split into; a row's query looks through the levels of this tree.

The model reads a window of at most `context` transitions. When it is full the oldest `slide` transitions are dropped, as in Janner et al.'s
search, and as positions are counted from the window's start, the others are read anew.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from stitchrl.nn.token_transformer import TokenTransformer
from stitchrl.nn.transformer import Block


class Decoder(ABC):
    """Rows of tokens that grow: all that a search must know of a model."""

    @abstractmethod
    def logits(self) -> Tensor:
        """Returns `[N, R, V + 1]`, of each row's next token."""

    @abstractmethod
    def append(self, tokens: Tensor) -> None:
        """Appends tokens `[N, R E]`: each row is split into E, side by side, or E = 1 goes on."""

    @abstractmethod
    def select(self, index: Tensor) -> None:
        """Keeps the rows at `index [N, R']` of each environment, any of them as often as wanted."""


def rows_of(x: Tensor, index: Tensor) -> Tensor:
    """Returns `[N, R', …]`, the rows at `index [N, R']` of `x [N, R, …]`."""
    return x[torch.arange(len(index), device=x.device).unsqueeze(1), index]


@final
class Window:
    """The tokens of the present window: those of the past `[N, P]`, and those of each row after them `[N, R, t]`."""

    def __init__(self, past: Tensor, places: int, context: int, slide: int) -> None:
        """Raises ValueError where the past fills the window, or where it would be emptied by sliding."""
        self.capacity, self.step = places * context, places * slide
        if not past.shape[1] or past.shape[1] >= self.capacity or slide >= context:
            raise ValueError(
                f"a past of {past.shape[1]} tokens and a slide of {slide} leave nothing to read in a window of {context} × {places}"
            )
        self.past = past
        self.own = past.new_empty(len(past), 1, 0)

    @property
    def size(self) -> int:
        return self.past.shape[1] + self.own.shape[2]

    def append(self, tokens: Tensor) -> None:
        self.own = torch.cat([self.own.repeat_interleave(tokens.shape[1] // self.own.shape[1], 1), tokens.unsqueeze(-1)], -1)

    def slide(self) -> bool:
        """Drops the oldest transitions of a full window; returns whether it was full."""
        if self.size < self.capacity:
            return False
        from_own = max(self.step - self.past.shape[1], 0)
        self.past, self.own = self.past[:, self.step :], self.own[:, :, from_own:]
        return True


@final
class PlainDecoder(Decoder):
    """Each token from the whole window anew: what the cached one must agree with, and what its speed is measured against."""

    def __init__(self, model: TokenTransformer, past: Tensor, context: int, slide: int = 1, goal: Tensor | None = None) -> None:
        self.model, self.goal = model, goal
        self.window = Window(past, model.places, context, slide)

    def logits(self) -> Tensor:
        self.window.slide()
        own = self.window.own
        past = self.window.past.unsqueeze(1).expand(-1, own.shape[1], -1)
        x = self.model.embedded(torch.cat([past, own], -1).flatten(0, 1), 0)
        if self.goal is not None:
            x = torch.cat([self.model.embedded_goal(self.goal).repeat_interleave(own.shape[1], 0), x], 1)
        h = self.model.transformer(x)[:, -1].unflatten(0, own.shape[:2])
        return self.model.logits(h, self.window.size)

    def append(self, tokens: Tensor) -> None:
        self.window.append(tokens)

    def select(self, index: Tensor) -> None:
        self.window.own = rows_of(self.window.own, index)


@final
@dataclass
class Level:
    """Keys and values `[2, layers, N G, H, length, W / H]` of successive positions, `used` of them, each for a group of rows side by side."""

    held: Tensor
    groups: int
    used: int = 0


@final
class CachedDecoder(Decoder):
    """Each token from the one before and what is kept of all others."""

    def __init__(self, model: TokenTransformer, past: Tensor, context: int, slide: int = 1, goal: Tensor | None = None) -> None:
        self.model, self.goal = model, goal
        self.window = Window(past, model.places, context, slide)
        self.levels: list[Level] = []
        self.waiting = 0  # how many of each row's tokens, its last ones, are not yet read
        self._read_past()

    def logits(self) -> Tensor:
        if self.window.slide():
            self._read_past()
            self.waiting = self.window.own.shape[2]
        if self.waiting:
            rows, own = self.window.own.shape[1:]
            tokens = self.window.own[:, :, own - self.waiting :].flatten(0, 1)
            self.last = self._read(self.model.embedded(tokens, self.window.size - self.waiting), rows)
            self.waiting = 0
        return self.model.logits(self.last, self.window.size)

    def append(self, tokens: Tensor) -> None:
        self.window.append(tokens)
        self.waiting += 1

    def select(self, index: Tensor) -> None:
        rows = self.window.own.shape[1]
        self.window.own = rows_of(self.window.own, index)
        if not self.waiting:
            self.last = rows_of(self.last, index)
        apart = [level for level in self.levels if level.groups > 1]
        if apart:  # what is no longer shared in blocks becomes one level, a group for each row
            kept = self._level(len(index), index.shape[1])
            first = torch.arange(len(index), device=index.device).unsqueeze(1)
            for level in apart:
                group = (first * level.groups + index // (rows // level.groups)).flatten()
                stop = kept.used + level.used
                kept.held[..., kept.used : stop, :] = level.held[..., : level.used, :].index_select(2, group)
                kept.used = stop
            self.levels = [level for level in self.levels if level.groups == 1] + [kept]

    def _read_past(self) -> None:
        self.levels = []
        x = self.model.embedded(self.window.past, 0)
        if self.goal is not None:
            x = torch.cat([self.model.embedded_goal(self.goal), x], 1)
        if x.shape[1]:
            self.last = self._read(x, 1)

    def _level(self, environments: int, groups: int) -> Level:
        """An empty level with room for all that can come before the window slides."""
        block = self.model.transformer.blocks[0]
        assert isinstance(block, Block)
        weight, length = block.to_query.weight, self.window.capacity + self.model.goal_places
        length -= sum(level.used for level in self.levels if level.groups == 1) if groups > 1 else 0
        shape = (2, len(self.model.transformer.blocks), environments * groups, block.heads, length, weight.shape[0] // block.heads)
        return Level(weight.new_empty(shape), groups)

    def _read(self, x: Tensor, rows: int) -> Tensor:
        """Returns the stream `[N, R, W]` after t positions `[N R, t, W]`, whose keys and values are kept."""
        environments = len(x) // rows
        if not self.levels or self.levels[-1].groups != rows:
            self.levels.append(self._level(environments, rows))
        top, new = self.levels[-1], x.shape[1]
        start, top.used = top.used, top.used + new
        for i, block in enumerate(self.model.transformer.blocks):
            assert isinstance(block, Block)
            normalised = block.attention_norm(x)
            top.held[0, i, :, :, start : top.used], top.held[1, i, :, :, start : top.used] = block.keys_and_values(normalised)
            if i == len(self.model.transformer.blocks) - 1:  # of the last layer only the last position is asked
                x, normalised = x[:, -1:], normalised[:, -1:]
            x = x + block.merged(self._found(block.heads_of(block.to_query(normalised)), i, rows))
            x = x + block.fed(x)
        return self.model.transformer.norm(x[:, -1]).unflatten(0, (environments, rows))  # type: ignore[no-any-return]

    def _found(self, query: Tensor, layer: int, rows: int) -> Tensor:
        """What queries `[N R, H, t, W / H]` of the last t positions find in all levels."""
        query = query / math.sqrt(query.shape[-1])
        held = [level.held[:, layer, :, :, : level.used] for level in self.levels]
        together = [rows // level.groups for level in self.levels]
        scores = [_apart(_together(query, n) @ keys.mT, n) for (keys, _), n in zip(held, together, strict=True)]
        seen = torch.cat(scores, -1)  # [N R, H, t, positions]
        if (new := query.shape[2]) > 1:
            ahead = torch.ones(new, new, dtype=torch.bool, device=query.device).triu(1)
            seen[..., seen.shape[-1] - new :].masked_fill_(ahead, -torch.inf)
        weights = seen.softmax(-1).split([level.used for level in self.levels], -1)
        return sum(  # type: ignore[return-value]
            _apart(_together(weight, n) @ values, n) for weight, (_, values), n in zip(weights, held, together, strict=True)
        )


def _together(x: Tensor, rows: int) -> Tensor:
    """`[G, H, rows t, …]` from `[G rows, H, t, …]`: rows that look at the same keys are one matrix."""
    return x if rows == 1 else x.unflatten(0, (-1, rows)).transpose(1, 2).flatten(2, 3)


def _apart(x: Tensor, rows: int) -> Tensor:
    """The inverse of `_together`."""
    return x if rows == 1 else x.unflatten(2, (rows, -1)).transpose(1, 2).flatten(0, 1)
