"""Cached decoding equals decoding anew, through splits, choices and sliding windows; batched equals each alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stitchrl.nn.decoding import CachedDecoder, Decoder, PlainDecoder
from stitchrl.nn.token_transformer import TokenTransformer

SIZES = (4, 6, 5, 3, 6)  # two observation places, one of an action, reward, return
PLACES, STOP = len(SIZES), max(SIZES)


def model(goal: int = 0, length: int = 4) -> TokenTransformer:
    """A model whose laws are far from uniform and depend on where a token stands."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = TokenTransformer(SIZES, length, 16, 2, 2, goal=goal)
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.add_(0.3 * torch.randn(parameter.shape))
    return made.double()


def past(environments: int, tokens: int, seed: int = 0) -> Tensor:
    sizes = torch.tensor([SIZES[i % PLACES] for i in range(tokens)])
    return (torch.rand(environments, tokens, generator=torch.Generator().manual_seed(seed)) * sizes).long()


@torch.no_grad()
def walk(decoders: list[Decoder], environments: int, moves: int, seed: int = 1) -> list[list[Tensor]]:
    """Returns the logits that each decoder gave on one walk of random appends, splits and choices."""
    generator = torch.Generator().manual_seed(seed)
    rows, found = 1, [[] for _ in decoders]  # type: list
    for _ in range(moves):
        for seen, decoder in zip(found, decoders, strict=True):
            seen.append(decoder.logits())
        move = torch.randint(4, (), generator=generator).item()
        split = 3 if move == 0 and rows < 8 else 1
        rows *= split
        tokens = torch.randint(STOP + 1, (environments, rows), generator=generator)
        for decoder in decoders:
            decoder.append(tokens)
        if move == 1:
            kept = int(torch.randint(1, 6, (), generator=generator))
            index = torch.randint(rows, (environments, kept), generator=generator)
            for decoder in decoders:
                decoder.select(index)
            rows = kept
    return found


@pytest.mark.parametrize(("context", "slide"), [(4, 1), (4, 3), (2, 1)])
@pytest.mark.parametrize("before", [2, 7])
@pytest.mark.parametrize("goal", [0, 2])
def test_the_cache_changes_nothing(context: int, slide: int, before: int, goal: int) -> None:
    made, start = model(goal), past(3, before)
    wanted = past(3, goal, seed=5) if goal else None
    cached, plain = CachedDecoder(made, start, context, slide, wanted), PlainDecoder(made, start, context, slide, wanted)
    ours, theirs = walk([cached, plain], 3, 60)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    assert len({logits.shape[1] for logits in ours}) > 3, "the walk split and chose"


def test_in_single_precision_they_agree_to_a_hundred_thousandth() -> None:
    made = model().float()
    ours, theirs = walk([CachedDecoder(made, past(2, 7), 4), PlainDecoder(made, past(2, 7), 4)], 2, 60)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_decoding_gives_what_learning_sees() -> None:
    # logits token by token are those of the whole window at once
    made, tokens = model(), past(2, 4 * PLACES)
    whole = made(tokens.unflatten(1, (4, PLACES)))
    assert whole[:, 0, 0].masked_fill(whole[:, 0, 0].isinf(), 0).abs().sum() == 0
    decoder = CachedDecoder(made, tokens[:, :2], 4)
    for position in range(2, 4 * PLACES):
        torch.testing.assert_close(decoder.logits()[:, 0], whole[:, position // PLACES, position % PLACES])
        decoder.append(tokens[:, position : position + 1])


def test_a_place_knows_its_own_tokens_and_stop() -> None:
    logits = model()(past(1, PLACES).unflatten(1, (1, PLACES)))
    for place, size in enumerate(SIZES):
        possible = torch.isfinite(logits[0, 0, place])
        assert possible.tolist() == [token < size or token == STOP for token in range(STOP + 1)]


def test_the_return_to_go_is_predicted_and_never_read() -> None:
    made = model()
    tokens = past(1, 3 * PLACES).unflatten(1, (3, PLACES))
    other = tokens.clone()
    other[..., -1] = (other[..., -1] + 1) % SIZES[-1]
    assert torch.equal(made(tokens), made(other))
    other[..., -2] = (other[..., -2] + 1) % SIZES[-2]
    assert not torch.equal(made(tokens), made(other))


def test_all_environments_at_once_are_each_alone() -> None:
    made, start = model(), past(4, 7)
    together = walk([CachedDecoder(made, start, 4)], 4, 40)[0]
    generator_walks = []
    for n in range(4):
        # the same walk, of which one environment's part is kept
        decoder = CachedDecoder(made, start[n : n + 1], 4)
        generator_walks.append(_alone(decoder, n, 4, 40))
    for step, logits in enumerate(together):
        for n in range(4):
            torch.testing.assert_close(generator_walks[n][step][0], logits[n], rtol=1e-10, atol=1e-10)


class _Alone(Decoder):
    """Shows one environment of many to a decoder of it alone."""

    def __init__(self, decoder: Decoder, n: int, environments: int) -> None:
        self.decoder, self.n, self.environments = decoder, n, environments

    def logits(self) -> Tensor:
        return self.decoder.logits()

    def append(self, tokens: Tensor) -> None:
        self.decoder.append(tokens[self.n : self.n + 1])

    def select(self, index: Tensor) -> None:
        self.decoder.select(index[self.n : self.n + 1])


def _alone(decoder: Decoder, n: int, environments: int, moves: int) -> list[Tensor]:
    return walk([_Alone(decoder, n, environments)], environments, moves)[0]


def test_a_window_that_nothing_would_be_left_of_is_refused() -> None:
    for tokens, context, slide in ((0, 2, 1), (2 * PLACES, 2, 1), (2, 2, 2)):
        with pytest.raises(ValueError, match="window"):
            PlainDecoder(model(), past(1, tokens), context, slide)
