"""Conservative Q-learning (Kumar et al., 2020, arXiv:2006.04779): Q-learning that lowers the values of actions the log does not show."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from stitchrl.core.algorithm import Adam, Algorithm, Due, Losses, Metrics, frozen, is_discrete
from stitchrl.core.batch import TransitionBatch, Transitions
from stitchrl.core.errors import ConfigError
from stitchrl.core.policy import Policy
from stitchrl.core.randomness import Noise, Normal
from stitchrl.core.settings import Count, Fraction, Hidden, NonNegative, Positive, Rate, refuse_changed
from stitchrl.core.spec import Spec
from stitchrl.nn.actors import GreedyPolicy, SquashedGaussianActor
from stitchrl.nn.mlp import Critic, Scalar
from stitchrl.nn.proposals import proposal_noise, propose

CONTINUOUS_ONLY = (
    "sampled_actions", "max_target_backup", "mean_backup", "entropy_backup", "target_entropy", "actor_learning_rate", "temperature_learning_rate",
    "critic_hidden",
)  # fmt: skip


@final
@dataclass(frozen=True)
class CQLConfig:
    discount: Fraction = 0.99
    conservatism: NonNegative = 5.0
    """weight of the conservative term (alpha): 0 is plain Q-learning or SAC; the start of the multiplier if `lagrange_gap` is given"""
    lagrange_gap: float | None = None
    """gap of log-sum-exp to logged values that the weight is adjusted to hold (tau in the paper); None: a fixed weight"""
    sampled_actions: Count = 10
    """actions drawn from each of three proposals (uniform, the policy at s, the policy at s') for the log-sum-exp; continuous only"""
    max_target_backup: bool = False
    """value the next state by the best of the sampled next actions; continuous only"""
    mean_backup: bool = False
    """value the next state by the policy's mean action instead of a sampled one: not in the paper or its code; d3rlpy does; continuous only"""
    entropy_backup: bool = False
    """count the next step's entropy in the target; continuous only"""
    target_entropy: float | None = None
    target_rate: Rate = 0.005
    """step of the target critic's moving average; 1 copies it"""
    target_every: Count | None = None
    """steps of learning from one update of the target critic to the next; None: 1"""
    actor_learning_rate: Positive = 1e-4
    critic_learning_rate: Positive = 3e-4
    temperature_learning_rate: Positive = 1e-4
    lagrange_learning_rate: Positive = 3e-4
    ensemble: Count | None = None
    """critics; None: 2 for continuous, 1 for discrete actions"""
    hidden: Hidden = (256, 256, 256)
    critic_hidden: Hidden | None = None
    """of the critics; None: as `hidden`; continuous only"""


@final
class CQL(Algorithm):
    batch = Transitions()
    targets = {"target_critic": "critic"}
    fine_tunes = True

    target_critic: Critic

    def __init__(self, config: CQLConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        optimizers = {"critic": Adam(config.critic_learning_rate)}
        self.discrete = is_discrete(spec)
        if config.max_target_backup + config.entropy_backup + config.mean_backup > 1:
            raise ConfigError(
                "cql: of max_target_backup, mean_backup and entropy_backup at most one can be on; each says how the next state is valued"
            )
        if self.discrete:
            refuse_changed(config, CONTINUOUS_ONLY, "with discrete actions")
        else:
            self.temperature = Scalar(0.0)
            self.actor = SquashedGaussianActor(spec, config.hidden)
            self.target_entropy = -float(self.actor.size) if config.target_entropy is None else config.target_entropy
            optimizers |= {"temperature": Adam(config.temperature_learning_rate), "actor": Adam(config.actor_learning_rate)}
        self.critic = Critic(spec, config.critic_hidden or config.hidden, config.ensemble or (1 if self.discrete else 2))
        if config.lagrange_gap is not None:
            self.multiplier = Scalar(math.log(max(config.conservatism, 1e-6)))
            optimizers["multiplier"] = Adam(config.lagrange_learning_rate)
        else:
            refuse_changed(config, ("lagrange_learning_rate",), "without lagrange_gap")
        self.optimizers = optimizers
        self.target_rate, self.update_every = config.target_rate, {"target_critic": config.target_every or 1}

    def noise(self, size: int) -> dict[str, Noise]:
        if self.discrete:
            return {}
        one = Normal((size, self.actor.size))
        return {"action": one, "next_action": one} | proposal_noise(self.config.sampled_actions, size, self.actor.size)

    def losses(self, batch: TransitionBatch, noise: Mapping[str, Tensor], due: Due) -> tuple[Losses, Metrics]:
        losses: Losses = {}
        metrics: Metrics = {}
        if due & {"critic", "multiplier"}:
            losses, metrics = self._discrete_critic(batch, due) if self.discrete else self._continuous_critic(batch, noise, due)
        if due & {"actor", "temperature"}:
            self._soft_actor(batch, noise, due, losses, metrics)
        return losses, metrics

    def _discrete_critic(self, batch: TransitionBatch, due: Due) -> tuple[Losses, Metrics]:
        s, a, r, s_next, terminal = batch
        with torch.no_grad():  # double Q-learning
            a_next = self.critic(s_next).mean(0).argmax(-1, keepdim=True)
            v_next = self.target_critic(s_next).mean(0).gather(-1, a_next).squeeze(-1)
            q_target = r + self.config.discount * (1 - terminal) * v_next
        q_all = self.critic(s)  # [E, B, n]
        q = q_all.gather(-1, a.expand(q_all.shape[:-1]).unsqueeze(-1)).squeeze(-1)  # [E, B]
        return self._critic_losses(q, q_target, q_all.logsumexp(-1), due)  # the exact log-sum-exp, eq. 4

    def _continuous_critic(self, batch: TransitionBatch, noise: Mapping[str, Tensor], due: Due) -> tuple[Losses, Metrics]:
        s, a, r, s_next, terminal = batch
        c = self.config
        with torch.no_grad():
            proposed, log_density = propose(self.actor, s, s_next, noise)  # [3K, B, A], [3K, B]
            if c.max_target_backup:
                k = c.sampled_actions
                v_next = self.target_critic(s_next.expand(k, *s_next.shape), proposed[2 * k :]).amin(0).amax(0)  # [B]
            else:
                a_next, log_next = self.actor.sample(s_next, noise["next_action"])
                v_next = self.target_critic(s_next, self.actor(s_next) if c.mean_backup else a_next).amin(0)
                if c.entropy_backup:
                    v_next = v_next - self.temperature().exp() * log_next
            q_target = r + c.discount * (1 - terminal) * v_next
            actions = torch.cat([proposed, a.unsqueeze(0)])  # [3K + 1, B, A]
        q_all = self.critic(s.expand(actions.shape[0], *s.shape), actions)  # [E, 3K + 1, B]: one call for logged and sampled actions
        # importance-sampled log-sum-exp, appendix F: not divided by the number of samples, as in the authors' code
        return self._critic_losses(q_all[:, -1], q_target, (q_all[:, :-1] - log_density).logsumexp(1), due)

    def _critic_losses(self, q: Tensor, q_target: Tensor, log_sum_exp: Tensor, due: Due) -> tuple[Losses, Metrics]:
        c = self.config
        losses: Losses = {}
        gap = (log_sum_exp - q).mean(-1)  # [E], the conservative term of eq. 4
        if c.lagrange_gap is None:
            penalty = c.conservatism * gap
        else:  # eq. 30: the multiplier rises while the gap is above its target
            multiplier = self.multiplier().exp().clamp_max(1e6)
            penalty = multiplier.detach() * (gap - c.lagrange_gap)
            if "multiplier" in due:
                losses["multiplier"] = -(multiplier * (gap.detach() - c.lagrange_gap)).mean()
        if "critic" in due:
            losses["critic"] = ((q - q_target).square().mean(-1) + penalty).sum()
        return losses, {"q": q.mean(), "conservative_gap": gap.mean()}

    def _soft_actor(self, batch: TransitionBatch, noise: Mapping[str, Tensor], due: Due, losses: Losses, metrics: Metrics) -> None:
        s = batch.observations
        pi, log_pi = self.actor.sample(s, noise["action"])
        temperature = self.temperature().exp().detach()
        if "actor" in due:
            losses["actor"] = (temperature * log_pi - frozen(self.critic)(s, pi).amin(0)).mean()
            metrics["entropy"] = -log_pi.mean()
        if "temperature" in due:
            losses["temperature"] = -self.temperature() * (log_pi.detach() + self.target_entropy).mean()
            metrics["temperature"] = temperature

    def policy(self) -> Policy:
        return GreedyPolicy(self.critic) if self.discrete else self.actor

    def believed_value(self, observations: Tensor) -> Tensor | None:
        if self.discrete:
            return self.critic(observations).mean(0).amax(-1)  # type: ignore[no-any-return]
        return self.critic(observations, self.actor(observations)).amin(0)  # type: ignore[no-any-return]
