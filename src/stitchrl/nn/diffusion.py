"""Denoising diffusion (Ho et al., 2020, arXiv:2006.11239): a network learns to see data through noise, and a sampler walks from noise to data.

Any data: actions `[B, A]`, chunks of them or plans `[B, T, C]`. Noise schedules and the steps of samplers are those of nn/noise_schedules.py,
networks those of nn/denoisers.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor, nn

from stitchrl.nn.noise_schedules import Chain, Prediction, Schedule, Step


@final
class Diffusion(nn.Module):
    """A network `network(x, times, *conditions)` of x's shape with the schedule of the noise that it learns to undo."""

    def __init__(self, network: nn.Module, schedule: Schedule, prediction: Prediction = "epsilon") -> None:
        super().__init__()
        self.network, self.schedule = network, schedule
        self.prediction = prediction

    def forward(self, x: Tensor, times: Tensor, *conditions: Any) -> Tensor:
        """Returns what the network says at points `x [B, …]` and times `[]` or `[B]`."""
        said: Tensor = self.network(x, times, *conditions)
        return said

    def errors(
        self, data: Tensor, noise: Tensor, uniform: Tensor, *conditions: Any, hold: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor:
        """Returns squared errors of the data's shape, each row at a time of its own: what the network learns to make small.

        uniform: `[B]`, in [0, 1), decides the times. hold: writes known entries into what the network sees, as it will see them when sampling.
        """
        times = self.schedule.times(uniform)
        x = self.schedule.noised(data, noise, times)
        said = self(x if hold is None else hold(x), times, *conditions)
        squared: Tensor = (said - self.schedule.target(data, noise, times, self.prediction)).square()
        return squared

    def sample(self, start: Tensor, chain: Chain, *conditions: Any, noise: Tensor | None = None, **options: Any) -> Tensor:
        """Returns data of the shape of `start`, normal noise; see `sample`, which has the options."""
        return sample(lambda x, times: self(x, times, *conditions), start, chain, noise=noise, prediction=self.prediction, **options)


def sample(
    denoise: Callable[[Tensor, Tensor], Tensor],
    start: Tensor,
    chain: Chain,
    *,
    noise: Tensor | None = None,
    prediction: Prediction = "epsilon",
    temperature: float = 1.0,
    hold: Callable[[Tensor], Tensor] | None = None,
    clip: float | None = 1.0,
    guide: Callable[[Tensor, Step], Tensor] | None = None,
    record: bool = False,
) -> Tensor:
    """Returns data of the shape of `start`, standard normal, after all steps of a chain; `record`: `[steps + 1, …]`, where it was, the data last.

    denoise: what the network says at x and the time, an int64 `[]`. noise: `[draws(chain), …]` standard normal numbers; without them ddpm
    goes by its means. temperature: multiplies all noise, the start's too. hold: writes what is known into x (inpainting), before every step and
    at the end. clip: bound of the predicted data, both sides. guide: moves x before a step, and may look at it. Gradients pass through all.
    """
    keep = hold or _as_it_is
    x = keep(start if temperature == 1 else temperature * start)
    path, before = [x], x
    for i, step in enumerate(chain):
        if guide is not None:
            x = keep(guide(x, step))
        data = predicted_data(denoise(x, torch.full((), step.time, device=x.device)), x, step, prediction)
        if clip is not None:
            data = data.clamp(-clip, clip)
        moved = step.data * data
        if step.keep:
            moved = moved + step.keep * x
        if step.before:
            moved = moved + step.before * before
        if step.spread and noise is not None:
            moved = moved + temperature * step.spread * noise[i]
        x, before = keep(moved), data
        path.append(x)
    return torch.stack(path) if record else x


def draws(chain: Chain) -> int:
    """Returns how many times a chain adds noise: what `sample` needs beside the start."""
    return sum(step.spread > 0 for step in chain)


def predicted_data(said: Tensor, x: Tensor, step: Step, prediction: Prediction) -> Tensor:
    """Returns the data that a network's word at x implies."""
    if prediction == "sample":
        return said
    if prediction == "epsilon":
        return (x - step.deviation * said) / step.signal
    return step.signal * x - step.deviation * said


def guided(diffusion: Diffusion, x: Tensor, times: Tensor, values: Tensor, told: Tensor, weight: float) -> Tensor:
    """Returns what the network says of `x [N, *X]` untold, and weight times what each of Q conditions, told alone, changes in it.

    Classifier-free guidance (Ho & Salimans, 2022, arXiv:2207.12598, whose weight is this one less 1) as Decision Diffuser combines it (eq. 9):
    0 is unconditional, 1 conditional, above 1 more of the condition. values: `[Q, N, M]`, of M conditions; told: `[Q, M]`, which each of Q is.
    """
    asked, count, conditions = values.shape
    if not weight or not asked:
        nothing = x.new_zeros(count, conditions)
        return diffusion(x, times, nothing, nothing)  # type: ignore[no-any-return]
    every = torch.cat([torch.zeros_like(told[:1]), told]).repeat_interleave(count, 0)  # [(1 + Q) N, M], the first N untold
    several = (1 + asked, *[1] * (x.ndim - 1))
    said = diffusion(x.repeat(several), times, torch.cat([values[0], values.flatten(0, 1)]), every).unflatten(0, (1 + asked, count))
    result: Tensor = said[0] + weight * (said[1:] - said[:1]).sum(0)
    return result


def _as_it_is(x: Tensor) -> Tensor:
    return x
