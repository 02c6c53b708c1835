"""Batch-constrained Q-learning (Fujimoto et al., 2018, arXiv:1812.02900; discrete: 2019, arXiv:1910.01708): choose only among logged-like actions.

Continuous: a generative model of the log proposes candidate actions, a small perturbation adjusts them, the critic chooses one.
Discrete: an imitation of the log rules out the actions it finds unlikely, the critic chooses among the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from stitchrl.core.algorithm import Adam, Algorithm, Due, Losses, Metrics, frozen, is_discrete
from stitchrl.core.batch import TransitionBatch, Transitions
from stitchrl.core.policy import Policy
from stitchrl.core.randomness import Noise, Normal, generator
from stitchrl.core.settings import Count, Fraction, Hidden, NonNegative, Positive, Rate, refuse_changed
from stitchrl.core.spec import Box, Spec
from stitchrl.nn.actors import CategoricalActor
from stitchrl.nn.autoencoder import ActionAutoencoder, Decoder
from stitchrl.nn.candidate_actions import chosen, in_pieces
from stitchrl.nn.mlp import MLP, Critic

CONTINUOUS_ONLY = (
    "sampled_actions", "acting_candidates", "minimum_weight", "perturbation_bound", "latent_size", "latent_bound", "divergence_weight",
    "autoencoder_hidden", "autoencoder_learning_rate",
)  # fmt: skip
DISCRETE_ONLY = ("threshold", "logit_penalty")


@final
@dataclass(frozen=True)
class BCQConfig:
    discount: Fraction = 0.99
    sampled_actions: Count = 10
    """candidates at the next state, the best of which is its value (n); continuous only, as all down to `autoencoder_learning_rate`"""
    acting_candidates: Count = 100
    """candidates among which the policy that acts chooses"""
    minimum_weight: Fraction = 0.75
    """of the smaller critic in a candidate's value, the larger has the rest (lambda)"""
    perturbation_bound: Fraction = 0.05
    """largest change of a candidate, in half action ranges (Phi)"""
    latent_size: Count | None = None
    """of the autoencoder; None: twice the number of action dimensions"""
    latent_bound: Positive = 0.5
    """latents are clipped to this on both sides where candidates are drawn"""
    divergence_weight: NonNegative = 0.5
    """of the KL divergence, a mean over latent dimensions, in the autoencoder's loss"""
    autoencoder_hidden: Hidden = (750, 750)
    autoencoder_learning_rate: Positive = 1e-3
    threshold: Fraction = 0.3
    """least probability of an action that may be chosen, of the likeliest action's (tau): 0 is Q-learning, 1 imitation; discrete only"""
    logit_penalty: NonNegative = 0.01
    """weight of the mean squared logit of the imitation: not in the paper; in its code; discrete only"""
    target_rate: Rate = 0.005
    """step of the targets' moving averages; 1 copies them"""
    target_every: Count = 1
    """steps from one update of the targets to the next"""
    learning_rate: Positive | None = None
    """None: 1e-3 for continuous, 3e-4 for discrete actions, of all networks but the autoencoder"""
    hidden: Hidden | None = None
    """None: (400, 300) for continuous, (256, 256) for discrete actions"""


@final
class Perturbation(nn.Module):
    """a + Phi tanh(network(s, a)), within the action's bounds."""

    def __init__(self, spec: Spec, hidden: Hidden, bound: float) -> None:
        super().__init__()
        assert isinstance(spec.action, Box)
        self.bound = bound
        self.mlp = MLP(spec.observation, spec.action.size, hidden, actions=spec.action.size)

    def forward(self, observations: Tensor, actions: Tensor) -> Tensor:
        return (actions + self.bound * torch.tanh(self.mlp(observations, actions))).clamp(-1, 1)


