"""Decoding many continuations of one past at once, token by token, with what was computed before kept and shared.

Rows are continuations: N environments with R rows each, all rows of an environment from the same past.

The model reads a window of at most `context` transitions. When it is full the oldest `slide` transitions are dropped, as in Janner et al.'s
search, and as positions are counted from the window's start, the others are read anew.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import final

import torch
from torch import Tensor

from stitchrl.nn.token_transformer import TokenTransformer
from stitchrl.nn.transformer import Cache


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
class CachedDecoder(Decoder):
    """Each token from the one before and what is kept of all others."""

    last: Tensor  # [N, R, W]: the stream after each row's last position that was read

    def __init__(self, model: TokenTransformer, past: Tensor, context: int, slide: int = 1, goal: Tensor | None = None) -> None:
        self.model, self.goal = model, goal
        self.window = Window(past, model.places, context, slide)
        self.waiting = 0  # how many of each row's tokens, its last ones, are not yet read
        self._read_past()

    def logits(self) -> Tensor:
        if self.window.slide():
            self._read_past()
            rows, self.waiting = self.window.own.shape[1:]
            self.cache.split(rows)
        if self.waiting:
            tokens = self.window.own[:, :, self.window.own.shape[2] - self.waiting :].flatten(0, 1)
            self._read(self.model.embedded(tokens, self.window.size - self.waiting))
            self.waiting = 0
        return self.model.logits(self.last, self.window.size)

    def append(self, tokens: Tensor) -> None:
        self.cache.split(tokens.shape[1] // self.window.own.shape[1])
        self.window.append(tokens)
        self.waiting += 1

    def select(self, index: Tensor) -> None:
        self.window.own = rows_of(self.window.own, index)
        self.cache.select(index)
        if not self.waiting:
            self.last = rows_of(self.last, index)

    def _read_past(self) -> None:
        self.cache = Cache(self.window.capacity + self.model.goal_places)
        x = self.model.embedded(self.window.past, 0)
        if self.goal is not None:
            x = torch.cat([self.model.embedded_goal(self.goal), x], 1)
        if x.shape[1]:
            self._read(x)

    def _read(self, x: Tensor) -> None:
        """Keeps the stream `[N, R, W]` after positions `[N R, t, W]`."""
        self.last = self.model.transformer.extend(x, self.cache, slice(-1, None))[:, -1].unflatten(0, (-1, self.cache.rows))
