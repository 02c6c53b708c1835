"""AWAC (Nair et al., 2020, arXiv:2006.09359): an off-policy critic, and a policy that clones logged actions by their advantage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from stitchrl.core.algorithm import Adam, Algorithm, Due, Losses, Metrics
from stitchrl.core.batch import TransitionBatch, Transitions
from stitchrl.core.policy import Policy
from stitchrl.core.randomness import Noise, Normal
from stitchrl.core.settings import Fraction, Hidden, NonNegative, Positive, Rate, refuse_changed
from stitchrl.core.spec import Spec
from stitchrl.nn.actors import GaussianActor
from stitchrl.nn.mlp import Critic


@final
@dataclass(frozen=True)
class AWACConfig:
    discount: Fraction = 0.99
    temperature: Positive = 1.0
    """of the advantage weights (lambda): towards 0 only the best logged actions count, large is behaviour cloning"""
    weights: Literal["normalized", "clipped"] = "normalized"
    """normalized: a batch's weights have mean 1, as in the authors' code; clipped: at most `max_weight`, as in CORL"""
    max_weight: Positive = 100.0
    """bound of clipped weights"""
    target_rate: Rate = 0.005
    """step of the target critic's moving average"""
    learning_rate: Positive = 3e-4
    actor_weight_decay: NonNegative = 1e-4
    """times the actor's weights, added to its gradient (Adam's own decay): not in the paper; in its code"""
    hidden: Hidden = (256, 256, 256)


@final
class AWAC(Algorithm):
    batch = Transitions()
    targets = {"target_critic": "critic"}
    action_space = "box"
    fine_tunes = True

    target_critic: Critic

    def __init__(self, config: AWACConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        if config.weights == "normalized":
            refuse_changed(config, ("max_weight",), "with normalized weights")
        self.critic = Critic(spec, config.hidden, ensemble=2)
        self.actor = GaussianActor(spec, config.hidden)
        self.optimizers = {
            "critic": Adam(config.learning_rate),
            "actor": Adam(config.learning_rate, weight_decay=config.actor_weight_decay, decay="gradient"),
        }
        self.target_rate = config.target_rate

    def noise(self, size: int) -> dict[str, Noise]:
        return {name: Normal((size, self.actor.size)) for name in ("action", "next_action")}

    def losses(self, batch: TransitionBatch, noise: Mapping[str, Tensor], due: Due) -> tuple[Losses, Metrics]:
        s, a, r, s_next, terminal = batch
        c = self.config
        losses: Losses = {}
        metrics: Metrics = {}

        if "critic" in due:  # policy evaluation, eq. 8: the next action is the policy's own
            with torch.no_grad():
                a_next = self.actor(s_next, noise["next_action"])
                q_target = r + c.discount * (1 - terminal) * self.target_critic(s_next, a_next).amin(0)  # [B]
            q = self.critic(s, a)  # [E, B]
            losses["critic"] = (q - q_target).square().mean(-1).sum()
            metrics["q"] = q.mean()

        if "actor" in due:  # policy improvement, eq. 13
            with torch.no_grad():
                v = self.critic(s, self.actor(s, noise["action"])).amin(0)  # one drawn action stands for the expectation
                advantage = self.critic(s, a).amin(0) - v  # [B]
                exponent = advantage / c.temperature
                weight = exponent.softmax(0) * len(exponent) if c.weights == "normalized" else exponent.exp().clamp_max(c.max_weight)
            losses["actor"] = -(weight * self.actor.log_probabilities(s, a)).mean()
            metrics["advantage"] = advantage.mean()
            metrics["effective_share"] = weight.mean().square() / weight.square().mean().clamp_min(1e-30)
        return losses, metrics

    def policy(self) -> Policy:
        return self.actor

    def believed_value(self, observations: Tensor) -> Tensor | None:
        return self.critic(observations, self.actor(observations)).amin(0)  # type: ignore[no-any-return]
