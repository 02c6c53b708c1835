"""Hierarchical implicit Q-learning (Park et al., 2023, arXiv:2307.11949): one value; a high policy picks subgoals, a low one reaches them.

Far from the goal neighbouring states differ little in value, less than its errors; k steps apart they differ enough to tell which way to go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from stitchrl.core.algorithm import Adam, Algorithm, Due, Losses, Metrics
from stitchrl.core.goals import Goals, SubgoalBatch, pair, without_goal
from stitchrl.core.policy import Policy
from stitchrl.core.randomness import Noise
from stitchrl.core.settings import Count, Hidden, NonNegative, OpenFraction, Positive, Rate
from stitchrl.core.spec import Box, Spec
from stitchrl.nn.expectiles import sides
from stitchrl.nn.goal_networks import ClippedActor, GoalActor, GoalValue, goal_actor, log_likelihoods, perceptron, to_length


@final
@dataclass(frozen=True)
class HIQLConfig:
    discount: OpenFraction = 0.99
    """a state that is n steps from its goal is worth -(1 - discount^n) / (1 - discount); OGBench: 0.995 on giant mazes and humanoids"""
    expectile: OpenFraction = 0.7
    """of the values that the data's actions lead to (tau)"""
    high_inverse_temperature: NonNegative = 3.0
    """sharpness of the weights of subgoals (beta; OGBench: 10 on explore)"""
    low_inverse_temperature: NonNegative = 3.0
    """… and of actions"""
    max_weight: Positive = 100.0
    """bound of both policies' weights"""
    representation: Count = 10
    """dimensions in which the value tells goals apart, and the high policy names subgoals"""
    target_rate: Rate = 0.005
    """step of the target value's moving average"""
    learning_rate: Positive = 3e-4
    layer_norm: bool = True
    """of the values and the representation"""
    hidden: Hidden = (512, 512, 512)


@final
class SubgoalValue(nn.Module):
    """Two values V(s, phi(s, g)), with phi of length sqrt(dimensions): what the value must know of a goal is all that a subgoal says."""

    def __init__(self, size: int, representation: int, hidden: Sequence[int], *, layer_norm: bool) -> None:
        super().__init__()
        self.representation = perceptron(2 * size, representation, hidden, layer_norm=layer_norm)
        self.value = GoalValue(size + representation, hidden, layer_norm=layer_norm)

    def phi(self, s: Tensor, goal: Tensor) -> Tensor:
        """Returns `[B, D]`, a goal as it looks from a state."""
        return to_length(self.representation(pair(s, goal)))

    def forward(self, s: Tensor, goal: Tensor) -> Tensor:
        """Returns `[2, B]`."""
        return self.value(pair(s, self.phi(s, goal)))  # type: ignore[no-any-return]


@final
class HierarchicalPolicy(Policy):
    """A subgoal for the goal, then an action for the subgoal, anew at every step."""

    def __init__(self, high_actor: ClippedActor, low_actor: GoalActor) -> None:
        super().__init__()
        self.high_actor, self.low_actor = high_actor, low_actor

    def noise(self, size: int) -> Noise | None:
        return self.low_actor.noise(size)

    def forward(self, observations: Tensor, noise: Tensor | None = None) -> Tensor:
        actions: Tensor = self.low_actor(self._toward(observations), noise)
        return actions

    def log_probabilities(self, observations: Tensor, actions: Tensor) -> Tensor:
        return self.low_actor.log_probabilities(self._toward(observations), actions)

    def action_probabilities(self, observations: Tensor) -> Tensor:
        return self.low_actor.action_probabilities(self._toward(observations))

    def _toward(self, observations: Tensor) -> Tensor:
        s, _ = observations.chunk(2, -1)
        return pair(s, to_length(self.high_actor.mlp(observations)))


@final
class HIQL(Algorithm):
    batch = Goals(subgoals=True)
    targets = {"target_value": "value"}

    target_value: SubgoalValue

    def __init__(self, config: HIQLConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        size, d = without_goal(spec).observation.size, config.representation  # type: ignore[union-attr]
        self.value = SubgoalValue(size, d, config.hidden, layer_norm=config.layer_norm)
        self.high_actor = ClippedActor(Spec(spec.observation, Box((d,))), config.hidden)
        self.low_actor = goal_actor(Spec(Box((size + d,)), spec.action), config.hidden)
        self.optimizers = dict.fromkeys(("value", "high_actor", "low_actor"), Adam(config.learning_rate))
        self.target_rate = config.target_rate

    def losses(self, batch: SubgoalBatch, noise: Mapping[str, Tensor], due: Due) -> tuple[Losses, Metrics]:  # type: ignore[override]
        s, a, r, s_next, terminal, goal, far_goal, subgoal, far_subgoal = batch
        c = self.config
        losses: Losses = {}
        metrics: Metrics = {}

        if "value" in due:  # expectile regression without actions, eq. 4
            with torch.no_grad():
                v_next = self.target_value(s_next, goal)  # [2, B]
                go_on = c.discount * (1 - terminal)
                advantage = r + go_on * v_next.amin(0) - self.target_value(s, goal).mean(0)  # [B]
                weight = sides(advantage >= 0, c.expectile, advantage)
            v = self.value(s, goal)  # [2, B]
            losses["value"] = (weight * (r + go_on * v_next - v).square()).mean(-1).sum()
            metrics["v"] = v.mean()

        if "high_actor" in due:  # which state, k steps ahead, is nearest to the goal? eq. 6
            with torch.no_grad():
                weight = self._weight(s, far_subgoal, far_goal, c.high_inverse_temperature)
                z = self.value.phi(s, far_subgoal)
            losses["high_actor"] = -(weight * self.high_actor.log_likelihoods(pair(s, far_goal), z)).mean()
            metrics["high_clipped_weights"] = (weight >= c.max_weight).to(weight.dtype).mean()

        if "low_actor" in due:  # which action is nearest to the subgoal? eq. 7
            with torch.no_grad():
                weight = self._weight(s, s_next, subgoal, c.low_inverse_temperature)
                z = self.value.phi(s, subgoal)
            losses["low_actor"] = -(weight * log_likelihoods(self.low_actor, pair(s, z), a)).mean()
            metrics["low_clipped_weights"] = (weight >= c.max_weight).to(weight.dtype).mean()
        return losses, metrics

    def _weight(self, s: Tensor, later: Tensor, goal: Tensor, inverse_temperature: float) -> Tensor:
        advantage: Tensor = (self.value(later, goal) - self.value(s, goal)).mean(0)  # [B]
        return (inverse_temperature * advantage).exp().clamp_max(self.config.max_weight)

    def policy(self) -> Policy:
        return HierarchicalPolicy(self.high_actor, self.low_actor)
