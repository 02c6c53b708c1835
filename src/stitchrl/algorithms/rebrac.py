"""ReBRAC (Tarasov et al., 2023, arXiv:2305.09836): TD3 whose actor and whose critic's target each pay for leaving the logged actions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from stitchrl.core.algorithm import Adam, Algorithm, Due, Losses, Metrics, frozen
from stitchrl.core.batch import NextActionBatch, NextActionTransitions
from stitchrl.core.policy import Policy
from stitchrl.core.randomness import Noise, Normal
from stitchrl.core.settings import Count, Fraction, Hidden, NonNegative, Positive, Rate
from stitchrl.core.spec import Spec
from stitchrl.nn.actors import DeterministicActor
from stitchrl.nn.mlp import Critic


@final
@dataclass(frozen=True)
class ReBRACConfig:
    discount: Fraction = 0.99
    actor_penalty: NonNegative = 0.01
    """weight of the actor's squared distance from the logged action (beta_1)"""
    critic_penalty: NonNegative = 0.01
    """weight of the next action's squared distance from the next logged one, in the target (beta_2)"""
    normalize_values: bool = True
    """divide the actor's values by their mean size, as TD3+BC does"""
    layer_norm: bool = True
    """in the critics, after each activation"""
    policy_noise: NonNegative = 0.2
    """standard deviation of the noise that smooths the target policy (sigma), in units of a half action range"""
    noise_clip: NonNegative = 0.5
    """bound of that noise (c)"""
    actor_every: Count = 2
    """critic updates to one update of the actor and of the targets"""
    target_rate: Rate = 0.005
    """step of the targets' moving averages (tau)"""
    actor_learning_rate: Positive = 1e-3
    critic_learning_rate: Positive = 1e-3
    hidden: Hidden = (256, 256, 256)


@final
class ReBRAC(Algorithm):
    batch = NextActionTransitions()
    targets = {"target_critic": "critic", "target_actor": "actor"}
    action_space = "box"
    fine_tunes = True

    target_critic: Critic
    target_actor: DeterministicActor

    def __init__(self, config: ReBRACConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.critic = Critic(spec, config.hidden, ensemble=2, layer_norm=config.layer_norm, norm_after=True)
        self.actor = DeterministicActor(spec, config.hidden)
        self.optimizers = {"critic": Adam(config.critic_learning_rate), "actor": Adam(config.actor_learning_rate)}
        self.update_every = dict.fromkeys(("actor", "target_critic", "target_actor"), config.actor_every)
        self.target_rate = config.target_rate

    def noise(self, size: int) -> dict[str, Noise]:
        return {"policy": Normal((size, self.actor.size))}

    def losses(self, batch: NextActionBatch, noise: Mapping[str, Tensor], due: Due) -> tuple[Losses, Metrics]:  # type: ignore[override]
        s, a, r, s_next, terminal, a_logged_next = batch
        c = self.config
        losses: Losses = {}
        metrics: Metrics = {}

        if "critic" in due:  # TD3's target, less the penalty at the next step
            with torch.no_grad():
                epsilon = (c.policy_noise * noise["policy"]).clamp(-c.noise_clip, c.noise_clip)
                a_next = (self.target_actor(s_next) + epsilon).clamp(-1, 1)
                next_distance = (a_next - a_logged_next).square().sum(-1)  # [B]
                v_next = self.target_critic(s_next, a_next).amin(0) - c.critic_penalty * next_distance
                q_target = r + c.discount * (1 - terminal) * v_next
            q = self.critic(s, a)  # [E, B]
            losses["critic"] = (q - q_target).square().mean(-1).sum()
            metrics["q"] = q.mean()
            metrics["next_distance"] = ((1 - terminal) * next_distance).mean()

        if "actor" in due:
            pi = self.actor(s)
            q_pi = frozen(self.critic)(s, pi).amin(0)  # [B]
            scale = 1 / q_pi.abs().mean().detach() if c.normalize_values else 1.0
            distance = (pi - a).square().sum(-1)
            losses["actor"] = (c.actor_penalty * distance - scale * q_pi).mean()
            metrics["distance"] = distance.mean()
        return losses, metrics

    def policy(self) -> Policy:
        return self.actor

    def believed_value(self, observations: Tensor) -> Tensor | None:
        return self.critic(observations, self.actor(observations)).amin(0)  # type: ignore[no-any-return]