@final
class CandidatePolicy(Policy):
    """The best of K perturbed candidates by the first critic. Without noise the K latents are fixed draws, the same at every observation."""

    drawn = True

    def __init__(self, decoder: Decoder, perturbation: Perturbation, critic: Critic, candidates: int, latent_bound: float) -> None:
        super().__init__()
        self.decoder, self.perturbation, self.critic = decoder, perturbation, critic
        self.candidates, self.latent_bound = candidates, latent_bound
        self.fixed = Normal((candidates, decoder.latent)).draw(1, generator(0, "acting"))[0]  # [K, Z]

    def noise(self, size: int) -> Noise | None:
        return Normal((size, self.candidates, self.decoder.latent))

    def forward(self, observations: Tensor, noise: Tensor | None = None) -> Tensor:
        return in_pieces(self._best, observations, noise, self.fixed, next(self.critic.parameters()))

    def _best(self, s: Tensor, noise: Tensor) -> Tensor:
        z = noise.transpose(0, 1).clamp(-self.latent_bound, self.latent_bound)  # [K, B, Z]
        s = s.expand(len(z), *s.shape)
        a: Tensor = self.perturbation(s, self.decoder(s, z))  # [K, B, A]
        return chosen(a, self.critic(s, a)[0])

    def log_probabilities(self, observations: Tensor, actions: Tensor) -> Tensor:
        raise TypeError("batch-constrained Q-learning takes the best of drawn candidates: the density of its actions is not known")


@final
class AllowedGreedyPolicy(Policy):
    """The action of the largest value among those that the imitation finds likely enough."""

    def __init__(self, critic: Critic, imitation: CategoricalActor, threshold: float) -> None:
        super().__init__()
        self.critic, self.imitation, self.threshold = critic, imitation, threshold

    def noise(self, size: int) -> Noise | None:
        return None

    def forward(self, observations: Tensor, noise: Tensor | None = None) -> Tensor:
        return allowed_values(self.critic, self.imitation, self.threshold, observations).argmax(-1)

    def action_probabilities(self, observations: Tensor) -> Tensor:
        return functional.one_hot(self(observations), self.imitation.n)


def allowed_values(critic: Critic, imitation: CategoricalActor, threshold: float, observations: Tensor) -> Tensor:
    """Returns `[B, n]`, the first critic's values, minus infinity for an action that is not allowed."""
    logits = imitation.mlp(observations)
    share = (logits - logits.amax(-1, keepdim=True)).exp()  # pi(a|s) / max pi(.|s)
    values: Tensor = critic(observations)[0].masked_fill(share < threshold, -torch.inf)
    return values


