"""Networks that see data through noise: for one action, multilayer perceptrons; for a sequence, a temporal U-Net or a transformer.

Each is called with noised data, times `[]` or `[B]` and a condition, and says something of the data's shape.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from stitchrl.core.errors import ConfigError
from stitchrl.core.spec import Spec
from stitchrl.nn.dropout import dropout
from stitchrl.nn.mlp import MLP, LayerNorm

GROUPS = 8  # of channels, normalised together


def sinusoids(times: Tensor, width: int) -> Tensor:
    """Returns `[*times, width]` sines and cosines of wavelengths from 2 pi to 10,000 times that (Vaswani et al., 2017, arXiv:1706.03762)."""
    half = width // 2
    frequencies = torch.exp(torch.arange(half, device=times.device) * (-math.log(10_000) / max(half - 1, 1)))
    angles = times.unsqueeze(-1) * frequencies
    return torch.cat([angles.sin(), angles.cos()], -1)


@final
class TimeEmbedding(nn.Module):
    """Sinusoids of the time through two layers of Mish units (Misra, 2019, arXiv:1908.08681)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        if width % 2:
            raise ConfigError(f"the embedding of times has {width} numbers; expected an even number, sines and cosines")
        self.width = width
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, times: Tensor) -> Tensor:
        """Returns `[*times, width]`."""
        embedded: Tensor = self.down(functional.mish(self.up(sinusoids(times, self.width).to(self.up.weight.dtype))))
        return embedded


@final
class MLPDenoiser(nn.Module):
    """Layers of Mish units on noised action, embedded time and observation: the network of diffusion Q-learning (arXiv:2208.06193)."""

    def __init__(self, spec: Spec, size: int, hidden: Sequence[int], *, time_width: int = 16) -> None:
        super().__init__()
        self.embedding = TimeEmbedding(time_width, 2 * time_width)
        self.mlp = MLP(spec.observation, size, hidden, actions=size + time_width, activation="mish")

    def forward(self, x: Tensor, times: Tensor, observations: Tensor) -> Tensor:
        """Returns `[*batch, A]` for `x [*batch, A]` and observations `[*batch, *O]`."""
        time = self.embedding(times).expand(*x.shape[:-1], -1)
        said: Tensor = self.mlp(observations, torch.cat([x, time], -1))
        return said


