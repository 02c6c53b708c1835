"""The transformer: one layer worked out by hand, causality, the cache exactly as without, seeds mapped over, compiled."""

from __future__ import annotations

import math

import pytest
import torch
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional

from stitchrl.core.errors import ConfigError
from stitchrl.nn.transformer import Cache, Transformer


def made(seed: int = 0, width: int = 8, layers: int = 2, heads: int = 2, **settings: object) -> Transformer:
    torch.manual_seed(seed)
    transformer = Transformer(width, layers, heads, **settings)  # type: ignore[arg-type]
    for parameter in transformer.parameters():  # the first weights are small: these show mistakes
        parameter.data = torch.randn_like(parameter) * 0.5
    return transformer


def tokens(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(7))


def reference(t: Transformer, x: torch.Tensor, activation: str, causal: bool) -> torch.Tensor:
    """The equations, a head and a position at a time."""
    batch, length, width = x.shape
    for block in t.blocks:
        size = width // block.heads  # type: ignore[operator]
        n = functional.layer_norm(x, (width,), block.attention_norm.weight, block.attention_norm.bias)  # type: ignore[union-attr, arg-type]
        q, (k, v) = block.to_query(n), block.to_key_value(n).split(width, -1)  # type: ignore[operator]
        found = torch.zeros_like(x)
        for b in range(batch):
            for head in range(block.heads):  # type: ignore[arg-type]
                part = slice(head * size, (head + 1) * size)
                for i in range(length):
                    seen = range(i + 1) if causal else range(length)
                    weights = torch.stack([q[b, i, part] @ k[b, j, part] / math.sqrt(size) for j in seen]).exp()
                    found[b, i, part] = sum(w * v[b, j, part] for w, j in zip(weights / weights.sum(), seen, strict=True))
        x = x + block.from_heads(found)  # type: ignore[operator]
        n = functional.layer_norm(x, (width,), block.feedforward_norm.weight, block.feedforward_norm.bias)  # type: ignore[union-attr, arg-type]
        h = block.up(n)  # type: ignore[operator]
        h = h.clamp_min(0) if activation == "relu" else 0.5 * h * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))
        x = x + block.down(h)  # type: ignore[operator]
    return functional.layer_norm(x, (width,), t.norm.weight, t.norm.bias)


@pytest.mark.parametrize(("activation", "causal"), [("gelu", True), ("relu", True), ("gelu", False)])
@torch.no_grad()
def test_it_is_the_equations(activation: str, causal: bool) -> None:
    t, x = made(activation=activation, causal=causal), tokens(2, 5, 8)
    assert torch.allclose(t(x), reference(t, x, activation, causal), atol=1e-5)


@torch.no_grad()
def test_an_output_depends_on_no_later_input() -> None:
    t, x = made(), tokens(3, 7, 8)
    for position in range(7):
        changed = x.clone()
        changed[:, position, 0] += 1.0
        moved = (t(changed) - t(x)).abs().amax((0, 2)) > 1e-6
        assert moved.tolist() == [i >= position for i in range(7)]


@torch.no_grad()
def test_without_causality_every_output_depends_on_every_input() -> None:
    t, x = made(causal=False), tokens(1, 4, 8)
    changed = x.clone()
    changed[:, 3, 0] += 1.0
    assert bool(((t(changed) - t(x)).abs().amax((0, 2)) > 1e-6).all())
    with pytest.raises(ValueError, match="only a causal transformer"):
        t.extend(x, Cache(4))


@pytest.mark.parametrize("pieces", [[1] * 9, [9], [4, 1, 3, 1], [2, 7]])
@torch.inference_mode()
def test_with_a_cache_it_is_what_it_is_without(pieces: list[int]) -> None:
    t, x = made(width=12, heads=3, layers=3), tokens(4, 9, 12)
    cache, out, start = Cache(11), [], 0
    for size in pieces:
        out.append(t.extend(x[:, start : start + size], cache))
        start += size
        assert cache.used == start
    assert (torch.cat(out, 1) - t(x)).abs().max() < 1e-5
    last, again = Cache(9), Cache(9)
    t.extend(x[:, :3], last), t.extend(x[:, :3], again)
    assert (t.extend(x[:, 3:], last, slice(-1, None)) - t.extend(x[:, 3:], again)[:, -1:]).abs().max() < 1e-5


@torch.inference_mode()
def test_a_cache_that_is_too_short_is_refused() -> None:
    t, cache = made(), Cache(4)
    t.extend(tokens(1, 3, 8), cache)
    with pytest.raises(ValueError, match="3 positions are in a cache of 4 and 2 were to follow"):
        t.extend(tokens(1, 2, 8), cache)


