"""Goal-conditioned implicit V-learning (Park et al., 2024, arXiv:2410.20092, after arXiv:2307.11949): IQL without Q, for every goal at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from stitchrl.core.algorithm import Adam, Algorithm, Due, Losses, Metrics
from stitchrl.core.goals import GoalBatch, Goals, pair, without_goal
from stitchrl.core.policy import Policy
from stitchrl.core.settings import Hidden, NonNegative, OpenFraction, Positive, Rate
from stitchrl.core.spec import Spec
from stitchrl.nn.expectiles import sides
from stitchrl.nn.goal_networks import GoalValue, goal_actor, log_likelihoods


@final
@dataclass(frozen=True)
class GCIVLConfig:
    discount: OpenFraction = 0.99
    """a state that is n steps from its goal is worth -(1 - discount^n) / (1 - discount); OGBench: 0.995 on giant mazes and humanoids"""
    expectile: OpenFraction = 0.9
    """of the values that the data's actions lead to (tau): towards 1 the luckiest step counts"""
    inverse_temperature: NonNegative = 10.0
    """sharpness of the advantage weights (alpha in OGBench): 0 is goal-conditioned behaviour cloning"""
    max_weight: Positive = 100.0
    """bound of the advantage weights"""
    target_rate: Rate = 0.005
    """step of the target value's moving average"""
    learning_rate: Positive = 3e-4
    layer_norm: bool = True
    """of the values"""
    hidden: Hidden = (512, 512, 512)


@final
class GCIVL(Algorithm):
    batch = Goals()
    targets = {"target_value": "value"}

    target_value: GoalValue

    def __init__(self, config: GCIVLConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        size = without_goal(spec).observation.size  # type: ignore[union-attr]
        self.value = GoalValue(2 * size, config.hidden, layer_norm=config.layer_norm)
        self.actor = goal_actor(spec, config.hidden)
        self.optimizers = dict.fromkeys(("value", "actor"), Adam(config.learning_rate))
        self.target_rate = config.target_rate

    def losses(self, batch: GoalBatch, noise: Mapping[str, Tensor], due: Due) -> tuple[Losses, Metrics]:  # type: ignore[override]
        s, a, r, s_next, terminal, goal, actor_goal = batch
        c = self.config
        losses: Losses = {}
        metrics: Metrics = {}

        if "value" in due:  # expectile regression on what each step led to
            with torch.no_grad():
                v_next = self.target_value(pair(s_next, goal))  # [2, B]
                go_on = c.discount * (1 - terminal)
                advantage = r + go_on * v_next.amin(0) - self.target_value(pair(s, goal)).mean(0)  # [B]
                weight = sides(advantage >= 0, c.expectile, advantage)
            v = self.value(pair(s, goal))  # [2, B], each towards its own target
            losses["value"] = (weight * (r + go_on * v_next - v).square()).mean(-1).sum()
            metrics["v"] = v.mean()

        if "actor" in due:  # advantage-weighted regression: did the step come nearer?
            with torch.no_grad():
                advantage = (self.value(pair(s_next, actor_goal)) - self.value(pair(s, actor_goal))).mean(0)
                weight = (c.inverse_temperature * advantage).exp().clamp_max(c.max_weight)
            losses["actor"] = -(weight * log_likelihoods(self.actor, pair(s, actor_goal), a)).mean()
            metrics["advantage"] = advantage.mean()
            metrics["clipped_weights"] = (weight >= c.max_weight).to(weight.dtype).mean()
        return losses, metrics

    def policy(self) -> Policy:
        return self.actor
