"""Soft actor-critic (Haarnoja et al., 2018, arXiv:1812.05905): online it makes our datasets; offline it is naive continuous Q-learning."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from stitchrl.core.algorithm import Adam, Algorithm, Due, Losses, Metrics, frozen
from stitchrl.core.batch import TransitionBatch, Transitions
from stitchrl.core.policy import Policy
from stitchrl.core.randomness import Noise, Normal
from stitchrl.core.settings import Count, Fraction, Hidden, Positive, Rate
from stitchrl.core.spec import Spec
from stitchrl.nn.actors import SquashedGaussianActor
from stitchrl.nn.mlp import Critic, Scalar


@final
@dataclass(frozen=True)
class SACConfig:
    discount: Fraction = 0.99
    target_entropy: float | None = None
    """entropy that the temperature holds the policy to, in nats; None: minus the number of action dimensions"""
    initial_temperature: Positive = 1.0
    entropy_backup: bool = True
    """count the next step's entropy as reward, as the paper does; else the target is the value alone"""
    ensemble: Count = 2
    target_rate: Rate = 0.005
    """step of the target critic's moving average (tau)"""
    actor_learning_rate: Positive = 3e-4
    critic_learning_rate: Positive = 3e-4
    temperature_learning_rate: Positive = 3e-4
    hidden: Hidden = (256, 256)


@final
class SAC(Algorithm):
    batch = Transitions()
    targets = {"target_critic": "critic"}
    action_space = "box"
    online = True
    fine_tunes = True

    target_critic: Critic

    def __init__(self, config: SACConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.critic = Critic(spec, config.hidden, config.ensemble)
        self.actor = SquashedGaussianActor(spec, config.hidden)
        self.temperature = Scalar(math.log(config.initial_temperature))
        self.target_entropy = -float(self.actor.size) if config.target_entropy is None else config.target_entropy
        self.optimizers = {
            "critic": Adam(config.critic_learning_rate),
            "actor": Adam(config.actor_learning_rate),
            "temperature": Adam(config.temperature_learning_rate),
        }
        self.target_rate = config.target_rate

    def noise(self, size: int) -> dict[str, Noise]:
        return {name: Normal((size, self.actor.size)) for name in ("action", "next_action")}

    def losses(self, batch: TransitionBatch, noise: Mapping[str, Tensor], due: Due) -> tuple[Losses, Metrics]:
        s, a, r, s_next, terminal = batch
        c = self.config
        losses: Losses = {}
        metrics: Metrics = {}
        temperature = self.temperature().exp().detach()

        if "critic" in due:  # soft Bellman residual, eq. 5 and 3
            with torch.no_grad():
                a_next, log_pi_next = self.actor.sample(s_next, noise["next_action"])
                v_next = self.target_critic(s_next, a_next).amin(0)
                if c.entropy_backup:
                    v_next = v_next - temperature * log_pi_next
                q_target = r + c.discount * (1 - terminal) * v_next
            q = self.critic(s, a)  # [E, B]
            losses["critic"] = (q - q_target).square().mean(-1).sum()
            metrics["q"] = q.mean()

        if not due & {"actor", "temperature"}:
            return losses, metrics
        pi, log_pi = self.actor.sample(s, noise["action"])
        if "actor" in due:  # eq. 9
            losses["actor"] = (temperature * log_pi - frozen(self.critic)(s, pi).amin(0)).mean()
            metrics["entropy"] = -log_pi.mean()

        if "temperature" in due:  # eq. 18; on the logarithm, as in the authors' code
            losses["temperature"] = -self.temperature() * (log_pi.detach() + self.target_entropy).mean()
            metrics["temperature"] = temperature
        return losses, metrics

    def policy(self) -> Policy:
        return self.actor

    def believed_value(self, observations: Tensor) -> Tensor | None:
        return self.critic(observations, self.actor(observations)).amin(0)  # type: ignore[no-any-return]
