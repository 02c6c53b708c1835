"""Multilayer perceptrons, alone or as an ensemble whose members are one batched matrix product."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from stitchrl.core.spec import Box, Discrete, Space, Spec, is_image
from stitchrl.nn.vision import Encoder

Activation = Literal["relu", "gelu", "mish"]


@final
class Linear(nn.Module):
    """`x @ weight + bias`, for E members at once where `ensemble` is given; weights uniform in ±1/sqrt(inputs), as PyTorch's."""

    def __init__(self, inputs: int, outputs: int, ensemble: int | None = None) -> None:
        super().__init__()
        bound = 1 / math.sqrt(inputs)
        members = () if ensemble is None else (ensemble,)
        self.weight = nn.Parameter(torch.empty(*members, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(*members, *(() if ensemble is None else (1,)), outputs).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """Returns `[B, outputs]` from `[B, inputs]`; `[E, B, outputs]` from `[E, B, inputs]` for an ensemble."""
        if self.weight.ndim == 2:
            return torch.addmm(self.bias, x, self.weight)
        return torch.baddbmm(self.bias, x, self.weight)

    def rows(self, index: Tensor) -> Tensor:
        """Returns the layer's output for one-hot inputs given by their index `[B]`: a look-up instead of a product."""
        return self.weight.index_select(-2, index) + self.bias


@final
class MLP(nn.Module):
    """Layers of ReLU (or GELU, or Mish) units on an observation, or on an observation and an action side by side.

    A discrete observation is read as a one-hot vector, an image through convolutions (nn/vision.py). `layer_norm` normalises each hidden
    layer before its activation; with `norm_after`, after it, as OGBench, FQL and ReBRAC do.
    """

    def __init__(
        self,
        observation: Space,
        outputs: int,
        hidden: Sequence[int],
        *,
        actions: int = 0,
        ensemble: int | None = None,
        layer_norm: bool = False,
        norm_after: bool = False,
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        self.observation = observation
        self.norm_after = norm_after
        self.activation = activation
        self.ensemble = ensemble
        self.encoder = Encoder(observation, ensemble) if isinstance(observation, Box) and is_image(observation) else None
        inputs = observation.n if isinstance(observation, Discrete) else observation.size if self.encoder is None else self.encoder.size
        self.observation_size = inputs
        sizes = [inputs + actions, *hidden, outputs]
        self.layers = nn.ModuleList(Linear(i, o, ensemble) for i, o in zip(sizes[:-1], sizes[1:], strict=True))
        self.norms = nn.ModuleList(LayerNorm(size, ensemble) for size in hidden) if layer_norm else None

    def forward(self, observations: Tensor, actions: Tensor | None = None) -> Tensor:
        """Returns `[*batch, outputs]`, or `[E, *batch, outputs]`, from observations `[*batch, *O]` and actions `[*batch, A]`."""
        leading = self.leading(observations)
        x = self._first_layer(observations, actions)  # [B, H] or [E, B, H]
        for i in range(1, len(self.layers)):
            if self.norms is not None and not self.norm_after:
                x = self.norms[i - 1](x)
            x = _activated(x, self.activation)
            if self.norms is not None and self.norm_after:
                x = self.norms[i - 1](x)
            x = self.layers[i](x)
        if len(leading) != 1:
            x = x.unflatten(-2, leading) if leading else x.squeeze(-2)
        return x

    def leading(self, observations: Tensor) -> torch.Size:
        """Returns `[*batch]`, the axes of observations `[*batch, *O]` before those of one of them."""
        return observations.shape if isinstance(self.observation, Discrete) else observations.shape[: -len(self.observation.shape)]

    def with_action_gradient(self, observations: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the one output and its gradient in the actions, `[*E, B, 1]` and `[*E, B, A]`: both can be differentiated in the weights.

        The chain rule is written out, of one pass forward for all members: a ReLU's slope is 0 or 1, so that it is exact. It is mapped over
        seeds and compiled as any other product (`torch.autograd.grad` is refused under vmap). Raises TypeError for other units and layer norm.
        """
        if self.activation != "relu" or self.norms is not None:
            raise TypeError("the gradient in the actions is written out for ReLU units without layer norm")
        layers = [layer for layer in self.layers if isinstance(layer, Linear)]
        # each [*E, inputs, outputs]; of the first layer's inputs the actions alone
        weights: list[Tensor] = [layers[0].weight[..., -actions.shape[-1] :, :], *(layer.weight for layer in layers[1:])]
        x, slopes = self._first_layer(observations, actions), []
        for layer in layers[1:]:
            x = torch.relu_(x)
            slopes.append((x > 0).to(x.dtype))  # [*E, B, H]
            x = layer(x)
        gradient = weights[-1].mT  # [*E, 1, H]
        for weight, slope in zip(reversed(weights[:-1]), reversed(slopes), strict=True):
            gradient = (gradient * slope) @ weight.mT
        return x, gradient.expand(*x.shape[:-1], actions.shape[-1])

    def _first_layer(self, observations: Tensor, actions: Tensor | None) -> Tensor:
        first = self.layers[0]
        assert isinstance(first, Linear)
        if isinstance(self.observation, Discrete):
            if actions is None:
                return first.rows(observations.reshape(-1))
            one_hot = functional.one_hot(observations.reshape(-1), self.observation_size)
            x = torch.cat([one_hot.to(actions.dtype), actions.reshape(-1, actions.shape[-1])], -1)
        elif self.encoder is not None:
            x = self.encoder(observations.reshape(-1, *self.observation.shape))  # [B, F] or [E, B, F]
            if actions is not None:
                beside = actions.reshape(-1, actions.shape[-1])
                x = torch.cat([x, beside.expand(*x.shape[:-1], beside.shape[-1])], -1)
            features: Tensor = first(x)
            return features
        else:
            x = observations.reshape(-1, self.observation_size)
            if actions is not None:
                x = torch.cat([x, actions.reshape(-1, actions.shape[-1])], -1)
        result: Tensor = first(x if self.ensemble is None else x.expand(self.ensemble, *x.shape))
        return result


def _activated(x: Tensor, activation: Activation) -> Tensor:
    # in place: nothing else reads x, and a large batch saves a buffer; GELU by its tanh form, as JAX's libraries have it
    if activation == "relu":
        return torch.relu_(x)
    return functional.mish(x) if activation == "mish" else functional.gelu(x, approximate="tanh")


@final
class LayerNorm(nn.Module):
    """Layer normalisation (Ba et al., 2016, arXiv:1607.06450) with a scale and shift of its own for each ensemble member."""

    def __init__(self, size: int, ensemble: int | None = None) -> None:
        super().__init__()
        shape = (size,) if ensemble is None else (ensemble, 1, size)
        self.weight = nn.Parameter(torch.ones(shape))
        self.bias = nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor) -> Tensor:
        """Returns `x` with mean 0 and variance 1 over the last axis, scaled and shifted."""
        return functional.layer_norm(x, x.shape[-1:]) * self.weight + self.bias


@final
class Critic(nn.Module):
    """An ensemble of E action values Q(s, a), as one batched network."""

    def __init__(
        self,
        spec: Spec,
        hidden: Sequence[int],
        ensemble: int = 2,
        *,
        layer_norm: bool = False,
        norm_after: bool = False,
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        self.discrete = isinstance(spec.action, Discrete)
        outputs = spec.action.n if isinstance(spec.action, Discrete) else 1
        actions = spec.action.size if isinstance(spec.action, Box) else 0
        self.mlp = MLP(
            spec.observation,
            outputs,
            hidden,
            actions=actions,
            ensemble=ensemble,
            layer_norm=layer_norm,
            norm_after=norm_after,
            activation=activation,
        )

    def forward(self, observations: Tensor, actions: Tensor | None = None) -> Tensor:
        """Returns `[E, *batch]`; without actions (discrete only) the values of all of them, `[E, *batch, n]`."""
        if not self.discrete:
            return self.mlp(observations, actions).squeeze(-1)  # type: ignore[no-any-return]
        values: Tensor = self.mlp(observations)  # [E, B, n]
        if actions is None:
            return values
        index = actions.expand(values.shape[:-1]).unsqueeze(-1)
        return values.gather(-1, index).squeeze(-1)

    def with_action_gradient(self, observations: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Returns values `[E, B]` and their gradients in the actions `[E, B, A]`; continuous actions only."""
        values, gradients = self.mlp.with_action_gradient(observations, actions)
        return values.squeeze(-1), gradients


@final
class Value(nn.Module):
    """A state value V(s)."""

    def __init__(
        self, spec: Spec, hidden: Sequence[int], *, layer_norm: bool = False, norm_after: bool = False, activation: Activation = "relu"
    ) -> None:
        super().__init__()
        self.mlp = MLP(spec.observation, 1, hidden, layer_norm=layer_norm, norm_after=norm_after, activation=activation)

    def forward(self, observations: Tensor) -> Tensor:
        """Returns `[B]`."""
        return self.mlp(observations).squeeze(-1)  # type: ignore[no-any-return]


@final
class Scalar(nn.Module):
    """One learned number, such as the logarithm of a temperature or of a Lagrange multiplier."""

    def __init__(self, initial: float = 0.0) -> None:
        super().__init__()
        # of one axis: a compiled step does not write to a float64 input without axes (PyTorch 2.13, CPU)
        self.value = nn.Parameter(torch.tensor([initial]))

    def forward(self) -> Tensor:
        """Returns the number, shape `[]`."""
        return self.value.squeeze(0)
