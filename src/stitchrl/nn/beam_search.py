"""Plans from a model of transitions, token by token: beams of the best continuations (Janner et al., 2021, arXiv:2106.02039, section 3.2).

Shapes: N environments, B beams, H planned transitions of D tokens: O of the observation, A of the action, the reward's, the return's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, final

import torch
from torch import Tensor

from stitchrl.nn.decoding import Decoder, rows_of


@final
@dataclass(frozen=True)
class Search:
    """How plans are looked for; the letters are those of the authors' code.

    horizon: transitions of a plan, the present one included. expansion: continuations of each beam. drawn: each is sampled, as in the
    paper, or all are different, the likeliest ones. action_choices, observation_choices: only the k likeliest tokens may be drawn, None: all.
    dropped_mass: the least likely tokens of an action that together have less than this probability may not.
    """

    observation_places: int
    action_places: int
    beam_width: int = 128
    horizon: int = 15
    expansion: int = 2  # n_expand
    drawn: Literal["sampled", "likeliest"] = "sampled"
    action_choices: int | None = None  # k_act
    observation_choices: int = 1  # k_obs
    dropped_mass: float = 0.6  # cdf_act
    discount: float = 0.99

    @property
    def places(self) -> int:
        return self.observation_places + self.action_places + 2

    def noise_shape(self) -> tuple[int, int, int]:
        """The uniform numbers that one environment's plan is drawn with: transitions, rows, tokens."""
        drawn = self.action_places * (self.drawn == "sampled") + self.observation_places * (self.observation_choices > 1)
        return self.horizon, self.beam_width * self.expansion, drawn


class Plans(NamedTuple):
    """Of each environment, best first."""

    tokens: Tensor  # int64 [N, B, H, D]
    scores: Tensor  # [N, B]: what each is worth from now on, or its log-likelihood; -inf where there were fewer plans than beams


def plan_by_value(
    decoder: Decoder,
    now: Tensor,
    search: Search,
    reward: Callable[[Tensor], Tensor],
    value: Callable[[Tensor], Tensor],
    noise: Tensor | None,
) -> Plans:
    """Returns plans by what they earn: the sum of discounted rewards before a plan's last transition, and the return to go from there.

    decoder: has read all up to the present observation, whose tokens are `now [N, O]`. reward, value: the means `[…]` of logits `[…, V + 1]`.
    noise: `[N, *search.noise_shape()]`, None where nothing is drawn.
    """
    o, a = search.observation_places, search.action_places
    found = now.unsqueeze(1)  # [N, R, tokens so far]
    earned = torch.zeros(1, 1, device=now.device).expand(len(now), 1)  # [N, R]
    for step in range(search.horizon):
        u = None if noise is None else noise[:, step]
        if search.drawn == "sampled":
            assert u is not None
            parents, found = _drawn_actions(decoder, found, search, u[..., :a], first=step == 0)
            earned = rows_of(earned, parents)
        else:
            parents, found, possible = _likeliest_actions(decoder, found, search, first=step == 0)
            earned = rows_of(earned, parents).masked_fill(~possible, -torch.inf)
        predicted = decoder.logits()
        rewards, found = reward(predicted), _append(decoder, found, predicted.argmax(-1))
        predicted = decoder.logits()
        scores, found = earned + search.discount**step * value(predicted), _append(decoder, found, predicted.argmax(-1))
        scores, best = scores.topk(min(search.beam_width, scores.shape[1]), dim=1)
        earned = rows_of(earned + search.discount**step * rewards, best)
        found = rows_of(found, best)
        decoder.select(best)
        if step < search.horizon - 1:
            for place in range(o):
                logits = decoder.logits()
                if search.observation_choices == 1:
                    token = logits.argmax(-1)
                else:
                    assert u is not None
                    token = draw(truncated(logits, search.observation_choices), u[:, : logits.shape[1], place - o])
                found = _append(decoder, found, token)
    return Plans(found.unflatten(2, (search.horizon, search.places)), scores)


def plan_by_likelihood(decoder: Decoder, now: Tensor, search: Search) -> Plans:
    """Returns the likeliest plans, token by token (algorithm 1 of the paper): imitation, or with a goal before it the way there."""
    found = now.unsqueeze(1)
    scores = torch.zeros(1, 1, device=now.device).expand(len(now), 1)
    for position in range(search.observation_places, search.horizon * search.places):
        logits = decoder.logits()
        if position < search.places - 2:  # the action that will be done is one
            logits = _going_on(logits)
        candidates = scores.unsqueeze(-1) + logits.log_softmax(-1)  # [N, R, V + 1]
        most = min(search.beam_width, candidates[0].numel())
        scores, best = candidates.flatten(1).topk(most, dim=1)
        rows = best // candidates.shape[-1]
        decoder.select(rows)
        found = _append(decoder, rows_of(found, rows), best % candidates.shape[-1])
    return Plans(found.unflatten(2, (search.horizon, search.places)), scores)


