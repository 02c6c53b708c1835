"""Cal-QL (Nakamoto et al., 2023, arXiv:2303.05479): CQL that pushes no value below what the log itself earned, so that it can go on online."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from stitchrl.core.algorithm import Adam, Algorithm, Due, Losses, Metrics, frozen
from stitchrl.core.batch import ReturnBatch, ReturnTransitions
from stitchrl.core.errors import ConfigError
from stitchrl.core.policy import Policy
from stitchrl.core.randomness import Noise, Normal
from stitchrl.core.settings import Count, Fraction, Hidden, NonNegative, Positive, Rate, refuse_changed
from stitchrl.core.spec import Spec
from stitchrl.nn.actors import SquashedGaussianActor
from stitchrl.nn.mlp import Critic, Scalar
from stitchrl.nn.proposals import proposal_noise, propose


@final
@dataclass(frozen=True)
class CalQLConfig:
    discount: Fraction = 0.99
    conservatism: NonNegative = 5.0
    """weight of the conservative term (alpha); the start of the multiplier if `lagrange_gap` is given"""
    calibrated: bool = True
    """hold the policy's values above the log's returns; false is CQL, on the same rows"""
    beyond_timeout: Literal["last_reward", "nothing"] = "last_reward"
    """what the return of an episode that only the clock ended goes on with: its last reward for ever, or nothing"""
    lagrange_gap: float | None = None
    """gap of log-sum-exp to logged values that the weight is adjusted to hold; None: a fixed weight"""
    sampled_actions: Count = 10
    """actions drawn from each of three proposals (uniform, the policy at s, the policy at s') for the log-sum-exp"""
    max_target_backup: bool = True
    """value the next state by the best of the sampled next actions"""
    entropy_backup: bool = False
    """count the next step's entropy in the target"""
    target_entropy: float | None = None
    target_rate: Rate = 0.005
    """step of the target critics' moving average"""
    actor_learning_rate: Positive = 1e-4
    critic_learning_rate: Positive = 3e-4
    temperature_learning_rate: Positive = 1e-4
    lagrange_learning_rate: Positive = 3e-4
    hidden: Hidden = (256, 256)
    critic_hidden: Hidden | None = None
    """of the critics; None: as `hidden`"""


@final
class CalQL(Algorithm):
    batch = ReturnTransitions()
    targets = {"target_critic": "critic"}
    action_space = "box"
    fine_tunes = True

    target_critic: Critic

    def __init__(self, config: CalQLConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        if config.max_target_backup and config.entropy_backup:
            raise ConfigError(
                "cal_ql: of max_target_backup and entropy_backup at most one can be on; each says how the next state is valued"
            )
        self.temperature = Scalar(0.0)
        self.actor = SquashedGaussianActor(spec, config.hidden)
        self.critic = Critic(spec, config.critic_hidden or config.hidden, ensemble=2)
        self.target_entropy = -float(self.actor.size) if config.target_entropy is None else config.target_entropy
        optimizers = {
            "temperature": Adam(config.temperature_learning_rate),
            "actor": Adam(config.actor_learning_rate),
            "critic": Adam(config.critic_learning_rate),
        }
        if config.lagrange_gap is not None:
            self.multiplier = Scalar(math.log(max(config.conservatism, 1e-6)))
            optimizers["multiplier"] = Adam(config.lagrange_learning_rate)
        else:
            refuse_changed(config, ("lagrange_learning_rate",), "without lagrange_gap")
        self.optimizers = optimizers
        self.target_rate = config.target_rate

    @classmethod
    def batch_of(cls, config: CalQLConfig) -> ReturnTransitions:
        return ReturnTransitions(config.discount, config.beyond_timeout)

    def noise(self, size: int) -> dict[str, Noise]:
        one = Normal((size, self.actor.size))
        return {"action": one, "next_action": one} | proposal_noise(self.config.sampled_actions, size, self.actor.size)

    def losses(self, batch: ReturnBatch, noise: Mapping[str, Tensor], due: Due) -> tuple[Losses, Metrics]:  # type: ignore[override]
        losses: Losses = {}
        metrics: Metrics = {}
        if due & {"critic", "multiplier"}:
            losses, metrics = self._critic_losses(batch, noise, due)
        if not due & {"actor", "temperature"}:
            return losses, metrics
        s = batch.observations
        pi, log_pi = self.actor.sample(s, noise["action"])
        temperature = self.temperature().exp().detach()
        if "actor" in due:  # SAC's
            losses["actor"] = (temperature * log_pi - frozen(self.critic)(s, pi).amin(0)).mean()
            metrics["entropy"] = -log_pi.mean()
        if "temperature" in due:
            losses["temperature"] = -self.temperature() * (log_pi.detach() + self.target_entropy).mean()
            metrics["temperature"] = temperature
        return losses, metrics

    def _critic_losses(self, batch: ReturnBatch, noise: Mapping[str, Tensor], due: Due) -> tuple[Losses, Metrics]:
        s, a, r, s_next, terminal, g = batch
        c, k = self.config, self.config.sampled_actions
        losses: Losses = {}
        with torch.no_grad():
            proposed, log_density = propose(self.actor, s, s_next, noise)  # [3K, B, A], [3K, B]
            if c.max_target_backup:
                v_next = self.target_critic(s_next.expand(k, *s_next.shape), proposed[2 * k :]).amin(0).amax(0)  # [B]
            else:
                a_next, log_next = self.actor.sample(s_next, noise["next_action"])
                v_next = self.target_critic(s_next, a_next).amin(0)
                if c.entropy_backup:
                    v_next = v_next - self.temperature().exp() * log_next
            q_target = r + c.discount * (1 - terminal) * v_next
            actions = torch.cat([proposed, a.unsqueeze(0)])  # [3K + 1, B, A]
        q_all = self.critic(s.expand(3 * k + 1, *s.shape), actions)  # [E, 3K + 1, B]: one call for logged and proposed actions
        q_random, q_policy, q = q_all[:, :k], q_all[:, k:-1], q_all[:, -1]
        below = (q_policy < g).to(q.dtype).mean()
        if c.calibrated:  # eq. 5: max(Q, V of the behaviour), with the log's return for that value; not for the uniform actions
            q_policy = q_policy.maximum(g)
        log_sum_exp = (torch.cat([q_random, q_policy], 1) - log_density).logsumexp(1)  # [E, B]
        gap = (log_sum_exp - q).mean(-1)  # [E]
        if c.lagrange_gap is None:
            penalty = c.conservatism * gap
        else:
            multiplier = self.multiplier().exp().clamp_max(1e6)
            penalty = multiplier.detach() * (gap - c.lagrange_gap)
            if "multiplier" in due:
                losses["multiplier"] = -(multiplier * (gap.detach() - c.lagrange_gap)).mean()
        if "critic" in due:
            losses["critic"] = ((q - q_target).square().mean(-1) + penalty).sum()
        return losses, {"q": q.mean(), "conservative_gap": gap.mean(), "below_return": below}

    def policy(self) -> Policy:
        return self.actor

    def believed_value(self, observations: Tensor) -> Tensor | None:
        return self.critic(observations, self.actor(observations)).amin(0)  # type: ignore[no-any-return]
