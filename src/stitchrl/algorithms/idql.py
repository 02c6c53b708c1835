"""IDQL (Hansen-Estruch et al., 2023, arXiv:2304.10573): implicit Q-learning as an actor-critic, its actor a diffusion of the behaviour reweighted.

The critic is IQL's. Nothing is extracted from it by a gradient: the actor clones the log, and acting draws many of its actions and takes one
by what the critic thinks of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal, final

import torch
from torch import Tensor

from stitchrl.core.algorithm import Adam, Algorithm, Due, Losses, Metrics
from stitchrl.core.batch import TransitionBatch, Transitions
from stitchrl.core.policy import Policy
from stitchrl.core.randomness import Noise, Normal, Uniform
from stitchrl.core.settings import Count, Fraction, Hidden, OpenFraction, Positive, Rate, Share, refuse_changed
from stitchrl.core.spec import Box, Spec
from stitchrl.nn.candidate_actions import Candidates, chosen, in_pieces
from stitchrl.nn.denoisers import ResidualDenoiser
from stitchrl.nn.diffusion import Diffusion
from stitchrl.nn.expectiles import sides
from stitchrl.nn.mlp import Critic, Value
from stitchrl.nn.noise_schedules import SamplerName, Schedule, ScheduleKind, chain

ValueLoss = Literal["expectile", "quantile", "exponential"]


@final
@dataclass(frozen=True)
class IDQLConfig:
    discount: Fraction = 0.99
    value_loss: ValueLoss = "expectile"
    """the convex f of Q - V whose mean the value minimises: |tau - 1(u < 0)| u², |tau - 1(u < 0)| |u|, or exp(alpha u) - alpha u"""
    level: OpenFraction = 0.7
    """expectile or quantile of the values of the log's actions (tau); 0.9 on AntMaze"""
    risk: Positive = 1.0
    """how sharply `exponential` favours high values (alpha): large nears their maximum"""
    max_weight: Positive = 6.0
    """bound of exp(alpha u) in `exponential`: not in the paper; in its code"""
    acting: Literal["best", "weighted"] = "best"
    """a sampled action: the candidate of the largest value, or one drawn by the implicit policy's weights"""
    acting_candidates: Count = 64
    """actions drawn from the behaviour where it acts (N)"""
    diffusion_steps: Count = 5
    """from noise to action (T)"""
    schedule: ScheduleKind = "vp"
    """of the noise"""
    sampler: SamplerName = "ddpm"
    """of actions; all steps are taken"""
    dropout: Share = 0.1
    """of the actor's residual layers, in learning"""
    blocks: Count = 3
    """residual layers of the actor"""
    width: Count = 256
    """of the actor"""
    critic_every: Count = 2
    """steps of the actor to one of value and critic"""
    average_every: Count = 5
    """steps from one update of the averaged actor, which acts, to the next: with `target_rate`, 0.001 a step in the mean"""
    target_rate: Rate = 0.005
    """step of the moving averages"""
    learning_rate: Positive = 3e-4
    actor_schedule: Literal["cosine", "constant"] = "cosine"
    """of the actor's learning rate"""
    hidden: Hidden = (256, 256)
    """of critic and value"""


def value_losses(u: Tensor, config: IDQLConfig) -> Tensor:
    """Returns f(u) at u = Q - V, elementwise; of the exponential one that has its (bounded) gradient."""
    side = sides(u > 0, config.level, u)
    if config.value_loss == "expectile":
        return side * u.square()
    if config.value_loss == "quantile":
        return side * u.abs()
    return (_exponential(u, config).detach() - 1) * u * config.risk


def log_weights(u: Tensor, config: IDQLConfig) -> Tensor:
    """Returns log |f'(u)| / |u|, elementwise, how the implicit policy weighs an action of the behaviour, less a constant."""
    side = sides(u > 0, config.level, u).log()
    if config.value_loss == "expectile":
        return side
    distance = u.abs().clamp_min(1e-6)  # both others are without bound, or 0 / 0, where an action is worth just V
    if config.value_loss == "quantile":
        return side - distance.log()
    slope = (_exponential(u, config) - 1).abs().clamp_min(1e-6 * config.risk)
    return slope.log() - distance.log()


def _exponential(u: Tensor, config: IDQLConfig) -> Tensor:
    return (config.risk * u).clamp_max(math.log(config.max_weight)).exp()


