"""Beam search against all plans there are, on small models of every kind of law; and its parts worked out by hand."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from stitchrl.nn.beam_search import Plans, Search, decode_action, draw, plan_by_likelihood, plan_by_value, truncated
from stitchrl.nn.decoding import CachedDecoder, Decoder, PlainDecoder, rows_of
from stitchrl.nn.token_transformer import TokenTransformer

V = 3  # tokens at each place, and one for stop
REWARDS, RETURNS = torch.tensor([-1.0, 0.5, 2.0, 0.0]), torch.tensor([-2.0, 1.0, 3.0, 0.0])


def table(seed: int, environment: int, history: tuple[int, ...]) -> Tensor:
    """The logits after a history: drawn once for each, so that nothing but the history decides."""
    number = hash((seed, environment, history)) % 2**62
    return 2 * torch.randn(V + 1, generator=torch.Generator().manual_seed(number), dtype=torch.float64)


class TableDecoder(Decoder):
    """A model that is nothing but a table."""

    def __init__(self, seed: int, past: Tensor) -> None:
        self.seed = seed
        self.held = past.unsqueeze(1)

    def logits(self) -> Tensor:
        return torch.stack([torch.stack([table(self.seed, n, tuple(row)) for row in rows]) for n, rows in enumerate(self.held.tolist())])

    def append(self, tokens: Tensor) -> None:
        self.held = torch.cat([self.held.repeat_interleave(tokens.shape[1] // self.held.shape[1], 1), tokens.unsqueeze(-1)], -1)

    def select(self, index: Tensor) -> None:
        self.held = rows_of(self.held, index)


def reward(logits: Tensor) -> Tensor:
    return logits.softmax(-1) @ REWARDS.double()


def value(logits: Tensor) -> Tensor:
    return logits.softmax(-1) @ RETURNS.double()


def all_plans(
    law: Callable[[tuple[int, ...]], Tensor], now: tuple[int, ...], actions: int, horizon: int, discount: float
) -> dict[tuple[int, ...], float]:
    """Returns what each of all plans is worth: every action at every step, all else the likeliest."""
    o = len(now)
    found = {}
    for choice in itertools.product(itertools.product(range(V), repeat=actions), repeat=horizon):
        history, worth = now, 0.0
        for step, action in enumerate(choice):
            history += action
            logits = law(history)
            r, history = float(reward(logits)), (*history, int(logits.argmax()))
            logits = law(history)
            g, history = float(value(logits)), (*history, int(logits.argmax()))
            worth += discount**step * (g if step == horizon - 1 else r)
            if step < horizon - 1:
                for _ in range(o):
                    history = (*history, int(law(history).argmax()))
        found[history] = worth
    return found


NOW = torch.tensor([[0, 2], [1, 1], [2, 0]])


@pytest.mark.parametrize(("actions", "horizon"), [(1, 1), (1, 4), (2, 2)])
def test_a_beam_wide_enough_finds_the_best_of_all_plans(actions: int, horizon: int) -> None:
    search = Search(
        2,
        actions,
        beam_width=V ** (actions * horizon),
        horizon=horizon,
        expansion=V**actions,
        drawn="likeliest",
        dropped_mass=0.0,
        discount=0.7,
    )
    for seed in range(3):
        decoder = NoStopAction(TableDecoder(seed, NOW), 2, actions)
        plans = plan_by_value(decoder, NOW, search, reward, value, None)
        for n, now in enumerate(NOW.tolist()):
            exact = all_plans(lambda h, n=n, seed=seed: table(seed, n, h), tuple(now), actions, horizon, 0.7)  # type: ignore[misc]
            best = max(exact, key=lambda plan: exact[plan])
            assert tuple(plans.tokens[n, 0].flatten().tolist()) == best
            # and all others, in order
            assert plans.scores[n].tolist() == pytest.approx(sorted(exact.values(), reverse=True), abs=1e-9)
            for tokens, score in zip(plans.tokens[n].flatten(1).tolist(), plans.scores[n].tolist(), strict=True):
                assert exact[tuple(tokens)] == pytest.approx(score, abs=1e-9)


class NoStopAction(Decoder):
    """Shows a decoder whose actions are never stop, as those of all plans above."""

    def __init__(self, decoder: TableDecoder, observations: int, actions: int) -> None:
        self.decoder, self.first, self.actions = decoder, observations, actions

    def logits(self) -> Tensor:
        logits = self.decoder.logits()
        place = (self.decoder.held.shape[2]) % (self.first + self.actions + 2)
        if self.first <= place < self.first + self.actions:
            logits[..., -1] = -torch.inf
        return logits

    def append(self, tokens: Tensor) -> None:
        self.decoder.append(tokens)

    def select(self, index: Tensor) -> None:
        self.decoder.select(index)


def test_a_narrow_beam_may_miss_what_a_wide_one_finds() -> None:
    narrow = Search(2, 1, beam_width=1, horizon=4, expansion=V, drawn="likeliest", dropped_mass=0.0)
    wide = Search(2, 1, beam_width=V**4, horizon=4, expansion=V, drawn="likeliest", dropped_mass=0.0)
    scores = torch.stack([
        torch.stack([plan_by_value(TableDecoder(seed, NOW), NOW, search, reward, value, None).scores[:, 0] for seed in range(8)])
        for search in (narrow, wide)
    ])  # fmt: skip
    assert (scores[1] >= scores[0] - 1e-12).all() and (scores[1] > scores[0] + 1e-6).any()


def test_the_likeliest_plan_is_the_likeliest_of_all() -> None:
    # two transitions of one observation, one action, reward and return: after the first observation seven tokens
    now = NOW[:, :1]
    search = Search(1, 1, beam_width=(V + 1) ** 7, horizon=2)
    plans = plan_by_likelihood(TableDecoder(4, now), now, search)
    for n in range(len(now)):
        best, most = None, -math.inf
        stack = [((int(now[n, 0]),), 0.0)]
        while stack:
            history, score = stack.pop()
            if len(history) == 8:
                best, most = (history, score) if score > most else (best, most)
                continue
            logits = table(4, n, history)
            if len(history) == 1:
                logits[-1] = -torch.inf
            stack += [((*history, token), score + float(p)) for token, p in enumerate(logits.log_softmax(-1)) if p > -torch.inf]
        assert tuple(plans.tokens[n, 0].flatten().tolist()) == best and plans.scores[n, 0].item() == pytest.approx(most)


SIZES = (4, 5, 4, 3, 6)


def model() -> TokenTransformer:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        made = TokenTransformer(SIZES, 4, 16, 2, 2)
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.add_(0.4 * torch.randn(parameter.shape))
    return made.double()


def means(logits: Tensor) -> Tensor:
    return logits.softmax(-1) @ torch.arange(7.0, dtype=torch.float64)


@torch.no_grad()
def planned(kind: type, past: Tensor, search: Search, noise: Tensor | None, likelihood: bool = False) -> Plans:
    decoder = kind(model(), past, 3)
    if likelihood:
        return plan_by_likelihood(decoder, past[:, -2:], search)
    return plan_by_value(decoder, past[:, -2:], search, means, means, noise)


@pytest.mark.parametrize("drawn", ["sampled", "likeliest"])
@pytest.mark.parametrize("choices", [1, 2])
def test_plans_with_the_cache_are_those_without_and_batched_ones_are_each_alone(drawn: str, choices: int) -> None:
    # six transitions in a window of three: it slides
    search = Search(2, 1, beam_width=5, horizon=6, expansion=3, drawn=drawn, observation_choices=choices, dropped_mass=0.1)  # type: ignore[arg-type]
    past = (torch.rand(3, 7, generator=torch.Generator().manual_seed(0)) * torch.tensor([4, 5, 4, 3, 6, 4, 5])).long()
    noise = torch.rand(3, *search.noise_shape(), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    cached, plain = planned(CachedDecoder, past, search, noise), planned(PlainDecoder, past, search, noise)
    assert torch.equal(cached.tokens, plain.tokens)
    torch.testing.assert_close(cached.scores, plain.scores, rtol=1e-9, atol=1e-9)
    for n in range(3):
        alone = planned(CachedDecoder, past[n : n + 1], search, noise[n : n + 1])
        assert torch.equal(alone.tokens[0], cached.tokens[n])
        torch.testing.assert_close(alone.scores[0], cached.scores[n], rtol=1e-9, atol=1e-9)
    by_likelihood = [planned(kind, past, search, None, likelihood=True) for kind in (CachedDecoder, PlainDecoder)]
    assert torch.equal(by_likelihood[0].tokens, by_likelihood[1].tokens)
    torch.testing.assert_close(by_likelihood[0].scores, by_likelihood[1].scores, rtol=1e-9, atol=1e-9)


def test_the_first_scores_by_hand() -> None:
    # a horizon of one: the return to go of each drawn action, discounted by nothing
    search = Search(2, 1, beam_width=4, horizon=1, expansion=1, dropped_mass=0.0)
    noise = torch.tensor([0.0, 0.3, 0.6, 0.99]).reshape(1, 1, 4, 1).expand(3, -1, -1, -1)
    plans = plan_by_value(TableDecoder(1, NOW), NOW, search, reward, value, noise)
    for n, now in enumerate(NOW.tolist()):
        scores = []
        for u in (0.0, 0.3, 0.6, 0.99):
            law = table(1, n, tuple(now))[:-1].softmax(-1).cumsum(-1)
            history = (*now, int((law <= u).sum()))
            history = (*history, int(table(1, n, history).argmax()))
            scores.append(float(value(table(1, n, history))))
        assert plans.scores[n].tolist() == pytest.approx(sorted(scores, reverse=True))


def test_least_likely_tokens_are_dropped_up_to_a_mass() -> None:
    logits = torch.tensor([[0.5, 0.05, 0.3, 0.15]]).log()
    kept = {mass: torch.isfinite(truncated(logits, None, mass))[0].tolist() for mass in (0.0, 0.1, 0.25, 0.6, 0.999)}
    # ascending sums 0.05, 0.2, 0.5, 1
    assert kept[0.0] == [True] * 4
    assert kept[0.1] == [True, False, True, True]
    assert kept[0.25] == [True, False, True, False]
    assert kept[0.6] == kept[0.999] == [True, False, False, False]
    assert torch.isfinite(truncated(logits, 2))[0].tolist() == [True, False, True, False]
    assert torch.isfinite(truncated(logits, 9)).all()


def test_tokens_are_drawn_by_their_probabilities() -> None:
    logits = torch.tensor([0.2, 0.0, 0.5, 0.3, 0.0]).log()
    numbers = torch.tensor([0.0, 0.19, 0.21, 0.69, 0.71, 1 - 2**-24])
    assert draw(logits.expand(6, -1), numbers).tolist() == [0, 0, 2, 2, 3, 3]
    uniform = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    shares = draw(logits.expand(20_000, -1), uniform).bincount(minlength=5) / 20_000
    torch.testing.assert_close(shares, torch.tensor([0.2, 0.0, 0.5, 0.3, 0.0]), atol=0.015, rtol=0)


def test_without_planning_each_token_is_the_likeliest_or_drawn() -> None:
    for noise in (None, torch.tensor([[0.1, 0.9]]).expand(3, -1)):
        tokens = decode_action(TableDecoder(2, NOW), 2, noise)
        for n, now in enumerate(NOW.tolist()):
            history = tuple(now)
            for place in range(2):
                law = table(2, n, history)[:-1]
                history = (*history, int(law.argmax()) if noise is None else int((law.softmax(-1).cumsum(-1) <= noise[n, place]).sum()))
            assert tuple(tokens[n].tolist()) == history[2:]
