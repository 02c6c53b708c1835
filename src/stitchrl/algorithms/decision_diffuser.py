"""Decision Diffuser (Ajay et al., 2022, arXiv:2211.15657): a diffusion of states alone, told what to bring about; actions by inverse dynamics.

What is asked for (a return, constraints, skills) enters by classifier-free guidance: no value is learned, and conditions met one at a time combine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from stitchrl.core.algorithm import Adam, Algorithm, Due, Losses, Metrics
from stitchrl.core.batch import BatchKind
from stitchrl.core.errors import ConfigError
from stitchrl.core.plans import Planned
from stitchrl.core.policy import Memory, Policy
from stitchrl.core.randomness import Noise, Normal, Uniform, generator
from stitchrl.core.settings import Count, Fraction, Hidden, Levels, Natural, NonNegative, Positive, Rate, Share, refuse_changed
from stitchrl.core.spec import Box, Discrete, Spec
from stitchrl.core.windows import WindowBatch, Windows
from stitchrl.nn.denoisers import DiT, TemporalUnet
from stitchrl.nn.diffusion import Diffusion, draws, guided, sample
from stitchrl.nn.mlp import MLP
from stitchrl.nn.noise_schedules import Prediction, SamplerName, Schedule, ScheduleKind, chain
from stitchrl.nn.planning import Measured, TrajectoryModel, begun, check_ends, check_horizon, held, no_plans, renewed


@final
@dataclass(frozen=True)
class DecisionDiffuserConfig:
    horizon: Count = 100
    """states of a plan"""
    diffusion_steps: Count = 200
    """of learning (the paper: 100; its code: 200)"""
    schedule: ScheduleKind = "cosine"
    prediction: Prediction = "epsilon"
    network: Literal["unet", "dit"] = "unet"
    """temporal U-Net, or a transformer (CleanDiffuser's)"""
    width: Count = 128
    """channels of the U-Net's first level, or the transformer's"""
    multipliers: Levels = (1, 4, 8)
    """of the width, one a level; U-Net only"""
    depth: Count = 2
    """layers; transformer only, as the next"""
    heads: Count = 8
    discount: Fraction = 0.99
    """of the returns that plans are told"""
    return_condition: bool = True
    """tell plans their return"""
    constraints: tuple[tuple[Natural, float, float], ...] = ()
    """(d, low, high): a plan is told whether dimension d lies within these bounds, in the learner's units, wherever `constrained` looks"""
    constrained: Literal["always", "finally"] = "always"
    """in every state of the plan after the present one, or in its last state"""
    skills: Natural = 0
    """kinds of behaviour that the log labels, 0 to skills - 1: a plan is told whether the step it begins with is of one of them"""
    skill_column: str = "infos/policy_id"
    """the log's labels"""
    condition_dropout: Share = 0.25
    """share of plans that are told nothing"""
    target: float = 0.9
    """return asked for, as a share of the range of returns in the log"""
    asked: tuple[Literal[-1, 0, 1], ...] | None = None
    """of each constraint: 1 to be met, -1 to be broken, 0 not asked; None: all to be met"""
    asked_skills: tuple[Literal[-1, 0, 1], ...] | None = None
    """of each skill: 1 to be shown, -1 to be avoided, 0 not asked; None: none asked"""
    guidance: NonNegative = 1.2
    """of each condition: 0 asks for nothing, 1 for the log's own plans of that kind, above 1 for more than those"""
    temperature: NonNegative = 0.5
    """of the sampler's noise"""
    sampler: SamplerName = "ddpm"
    sampling_steps: Count | None = None
    """of the sampler; None: all of the diffusion's"""
    replan_every: Count = 1
    """steps of a plan that are done before the next is made"""
    warm_start_steps: Natural = 0
    """last steps of the sampler from which a new plan is made of the one before; 0: from noise"""
    next_weight: Positive = 1.0
    """of the error of the next state, the one that will be acted on (CleanDiffuser: 10)"""
    hidden: Hidden = (256, 256)
    """of the inverse dynamics"""
    target_rate: Rate = 0.005
    """step of the moving averages that act"""
    target_every: Count = 1
    """steps of learning from one update of the averages to the next (the authors: 10, of a million)"""
    learning_rate: Positive = 2e-4


@final
class ConditionedNetwork(nn.Module):
    """A network of plans, told at most one of M conditions: its value's embedding beside the time's, zeros where it is told nothing."""

    def __init__(self, c: DecisionDiffuserConfig, channels: int, conditions: int) -> None:
        super().__init__()
        width = c.width if c.network == "unet" else 128
        self.up, self.across, self.down = nn.Linear(2 * conditions, width), nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.plans: nn.Module = (
            TemporalUnet(channels, c.width, c.multipliers, condition=width)
            if c.network == "unet"
            else DiT(channels, c.horizon, c.width, c.depth, c.heads, condition=width)
        )

    def forward(self, x: Tensor, times: Tensor, values: Tensor, told: Tensor) -> Tensor:
        """Returns `[B, T, C]` for `x [B, T, C]`; values `[B, M]` of conditions, and which is told, `[B, M]` of 0 and at most one 1."""
        h = functional.mish(self.up(torch.cat([values * told, told], -1)))
        embedded = self.down(functional.mish(self.across(h))) * told.sum(-1, keepdim=True)
        said: Tensor = self.plans(x, times, embedded)
        return said


@final
class PlanModel(nn.Module):
    """The diffusion of states, and what the log's returns are, so that a return can be named as a share of them."""

    def __init__(self, c: DecisionDiffuserConfig, spec: Spec) -> None:
        super().__init__()
        size = spec.observation.n if isinstance(spec.observation, Discrete) else spec.observation.size
        network = ConditionedNetwork(c, size, conditions_of(c))
        self.model = TrajectoryModel(Diffusion(network, Schedule(c.schedule, c.diffusion_steps), c.prediction), spec.observation)
        self.returns = Measured()


@final
class InverseDynamics(nn.Module):
    """a = f(s, s'): a vector, or logits where actions are integers."""

    def __init__(self, size: int, spec: Spec, hidden: Hidden) -> None:
        super().__init__()
        self.discrete = isinstance(spec.action, Discrete)
        self.outputs = spec.action.n if isinstance(spec.action, Discrete) else spec.action.size
        self.mlp = MLP(Box((2 * size,)), self.outputs, hidden)

    def forward(self, s: Tensor, s_next: Tensor) -> Tensor:
        """Returns `[*batch, A]` from states as vectors `[*batch, C]`."""
        said: Tensor = self.mlp(torch.cat([s, s_next], -1))
        return said

    def errors(self, s: Tensor, s_next: Tensor, a: Tensor) -> Tensor:
        """Returns `[*batch]`: the mean squared error, or minus the log-probability of the integer that was done."""
        said = self(s, s_next)
        if self.discrete:
            return -functional.log_softmax(said, -1).gather(-1, a.unsqueeze(-1)).squeeze(-1)
        error: Tensor = (said - a).square().mean(-1)
        return error


@final
class DecisionDiffuserPolicy(Policy):
    """Plans states that do what is asked, and does what leads to the next one. Without noise every plan begins from the same fixed draw."""

    vmapped = False
    drawn = True
    SHOWN = 8  # plans in a drawing

    def __init__(self, plans: PlanModel, inverse: InverseDynamics, config: DecisionDiffuserConfig) -> None:
        super().__init__()
        self.plans, self.inverse, self.config = plans, inverse, config
        self.score = "return asked for, a share of the log's range" if config.return_condition else "nothing: none is asked for a return"
        self.limits = plans.model.observations
        self.steps = chain(plans.model.diffusion.schedule, config.sampler, config.sampling_steps)
        check_horizon(config.horizon, config.replan_every, config.warm_start_steps, self.steps)
        self.shape = (1 + draws(self.steps), config.horizon, self.limits.size)  # the start, and the noise of each step
        self.fixed = Normal(self.shape).draw(1, generator(0, "acting"))[0]

    def noise(self, size: int) -> Noise | None:
        return Normal((size, *self.shape))

    def memory(self, count: int) -> Memory | None:
        return no_plans(count, *self.shape[1:], next(self.inverse.parameters()))

    def forward(self, observations: Tensor, noise: Tensor | None = None) -> Tensor:
        begun = no_plans(len(observations), *self.shape[1:], next(self.inverse.parameters()))
        return self.step(observations, begun["plans"][:, 0, 0], begun, noise)[0]

    @torch.no_grad()
    def step(self, observations: Tensor, rewards: Tensor, memory: Memory, noise: Tensor | None = None) -> tuple[Tensor, Memory]:
        z = self._noise(observations, noise)
        s = self.limits.encode(observations, z)
        c = self.config

        def make(rows: Tensor, before: Tensor | None) -> Tensor:
            path = self._path(s[rows], z[rows], before, z.new_full((len(rows),), c.target))
            return path[-1]

        plans, ages, memory = renewed(memory, c.replan_every, c.warm_start_steps > 0, make)
        s_next = plans[torch.arange(len(plans), device=plans.device), ages + 1]
        said = self.inverse(s, s_next)
        return (said.argmax(-1) if self.inverse.discrete else said.clamp(-1, 1)), memory

    @torch.no_grad()
    def planned(self, observations: Tensor, noise: Tensor | None = None) -> Planned:
        """Returns the plan that is followed, scored by the return asked for, and where plans are told returns, others that ask for less."""
        z = self._noise(observations, noise)
        count = self.SHOWN if self.config.return_condition else 1
        less = torch.linspace(1, 0, count + 1, device=z.device, dtype=z.dtype)[1:] * abs(self.config.target)
        shares = (self.config.target - less) * self.config.return_condition
        s, z = (x.repeat_interleave(count, 0) for x in (self.limits.encode(observations, z), z))
        path = self._path(s, z, None, shares.repeat(len(observations)))
        plans = path[-1].unflatten(0, (-1, count))
        stages = path.unflatten(1, (-1, count))[:, :, -1].transpose(0, 1)
        return Planned(self.limits.decode(plans), shares.expand(len(observations), -1), self.limits.decode(stages))

    def _noise(self, observations: Tensor, noise: Tensor | None) -> Tensor:
        """`[N, draws, T, C]`"""
        weight = next(self.inverse.parameters())
        return self.fixed.to(weight.device, weight.dtype).expand(len(observations), *self.shape) if noise is None else noise

    def _path(self, s: Tensor, noise: Tensor, before: Tensor | None, target: Tensor) -> Tensor:
        """The way from noise to plans, `[J, N, T, C]`, from states `[N, C]`; before: the plans to begin from; target `[N]`."""
        c = self.config
        z = c.temperature * noise.transpose(0, 1)  # [draws, N, T, C]
        steps, start, later = begun(self.steps, z, before, c.warm_start_steps)
        present = torch.arange(c.horizon, device=s.device).unsqueeze(-1) == 0  # [T, 1]
        values, told = asked_of(c, target)
        diffusion = self.plans.model.diffusion

        def hold(x: Tensor) -> Tensor:
            return torch.where(present, s.unsqueeze(1), x)

        def denoise(x: Tensor, times: Tensor) -> Tensor:
            return guided(diffusion, x, times, values, told, c.guidance)

        return sample(denoise, start, steps, noise=later, prediction=c.prediction, hold=hold, record=True)

    def log_probabilities(self, observations: Tensor, actions: Tensor) -> Tensor:
        raise TypeError("Decision Diffuser does what leads to a sampled state: the density of its actions is not known")

    def action_probabilities(self, observations: Tensor) -> Tensor:
        if not self.inverse.discrete:
            return super().action_probabilities(observations)
        return functional.one_hot(self(observations), self.inverse.outputs)


def asked_of(c: DecisionDiffuserConfig, target: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the values `[Q, N, M]` of the Q conditions that are asked for, each alone, and which each is, `[Q, M]`."""
    asked = (1,) * len(c.constraints) if c.asked is None else c.asked
    asked += (0,) * c.skills if c.asked_skills is None else c.asked_skills
    values = ([target] if c.return_condition else []) + [torch.full_like(target, sign) for sign in asked]
    chosen = ([0] if c.return_condition else []) + [i + c.return_condition for i, sign in enumerate(asked) if sign]
    told = torch.eye(len(values), dtype=target.dtype, device=target.device)[chosen]
    return torch.stack(values, -1).expand(len(chosen), -1, -1), told


@final
class DecisionDiffuser(Algorithm):
    batch = Windows(100, discount=0.99)
    acting_settings = frozenset([
        "horizon", "target", "asked", "asked_skills", "guidance", "temperature", "sampler", "sampling_steps", "replan_every",
        "warm_start_steps",
    ])  # fmt: skip

    ema_plans: PlanModel
    ema_inverse: InverseDynamics

    def __init__(self, config: DecisionDiffuserConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        c = config
        check_conditions(c, spec)
        self.plans = PlanModel(c, spec)
        self.inverse = InverseDynamics(self.plans.model.observations.size, spec, c.hidden)
        self.targets = {"ema_plans": "plans", "ema_inverse": "inverse"}
        self.target_rate, self.update_every = c.target_rate, dict.fromkeys(self.targets, c.target_every)
        self.optimizers = dict.fromkeys(("plans", "inverse"), Adam(c.learning_rate))

    @classmethod
    def batch_of(cls, config: DecisionDiffuserConfig) -> BatchKind:
        labels = config.skill_column if config.skills else None
        return Windows(config.horizon, config.discount, labels=labels, label_count=config.skills)

    @classmethod
    def learns_from_rewards(cls, config: DecisionDiffuserConfig) -> bool:
        return config.return_condition

    def noise(self, size: int) -> dict[str, Noise]:
        shape = (size, self.config.horizon, self.plans.model.observations.size)
        return {"noise": Normal(shape), "time": Uniform((size,)), "told": Uniform((size, 2))}

    def measure(self, log: WindowBatch) -> None:
        check_constraints(self.config, log)
        self.plans.model.measure(log)
        self.plans.returns.measure(log.returns_to_go[:, 0][log.taken[:, 0] > 0])  # nothing is earned where an episode has ended

    def losses(self, batch: WindowBatch, noise: Mapping[str, Tensor], due: Due) -> tuple[Losses, Metrics]:  # type: ignore[override]
        c = self.config
        losses: Losses = {}
        metrics: Metrics = {}
        diffusion = self.plans.model.diffusion
        with torch.no_grad():  # limits are constants
            seen, shown = held(batch)
            x0 = self.plans.model.observations.encode(seen, diffusion.schedule.signal)  # [B, T, C]

        if "plans" in due:  # eq. 8, first part: each plan is told one condition, or nothing
            values, known = self._conditions(batch, seen, shown)
            told = known * self._told(noise["told"])
            number = torch.arange(c.horizon, device=x0.device)
            present = (number == 0).unsqueeze(-1)  # [T, 1]: given, not learned
            weight = torch.where(number == 0, 0.0, torch.where(number == 1, c.next_weight, 1.0))
            errors = diffusion.errors(x0, noise["noise"], noise["time"], values, told, hold=lambda x: torch.where(present, x0, x))
            losses["plans"] = (weight * shown * errors.mean(-1)).sum() / shown.sum()
            if c.return_condition:
                metrics["return_share"] = values[:, 0].mean()
            if c.constraints:
                first = int(c.return_condition)
                asked = slice(first, first + len(c.constraints))
                metrics["constraints_met"] = ((values > 0) * known)[:, asked].sum() / known[:, asked].sum().clamp_min(1)

        if "inverse" in due:  # eq. 8, second part, where an action led from one state to the next
            errors = self.inverse.errors(x0[:, :-1], x0[:, 1:], batch.actions[:, :-1])
            taken = batch.taken[:, :-1]
            losses["inverse"] = (taken * errors).sum() / taken.sum()
        return losses, metrics

    def _told(self, uniform: Tensor) -> Tensor:
        """`[B, M]`: 1 at the one condition that each plan is told, of all with equal chances; zeros where it is told nothing."""
        c, count = self.config, conditions_of(self.config)
        chosen = (uniform[:, 1] * count).long()
        told = functional.one_hot(chosen, count).to(uniform.dtype)
        kept: Tensor = told * (uniform[:, :1] >= c.condition_dropout).to(uniform.dtype)
        return kept

    @torch.no_grad()
    def _conditions(self, batch: WindowBatch, seen: Tensor, shown: Tensor) -> tuple[Tensor, Tensor]:
        """Two of `[B, M]`: the return from the present state on, as a share, and 1 or -1 for each constraint that is met or not, each skill shown
        or not; and 1 where that is known: not of what would be seen after the clock, nor of a skill where nothing was done."""
        c = self.config
        whole, taken = shown[:, -1] > 0, batch.taken[:, 0] > 0  # [B]
        found = [(self.plans.returns.share(batch.returns_to_go[:, 0]), torch.ones_like(whole))] if c.return_condition else []
        for d, low, high in c.constraints:
            x = seen.flatten(2)[..., d]  # [B, T]
            within = (x >= low) & (x <= high)
            met = within[:, -1] if c.constrained == "finally" else (within | (shown == 0))[:, 1:].all(1)
            found.append((2 * met.to(shown.dtype) - 1, whole if c.constrained == "finally" else whole | ~met))
        if batch.labels is not None:
            found += [(2 * (batch.labels[:, 0] == skill).to(shown.dtype) - 1, taken) for skill in range(c.skills)]
        values, known = (torch.stack(part, -1) for part in zip(*found, strict=True))
        return values, known.to(values.dtype)

    def policy(self) -> Policy:
        return DecisionDiffuserPolicy(self.ema_plans, self.ema_inverse, self.config)


def conditions_of(c: DecisionDiffuserConfig) -> int:
    """Returns how many things a plan can be told."""
    return c.return_condition + len(c.constraints) + c.skills


def check_constraints(c: DecisionDiffuserConfig, log: WindowBatch) -> None:
    """Raises ConfigError for constraints of which the log `[M, 1, …]` has no example."""
    if c.constraints and c.constrained == "finally":
        check_ends(log, c.horizon, "a constraint on its last state")
    for d, low, high in c.constraints:
        x = log.observations.flatten(2)[..., d]
        if not bool(((x >= low) & (x <= high)).any()):
            raise ConfigError(
                f"the constraint {(d, low, high)} is met by no state of the log, where dimension {d} is {float(x.min()):.4g} to {float(x.max()):.4g} "
                "in the learner's units: there is nothing to learn it from; change it, or leave it out"
            )


def check_conditions(c: DecisionDiffuserConfig, spec: Spec) -> None:
    """Raises ConfigError for conditions that plans cannot be told, and for settings of the other network."""
    refuse_changed(c, ("depth", "heads") if c.network == "unet" else ("multipliers",), f"with network {c.network!r}")
    if not conditions_of(c):
        raise ConfigError(
            "return_condition is False, constraints are () and skills 0: plans need one condition to be told; to ask for none, guidance 0"
        )
    for name, asked, what, count in (
        ("asked", c.asked, "constraints", len(c.constraints)), ("asked_skills", c.asked_skills, "skills", c.skills)
    ):  # fmt: skip
        if asked is not None and len(asked) != count:
            raise ConfigError(f"{name} has {len(asked)} numbers and there are {count} {what}; each needs one")
    if not c.skills:
        refuse_changed(c, ("skill_column",), "without skills")
    if not c.constraints:
        refuse_changed(c, ("constrained",), "without constraints")
        return
    seen = spec.observation
    if isinstance(seen, Discrete):
        raise ConfigError(f"constraints bound dimensions of observation vectors, and these data have {seen}; leave them out")
    for d, low, high in c.constraints:
        if d >= seen.size or low > high:
            raise ConfigError(
                f"the constraint {(d, low, high)} is of no use; expected a dimension from 0 to {seen.size - 1}, and bounds low <= high"
            )
