"""Quasimetric reinforcement learning (Wang et al., 2023, arXiv:2304.01203): optimal values are a distance, made as large as steps allow.

States are pushed apart while no step may be longer than 1: what remains is the length of the shortest way, as of strings pulled taut.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from torch import Tensor, nn
from torch.nn import functional

from stitchrl.core.algorithm import Adam, Algorithm, Due, Losses, Metrics, frozen
from stitchrl.core.errors import ConfigError
from stitchrl.core.goals import GoalBatch, GoalDrawing, Goals, pair, without_goal
from stitchrl.core.policy import Policy
from stitchrl.core.settings import Count, Hidden, NonNegative, Positive
from stitchrl.core.spec import Spec
from stitchrl.nn.goal_networks import ClippedActor, IntervalQuasimetric, perceptron
from stitchrl.nn.mlp import Scalar


@final
@dataclass(frozen=True)
class QRLConfig:
    slack: Positive = 0.05
    """by how much the squared excess of a step over 1 may differ from 0 on average (epsilon, squared, in the paper)"""
    push_offset: Positive = 500.0
    """distance from which pushing apart fades"""
    push_softness: Positive = 100.0
    """… and how slowly (the paper: 10; OGBench: 100)"""
    bc_weight: NonNegative = 0.003
    """weight of staying with the data's actions (alpha in OGBench; 0.001 on explore)"""
    latent: Count = 512
    components: Count | None = None
    """unions of intervals of which the distance is made; they share out the latent's dimensions. None: one for every eight of these"""
    learning_rate: Positive = 3e-4
    layer_norm: bool = True
    """of the encoder and the dynamics"""
    hidden: Hidden = (512, 512, 512)


def components_of(config: QRLConfig) -> int:
    """Returns how many components a distance has; raises ConfigError where the latent cannot be shared out among them."""
    by = config.components or 8
    if config.latent % by:
        told = f"components {by}" if config.components else "components are not told, which are of 8 dimensions each then"
        raise ConfigError(f"qrl: latent is {config.latent} and {told}; it must be a multiple of {by}")
    return config.components or config.latent // 8


@final
class Quasimetric(nn.Module):
    """An encoder phi, a distance between latents, and the dynamics of latents: T(phi(s), a)."""

    def __init__(self, size: int, actions: int, config: QRLConfig) -> None:
        super().__init__()
        hidden, latent, norm = config.hidden, config.latent, config.layer_norm
        self.encoder = perceptron(size, latent, hidden, layer_norm=norm)
        self.distance = IntervalQuasimetric(components_of(config))
        self.change = perceptron(latent + actions, latent, hidden, layer_norm=norm)

    def predicted(self, z: Tensor, a: Tensor) -> Tensor:
        """Returns `[B, L]`, the latent that follows z."""
        return z + self.change(pair(z, a))  # type: ignore[no-any-return]

    def forward(self, s: Tensor, a: Tensor, goal: Tensor) -> Tensor:
        """Returns `[B]`, how far the goal is after an action."""
        return self.distance(self.predicted(self.encoder(s), a), self.encoder(goal))  # type: ignore[no-any-return]


@final
class QRL(Algorithm):
    batch = Goals(GoalDrawing(hindsight=True, value_current=0.0, value_future=0.0, value_random=1.0))
    action_space = "box"

    def __init__(self, config: QRLConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.quasimetric = Quasimetric(without_goal(spec).observation.size, spec.action.size, config)  # type: ignore[union-attr]
        self.multiplier = Scalar(0.0)  # its logarithm
        self.actor = ClippedActor(spec, config.hidden)
        self.optimizers = dict.fromkeys(("quasimetric", "multiplier", "actor"), Adam(config.learning_rate))

    def losses(self, batch: GoalBatch, noise: Mapping[str, Tensor], due: Due) -> tuple[Losses, Metrics]:  # type: ignore[override]
        s, a, _, s_next, _, goal, actor_goal = batch
        c = self.config
        losses: Losses = {}
        metrics: Metrics = {}

        if due & {"quasimetric", "multiplier"}:
            d, phi = self.quasimetric.distance, self.quasimetric.encoder
            z, z_next = phi(s), phi(s_next)
            step = d(z, z_next)  # [B]
            excess = (step - 1).clamp_min(0).square().mean()  # the constraint: a step is no longer than 1
            multiplier = self.multiplier().exp()
            if "quasimetric" in due:
                apart = d(z, phi(goal))
                push = c.push_softness * functional.softplus((c.push_offset - apart) / c.push_softness).mean()  # the objective
                z_told = self.quasimetric.predicted(z, a)
                dynamics = (d(z_next, z_told) + d(z_told, z_next)).mean() / 2  # of latents, both ways
                losses["quasimetric"] = push + multiplier.detach() * excess + dynamics
                metrics |= {"distance": apart.mean(), "step": step.mean(), "dynamics_error": dynamics}
            if "multiplier" in due:  # rises while steps are too long
                losses["multiplier"] = multiplier * (c.slack - excess.detach())
                metrics["multiplier"] = multiplier

        if "actor" in due:  # towards the goal, and towards the data (DDPG+BC)
            q = -frozen(self.quasimetric)(s, self.actor(pair(s, actor_goal)), actor_goal)  # [B]
            cloning = -self.actor.log_likelihoods(pair(s, actor_goal), a).mean()
            losses["actor"] = -q.mean() / (q.abs().mean().detach() + 1e-6) + c.bc_weight * cloning
            metrics["cloning_error"] = cloning
        return losses, metrics

    def policy(self) -> Policy:
        return self.actor