@final
class ResidualDenoiser(nn.Module):
    """Residual layers with dropout and layer norm (LN-ResNet), the network of IDQL (arXiv:2304.10573); times as learned Fourier features."""

    def __init__(
        self, spec: Spec, size: int, *, width: int = 256, blocks: int = 3, rate: float = 0.0, layer_norm: bool = True, time_width: int = 64
    ) -> None:
        super().__init__()
        self.rate = rate
        self.frequencies = nn.Parameter(0.2 * torch.randn(time_width // 2))
        self.time_up, self.time_down = nn.Linear(2 * (time_width // 2), 128), nn.Linear(128, 128)
        self.first = MLP(spec.observation, width, (), actions=size + 128)
        self.norms = nn.ModuleList(LayerNorm(width) for _ in range(blocks)) if layer_norm else None
        self.up = nn.ModuleList(nn.Linear(width, 4 * width) for _ in range(blocks))
        self.down = nn.ModuleList(nn.Linear(4 * width, width) for _ in range(blocks))
        self.last = nn.Linear(width, size)

    def forward(self, x: Tensor, times: Tensor, observations: Tensor, key: Tensor | None = None) -> Tensor:
        """Returns `[*batch, A]` for `x [*batch, A]` and observations `[*batch, *O]`; key: of dropout's masks, None for no dropout."""
        angles = 2 * math.pi * times.to(x.dtype).unsqueeze(-1) * self.frequencies
        time = self.time_down(functional.mish(self.time_up(torch.cat([angles.cos(), angles.sin()], -1))))
        h = self.first(observations, torch.cat([x, time.expand(*x.shape[:-1], -1)], -1))
        for i, up in enumerate(self.up):
            y = h if key is None else dropout(h, self.rate, key, i)
            y = y if self.norms is None else self.norms[i](y)
            h = h + self.down[i](functional.mish(up(y)))
        said: Tensor = self.last(functional.mish(h))
        return said


@final
class _Convolved(nn.Module):
    """A convolution over time, normalised in groups of channels, then Mish."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(inputs, outputs, kernel, padding=kernel // 2)
        self.norm = nn.GroupNorm(math.gcd(GROUPS, outputs), outputs)

    def forward(self, x: Tensor) -> Tensor:
        active: Tensor = functional.mish(self.norm(self.convolution(x)))
        return active


@final
class TemporalBlock(nn.Module):
    """Two convolutions with the condition between them, added to every channel (or also multiplied), around a residual connection."""

    def __init__(self, inputs: int, outputs: int, condition: int, kernel: int, *, scaled: bool) -> None:
        super().__init__()
        self.first, self.second = _Convolved(inputs, outputs, kernel), _Convolved(outputs, outputs, kernel)
        self.conditioning = nn.Linear(condition, 2 * outputs if scaled else outputs)
        self.scaled = scaled
        self.residual = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Returns `[B, outputs, T]` for `x [B, inputs, T]` and `[B, condition]`."""
        shift = self.conditioning(functional.mish(condition)).unsqueeze(-1)  # [B, outputs, 1], or twice as many
        h = self.first(x)
        if self.scaled:
            scale, shift = shift.chunk(2, 1)
            h = scale * h
        result: Tensor = self.second(h + shift) + (x if self.residual is None else self.residual(x))
        return result


@final
class TemporalUnet(nn.Module):
    """A U-Net over time of Diffuser (Janner et al., 2022, arXiv:2205.09991), for sequences of any length of at least 1.

    Each level but the last halves the sequence (rounded up), and on the way back the longer half is cut to what came down. `multipliers`: of the
    width, one a level. condition: width of a vector for the whole sequence, joined to the embedded time; 0: none. scaled: the condition also
    multiplies channels (FiLM: Perez et al., 2017, arXiv:1709.07871), as the diffusion policy has it; not in Diffuser. time_width: None: `width`.
    """

    def __init__(
        self,
        channels: int,
        width: int = 32,
        multipliers: Sequence[int] = (1, 2, 4, 8),
        *,
        condition: int = 0,
        kernel: int = 5,
        scaled: bool = False,
        time_width: int | None = None,
    ) -> None:
        super().__init__()
        time_width = time_width or width
        self.embedding = TimeEmbedding(time_width, 4 * time_width)
        sizes = [width * multiplier for multiplier in multipliers]

        def pair(inputs: int, outputs: int) -> nn.ModuleList:
            blocks = ((inputs, outputs), (outputs, outputs))
            return nn.ModuleList(TemporalBlock(i, o, time_width + condition, kernel, scaled=scaled) for i, o in blocks)

        self.descent = nn.ModuleList(pair(i, o) for i, o in zip([channels, *sizes[:-1]], sizes, strict=True))
        self.shorten = nn.ModuleList(nn.Conv1d(size, size, 3, stride=2, padding=1) for size in sizes[:-1])
        self.middle = pair(sizes[-1], sizes[-1])
        self.ascent = nn.ModuleList(pair(2 * o, i) for i, o in zip(sizes[-2::-1], sizes[:0:-1], strict=True))
        self.lengthen = nn.ModuleList(nn.ConvTranspose1d(size, size, 4, stride=2, padding=1) for size in sizes[-2::-1])
        self.last, self.out = _Convolved(sizes[0], sizes[0], kernel), nn.Conv1d(sizes[0], channels, 1)

    def forward(self, x: Tensor, times: Tensor, condition: Tensor | None = None) -> Tensor:
        """Returns `[B, T, C]` for `x [B, T, C]` and a condition `[B, condition]`."""
        c = self.embedding(times).expand(x.shape[0], -1)
        c = c if condition is None else torch.cat([c, condition], -1)
        h, passed = x.transpose(1, 2), []
        for level, blocks in enumerate(self.descent):
            h = _through(blocks, h, c)
            passed.append(h)
            if level < len(self.shorten):
                h = self.shorten[level](h)
        h = _through(self.middle, h, c)
        lengths = [across.shape[-1] for across in passed]
        for level, blocks in enumerate(self.ascent):
            h = _through(blocks, torch.cat([h, passed[-1 - level]], 1), c)
            h = self.lengthen[level](h)[..., : lengths[-2 - level]]
        said: Tensor = self.out(self.last(h)).transpose(1, 2)
        return said


def _through(blocks: nn.Module, x: Tensor, condition: Tensor) -> Tensor:
    for block in blocks.children():
        x = block(x, condition)
    return x


@final
class _ModulatedBlock(nn.Module):
    """Attention and feedforward whose norms are scaled and shifted, and whose words are weighed, by the condition: at first by 0."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_heads, self.from_heads = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.modulation = _zeroed(nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale, gate, shift_2, scale_2, gate_2 = self.modulation(functional.silu(condition)).unsqueeze(1).chunk(6, -1)  # [B, 1, D]
        q, k, v = self.to_heads(_modulated(x, shift, scale)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each [B, H, T, d]
        x = x + gate * self.from_heads(_attention(q, k, v).transpose(1, 2).flatten(2))
        hidden = functional.gelu(self.up(_modulated(x, shift_2, scale_2)), approximate="tanh")
        result: Tensor = x + gate_2 * self.down(hidden)
        return result


@final
class DiT(nn.Module):
    """A transformer over the whole sequence, conditioned by adaptive layer norm that starts at zero (Peebles & Xie, 2022, arXiv:2212.09748).

    At first its blocks change nothing and its last layer says 0. length: longest sequence; condition: as `TemporalUnet`'s.
    """

    def __init__(
        self, channels: int, length: int, width: int = 320, depth: int = 2, heads: int = 10, *, condition: int = 0, time_width: int = 128
    ) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(f"the transformer's width is {width}; expected a multiple of its {heads} heads")
        self.embedding = TimeEmbedding(time_width, 4 * time_width)
        self.conditioning = nn.Sequential(nn.Linear(time_width + condition, width), nn.Mish(), nn.Linear(width, width))
        self.into, self.places = nn.Linear(channels, width), nn.Parameter(0.02 * torch.randn(length, width))
        self.blocks = nn.ModuleList(_ModulatedBlock(width, heads) for _ in range(depth))
        self.modulation, self.out = _zeroed(nn.Linear(width, 2 * width)), _zeroed(nn.Linear(width, channels))

    def forward(self, x: Tensor, times: Tensor, condition: Tensor | None = None) -> Tensor:
        """Returns `[B, T, C]` for `x [B, T, C]` and a condition `[B, condition]`."""
        c = self.embedding(times).expand(x.shape[0], -1)
        c = self.conditioning(c if condition is None else torch.cat([c, condition], -1))
        h = self.into(x) + self.places[: x.shape[1]]
        for block in self.blocks:
            h = block(h, c)
        shift, scale = self.modulation(functional.silu(c)).unsqueeze(1).chunk(2, -1)
        said: Tensor = self.out(_modulated(h, shift, scale))
        return said


def _attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """What each query finds, `[B, H, T, d]`; written out on a CPU, where PyTorch's own has no rule for vmap."""
    if q.is_cuda:
        return functional.scaled_dot_product_attention(q, k, v)
    return ((q / math.sqrt(q.shape[-1])) @ k.transpose(-1, -2)).softmax(-1) @ v


def _modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


def _zeroed(layer: nn.Linear) -> nn.Linear:
    """The layer, saying 0 whatever it sees until it has learned."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
