"""Networks that see data through noise: shapes of any length, what depends on what, and what they say before they have learned."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from stitchrl.core.errors import ConfigError
from stitchrl.core.spec import Box, Discrete, Spec
from stitchrl.nn.denoisers import DiT, MLPDenoiser, ResidualDenoiser, TemporalUnet, TimeEmbedding, _attention, sinusoids

SPEC = Spec(Box((5,)), Box((2,), (-1.0,), (1.0,)))
GENERATOR = torch.Generator().manual_seed(0)
TIMES = torch.tensor([0, 3, 7])


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def sequences(condition: int = 0) -> list[nn.Module]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return [
            TemporalUnet(3, 8, (1, 2), condition=condition),
            TemporalUnet(3, 8, (1, 2, 4), condition=condition, scaled=True, kernel=3, time_width=6),
            DiT(3, 16, 12, 2, 3, condition=condition, time_width=8),
        ]


def awake(network: nn.Module) -> nn.Module:
    """Returns the network with weights that are nowhere zero, as if it had learned."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel())))
    return network


@pytest.mark.parametrize("length", [1, 2, 3, 5, 7, 8, 13])
def test_a_sequence_of_any_length_keeps_its_shape(length: int) -> None:
    for network in sequences():
        assert network(normal(3, length, 3), TIMES).shape == (3, length, 3)


def test_they_see_time_condition_and_every_entry_and_each_row_by_itself() -> None:
    x, condition = normal(3, 7, 3), normal(3, 4)
    for network in map(awake, sequences(condition=4)):
        said = network(x, TIMES, condition)
        for changed in (network(x, TIMES + 1, condition), network(x, TIMES, condition + 1), network(x + normal(3, 7, 3), TIMES, condition)):
            assert ((changed - said).abs().amax((1, 2)) > 1e-4).all()
        torch.testing.assert_close(network(x[1:2], TIMES[1:2], condition[1:2]), said[1:2], rtol=1e-4, atol=1e-5)
        together = network(x, torch.tensor(3), condition)  # one time for all
        torch.testing.assert_close(together[1], said[1], rtol=1e-4, atol=1e-5)


def test_every_weight_learns() -> None:
    for network in map(awake, sequences(condition=4)):
        network(normal(3, 7, 3), TIMES, normal(3, 4)).square().sum().backward()
        assert all((p.grad != 0).any() for p in network.parameters() if p.grad is not None)
        assert all(p.grad is not None for p in network.parameters())


def test_the_first_entry_hears_of_the_last() -> None:
    x = normal(1, 13, 3).requires_grad_()
    for network in map(awake, sequences()):
        (slope,) = torch.autograd.grad(network(x, torch.tensor(2))[0, 0].sum(), x)
        assert (slope[0, -1] != 0).any(), f"{type(network).__name__} does not look so far"


def test_a_modulated_transformer_says_0_and_changes_nothing_before_it_has_learned() -> None:
    dit = sequences()[2]
    assert isinstance(dit, DiT)
    assert torch.equal(dit(normal(3, 7, 3), TIMES), torch.zeros(3, 7, 3))
    x = normal(3, 7, 12)
    assert torch.equal(dit.blocks[0](x, normal(3, 12)), x)


def test_parameters_of_the_unet_are_as_many_as_counted_by_hand() -> None:
    # width 8, levels 8 and 16, three channels, kernel 5; a convolution has 5 i o + o weights, its norm 2 o, the time's layer 8 o + o
    def block(i: int, o: int) -> int:
        return (5 * i * o + o + 2 * o) + (5 * o * o + o + 2 * o) + (8 * o + o) + (i * o + o if i != o else 0)

    time = 8 * 32 + 32 + 32 * 8 + 8
    down = block(3, 8) + block(8, 8) + (3 * 8 * 8 + 8) + block(8, 16) + block(16, 16)
    up = block(32, 8) + block(8, 8) + (4 * 8 * 8 + 8)
    last = (5 * 8 * 8 + 8 + 16) + (8 * 3 + 3)
    assert sum(p.numel() for p in TemporalUnet(3, 8, (1, 2)).parameters()) == time + down + 2 * block(16, 16) + up + last


def test_seeds_are_mapped() -> None:
    x, condition = normal(3, 7, 3).double(), normal(3, 4).double()
    for one, other in zip(map(awake, sequences(4)), sequences(4), strict=True):
        one.double(), other.double()
        both, buffers = stack_module_state([one, other])  # type: ignore[no-untyped-call]
        assert not buffers

        def loss(parameters: dict[str, Tensor], network: nn.Module = one) -> Tensor:
            said: Tensor = functional_call(network, parameters, (x, TIMES, condition))
            return said.square().sum()

        torch.testing.assert_close(vmap(loss)(both), torch.stack([loss(dict(n.named_parameters())) for n in (one, other)]))
        gradients = vmap(torch.func.grad(loss))(both)
        alone = torch.func.grad(loss)(dict(one.named_parameters()))
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient[0], alone[name])


def test_sinusoids_are_those_of_the_paper() -> None:
    # four frequencies, 1 to 1/10,000 in equal ratios: 1, 10,000^(-1/3), 10,000^(-2/3), 1/10,000
    found = sinusoids(torch.tensor([0, 2]), 8)
    rates = [10_000 ** (-i / 3) for i in range(4)]
    expected = [[0.0] * 4 + [1.0] * 4, [math.sin(2 * r) for r in rates] + [math.cos(2 * r) for r in rates]]
    torch.testing.assert_close(found, torch.tensor(expected))
    with pytest.raises(ConfigError, match="even"):
        TimeEmbedding(5, 10)


@pytest.mark.parametrize("observation", [Box((5,)), Discrete(4)])
def test_networks_of_an_action_take_any_leading_axes(observation: Box | Discrete) -> None:
    spec = Spec(observation, SPEC.action)
    s = normal(6, 5) if isinstance(observation, Box) else torch.arange(6) % 4
    for network in (MLPDenoiser(spec, 2, (16, 16)), ResidualDenoiser(spec, 2, width=16, blocks=2)):
        said = network(normal(6, 2), torch.tensor(3), s)
        assert said.shape == (6, 2)
        many = network(normal(6, 2).expand(4, 6, 2), torch.tensor(3), s.expand(4, *s.shape))
        torch.testing.assert_close(many[2], said)
        torch.testing.assert_close(network(normal(6, 2), torch.full((6,), 3), s), said)
        assert not torch.equal(network(normal(6, 2), torch.tensor(4), s), said)


def test_dropout_is_there_with_a_key_alone() -> None:
    network = ResidualDenoiser(SPEC, 2, width=16, blocks=2, rate=0.5)
    call = (normal(6, 2), torch.tensor(3), normal(6, 5))
    whole = network(*call)
    first, again, other = (network(*call, torch.tensor([key])) for key in (0.25, 0.25, 0.75))
    assert torch.equal(first, again) and not torch.equal(first, other) and not torch.equal(first, whole)
    assert torch.equal(network(*call), whole)


def test_a_width_that_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(ConfigError, match="width is 10; expected a multiple of its 3 heads"):
        DiT(3, 16, 10, 2, 3)


def test_attention_written_out_is_pytorchs() -> None:
    q, k, v = normal(2, 3, 5, 4), normal(2, 3, 4, 5).mT, normal(3, 2, 5, 4).transpose(0, 1)
    torch.testing.assert_close(_attention(q, k, v), nn.functional.scaled_dot_product_attention(q, k, v))
