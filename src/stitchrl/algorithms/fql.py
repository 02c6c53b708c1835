"""Flow Q-learning (Park et al., 2025, arXiv:2502.02538): a flow clones the behaviour, and a one-step policy distils it while it seeks value.

The value's gradient never passes through the flow's many steps: only the one-step policy, which is also the one that acts, is asked for value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from stitchrl.core.algorithm import Adam, Algorithm, Due, Losses, Metrics, frozen
from stitchrl.core.batch import TransitionBatch, Transitions
from stitchrl.core.policy import Policy
from stitchrl.core.randomness import Noise, Normal, Uniform
from stitchrl.core.settings import Count, Fraction, Hidden, NonNegative, Positive, Rate
from stitchrl.core.spec import Box, Spec
from stitchrl.nn.flow import VelocityField, integrate, straight_path
from stitchrl.nn.mlp import MLP, Critic


@final
@dataclass(frozen=True)
class FQLConfig:
    discount: Fraction = 0.99
    distillation: NonNegative = 10.0
    """weight of staying with the behaviour flow against the value (alpha in the paper); to be tuned for each task"""
    normalize_value: bool = False
    """divide the value by its own mean size in the actor's loss, so that `distillation` does not depend on the scale of rewards"""
    target_value: Literal["mean", "minimum"] = "mean"
    """of the target critics at the next action"""
    flow_steps: Count = 10
    """Euler steps of the behaviour flow (M)"""
    target_rate: Rate = 0.005
    """step of the target critic's moving average"""
    learning_rate: Positive = 3e-4
    ensemble: Count = 2
    critic_layer_norm: bool = True
    actor_layer_norm: bool = False
    """of the one-step policy and of the flow"""
    hidden: Hidden = (512, 512, 512, 512)


@final
class OneStepPolicy(Policy):
    """a = clip(network(s, z)), z ~ N(0, I): the flow's many steps in one. Without noise z = 0, the latent's mode."""

    drawn = True

    def __init__(self, spec: Spec, hidden: Hidden, *, layer_norm: bool = False) -> None:
        super().__init__()
        assert isinstance(spec.action, Box)
        self.size = spec.action.size
        self.mlp = MLP(spec.observation, self.size, hidden, actions=self.size, layer_norm=layer_norm, norm_after=True, activation="gelu")

    def noise(self, size: int) -> Noise | None:
        return Normal((size, self.size))

    def unclipped(self, observations: Tensor, noise: Tensor) -> Tensor:
        """Returns `[B, A]`, the network's output: what is distilled."""
        actions: Tensor = self.mlp(observations, noise)
        return actions

    def forward(self, observations: Tensor, noise: Tensor | None = None) -> Tensor:
        if noise is None:
            noise = next(self.mlp.parameters()).new_zeros((*self.mlp.leading(observations), self.size))
        return self.unclipped(observations, noise).clamp(-1, 1)

    def log_probabilities(self, observations: Tensor, actions: Tensor) -> Tensor:
        raise TypeError("the one-step policy of flow Q-learning sends noise through a network: the density of its actions is not known")


@final
class FQL(Algorithm):
    batch = Transitions()
    targets = {"target_critic": "critic"}
    action_space = "box"
    acting = frozenset(["actor", "flow"])
    fine_tunes = True

    target_critic: Critic

    def __init__(self, config: FQLConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        c = config
        self.critic = Critic(spec, c.hidden, c.ensemble, layer_norm=c.critic_layer_norm, norm_after=True, activation="gelu")
        self.actor = OneStepPolicy(spec, c.hidden, layer_norm=c.actor_layer_norm)
        self.flow = VelocityField(spec, self.actor.size, c.hidden, layer_norm=c.actor_layer_norm)
        self.optimizers = dict.fromkeys(("critic", "flow", "actor"), Adam(c.learning_rate))
        self.target_rate = c.target_rate

    def noise(self, size: int) -> dict[str, Noise]:
        latents = {name: Normal((size, self.actor.size)) for name in ("next_latent", "start", "latent")}
        return latents | {"time": Uniform((size,))}

    def losses(self, batch: TransitionBatch, noise: Mapping[str, Tensor], due: Due) -> tuple[Losses, Metrics]:
        s, a, r, s_next, terminal = batch
        c = self.config
        losses: Losses = {}
        metrics: Metrics = {}

        if "critic" in due:  # the next action is the one-step policy's
            with torch.no_grad():
                q_next = self.target_critic(s_next, self.actor(s_next, noise["next_latent"]))  # [E, B]
                v_next = q_next.mean(0) if c.target_value == "mean" else q_next.amin(0)
                q_target = r + c.discount * (1 - terminal) * v_next
            q = self.critic(s, a)  # [E, B]
            losses["critic"] = (q - q_target).square().mean(-1).sum()
            metrics["q"] = q.mean()

        if "flow" in due:  # flow matching on the logged actions
            x, velocity = straight_path(noise["start"], a, noise["time"])
            losses["flow"] = (self.flow(s, x, noise["time"]) - velocity).square().mean()

        if "actor" in due:  # near what the flow makes of the same noise, and of high value
            with torch.no_grad():
                a_flow = integrate(lambda x, t: self.flow(s, x, t), noise["latent"], c.flow_steps).clamp(-1, 1)
            pi = self.actor.unclipped(s, noise["latent"])
            distillation = (pi - a_flow).square().mean()
            q_pi = frozen(self.critic)(s, pi.clamp(-1, 1)).mean(0)
            scale = 1 / q_pi.abs().mean().detach() if c.normalize_value else 1.0  # not in the paper; in its code
            losses["actor"] = c.distillation * distillation - scale * q_pi.mean()
            metrics["distillation_error"] = distillation
        return losses, metrics

    def policy(self) -> Policy:
        return self.actor

    def believed_value(self, observations: Tensor) -> Tensor | None:
        return self.critic(observations, self.actor(observations)).mean(0)  # type: ignore[no-any-return]
