"""Diffuser (Janner et al., 2022, arXiv:2205.09991): a diffusion of whole trajectories, guided to high value while it takes noise away.

Planning is sampling: what is known (the present state, a goal) is written into the trajectory, a value network's gradient moves the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor
from torch.nn import functional

from stitchrl.core.algorithm import Adam, Algorithm, Due, Losses, Metrics
from stitchrl.core.batch import BatchKind
from stitchrl.core.errors import ConfigError
from stitchrl.core.plans import Planned
from stitchrl.core.policy import Memory, Policy
from stitchrl.core.randomness import Noise, Normal, Uniform, generator
from stitchrl.core.settings import Count, Fraction, Levels, Natural, NonNegative, Positive, Rate
from stitchrl.core.spec import Discrete, Spec
from stitchrl.core.windows import WindowBatch, Windows
from stitchrl.nn.denoisers import TemporalUnet
from stitchrl.nn.diffusion import Diffusion, draws
from stitchrl.nn.noise_schedules import Chain, Prediction, SamplerName, Schedule, ScheduleKind, Step, chain
from stitchrl.nn.planning import TrajectoryModel, begun, check_ends, check_goal, check_horizon, held, no_plans, renewed, wanted
from stitchrl.nn.temporal_value import TemporalValue


@final
@dataclass(frozen=True)
class DiffuserConfig:
    horizon: Count = 32
    """states of a trajectory (the authors: 4 on HalfCheetah, 128 to 384 in Maze2D)"""
    diffusion_steps: Count = 20
    schedule: ScheduleKind = "cosine"
    prediction: Prediction = "sample"
    """what the network says: the trajectory without noise, the noise, or a mixture"""
    width: Count = 32
    """channels of the temporal U-Net's first level, and of the value network's"""
    multipliers: Levels = (1, 2, 4, 8)
    """of the width, one a level"""
    action_weight: Positive = 10.0
    """of the first action's error, the one that will be done (1 in Maze2D)"""
    discount: Fraction = 0.99
    """of the returns that the value network predicts"""
    sampler: SamplerName = "ddpm"
    sampling_steps: Count | None = None
    """of the sampler; None: all of the diffusion's"""
    guide_scale: NonNegative = 5.0
    """size of a step along the value's gradient; 0: not guided"""
    guide_unit: Literal["deviations", "returns"] = "deviations"
    """of the value whose gradient that is: standard deviations of the log's returns, or returns as the authors' scales have it"""
    guide_steps: Count = 2
    """steps along the gradient for each step of the sampler"""
    unguided_steps: Natural = 2
    """last steps of the diffusion that are not guided (t_stopgrad in the code)"""
    candidates: Count = 64
    """plans for each observation, the best of which by the value is followed"""
    replan_every: Count = 1
    """steps of a plan that are done before the next is made"""
    warm_start_steps: Natural = 0
    """last steps of the sampler from which a new plan is made of the one before; 0: from noise"""
    goal: tuple[tuple[Natural, Natural], ...] = ()
    """(d, e): dimension d of a plan's last state is what dimension e of the observation tells; ((0, 4), (1, 5)) in PointMaze"""
    target_rate: Rate = 0.005
    """step of the moving averages that plan"""
    target_every: Count = 1
    """steps of learning from one update of the averages to the next (the authors: 10, of a million)"""
    learning_rate: Positive = 2e-4


