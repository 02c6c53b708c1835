"""A causal transformer over the dimensions of transitions, one token each (Janner et al., 2021, arXiv:2106.02039, section 3.1).

Shapes: T transitions of D tokens each, at most `length` of them; V tokens at a place and one for stop; W width of the stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from stitchrl.nn.transformer import Transformer


@final
class TokenTransformer(nn.Module):
    """The law of each token, given all that stand before it: embeddings and an output layer of its own for each place in a transition.

    The last place, the return to go, enters as a constant: what is still to come is predicted, never read, as it is not known when acting.
    """

    def __init__(
        self, sizes: Sequence[int], length: int, width: int, layers: int, heads: int, *, dropout: float = 0.0, goal: int = 0
    ) -> None:
        """sizes: how many tokens each place knows; goal: tokens of a goal that stands before the first transition, or 0."""
        super().__init__()
        self.sizes, self.length, self.goal_places = tuple(sizes), length, goal
        self.places, self.stop = len(sizes), max(sizes)
        known = self.stop + 1
        self.embedding = nn.Parameter(torch.empty(self.places * known, width).normal_(std=0.02))
        self.goal_embedding = nn.Parameter(torch.empty(goal * known, width).normal_(std=0.02)) if goal else None
        self.position = nn.Parameter(torch.zeros(length * self.places, width))
        self.transformer = Transformer(width, layers, heads, dropout=dropout)
        self.head = nn.Parameter(torch.empty(self.places, width, known).normal_(std=0.02))

    def forward(self, tokens: Tensor, goal: Tensor | None = None, key: Tensor | None = None) -> Tensor:
        """Returns logits `[B, T, D, V + 1]` of each token `[B, T, D]`, given those before it and the goal's `[B, O]`.

        Without a goal nothing stands before the first token: its logits are 0. key: of dropout, None for none.
        """
        flat = tokens.flatten(1)
        x = self.embedded(flat[:, :-1], 0)
        if goal is not None:
            x = torch.cat([self.embedded_goal(goal), x], 1)
        h = self.transformer(x, key)
        h = functional.pad(h, (0, 0, 1, 0)) if goal is None else h[:, self.goal_places - 1 :]
        h = h.unflatten(1, (-1, self.places))  # [B, T, D, W]: what the token at this place is predicted from
        return torch.einsum("btdw,dwv->btdv", h, self.head).masked_fill(self.unknown(h.device), -torch.inf)

    def embedded(self, tokens: Tensor, first: int) -> Tensor:
        """Returns `[B, t, W]` of tokens `[B, t]` that stand at positions `first` … of a window, 0 at a transition's first."""
        place = torch.arange(first, first + tokens.shape[1], device=tokens.device) % self.places
        row = tokens * (place < self.places - 1) + place * (self.stop + 1)
        return functional.embedding(row, self.embedding) + self.position[first : first + tokens.shape[1]]

    def embedded_goal(self, goal: Tensor) -> Tensor:
        """Returns `[B, O, W]` of a goal's tokens `[B, O]`."""
        assert self.goal_embedding is not None
        return functional.embedding(goal + torch.arange(self.goal_places, device=goal.device) * (self.stop + 1), self.goal_embedding)

    def logits(self, h: Tensor, position: int) -> Tensor:
        """Returns `[*batch, V + 1]` of the token at a position, from the stream `[*batch, W]` at the one before."""
        place = position % self.places
        logits = h @ self.head[place]
        if self.sizes[place] < self.stop:
            logits[..., self.sizes[place] : self.stop] = -torch.inf
        return logits

    def unknown(self, device: torch.device) -> Tensor:
        """Returns bool `[D, V + 1]`, the tokens that a place does not know; stop is known everywhere."""
        sizes = torch.tensor(self.sizes, device=device).unsqueeze(-1)
        return functional.pad(torch.arange(self.stop, device=device) >= sizes, (0, 1))
