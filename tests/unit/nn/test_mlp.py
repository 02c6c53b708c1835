"""Ensembles, one-hot look-ups and layer norms against the same reckoned plainly."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from stitchrl.core.spec import Box, Discrete, Spec
from stitchrl.nn.mlp import MLP, Activation, Critic, LayerNorm, Linear, Scalar, Value

BOX = Spec(Box((5,)), Box((2,), (-1.0,), (1.0,)))


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def plain(mlp: MLP, x: Tensor, member: int | None = None) -> Tensor:
    """Returns an MLP's output for inputs `[B, I]` with PyTorch's own functions, one ensemble member at a time."""

    def of(p: Tensor) -> Tensor:
        return p if member is None else p[member]

    def active(x: Tensor) -> Tensor:
        return 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3))) if mlp.activation == "gelu" else functional.relu(x)

    for i, layer in enumerate(mlp.layers):
        if i:
            x = active(x) if mlp.norm_after else x
            if mlp.norms is not None:
                norm = mlp.norms[i - 1]
                x = functional.layer_norm(x, x.shape[-1:], of(norm.weight).reshape(-1), of(norm.bias).reshape(-1))  # type: ignore[arg-type]
            x = x if mlp.norm_after else active(x)
        x = functional.linear(x, of(layer.weight).T, of(layer.bias).reshape(-1))  # type: ignore[arg-type]
    return x


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("hidden", [(), (7,), (7, 6)])
def test_an_ensemble_is_its_members(hidden: tuple[int, ...], layer_norm: bool) -> None:
    mlp = MLP(BOX.observation, 3, hidden, actions=2, ensemble=4, layer_norm=layer_norm)
    for p in mlp.parameters():
        p.data.add_(0.1 * random(*p.shape, seed=3))
    s, a = random(8, 5), random(8, 2, seed=1)
    found = mlp(s, a)
    assert found.shape == (4, 8, 3)
    for member in range(4):
        torch.testing.assert_close(found[member], plain(mlp, torch.cat([s, a], 1), member), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(found[0], found[1])


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("norm_after", [False, True])
@pytest.mark.parametrize("layer_norm", [False, True])
def test_a_single_network(layer_norm: bool, norm_after: bool, activation: Activation) -> None:
    mlp = MLP(BOX.observation, 3, (7, 6), layer_norm=layer_norm, norm_after=norm_after, activation=activation)
    for p in mlp.parameters():
        p.data.add_(0.1 * random(*p.shape, seed=3))
    s = random(8, 5)
    torch.testing.assert_close(mlp(s), plain(mlp, s), rtol=1e-5, atol=1e-6)


def test_an_ensemble_normalises_after_its_activation() -> None:
    critic = Critic(BOX, (7, 6), ensemble=2, layer_norm=True, norm_after=True, activation="gelu")
    s, a = random(8, 5), random(8, 2, seed=1)
    for member in range(2):
        torch.testing.assert_close(critic(s, a)[member], plain(critic.mlp, torch.cat([s, a], 1), member).squeeze(-1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("ensemble", [None, 3])
@pytest.mark.parametrize("actions", [0, 2])
def test_an_integer_observation_is_its_one_hot_vector(ensemble: int | None, actions: int) -> None:
    mlp = MLP(Discrete(6), 4, (7,), actions=actions, ensemble=ensemble)
    index = torch.tensor([0, 5, 2, 2])
    a = random(4, 2) if actions else None
    x = functional.one_hot(index, 6).float()
    x = x if a is None else torch.cat([x, a], 1)
    found = mlp(index, a)
    for member in range(ensemble or 1):
        ours = found if ensemble is None else found[member]
        torch.testing.assert_close(ours, plain(mlp, x, None if ensemble is None else member), rtol=1e-5, atol=1e-6)
    found.sum().backward()
    weight = mlp.layers[0].weight
    assert isinstance(weight, Tensor) and weight.grad is not None
    assert (weight.grad.reshape(-1, 6 + actions, 7)[:, [1, 3, 4]] == 0).all(), "states that are not in the batch get no gradient"


@pytest.mark.parametrize("ensemble", [None, 3])
@pytest.mark.parametrize("observation", [Box((5,)), Box((2, 3)), Discrete(6)])
def test_leading_axes_are_kept(observation: Box | Discrete, ensemble: int | None) -> None:
    mlp = MLP(observation, 4, (7,), ensemble=ensemble)
    shape = () if isinstance(observation, Discrete) else observation.shape
    count = 1 if isinstance(observation, Discrete) else observation.size
    flat = torch.arange(6 * count).reshape(6, *shape) % 6
    s = flat if isinstance(observation, Discrete) else flat / 5
    members = () if ensemble is None else (ensemble,)
    expected = mlp(s)
    assert expected.shape == (*members, 6, 4)
    torch.testing.assert_close(mlp(s.reshape(2, 3, *shape)), expected.reshape(*members, 2, 3, 4))
    torch.testing.assert_close(mlp(s[0]), expected[..., 0, :])


def test_first_weights_are_pytorchs_range() -> None:
    layer = Linear(16, 500)
    assert layer.weight.abs().max() <= 0.25 and layer.weight.abs().max() > 0.245
    assert layer.bias.abs().max() <= 0.25


def test_layer_norm_has_mean_0_and_variance_1_before_its_scale() -> None:
    norm = LayerNorm(64, ensemble=2)
    y = norm(5 + 3 * random(2, 4, 64))
    torch.testing.assert_close(y.mean(-1), torch.zeros(2, 4), rtol=0, atol=1e-5)
    torch.testing.assert_close(y.var(-1, unbiased=False), torch.ones(2, 4), rtol=0, atol=1e-3)


def test_a_discrete_critic_picks_the_value_of_the_action() -> None:
    critic = Critic(Spec(Box((5,)), Discrete(4)), (7,), ensemble=3)
    s, a = random(6, 5), torch.tensor([0, 3, 2, 1, 1, 0])
    every = critic(s)
    assert every.shape == (3, 6, 4)
    assert torch.equal(critic(s, a), torch.stack([every[:, i, a[i]] for i in range(6)], 1))


def test_a_continuous_critic_takes_many_actions_for_each_observation() -> None:
    critic = Critic(BOX, (7,), ensemble=2)
    s, a = random(6, 5), random(3, 6, 2)
    found = critic(s.expand(3, 6, 5), a)
    assert found.shape == (2, 3, 6)
    for k in range(3):
        torch.testing.assert_close(found[:, k], critic(s, a[k]))


def test_values_and_scalars() -> None:
    assert Value(BOX, (7,), layer_norm=True)(random(6, 5)).shape == (6,)
    assert Scalar(0.5)().item() == 0.5 and Scalar()().shape == ()


@pytest.mark.parametrize("ensemble", [None, 3])
@pytest.mark.parametrize("hidden", [(), (7,), (7, 6, 5)])
@pytest.mark.parametrize("observation", [Box((4,)), Discrete(4)], ids=["box", "discrete"])
def test_the_gradient_in_the_actions_is_autograds(observation: Box | Discrete, hidden: tuple[int, ...], ensemble: int | None) -> None:
    mlp = MLP(observation, 1, hidden, actions=2, ensemble=ensemble).double()
    s = torch.arange(8) % 4 if isinstance(observation, Discrete) else random(8, 4).double()
    a = random(8, 2, seed=1).double()
    value, gradient = mlp.with_action_gradient(s, a)
    assert torch.equal(value, mlp(s, a))
    free = a.clone().requires_grad_()
    output = mlp(s, free)
    for member in range(ensemble or 1):
        own = output if ensemble is None else output[member]
        expected = torch.autograd.grad(own.sum(), free, create_graph=True)[0]
        ours = gradient if ensemble is None else gradient[member]
        torch.testing.assert_close(ours, expected)
        # and once more, in the weights
        weights = [layer.weight for layer in mlp.layers]
        once_more = [torch.autograd.grad(g.square().sum(), weights, retain_graph=True, allow_unused=True) for g in (ours, expected)]
        for one, two in zip(*once_more, strict=True):
            torch.testing.assert_close(one, two)


@pytest.mark.parametrize("kind", [{"layer_norm": True}, {"activation": "gelu"}])
def test_the_gradient_in_the_actions_is_written_out_for_relu_alone(kind: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="ReLU"):
        MLP(Box((4,)), 1, (7,), actions=2, **kind).with_action_gradient(random(8, 4), random(8, 2))