@torch.inference_mode()
def test_beams_are_split_chosen_dropped_and_doubled() -> None:
    t, cache = made(), Cache(9)
    past, first, second, third = tokens(2, 3, 8), tokens(6, 1, 8) * 2, tokens(6, 2, 8) * 3, tokens(8, 1, 8)
    t.extend(past, cache)
    cache.split(3)
    rows = torch.cat([past.repeat_interleave(3, 0), first], 1)
    assert (t.extend(first, cache) - t(rows)[:, 3:]).abs().max() < 1e-5
    rows = torch.cat([rows, second], 1)
    assert (t.extend(second, cache) - t(rows)[:, 4:]).abs().max() < 1e-5
    assert [level.held.shape[2] for level in cache.levels] == [2, 6], "the past is held once for three rows"
    index = torch.tensor([[2, 0, 0, 2], [1, 1, 1, 0]])
    cache.select(index)
    rows = torch.cat([rows.unflatten(0, (2, 3))[[[0], [1]], index].flatten(0, 1), third], 1)
    # the two copies of a beam are apart: what one writes the other does not see
    assert (t.extend(third, cache) - t(rows)[:, 6:]).abs().max() < 1e-5
    cache.split(2)
    rows = torch.cat([rows.repeat_interleave(2, 0), tokens(16, 1, 8)], 1)
    assert (t.extend(tokens(16, 1, 8), cache) - t(rows)[:, 7:]).abs().max() < 1e-5
    cache.select(torch.tensor([[5], [0]]))
    rows = torch.cat([rows.unflatten(0, (2, 8))[[0, 1], [5, 0]], tokens(2, 1, 8)], 1)
    assert (t.extend(tokens(2, 1, 8), cache) - t(rows)[:, 8:]).abs().max() < 1e-5
    assert cache.used == 9 and cache.rows == 1


@pytest.mark.parametrize(("at", "key"), [(slice(1, None, 3), None), (slice(-1, None), None), (slice(1, None, 3), 0.5)])
@torch.no_grad()
def test_outputs_wanted_at_some_positions_are_those_of_all(at: slice, key: float | None) -> None:
    t, x = made(), tokens(2, 9, 8)
    number = None if key is None else torch.tensor(key)  # at a rate of 0 it drops nothing
    assert (t(x, number, at) - t(x)[:, at]).abs().max() < 1e-5
    several = made(causal=False)
    assert (several(x, None, at) - several(x)[:, at]).abs().max() < 1e-5


@torch.no_grad()
def test_dropout_is_used_in_every_place_and_is_the_keys_alone() -> None:
    t, x = made(dropout=0.3), tokens(2, 6, 8)
    one, same, other = t(x, torch.tensor(0.2)), t(x, torch.tensor([0.2])), t(x, torch.tensor(0.3))
    assert torch.equal(one, same) and not torch.allclose(one, other) and not torch.allclose(one, t(x))
    seen: list[tuple[int, torch.Size]] = []
    own = Transformer._dropped

    def listening(self: Transformer, x: torch.Tensor, key: torch.Tensor | None, place: int) -> torch.Tensor:
        seen.append((place, x.shape))
        return own(self, x, key, place)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Transformer, "_dropped", listening)
        t(x, torch.tensor(0.2))
    stream, attention = torch.Size([2, 6, 8]), torch.Size([2, 2, 6, 6])
    assert seen == [(0, stream), *[(3 * i + j, attention if j == 1 else stream) for i in range(2) for j in (1, 2, 3)]]


def test_seeds_mapped_over_are_each_alone_and_so_are_their_gradients() -> None:
    several = [made(seed, dropout=0.2) for seed in range(3)]
    parameters, _ = stack_module_state(several)
    x, keys = tokens(3, 2, 5, 8), torch.tensor([[0.1], [0.5], [0.9]])
    together = vmap(lambda p, a, k: functional_call(several[0], p, (a, k)))(parameters, x, keys)
    gradients = torch.autograd.grad(together.square().sum(), list(parameters.values()))
    for i, (t, a, k) in enumerate(zip(several, x, keys, strict=True)):
        alone = t(a, k)
        assert (together[i] - alone).abs().max() < 1e-5
        for name, g, own in zip(parameters, gradients, torch.autograd.grad(alone.square().sum(), list(t.parameters())), strict=True):
            assert torch.allclose(g[i], own, atol=1e-4, rtol=1e-4), name


@pytest.mark.slow
def test_it_compiles_whole_with_its_gradients() -> None:
    seeds = 2
    several = [made(seed, dropout=0.2) for seed in range(seeds)]
    parameters, _ = stack_module_state(several)
    x, keys = tokens(seeds, 4, 9, 8), torch.linspace(0.1, 0.6, seeds)

    def gradients(p: dict[str, torch.Tensor], a: torch.Tensor, k: torch.Tensor) -> tuple[torch.Tensor, ...]:
        out = vmap(lambda p, a, k: functional_call(several[0], p, (a, k, slice(1, None, 3))))(p, a, k)
        return torch.autograd.grad(out.square().sum(), list(p.values()))

    with torch._dynamo.config.patch(trace_autograd_ops=True):
        found = torch.compile(gradients, fullgraph=True)(parameters, x, keys)
    for one, own in zip(found, gradients(parameters, x, keys), strict=True):
        assert torch.allclose(one, own, atol=1e-4, rtol=1e-4)


def test_first_weights_are_gpt_2s() -> None:
    torch.manual_seed(0)
    t = Transformer(64, 4, 2)
    block = t.blocks[1]
    assert block.to_query.weight.std().item() == pytest.approx(0.02, rel=0.05)  # type: ignore[union-attr, operator]
    assert block.down.weight.std().item() == pytest.approx(0.02 / math.sqrt(8), rel=0.05)  # type: ignore[union-attr, operator]
    assert not bool(block.up.bias.any()) and sum(p.numel() for p in t.parameters()) == 4 * (12 * 64**2 + 13 * 64) + 128  # type: ignore[union-attr, operator]


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ConfigError, match="width 8 has 3 heads; expected a number of heads that divides the width"):
        Transformer(8, 1, 3)
