"""Behaviour cloning (Pomerleau, 1991): supervised learning of the logged actions; the floor every offline method must beat."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, final

from torch import Tensor

from stitchrl.core.algorithm import Adam, Algorithm, Due, Losses, Metrics
from stitchrl.core.batch import TransitionBatch, Transitions
from stitchrl.core.policy import Policy
from stitchrl.core.settings import Hidden, NonNegative, Positive, refuse_changed
from stitchrl.core.spec import Discrete, Spec
from stitchrl.nn.actors import CategoricalActor, DeterministicActor, GaussianActor
from stitchrl.nn.goal_networks import ClippedActor, clipped_actor


@final
@dataclass(frozen=True)
class BCConfig:
    distribution: Literal["deterministic", "gaussian", "clipped"] = "deterministic"
    """what is fitted to continuous actions: their mean by squared error, a Gaussian by likelihood, or as OGBench has it a mean that is not
    squashed but clipped where it acts, of GELU units; discrete actions are categorical"""
    learning_rate: Positive = 3e-4
    weight_decay: NonNegative = 0.0
    hidden: Hidden = (256, 256)


@final
class BC(Algorithm):
    batch = Transitions()

    def __init__(self, config: BCConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.actor: CategoricalActor | ClippedActor | DeterministicActor | GaussianActor
        if isinstance(spec.action, Discrete):
            refuse_changed(config, ("distribution",), "with discrete actions")
            self.actor = CategoricalActor(spec, config.hidden)
        elif config.distribution == "clipped":
            self.actor = clipped_actor(spec, config.hidden, "distribution clipped", "deterministic")
        elif config.distribution == "gaussian":
            self.actor = GaussianActor(spec, config.hidden)
        else:
            self.actor = DeterministicActor(spec, config.hidden)
        self.optimizers = {"actor": Adam(config.learning_rate, weight_decay=config.weight_decay)}

    @classmethod
    def learns_from_rewards(cls, config: BCConfig) -> bool:
        return False

    def losses(self, batch: TransitionBatch, noise: Mapping[str, Tensor], due: Due) -> tuple[Losses, Metrics]:
        s, a, _, _, _ = batch
        if isinstance(self.actor, DeterministicActor):
            loss = (self.actor(s) - a).square().mean()
        elif isinstance(self.actor, ClippedActor):
            loss = -self.actor.log_likelihoods(s, a).mean()
        else:  # maximum likelihood
            loss = -self.actor.log_probabilities(s, a).mean()
        return {"actor": loss}, {}

    def policy(self) -> Policy:
        return self.actor
