"""Contrastive reinforcement learning (Eysenbach et al., 2022, arXiv:2206.07568): a critic that tells a step's own future from those of other steps.

What a classifier of futures learns is how likely a goal is to be met, discounted, against how common it is: a Q function without rewards.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from stitchrl.core.algorithm import Adam, Algorithm, Due, Losses, Metrics, frozen
from stitchrl.core.goals import GoalBatch, GoalDrawing, Goals, pair, without_goal
from stitchrl.core.policy import Policy
from stitchrl.core.settings import Count, Hidden, NonNegative, OpenFraction, Positive
from stitchrl.core.spec import Spec
from stitchrl.nn.goal_networks import ClippedActor, perceptron


@final
@dataclass(frozen=True)
class CRLConfig:
    discount: OpenFraction = 0.99
    """of the futures that are drawn: a goal n steps ahead is drawn with (1 - discount) discount^(n - 1)"""
    bc_weight: NonNegative = 0.1
    """weight of staying with the data's actions (alpha in OGBench; 0.003 on explore)"""
    latent: Count = 512
    learning_rate: Positive = 3e-4
    layer_norm: bool = True
    """of the critic"""
    hidden: Hidden = (512, 512, 512)


@final
class BilinearCritic(nn.Module):
    """Two critics phi(s, a) · psi(g) / sqrt(D): the logarithm of a value."""

    def __init__(self, size: int, actions: int, config: CRLConfig) -> None:
        super().__init__()
        hidden, norm = config.hidden, config.layer_norm
        self.phi = perceptron(size + actions, config.latent, hidden, ensemble=2, layer_norm=norm)
        self.psi = perceptron(size, config.latent, hidden, ensemble=2, layer_norm=norm)
        self.scale = 1 / math.sqrt(config.latent)

    def forward(self, s: Tensor, a: Tensor, goal: Tensor) -> Tensor:
        """Returns `[2, B]`, each step with its goal."""
        return (self.phi(pair(s, a)) * self.psi(goal)).sum(-1) * self.scale  # type: ignore[no-any-return]

    def of_all(self, s: Tensor, a: Tensor, goal: Tensor) -> Tensor:
        """Returns `[2, B, B]`, each step with every goal."""
        return self.phi(pair(s, a)) @ self.psi(goal).mT * self.scale  # type: ignore[no-any-return]


@final
class CRL(Algorithm):
    batch = Goals(GoalDrawing(hindsight=True, value_current=0.0, value_future=1.0, value_random=0.0))
    action_space = "box"

    def __init__(self, config: CRLConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.critic = BilinearCritic(without_goal(spec).observation.size, spec.action.size, config)  # type: ignore[union-attr]
        self.actor = ClippedActor(spec, config.hidden)
        self.optimizers = dict.fromkeys(("critic", "actor"), Adam(config.learning_rate))

    def losses(self, batch: GoalBatch, noise: Mapping[str, Tensor], due: Due) -> tuple[Losses, Metrics]:  # type: ignore[override]
        s, a, _, _, _, goal, actor_goal = batch
        losses: Losses = {}
        metrics: Metrics = {}

        if "critic" in due:  # binary noise-contrastive estimation: the batch's other goals are the negatives
            logits = self.critic.of_all(s, a, goal)  # [2, B, B]
            own = torch.eye(len(s), dtype=logits.dtype, device=logits.device).expand_as(logits)
            losses["critic"] = functional.binary_cross_entropy_with_logits(logits, own)
            mean = logits.detach().mean(0)
            # a goal drawn twice is a tie, whose first rounding would decide
            metrics["guessed_futures"] = ((mean * own[0]).sum(-1) >= mean.amax(-1) - 1e-6).to(logits.dtype).mean()

        if "actor" in due:  # log Q rather than Q (OGBench, appendix), and towards the data (DDPG+BC)
            log_q = frozen(self.critic)(s, self.actor(pair(s, actor_goal)), actor_goal).amin(0)  # [B]
            cloning = -self.actor.log_likelihoods(pair(s, actor_goal), a).mean()
            losses["actor"] = -log_q.mean() / (log_q.abs().mean().detach() + 1e-6) + self.config.bc_weight * cloning
            metrics |= {"log_q": log_q.mean(), "cloning_error": cloning}
        return losses, metrics

    def policy(self) -> Policy:
        return self.actor
