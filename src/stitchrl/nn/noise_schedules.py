"""How fast a diffusion adds noise, and the steps by which a sampler takes it away: both read off the schedulers of `diffusers`.

Whatever the sampler, one step of it is a sum of four things, each times a number that depends on the step alone:
    x' = keep * x + data * x0 + before * x0_before + spread * z,
with x0 what the network takes for the data now and at the step before, and z fresh noise. The numbers are found by asking diffusers' own
`step` what it makes of unit vectors; a step is then plain arithmetic, which compiles, maps over seeds and never waits for a device.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple, final

import torch
from torch import Tensor, nn

from stitchrl.core.errors import ConfigError

ScheduleKind = Literal["linear", "cosine", "vp"]
SamplerName = Literal["ddpm", "ddim", "dpm_solver++"]
Prediction = Literal["epsilon", "sample", "v_prediction"]


@final
class Schedule(nn.Module):
    """x_t = signal_t x_0 + deviation_t noise for t = 0 … steps-1: `[steps]` constants, part of the network that learns to undo it.

    linear: variances from 1e-4 to 0.02 (Ho et al., 2020, arXiv:2006.11239), which hide the data only if there are about 1,000 of them.
    cosine: Nichol & Dhariwal, 2021, arXiv:2102.09672, no variance above 0.999. vp: the variance-preserving process of Song et al., 2020
    (arXiv:2011.13456), from 0.1 to 10, in few steps (Xiao et al., 2021, arXiv:2112.07804), as diffusion Q-learning has it.
    """

    def __init__(self, kind: ScheduleKind, steps: int) -> None:
        super().__init__()
        self.kind, self.steps = kind, steps
        kept = _kept(_schedulers().DDIMScheduler(steps, trained_betas=_variances(kind, steps)))
        self.signal = nn.Parameter(kept.sqrt().float(), requires_grad=False)
        self.deviation = nn.Parameter((1 - kept).sqrt().float(), requires_grad=False)

    def times(self, uniform: Tensor) -> Tensor:
        """Returns int64 times `[*batch]`, each as likely as another, from numbers uniform in [0, 1)."""
        return (uniform * self.steps).long()

    def noised(self, data: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """Returns x_t `[B, …]` for data and noise of that shape and times `[B]`."""
        signal, deviation = self._at(times, data)
        return signal * data + deviation * noise

    def target(self, data: Tensor, noise: Tensor, times: Tensor, prediction: Prediction) -> Tensor:
        """Returns what a network learns to say at x_t, `[B, …]`: the noise, the data, or the velocity (Salimans & Ho, 2022, arXiv:2202.00512)."""
        if prediction == "epsilon":
            return noise
        if prediction == "sample":
            return data
        signal, deviation = self._at(times, data)
        return signal * noise - deviation * data

    def _at(self, times: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        shape = (*times.shape, *(1,) * (like.ndim - times.ndim))
        return self.signal[times].reshape(shape), self.deviation[times].reshape(shape)


class Step(NamedTuple):
    """One step of a sampler: x' = keep x + data x0 + before x0_before + spread z, at x_t = signal x_0 + deviation noise."""

    time: int
    signal: float
    deviation: float
    keep: float
    data: float
    before: float
    spread: float


Chain = tuple[Step, ...]  # from noise to data


def chain(schedule: Schedule, sampler: SamplerName, steps: int | None = None) -> Chain:
    """Returns the steps of a sampler over a schedule; None: as many as the schedule has.

    ddpm: ancestral (arXiv:2006.11239), with the posterior's variance, of every k-th step where there are fewer; its last step adds no noise.
    ddim: the same without noise (Song et al., 2020, arXiv:2010.02502). dpm_solver++: second order, multistep (Lu et al., 2022,
    arXiv:2211.01095). The last two are deterministic. Raises ConfigError where ddpm's or ddim's steps do not divide the schedule's.
    """
    steps = schedule.steps if steps is None else steps
    if steps > schedule.steps or (sampler != "dpm_solver++" and schedule.steps % steps):
        raise ConfigError(
            f"sampling_steps is {steps}; expected "
            + (f"a divisor of the diffusion's {schedule.steps} steps" if steps <= schedule.steps else f"at most {schedule.steps}")
        )
    variances = _variances(schedule.kind, schedule.steps)
    with torch.device("cpu"), torch.no_grad():
        found = _multistep(variances, steps) if sampler == "dpm_solver++" else _singlestep(variances, steps, float(sampler == "ddpm"))
    return found


def _singlestep(variances: list[float], steps: int, eta: float) -> Chain:
    """DDIM's steps; with eta = 1 and all steps they are DDPM's, whose scheduler in diffusers draws noise of its own."""
    scheduler = _schedulers().DDIMScheduler(
        len(variances), trained_betas=variances, prediction_type="sample", clip_sample=False, timestep_spacing="trailing"
    )
    scheduler.alphas_cumprod = kept = _kept(scheduler)
    scheduler.set_timesteps(steps)
    x, data, noise = torch.eye(3, dtype=torch.float64)
    found = []
    for time in scheduler.timesteps.tolist():
        stepped = scheduler.step(data, time, x, eta=eta, variance_noise=noise).prev_sample
        a, b, spread = stepped.tolist()
        found.append(Step(time, *_levels(kept, time), a, b, 0.0, spread))
    return tuple(found)


def _multistep(variances: list[float], steps: int) -> Chain:
    scheduler = _schedulers().DPMSolverMultistepScheduler(
        len(variances), trained_betas=variances, prediction_type="sample", timestep_spacing="trailing"
    )
    kept = _kept(scheduler)
    scheduler.alphas_cumprod = kept.numpy()  # it hands a tensor to numpy in a way of which NumPy 2 warns
    scheduler.set_timesteps(steps)
    x, data, before = torch.eye(3, dtype=torch.float64)
    found = []
    for time in scheduler.timesteps.tolist():
        scheduler.model_outputs = [before, before]  # what it predicted so far; it looks one step back
        a, b, c = scheduler.step(data, time, x).prev_sample.tolist()
        found.append(Step(time, *_levels(kept, time), a, b, c, 0.0))
    return tuple(found)


def _levels(kept: Tensor, time: int) -> tuple[float, float]:
    share = float(kept[time])
    return math.sqrt(share), math.sqrt(1 - share)


def _kept(scheduler: Any) -> Tensor:
    """`[steps]` float64: the share of the data's variance that is left at each time; diffusers multiplies in float32."""
    kept: Tensor = (1 - scheduler.betas.double()).cumprod(0)
    return kept


def _variances(kind: ScheduleKind, steps: int) -> list[float]:
    with torch.device("cpu"):
        if kind == "vp":
            low, high = 0.1, 10.0
            exponents = [low / steps + (high - low) * (2 * t - 1) / (2 * steps**2) for t in range(1, steps + 1)]
            return [1 - math.exp(-exponent) for exponent in exponents]
        name = {"linear": "linear", "cosine": "squaredcos_cap_v2"}[kind]
        return _schedulers().DDIMScheduler(steps, beta_schedule=name).betas.tolist()  # type: ignore[no-any-return]


def _schedulers() -> Any:
    """The schedulers of `diffusers`, imported where a diffusion is used: it takes two seconds."""
    try:
        from diffusers import schedulers
    except ModuleNotFoundError as error:
        raise ConfigError(f"diffusion needs the package {error.name}. Run: pip install 'stitchrl[diffusion]'") from None
    return schedulers
