"""Implicit Q-learning (Kostrikov et al., 2021, arXiv:2110.06169): Q-learning that never queries an unseen action."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from stitchrl.core.algorithm import Adam, Algorithm, Due, Losses, Metrics, frozen
from stitchrl.core.batch import TransitionBatch, Transitions
from stitchrl.core.policy import Policy
from stitchrl.core.settings import Fraction, Hidden, NonNegative, OpenFraction, Positive, Rate, refuse_changed
from stitchrl.core.spec import Discrete, Spec
from stitchrl.nn.actors import CategoricalActor, DeterministicActor, GaussianActor
from stitchrl.nn.expectiles import sides
from stitchrl.nn.goal_networks import ClippedActor, clipped_actor
from stitchrl.nn.mlp import Activation, Critic, Value


@final
@dataclass(frozen=True)
class IQLConfig:
    discount: Fraction = 0.99
    expectile: OpenFraction = 0.7
    """of the values of the data's actions (tau): 0.5 is SARSA, towards 1 is their maximum"""
    inverse_temperature: NonNegative = 3.0
    """sharpness of the advantage weights (beta): 0 is behaviour cloning"""
    max_weight: Positive = 100.0
    """bound of the advantage weights: not in the paper; in its code"""
    actor_loss: Literal["awr", "ddpg_bc"] = "awr"
    """how the actor learns: by weighted cloning, or by the critic's gradient and cloning beside it, as GCIQL in OGBench: not in the paper"""
    bc_weight: Positive = 0.3
    """of cloning in `ddpg_bc`, of half the squared error (alpha in OGBench)"""
    distribution: Literal["gaussian", "deterministic"] = "gaussian"
    """of continuous actions; deterministic: weighted squared error instead of likelihood"""
    target_rate: Rate = 0.005
    """step of the target critic's moving average (alpha)"""
    learning_rate: Positive = 3e-4
    actor_schedule: Literal["cosine", "constant"] = "cosine"
    """of the actor's learning rate: not in the paper's text; in its code"""
    layer_norm: bool = False
    """of the critic and the value, after units that are GELU then: not in the paper; in OGBench"""
    hidden: Hidden = (256, 256)


@final
class IQL(Algorithm):
    batch = Transitions()
    targets = {"target_critic": "critic"}
    fine_tunes = True

    target_critic: Critic

    def __init__(self, config: IQLConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        normalized = config.layer_norm
        kind: Activation = "gelu" if normalized else "relu"
        self.value = Value(spec, config.hidden, layer_norm=normalized, norm_after=True, activation=kind)
        self.actor: CategoricalActor | ClippedActor | DeterministicActor | GaussianActor
        if isinstance(spec.action, Discrete):
            refuse_changed(config, ("distribution", "actor_loss"), "with discrete actions")
            self.actor = CategoricalActor(spec, config.hidden)
        elif config.actor_loss == "ddpg_bc":
            refuse_changed(config, ("inverse_temperature", "max_weight", "distribution"), "with actor_loss ddpg_bc")
            # squashed, it would follow the critic into its flat ends and stay there
            self.actor = clipped_actor(spec, config.hidden, "actor_loss ddpg_bc", "awr")
        else:
            self.actor = (GaussianActor if config.distribution == "gaussian" else DeterministicActor)(spec, config.hidden)
        if config.actor_loss == "awr":
            refuse_changed(config, ("bc_weight",), "with actor_loss awr")
        self.critic = Critic(spec, config.hidden, ensemble=2, layer_norm=normalized, norm_after=True, activation=kind)
        adam = Adam(config.learning_rate)
        self.optimizers = {"value": adam, "actor": Adam(config.learning_rate, schedule=config.actor_schedule), "critic": adam}
        self.target_rate = config.target_rate

    def losses(self, batch: TransitionBatch, noise: Mapping[str, Tensor], due: Due) -> tuple[Losses, Metrics]:
        s, a, r, s_next, terminal = batch
        c = self.config
        losses: Losses = {}
        metrics: Metrics = {}
        if "value" in due or ("actor" in due and c.actor_loss == "awr"):
            with torch.no_grad():
                q = self.target_critic(s, a).amin(0)  # [B]
            advantage = q - self.value(s)  # [B]

        if "value" in due:  # expectile regression, eq. 5
            weight = sides(advantage > 0, c.expectile, advantage)
            losses["value"] = (weight * advantage.square()).mean()
            metrics["advantage"] = advantage.mean()

        if "actor" in due:
            if isinstance(self.actor, DeterministicActor):
                cloning = (self.actor(s) - a).square().sum(-1)
            elif isinstance(self.actor, ClippedActor):
                cloning = -self.actor.log_likelihoods(s, a)
            else:
                cloning = -self.actor.log_probabilities(s, a)
            if c.actor_loss == "awr":  # advantage-weighted regression, eq. 7
                weight = (c.inverse_temperature * advantage.detach()).exp().clamp_max(c.max_weight)
                losses["actor"] = (weight * cloning).mean()
                metrics["clipped_weights"] = (weight >= c.max_weight).to(weight.dtype).mean()
            else:  # the critic's gradient at the policy's mean, in units of its own size
                q_pi = frozen(self.critic)(s, self.actor(s)).amin(0)  # [B]
                losses["actor"] = c.bc_weight * cloning.mean() - q_pi.mean() / (q_pi.abs().mean().detach() + 1e-6)
                metrics["cloning_error"] = cloning.mean()

        if "critic" in due:  # eq. 6: no action of s_next is ever chosen
            with torch.no_grad():
                q_target = r + c.discount * (1 - terminal) * self.value(s_next)
            q_logged = self.critic(s, a)  # [E, B]
            losses["critic"] = (q_logged - q_target).square().mean(-1).sum()
            metrics["q"] = q_logged.mean()
        return losses, metrics

    def policy(self) -> Policy:
        return self.actor

    def believed_value(self, observations: Tensor) -> Tensor | None:
        return self.critic(observations, self.actor(observations)).amin(0)  # type: ignore[no-any-return]
