"""Diffusion Q-learning (Wang et al., 2022, arXiv:2208.06193): a diffusion clones the behaviour and climbs the critic through all of its steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal, final

import torch
from torch import Tensor

from stitchrl.core.algorithm import Adam, Algorithm, Due, Losses, Metrics, frozen
from stitchrl.core.batch import TransitionBatch, Transitions
from stitchrl.core.policy import Policy
from stitchrl.core.randomness import Noise, Normal, Uniform
from stitchrl.core.settings import Count, Fraction, Hidden, NonNegative, Positive, Rate, refuse_changed
from stitchrl.core.spec import Box, Spec
from stitchrl.nn.candidate_actions import Candidates, chosen, in_pieces
from stitchrl.nn.denoisers import MLPDenoiser
from stitchrl.nn.diffusion import Diffusion, draws
from stitchrl.nn.mlp import Critic
from stitchrl.nn.noise_schedules import SamplerName, Schedule, ScheduleKind, chain


@final
@dataclass(frozen=True)
class DiffusionQLConfig:
    discount: Fraction = 0.99
    value_weight: NonNegative = 1.0
    """of the value, in units of its own size, against cloning (eta); to be tuned for each task, 0 is cloning by diffusion"""
    diffusion_steps: Count = 5
    """from noise to action (N)"""
    schedule: ScheduleKind = "vp"
    """of the noise"""
    sampler: SamplerName = "ddpm"
    """of actions, in learning too; all steps are taken"""
    max_target_backup: bool = False
    """value the next state by the best of `backup_actions`, not by one action; for AntMaze"""
    backup_actions: Count = 10
    acting_candidates: Count = 50
    """actions drawn where it acts, one of which is taken by its value"""
    acting_sharpness: NonNegative = 1.0
    """a sampled action is a candidate with probability in proportion to exp(sharpness Q); without noise it is the best one"""
    average_every: Count = 5
    """steps from one update of the averaged policy, whose actions value the next state, to the next"""
    target_rate: Rate = 0.005
    """step of the moving averages of the critic (at each step) and of the policy"""
    actor_learning_rate: Positive = 3e-4
    critic_learning_rate: Positive = 3e-4
    learning_schedule: Literal["cosine", "constant"] = "constant"
    """of both learning rates; cosine: they fall to 0 over the run, as CleanDiffuser has them (the authors' own fall by a thousandth)"""
    clip_norm: Positive | None = None
    """of each network's gradient; the paper's table has one for each dataset"""
    hidden: Hidden = (256, 256, 256)


@final
class DiffusionQLPolicy(Policy):
    """One of K actions of the diffusion, by the smaller of two target critics. Without noise the draws are fixed, and the best is taken."""

    drawn = True

    def __init__(self, actor: Diffusion, critic: Critic, candidates: Candidates, sharpness: float) -> None:
        super().__init__()
        self.actor, self.critic = actor, critic
        self.candidates, self.sharpness = candidates, sharpness
        self.fixed = candidates.fixed()  # [K, …]

    def noise(self, size: int) -> Noise | None:
        return self.candidates.noise(size)

    def forward(self, observations: Tensor, noise: Tensor | None = None) -> Tensor:
        choose = partial(self._chosen, sampled=noise is not None)
        return in_pieces(choose, observations, noise, self.fixed, next(self.critic.parameters()))

    def _chosen(self, s: Tensor, noise: Tensor, *, sampled: bool) -> Tensor:
        a = self.candidates.drawn(self.actor, s, noise)  # [K, B, A]
        q = self.critic(s.expand(len(a), *s.shape), a).amin(0)  # [K, B]
        return chosen(a, self.sharpness * q, noise) if sampled else chosen(a, q)

    def log_probabilities(self, observations: Tensor, actions: Tensor) -> Tensor:
        raise TypeError("diffusion Q-learning chooses among actions drawn by many steps: the density of its actions is not known")


@final
class DiffusionQL(Algorithm):
    batch = Transitions()
    targets = {"target_critic": "critic", "average_actor": "actor"}
    action_space = "box"
    fine_tunes = True
    acting_settings = frozenset(["sampler", "acting_candidates", "acting_sharpness"])

    target_critic: Critic
    average_actor: Diffusion

    def __init__(self, config: DiffusionQLConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        c = config
        if not c.max_target_backup:
            refuse_changed(c, ("backup_actions",), "without max_target_backup")
        assert isinstance(spec.action, Box)
        self.critic = Critic(spec, c.hidden, ensemble=2, activation="mish")
        self.actor = Diffusion(MLPDenoiser(spec, spec.action.size, c.hidden), Schedule(c.schedule, c.diffusion_steps))
        self.chain = chain(self.actor.schedule, c.sampler)
        self.size = spec.action.size
        rates = {"critic": c.critic_learning_rate, "actor": c.actor_learning_rate}
        self.optimizers = {name: Adam(rate, schedule=c.learning_schedule, clip_norm=c.clip_norm) for name, rate in rates.items()}
        self.update_every = {"average_actor": c.average_every}
        self.target_rate = c.target_rate

    def noise(self, size: int) -> dict[str, Noise]:
        steps = 1 + draws(self.chain)
        one, next_one = (steps, size, self.size), (steps, self._backups, size, self.size)
        return {
            "next_action": Normal(next_one), "action": Normal(one), "noise": Normal(one[1:]), "time": Uniform((size,)), "turn": Uniform((1,)),
        }  # fmt: skip

    @property
    def _backups(self) -> int:
        return self.config.backup_actions if self.config.max_target_backup else 1

    def losses(self, batch: TransitionBatch, noise: Mapping[str, Tensor], due: Due) -> tuple[Losses, Metrics]:
        s, a, r, s_next, terminal = batch
        c = self.config
        losses: Losses = {}
        metrics: Metrics = {}

        if "critic" in due:  # the next action is the averaged policy's
            with torch.no_grad():
                s_many = s_next.expand(self._backups, *s_next.shape)
                z = noise["next_action"]  # [steps, K, B, A]
                a_next = self.average_actor.sample(z[0], self.chain, s_many, noise=z[1:])  # [K, B, A]
                q_next = self.target_critic(s_many, a_next).amax(1)  # [E, B]: each critic's best of K (of one unless max_target_backup)
                q_target = r + c.discount * (1 - terminal) * q_next.amin(0)
            q = self.critic(s, a)  # [E, B]
            losses["critic"] = (q - q_target).square().mean(-1).sum()
            metrics["q"] = q.mean()

        if "actor" in due:  # L_d + L_q: cloning, and value through all steps of the chain
            cloning = self.actor.errors(a, noise["noise"], noise["time"], s).mean()
            z = noise["action"]
            pi = self.actor.sample(z[0], self.chain, s, noise=z[1:])  # [B, A]
            q_pi = frozen(self.critic)(s, pi)  # [E, B]
            # one critic, in units of the other's size: by turns in the authors' code, at random
            sizes = q_pi.abs().mean(-1).detach()
            q_1, q_2 = q_pi.mean(-1) / sizes.flip(0)
            losses["actor"] = cloning - c.value_weight * torch.where(noise["turn"][0] > 0.5, q_1, q_2)
            metrics["cloning_error"] = cloning
        return losses, metrics

    def policy(self) -> Policy:
        candidates = Candidates(self.chain, self.config.acting_candidates, self.size)
        return DiffusionQLPolicy(self.actor, self.target_critic, candidates, self.config.acting_sharpness)

    def believed_value(self, observations: Tensor) -> Tensor | None:
        return self.critic(observations, self.policy()(observations)).amin(0)  # type: ignore[no-any-return]
