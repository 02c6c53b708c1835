"""Naive offline Q-learning (double DQN, van Hasselt et al., 2015, arXiv:1509.06461) on a fixed log: the failure to learn from.

Its maximum ranges over actions that the log never tried, whose values are whatever the network makes of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from stitchrl.core.algorithm import Adam, Algorithm, Due, Losses, Metrics
from stitchrl.core.batch import TransitionBatch, Transitions
from stitchrl.core.policy import Policy
from stitchrl.core.settings import Count, Fraction, Hidden, Positive, Rate
from stitchrl.core.spec import Spec
from stitchrl.nn.actors import GreedyPolicy
from stitchrl.nn.mlp import Critic


@final
@dataclass(frozen=True)
class QLearningConfig:
    discount: Fraction = 0.99
    double: bool = True
    """choose the next action by the critic and value it by the target critic; else both by the target"""
    target_rate: Rate = 0.005
    """step of the target critic's moving average; 1 copies it (as DQN does, every few thousand steps)"""
    target_every: Count = 1
    """steps from one target update to the next"""
    ensemble: Count = 1
    learning_rate: Positive = 3e-4
    hidden: Hidden = (256, 256)


@final
class QLearning(Algorithm):
    batch = Transitions()
    targets = {"target_critic": "critic"}
    action_space = "discrete"
    online = True
    fine_tunes = True

    target_critic: Critic

    def __init__(self, config: QLearningConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.critic = Critic(spec, config.hidden, config.ensemble)
        self.optimizers = {"critic": Adam(config.learning_rate)}
        self.update_every = {"target_critic": config.target_every}
        self.target_rate = config.target_rate

    def losses(self, batch: TransitionBatch, noise: Mapping[str, Tensor], due: Due) -> tuple[Losses, Metrics]:
        s, a, r, s_next, terminal = batch
        with torch.no_grad():
            q_next = self.target_critic(s_next).mean(0)  # [B, n]
            chooser = self.critic(s_next).mean(0) if self.config.double else q_next
            a_next = chooser.argmax(-1, keepdim=True)
            q_target = r + self.config.discount * (1 - terminal) * q_next.gather(-1, a_next).squeeze(-1)
        q = self.critic(s, a)  # [E, B]
        return {"critic": (q - q_target).square().mean(-1).sum()}, {"q": q.mean(), "q_target": q_target.mean()}

    def policy(self) -> Policy:
        return GreedyPolicy(self.critic)

    def believed_value(self, observations: Tensor) -> Tensor | None:
        return self.critic(observations).mean(0).amax(-1)  # type: ignore[no-any-return]