@final
class DiffuserPolicy(Policy):
    """Does the first actions of the best of K guided plans. Without noise the plans begin from fixed draws, the same at every observation."""

    vmapped = False
    drawn = True
    score = "predicted return"

    def __init__(self, denoiser: TrajectoryModel, value: TemporalValue, config: DiffuserConfig) -> None:
        super().__init__()
        assert denoiser.actions is not None
        self.denoiser, self.value, self.config = denoiser, value, config
        self.steps = chain(denoiser.diffusion.schedule, config.sampler, config.sampling_steps)
        check_horizon(config.horizon, config.replan_every, config.warm_start_steps, self.steps)
        check_guide(config, self.steps)
        self.actions, self.size = denoiser.actions, denoiser.observations.size
        self.plan = (config.horizon, self.size + self.actions.size)  # [T, C]
        self.shape = (1 + draws(self.steps), config.candidates, *self.plan)  # the start, and the noise of each step
        self.fixed = Normal(self.shape).draw(1, generator(0, "acting"))[0]

    def noise(self, size: int) -> Noise | None:
        return Normal((size, *self.shape))

    def memory(self, count: int) -> Memory | None:
        return no_plans(count, *self.plan, next(self.value.parameters()))

    def forward(self, observations: Tensor, noise: Tensor | None = None) -> Tensor:
        begun = no_plans(len(observations), *self.plan, next(self.value.parameters()))
        return self.step(observations, begun["plans"][:, 0, 0], begun, noise)[0]

    @torch.no_grad()
    def step(self, observations: Tensor, rewards: Tensor, memory: Memory, noise: Tensor | None = None) -> tuple[Tensor, Memory]:
        z = self._noise(observations, noise)

        def make(rows: Tensor, before: Tensor | None) -> Tensor:
            path, values = self._path(observations[rows], z[rows], before)
            return best_of(path[-1], values)

        plans, ages, memory = renewed(memory, self.config.replan_every, self.config.warm_start_steps > 0, make)
        vectors = plans[torch.arange(len(plans), device=plans.device), ages, self.size :]
        actions = self.actions.decode(vectors)
        return (actions if self.actions.discrete else actions.clamp(-1, 1)), memory

    @torch.no_grad()
    def planned(self, observations: Tensor, noise: Tensor | None = None) -> Planned:
        """Returns the K plans made where episodes begin, with the returns that the value network predicts."""
        path, values = self._path(observations, self._noise(observations, noise), None)
        stages = torch.stack([best_of(x, values) for x in path], 1)  # [N, J, T, C]
        plans = path[-1].unflatten(0, values.shape)
        states, stages = (self.denoiser.observations.decode(x[..., : self.size]) for x in (plans, stages))
        return Planned(states, self.value.returns.restored(values), stages)

    def _noise(self, observations: Tensor, noise: Tensor | None) -> Tensor:
        """`[N, draws, K, T, C]`"""
        weight = next(self.value.parameters())
        return self.fixed.to(weight.device, weight.dtype).expand(len(observations), *self.shape) if noise is None else noise

    def _path(self, observations: Tensor, noise: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor]:
        """The way from noise to plans, `[J, N K, T, C]`, and the plans' values `[N, K]`; before `[N, T, C]`: the plans to begin from."""
        candidates = self.config.candidates
        known, is_known = self._known(observations, noise)
        z = noise.transpose(0, 1).flatten(1, 2)  # [draws, N K, T, C]
        before = None if before is None else before.repeat_interleave(candidates, 0)
        steps, start, later = begun(self.steps, z, before, self.config.warm_start_steps)

        def hold(x: Tensor) -> Tensor:
            return torch.where(is_known, known, x)

        guide = guide_of(self.value, steps, self.config, hold) if self.config.guide_scale else None
        path = self.denoiser.diffusion.sample(start, steps, noise=later, hold=hold, guide=guide, record=True)
        values = self.value(path[-1], path.new_zeros((), dtype=torch.int64))
        return path, values.unflatten(0, (-1, candidates))

    def _known(self, observations: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """What is written into every plan `[N K, T, C]`, and where `[T, C]`: the present state first, the goal's dimensions last."""
        limits = self.denoiser.observations
        s = limits.encode(observations, noise)
        known, is_known = noise.new_zeros(len(s), *self.plan), torch.zeros(self.plan, dtype=torch.bool, device=s.device)
        known[:, 0, : self.size], is_known[0, : self.size] = s, True
        if self.config.goal:
            at = [d for d, _ in self.config.goal]
            known[:, -1, at], is_known[-1, at] = limits.encode(wanted(self.config.goal, observations), noise)[:, at], True
        return known.repeat_interleave(self.config.candidates, 0), is_known

    def log_probabilities(self, observations: Tensor, actions: Tensor) -> Tensor:
        raise TypeError("Diffuser takes the first action of the best of many sampled plans: the density of its actions is not known")

    def action_probabilities(self, observations: Tensor) -> Tensor:
        if not self.actions.discrete:
            return super().action_probabilities(observations)
        return functional.one_hot(self(observations), self.actions.size)


def best_of(plans: Tensor, values: Tensor) -> Tensor:
    """Returns `[N, T, C]`, of plans `[N K, T, C]` each environment's with the highest of the values `[N, K]`."""
    number = torch.arange(len(values), device=values.device)
    best: Tensor = plans.unflatten(0, values.shape)[number, values.argmax(1)]
    return best


def check_guide(c: DiffuserConfig, steps: Chain) -> None:
    """Raises ConfigError for a guide that none of the sampler's steps would follow."""
    first = max(step.time for step in steps)
    if c.guide_scale and first < c.unguided_steps:
        raise ConfigError(
            f"unguided_steps is {c.unguided_steps} and sampling begins {first + 1} steps before its end: no step is guided. "
            f"Use at most {first}, or guide_scale 0 to plan without a guide"
        )


def guide_of(value: TemporalValue, steps: Chain, c: DiffuserConfig, hold: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Step], Tensor]:
    """Returns line 6 of algorithm 1: trajectories move along the gradient of the value, as far as this step's noise would vary."""
    kept = [step.signal**2 for step in steps] + [1.0]  # of the data's variance
    unit = value.returns.deviation if c.guide_unit == "returns" else 1.0
    variance = {step.time: (1 - kept[i + 1]) / (1 - kept[i]) * (1 - kept[i] / kept[i + 1]) for i, step in enumerate(steps)}

    def guide(x: Tensor, step: Step) -> Tensor:
        if step.time >= c.unguided_steps:
            for _ in range(c.guide_steps):
                x = hold(x + unit * c.guide_scale * variance[step.time] * gradient(value, x, step.time))
        return x

    return guide