@final
class IDQLPolicy(Policy):
    """One of N actions of the behaviour, by the smaller of two target critics. Without noise the draws are fixed, and the best is taken."""

    drawn = True

    def __init__(self, actor: Diffusion, critic: Critic, value: Value | None, candidates: Candidates, config: IDQLConfig) -> None:
        super().__init__()
        self.actor, self.critic, self.value = actor, critic, value
        self.candidates, self.config = candidates, config
        self.fixed = candidates.fixed()  # [N, …]

    def noise(self, size: int) -> Noise | None:
        return self.candidates.noise(size)

    def forward(self, observations: Tensor, noise: Tensor | None = None) -> Tensor:
        choose = partial(self._chosen, sampled=noise is not None)
        return in_pieces(choose, observations, noise, self.fixed, next(self.critic.parameters()))

    def _chosen(self, s: Tensor, noise: Tensor, *, sampled: bool) -> Tensor:
        a = self.candidates.drawn(self.actor, s, noise)  # [N, B, A]
        q = self.critic(s.expand(len(a), *s.shape), a).amin(0)  # [N, B]
        if self.value is None or not sampled:
            return chosen(a, q)
        return chosen(a, log_weights(q - self.value(s), self.config), noise)

    def log_probabilities(self, observations: Tensor, actions: Tensor) -> Tensor:
        raise TypeError("IDQL chooses among actions drawn by many steps: the density of its actions is not known")


@final
class IDQL(Algorithm):
    batch = Transitions()
    targets = {"target_critic": "critic", "average_actor": "actor"}
    action_space = "box"
    fine_tunes = True
    acting_settings = frozenset(["sampler", "acting_candidates"])

    target_critic: Critic
    average_actor: Diffusion

    def __init__(self, config: IDQLConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        c = config
        unused = ("level",) if c.value_loss == "exponential" else ("risk", "max_weight")
        refuse_changed(c, unused, f"with value_loss {c.value_loss}")
        assert isinstance(spec.action, Box)
        self.size = spec.action.size
        self.value = Value(spec, c.hidden)
        network = ResidualDenoiser(spec, self.size, width=c.width, blocks=c.blocks, rate=c.dropout)
        self.actor = Diffusion(network, Schedule(c.schedule, c.diffusion_steps))
        self.critic = Critic(spec, c.hidden, ensemble=2)
        self.chain = chain(self.actor.schedule, c.sampler)
        adam = Adam(c.learning_rate)
        self.optimizers = {"value": adam, "actor": Adam(c.learning_rate, schedule=c.actor_schedule), "critic": adam}
        self.update_every = dict.fromkeys(("value", "critic", "target_critic"), c.critic_every) | {"average_actor": c.average_every}
        self.target_rate = c.target_rate

    def noise(self, size: int) -> dict[str, Noise]:
        return {"noise": Normal((size, self.size)), "time": Uniform((size,)), "dropout": Uniform((1,))}

    def losses(self, batch: TransitionBatch, noise: Mapping[str, Tensor], due: Due) -> tuple[Losses, Metrics]:
        s, a, r, s_next, terminal = batch
        c = self.config
        losses: Losses = {}
        metrics: Metrics = {}

        if "value" in due:
            with torch.no_grad():
                q = self.target_critic(s, a).amin(0)  # [B]
            advantage = q - self.value(s)
            losses["value"] = value_losses(advantage, c).mean()
            metrics["advantage"] = advantage.mean()

        if "actor" in due:  # denoising, a sum over the action's dimensions
            key = noise["dropout"] if c.dropout else None
            losses["actor"] = self.actor.errors(a, noise["noise"], noise["time"], s, key).sum(-1).mean()

        if "critic" in due:
            with torch.no_grad():
                q_target = r + c.discount * (1 - terminal) * self.value(s_next)
            q_logged = self.critic(s, a)  # [E, B]
            losses["critic"] = (q_logged - q_target).square().mean(-1).sum()
            metrics["q"] = q_logged.mean()
        return losses, metrics

    def policy(self) -> Policy:
        c = self.config
        candidates = Candidates(self.chain, c.acting_candidates, self.size)
        return IDQLPolicy(self.average_actor, self.target_critic, self.value if c.acting == "weighted" else None, candidates, c)

    def believed_value(self, observations: Tensor) -> Tensor | None:
        return self.critic(observations, self.policy()(observations)).amin(0)  # type: ignore[no-any-return]
