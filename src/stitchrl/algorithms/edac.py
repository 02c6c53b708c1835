"""EDAC (An et al., 2021, arXiv:2110.01548): SAC with many critics, held apart from one another; without that term it is SAC-N."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from stitchrl.core.algorithm import Adam, Algorithm, Due, Losses, Metrics, frozen
from stitchrl.core.batch import TransitionBatch, Transitions
from stitchrl.core.errors import ConfigError
from stitchrl.core.policy import Policy
from stitchrl.core.randomness import Noise, Normal
from stitchrl.core.settings import Count, Fraction, Hidden, NonNegative, Positive, Rate
from stitchrl.core.spec import Spec
from stitchrl.nn.actors import SquashedGaussianActor
from stitchrl.nn.mlp import Critic, Scalar


@final
@dataclass(frozen=True)
class EDACConfig:
    discount: Fraction = 0.99
    ensemble: Count = 10
    """critics (N); their smallest value is what the policy and the target see"""
    diversity: NonNegative = 1.0
    """weight of the term that turns the critics' gradients away from one another (eta): 0 is SAC-N"""
    entropy_backup: bool = True
    """count the next step's entropy as reward, as SAC does; else the target is the value alone"""
    target_entropy: float | None = None
    """entropy that the temperature holds the policy to, in nats; None: minus the number of action dimensions"""
    target_rate: Rate = 0.005
    """step of the target critics' moving average (tau)"""
    actor_learning_rate: Positive = 3e-4
    critic_learning_rate: Positive = 3e-4
    temperature_learning_rate: Positive = 3e-4
    hidden: Hidden = (256, 256, 256)


@final
class EDAC(Algorithm):
    batch = Transitions()
    targets = {"target_critic": "critic"}
    action_space = "box"
    online = True
    fine_tunes = True

    target_critic: Critic

    def __init__(self, config: EDACConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        if config.ensemble < 2 and config.diversity > 0:
            raise ConfigError("edac: one critic has none to differ from; use ensemble of at least 2, or diversity 0")
        self.temperature = Scalar(0.0)
        self.actor = SquashedGaussianActor(spec, config.hidden)
        self.critic = Critic(spec, config.hidden, config.ensemble)
        self.target_entropy = -float(self.actor.size) if config.target_entropy is None else config.target_entropy
        # in `sequential` order the temperature moves first and the critics last, as in CORL
        self.optimizers = {
            "temperature": Adam(config.temperature_learning_rate),
            "actor": Adam(config.actor_learning_rate),
            "critic": Adam(config.critic_learning_rate),
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

        if due & {"actor", "temperature"}:
            pi, log_pi = self.actor.sample(s, noise["action"])
        if "temperature" in due:
            losses["temperature"] = -self.temperature() * (log_pi.detach() + self.target_entropy).mean()
            metrics["temperature"] = temperature
        if "actor" in due:  # eq. 2: the smallest of N values
            q_pi = frozen(self.critic)(s, pi)  # [E, B]
            losses["actor"] = (temperature * log_pi - q_pi.amin(0)).mean()
            metrics["entropy"] = -log_pi.mean()
            metrics["pessimism"] = (q_pi.mean(0) - q_pi.amin(0)).mean().detach()

        if "critic" in due:
            with torch.no_grad():  # eq. 2
                a_next, log_pi_next = self.actor.sample(s_next, noise["next_action"])
                v_next = self.target_critic(s_next, a_next).amin(0)
                if c.entropy_backup:
                    v_next = v_next - temperature * log_pi_next
                q_target = r + c.discount * (1 - terminal) * v_next  # [B]
            if c.diversity > 0:
                q, slope = self.critic.with_action_gradient(s, a)  # [E, B], [E, B, A]
                alike = similarity(slope)
                metrics["similarity"] = alike.detach() / (c.ensemble * (c.ensemble - 1))
                losses["critic"] = (q - q_target).square().mean(-1).sum() + c.diversity * alike / (c.ensemble - 1)  # eq. 6
            else:
                q = self.critic(s, a)
                losses["critic"] = (q - q_target).square().mean(-1).sum()
            metrics["q"] = q.mean()
        return losses, metrics

    def policy(self) -> Policy:
        return self.actor

    def believed_value(self, observations: Tensor) -> Tensor | None:
        return self.critic(observations, self.actor(observations)).amin(0)  # type: ignore[no-any-return]


def similarity(slope: Tensor) -> Tensor:
    """Returns the mean over a batch of the cosines between the members' gradients `[E, B, A]`, summed over all ordered pairs of two.

    Without the E x E matrix of pairs: |sum_i g_i|^2 counts each pair and each member with itself, which sum_i |g_i|^2 takes off.
    """
    direction = slope * (slope.square().sum(-1, keepdim=True) + 1e-20).rsqrt()  # a gradient of 0 has none, and stays 0
    total = direction.sum(0).square().sum(-1)  # [B]
    return (total - direction.square().sum((0, -1))).mean()