def gradient(value: TemporalValue, x: Tensor, time: int) -> Tensor:
    """Returns the value's gradient in each of `x [B, T, C]`, also where gradients are switched off."""
    with torch.inference_mode(False), torch.enable_grad():
        x = x.clone().requires_grad_()
        [found] = torch.autograd.grad(value(x, torch.full((), time, device=x.device)).sum(), [x])
    return found


@final
class Diffuser(Algorithm):
    batch = Windows(32, discount=0.99)
    acting_settings = frozenset([
        "sampler", "sampling_steps", "guide_scale", "guide_unit", "guide_steps", "unguided_steps", "candidates", "replan_every",
        "warm_start_steps", "goal",
    ])  # fmt: skip

    ema_denoiser: TrajectoryModel
    ema_value: TemporalValue

    def __init__(self, config: DiffuserConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        c = config
        check_goal(c.goal, spec)
        channels = sum(space.n if isinstance(space, Discrete) else space.size for space in (spec.observation, spec.action))
        diffusion = Diffusion(TemporalUnet(channels, c.width, c.multipliers), Schedule(c.schedule, c.diffusion_steps), c.prediction)
        self.denoiser = TrajectoryModel(diffusion, spec.observation, spec.action)
        self.value = TemporalValue(channels, c.horizon, c.width, c.multipliers)
        self.targets = {"ema_denoiser": "denoiser", "ema_value": "value"}
        self.target_rate, self.update_every = c.target_rate, dict.fromkeys(self.targets, c.target_every)
        self.optimizers = dict.fromkeys(("denoiser", "value"), Adam(c.learning_rate))
        self.shape = (c.horizon, channels)

    @classmethod
    def batch_of(cls, config: DiffuserConfig) -> BatchKind:
        return Windows(config.horizon, config.discount)

    def noise(self, size: int) -> dict[str, Noise]:
        return {"noise": Normal((size, *self.shape)), "time": Uniform((size,))}

    def measure(self, log: WindowBatch) -> None:
        if self.config.goal:
            check_ends(log, self.config.horizon, f"the goal {self.config.goal}")
        self.denoiser.measure(log)
        self.value.returns.measure(log.returns_to_go[:, 0][log.taken[:, 0] > 0])  # nothing is earned where an episode has ended

    def losses(self, batch: WindowBatch, noise: Mapping[str, Tensor], due: Due) -> tuple[Losses, Metrics]:  # type: ignore[override]
        c = self.config
        losses: Losses = {}
        metrics: Metrics = {}
        size = self.denoiser.observations.size
        with torch.no_grad():  # limits are constants
            s, shown = held(batch)
            x0 = self._vectors(s, batch.actions)  # [B, T, C]
            told = torch.zeros_like(x0, dtype=torch.bool)
            told[:, 0, :size] = True  # the present state
            for dimension, _ in c.goal:  # where the window ends, if that is known
                told[:, -1, dimension] = shown[:, -1] > 0

        def hold(x: Tensor) -> Tensor:
            return torch.where(told, x0, x)

        if "denoiser" in due:  # the diffusion's loss, where something was seen or done
            errors = self.denoiser.diffusion.errors(x0, noise["noise"], noise["time"], hold=hold).masked_fill(told, 0.0)
            states, actions = (x.mean(-1) for x in errors.tensor_split([size], -1))  # [B, T]
            first = torch.arange(c.horizon, device=x0.device) == 0
            states, actions = shown * states, torch.where(first, c.action_weight, 1.0) * batch.taken * actions
            channels = errors.shape[-1]
            total = size * states.sum() + (channels - size) * actions.sum()
            losses["denoiser"] = total / (size * shown.sum() + (channels - size) * batch.taken.sum())
            metrics["first_action_error"] = actions[:, 0].mean() / c.action_weight

        if "value" in due:  # the return from here on, predicted through the noise
            times = self.denoiser.diffusion.schedule.times(noise["time"])
            with torch.no_grad():
                x = hold(self.denoiser.diffusion.schedule.noised(x0, noise["noise"], times))
                target = self.value.returns.standardized(batch.returns_to_go[:, 0])  # [B]
            predicted = self.value(x, times)
            losses["value"] = (predicted - target).square().mean()
            with torch.no_grad():
                metrics["predicted_return"] = self.value.returns.restored(predicted).mean()
        return losses, metrics

    def _vectors(self, s: Tensor, a: Tensor) -> Tensor:
        """`[B, T, C]`: states and actions side by side."""
        assert self.denoiser.actions is not None
        like = self.denoiser.diffusion.schedule.signal
        return torch.cat([self.denoiser.observations.encode(s, like), self.denoiser.actions.encode(a, like)], -1)

    def policy(self) -> Policy:
        return DiffuserPolicy(self.ema_denoiser, self.ema_value, self.config)