@final
class BCQ(Algorithm):
    batch = Transitions()
    acting = frozenset(["autoencoder", "perturbation", "imitation"])
    fine_tunes = True
    acting_settings = frozenset(["acting_candidates", "latent_bound", "threshold"])

    target_critic: Critic
    target_perturbation: Perturbation

    def __init__(self, config: BCQConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        c = config
        self.discrete = is_discrete(spec)
        adam = Adam(c.learning_rate or (3e-4 if self.discrete else 1e-3))
        self.targets = {"target_critic": "critic"}
        if self.discrete:
            refuse_changed(c, CONTINUOUS_ONLY, "with discrete actions")
            hidden = (256, 256) if c.hidden is None else c.hidden
            self.imitation = CategoricalActor(spec, hidden)
            self.critic = Critic(spec, hidden, ensemble=1)
            self.optimizers = {"imitation": adam, "critic": adam}
        else:
            assert isinstance(spec.action, Box)
            refuse_changed(c, DISCRETE_ONLY, "with continuous actions")
            hidden = (400, 300) if c.hidden is None else c.hidden
            self.latent = c.latent_size or 2 * spec.action.size
            self.autoencoder = ActionAutoencoder(spec, self.latent, c.autoencoder_hidden)
            self.critic = Critic(spec, hidden, ensemble=2)
            self.perturbation = Perturbation(spec, hidden, c.perturbation_bound)
            self.targets |= {"target_perturbation": "perturbation"}
            self.optimizers = {"autoencoder": Adam(c.autoencoder_learning_rate), "critic": adam, "perturbation": adam}
        self.update_every = dict.fromkeys(self.targets, c.target_every)
        self.target_rate = c.target_rate

    def noise(self, size: int) -> dict[str, Noise]:
        if self.discrete:
            return {}
        one, many = (size, self.latent), (self.config.sampled_actions, size, self.latent)
        return {"encoding": Normal(one), "next_latent": Normal(many), "latent": Normal(one)}

    def losses(self, batch: TransitionBatch, noise: Mapping[str, Tensor], due: Due) -> tuple[Losses, Metrics]:
        return self._discrete(batch, due) if self.discrete else self._continuous(batch, noise, due)

    def _continuous(self, batch: TransitionBatch, noise: Mapping[str, Tensor], due: Due) -> tuple[Losses, Metrics]:
        s, a, r, s_next, terminal = batch
        c = self.config
        losses: Losses = {}
        metrics: Metrics = {}

        if "autoencoder" in due:  # the negative evidence bound, with a weight on the divergence
            reconstruction, divergence = self.autoencoder.losses(s, a, noise["encoding"])
            losses["autoencoder"] = reconstruction + c.divergence_weight * divergence
            metrics |= {"reconstruction_error": reconstruction, "divergence": divergence}

        if "critic" in due:  # soft clipped double Q-learning over the best candidate, eq. 13
            with torch.no_grad():
                z = noise["next_latent"].clamp(-c.latent_bound, c.latent_bound)  # [K, B, Z]
                candidate = s_next.expand(len(z), *s_next.shape)  # [K, B, O]
                a_next = self.target_perturbation(candidate, self.autoencoder.decoder(candidate, z))  # [K, B, A]
                v_next = self._soft_minimum(self.target_critic(candidate, a_next)).amax(0)  # [B]
                q_target = r + c.discount * (1 - terminal) * v_next
            q = self.critic(s, a)  # [E, B]
            losses["critic"] = (q - q_target).square().mean(-1).sum()
            metrics["q"] = q.mean()

        if "perturbation" in due:  # deterministic policy gradient, eq. 12
            with torch.no_grad():
                proposed = self.autoencoder.decoder(s, noise["latent"].clamp(-c.latent_bound, c.latent_bound))
            losses["perturbation"] = -frozen(self.critic)(s, self.perturbation(s, proposed))[0].mean()
        return losses, metrics

    def _soft_minimum(self, q: Tensor) -> Tensor:
        weight: float = self.config.minimum_weight
        return weight * q.amin(0) + (1 - weight) * q.amax(0)

    def _discrete(self, batch: TransitionBatch, due: Due) -> tuple[Losses, Metrics]:
        s, a, r, s_next, terminal = batch
        c = self.config
        losses: Losses = {}
        metrics: Metrics = {}

        if "imitation" in due:  # maximum likelihood, with small logits
            logits = self.imitation.mlp(s)
            log_pi = functional.log_softmax(logits, -1).gather(-1, a.unsqueeze(-1))
            losses["imitation"] = -log_pi.mean() + c.logit_penalty * logits.square().mean()

        if "critic" in due:  # double Q-learning whose choice is among the allowed actions
            with torch.no_grad():
                allowed = allowed_values(self.critic, self.imitation, c.threshold, s_next)  # [B, n]
                v_next = self.target_critic(s_next, allowed.argmax(-1)).squeeze(0)  # [B]
                q_target = r + c.discount * (1 - terminal) * v_next
            q = self.critic(s, a).squeeze(0)
            losses["critic"] = functional.smooth_l1_loss(q, q_target)  # Huber's
            metrics |= {"q": q.mean(), "allowed_actions": allowed.isfinite().to(q.dtype).sum(-1).mean()}
        return losses, metrics

    def policy(self) -> Policy:
        c = self.config
        if self.discrete:
            return AllowedGreedyPolicy(self.critic, self.imitation, c.threshold)
        return CandidatePolicy(self.autoencoder.decoder, self.perturbation, self.critic, c.acting_candidates, c.latent_bound)

    def believed_value(self, observations: Tensor) -> Tensor | None:
        if self.discrete:
            return allowed_values(self.critic, self.imitation, self.config.threshold, observations).amax(-1)
        return self._soft_minimum(self.critic(observations, self.policy()(observations)))