def decode_action(decoder: Decoder, places: int, noise: Tensor | None) -> Tensor:
    """Returns the tokens `[N, A]` of an action decoded without planning: each the likeliest, or drawn with uniform `noise [N, A]`."""
    tokens = []
    for place in range(places):
        logits = _going_on(decoder.logits())
        token = logits.argmax(-1) if noise is None else draw(logits, noise[:, place].unsqueeze(1))
        decoder.append(token)
        tokens.append(token.squeeze(1))
    return torch.stack(tokens, -1)


def truncated(logits: Tensor, choices: int | None = None, dropped_mass: float = 0.0) -> Tensor:
    """Returns logits with minus infinity for tokens beyond the `choices` likeliest, and for the least likely ones whose probabilities
    sum to less than `dropped_mass`; the likeliest stays."""
    if choices is None and dropped_mass == 0:
        return logits
    ordered, place = logits.sort(dim=-1)  # ascending
    dropped = ordered.softmax(-1).cumsum(-1) < dropped_mass
    if choices is not None:
        dropped[..., : max(logits.shape[-1] - choices, 0)] = True
    dropped[..., -1] = False
    return logits.masked_fill(torch.zeros_like(dropped).scatter(-1, place, dropped), -torch.inf)


def draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """Returns int64 `[…]`, a token by logits `[…, V]` for each number `[…]` in [0, 1): the first at which the summed probability exceeds it."""
    sums = logits.softmax(-1).cumsum(-1)
    total = sums[..., -1:]
    # of what rounding leaves of 1; where the sum is reached the tokens that follow have no probability
    return ((sums <= uniform.unsqueeze(-1) * total) & (sums < total)).sum(-1)


def _going_on(logits: Tensor) -> Tensor:
    """Logits of tokens that are not stop, the last one: an environment that asks for an action has not ended."""
    return torch.cat([logits[..., :-1], torch.full_like(logits[..., -1:], -torch.inf)], -1)


def _append(decoder: Decoder, found: Tensor, tokens: Tensor) -> Tensor:
    decoder.append(tokens)
    return torch.cat([found, tokens.unsqueeze(-1)], -1)


def _drawn_actions(decoder: Decoder, found: Tensor, search: Search, noise: Tensor, *, first: bool) -> tuple[Tensor, Tensor]:
    """Returns of which row each new one is the child, and tokens so far: each row is split, then each child draws an action of its own."""
    copies = noise.shape[1] // found.shape[1]  # at first one row is split for all beams
    parents = torch.arange(found.shape[1], device=found.device).repeat_interleave(copies).expand(len(found), -1)
    found = rows_of(found, parents)
    for place in range(search.action_places):
        logits = _going_on(decoder.logits()) if first else decoder.logits()
        logits = truncated(logits, search.action_choices, search.dropped_mass)
        if place == 0:
            logits = rows_of(logits, parents)
        found = _append(decoder, found, draw(logits, noise[..., place]))
    return parents, found


def _likeliest_actions(decoder: Decoder, found: Tensor, search: Search, *, first: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The same with the likeliest actions of each row, all different, by a beam search within each; and which of them are possible at all."""
    count, rows = found.shape[:2]
    own = torch.arange(rows, device=found.device).unsqueeze(-1)
    parents = own.squeeze(-1).expand(count, -1)
    likelihood = found.new_zeros(count, rows, 1, dtype=torch.float32)
    for place in range(search.action_places):
        logits = _going_on(decoder.logits()) if first else decoder.logits()
        logits = truncated(logits, search.action_choices, search.dropped_mass).unflatten(1, (rows, -1))  # [N, R, e, V + 1]
        candidates = (likelihood.unsqueeze(-1) + logits.log_softmax(-1)).flatten(2)
        likelihood, best = candidates.topk(min(search.expansion, candidates.shape[-1]), dim=-1)  # [N, R, e']
        if place:
            index = (own * logits.shape[2] + best // logits.shape[-1]).flatten(1)
            decoder.select(index)
            found, parents = rows_of(found, index), rows_of(parents, index)
        else:
            parents = parents.repeat_interleave(best.shape[-1], 1)
            found = rows_of(found, parents)
        found = _append(decoder, found, (best % logits.shape[-1]).flatten(1))
    return parents, found, likelihood.flatten(1) > -torch.inf
