"""The convolutions of the deep Q-network (Mnih et al., 2015, doi:10.1038/nature14236), for uint8 images; alone or as an ensemble.

Its fully connected layer of 512 units is the first of `hidden`. Images are centred, each on its own mean, and initial weights are those of He
et al. (2015): what moves in Pong, a ball of four pixels before a background that is always the same, is else 3 % of the initial features
(root mean squares), and learning turned all units off before it found it.
"""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from stitchrl.core.spec import Box

LAYERS = ((32, 8, 4), (64, 4, 2), (64, 3, 1))  # channels, side and stride of the filters; Methods, "Model architecture"


@final
class Convolution(nn.Module):
    """A two-dimensional convolution without padding, for E members at once where `ensemble` is given.

    Initial weights have variance 2 / inputs (He et al., 2015, arXiv:1502.01852, eq. 10), so that ReLU layers keep an image's contrast; biases 0.
    """

    def __init__(self, inputs: int, outputs: int, side: int, stride: int, ensemble: int | None = None) -> None:
        super().__init__()
        bound = math.sqrt(6 / (inputs * side * side))  # a uniform number's variance is bound² / 3
        members = () if ensemble is None else (ensemble,)
        self.inputs, self.stride = inputs, stride
        self.weight = nn.Parameter(torch.empty(*members, outputs, inputs, side, side).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(*members, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Returns `[B, E · outputs, h, w]` from `[B, inputs, H, W]`, which all members share, or from their own `[B, E · inputs, H, W]`."""
        weight = self.weight.flatten(0, -4)  # [E · outputs, inputs, side, side]
        result: Tensor = functional.conv2d(x, weight, self.bias.flatten(), self.stride, groups=x.shape[-3] // self.inputs)
        return result


@final
class Encoder(nn.Module):
    """Three convolutions with ReLU on an image divided by 255, less its mean: one shade is 0, and brightness as a whole is not seen.

    An image is `[C, H, W]`, `[H, W, C]` or `[H, W]`: of the first and last axis the shorter one holds the channels, such as stacked frames.
    """

    def __init__(self, image: Box, ensemble: int | None = None) -> None:
        super().__init__()
        self.ensemble = ensemble
        self.channels_last = len(image.shape) == 3 and image.shape[-1] < image.shape[0]
        channels, height, width = channels_first(image.shape)
        self.layers = nn.ModuleList()
        self.operations = 0  # multiplications for one image
        for outputs, side, stride in LAYERS:
            self.layers.append(Convolution(channels, outputs, side, stride, ensemble))
            height, width = (height - side) // stride + 1, (width - side) // stride + 1
            self.operations += height * width * outputs * channels * side * side * (ensemble or 1)
            channels = outputs
        self.size = channels * height * width

    def forward(self, images: Tensor) -> Tensor:
        """Returns features `[B, size]`, or `[E, B, size]` for an ensemble, from uint8 images `[B, *O]`."""
        x: Tensor = images.to(self.layers[0].weight.dtype) / 255  # type: ignore[arg-type]
        if self.channels_last:
            x = x.movedim(-1, -3)
        elif x.ndim == 3:
            x = x.unsqueeze(-3)
        x = x - x.mean((-3, -2, -1), keepdim=True)
        for layer in self.layers:
            x = torch.relu_(layer(x))
        if self.ensemble is None:
            return x.flatten(1)
        members: Tensor = x.unflatten(1, (self.ensemble, -1)).flatten(2).transpose(0, 1)
        return members


def channels_first(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Returns channels, height and width of an image of this shape."""
    if len(shape) == 2:
        return (1, shape[0], shape[1])
    first, middle, last = shape
    return (last, first, middle) if last < first else (first, middle, last)
