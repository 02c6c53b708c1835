"""TD3+BC (Fujimoto & Gu, 2021, arXiv:2106.06860): TD3 whose actor also stays close to the logged actions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from stitchrl.core.algorithm import Adam, Algorithm, Due, Losses, Metrics, frozen
from stitchrl.core.batch import TransitionBatch, Transitions
from stitchrl.core.policy import Policy
from stitchrl.core.randomness import Noise, Normal
from stitchrl.core.settings import Count, Fraction, Hidden, NonNegative, Positive, Rate
from stitchrl.core.spec import Spec
from stitchrl.nn.actors import DeterministicActor
from stitchrl.nn.mlp import Critic


@final
@dataclass(frozen=True)
class TD3BCConfig:
    discount: Fraction = 0.99
    alpha: NonNegative = 2.5
    """weight of the value against cloning in the actor's loss (alpha in the paper): 0 is behaviour cloning"""
    policy_noise: NonNegative = 0.2
    """standard deviation of the noise that smooths the target policy (sigma), in units of a half action range"""
    noise_clip: NonNegative = 0.5
    """bound of that noise (c)"""
    actor_every: Count = 2
    """critic updates to one update of the actor and of the targets (d)"""
    target_rate: Rate = 0.005
    """step of the targets' moving averages (tau)"""
    learning_rate: Positive = 3e-4
    hidden: Hidden = (256, 256)


@final
class TD3BC(Algorithm):
    batch = Transitions()
    targets = {"target_critic": "critic", "target_actor": "actor"}
    action_space = "box"
    fine_tunes = True

    target_critic: Critic
    target_actor: DeterministicActor

    def __init__(self, config: TD3BCConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.critic = Critic(spec, config.hidden, ensemble=2)
        self.actor = DeterministicActor(spec, config.hidden)
        self.optimizers = {"critic": Adam(config.learning_rate), "actor": Adam(config.learning_rate)}
        self.update_every = dict.fromkeys(("actor", "target_critic", "target_actor"), config.actor_every)
        self.target_rate = config.target_rate

    def noise(self, size: int) -> dict[str, Noise]:
        return {"policy": Normal((size, self.actor.size))}

    def losses(self, batch: TransitionBatch, noise: Mapping[str, Tensor], due: Due) -> tuple[Losses, Metrics]:
        s, a, r, s_next, terminal = batch
        c = self.config
        losses: Losses = {}
        metrics: Metrics = {}

        if "critic" in due:  # clipped double Q-learning with target policy smoothing
            with torch.no_grad():
                epsilon = (c.policy_noise * noise["policy"]).clamp(-c.noise_clip, c.noise_clip)
                a_next = (self.target_actor(s_next) + epsilon).clamp(-1, 1)
                q_target = r + c.discount * (1 - terminal) * self.target_critic(s_next, a_next).amin(0)  # [B]
            q = self.critic(s, a)  # [E, B]
            losses["critic"] = (q - q_target).square().mean(-1).sum()
            metrics["q"] = q.mean()

        if "actor" in due:  # eq. 3 with lambda of eq. 5: the value is scaled by its own mean size
            pi = self.actor(s)
            q_pi = frozen(self.critic)(s, pi)[0]
            scale = c.alpha / q_pi.abs().mean().detach()
            cloning = (pi - a).square().mean()
            losses["actor"] = -scale * q_pi.mean() + cloning
            metrics["cloning_error"] = cloning
        return losses, metrics

    def policy(self) -> Policy:
        return self.actor

    def believed_value(self, observations: Tensor) -> Tensor | None:
        return self.critic(observations, self.actor(observations)).amin(0)  # type: ignore[no-any-return]
