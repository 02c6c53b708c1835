"""Actions proposed for a log-sum-exp over all actions, each with the density it was drawn from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from stitchrl.core.randomness import Noise, Normal, Uniform
from stitchrl.nn.actors import SquashedGaussianActor


class Proposals(NamedTuple):
    """K uniform actions, K of the policy at s and K of the policy at s', in this order."""

    actions: Tensor  # [3K, B, A]
    log_densities: Tensor  # [3K, B]


def proposal_noise(draws: int, size: int, actions: int) -> dict[str, Noise]:
    """Returns what `propose` needs for `size` states, by name."""
    shape = (draws, size, actions)
    return {"random": Uniform(shape), "at_s": Normal(shape), "at_s_next": Normal(shape)}


def propose(actor: SquashedGaussianActor, s: Tensor, s_next: Tensor, noise: Mapping[str, Tensor]) -> Proposals:
    """Returns actions to value at `s [B, *O]` (Kumar et al., 2020, arXiv:2006.04779, appendix F)."""
    random = 2 * noise["random"] - 1  # [K, B, A], of density 1/2 in each of A dimensions
    at_s, log_pi = actor.sample(s, noise["at_s"])  # [K, B, A], [K, B]
    at_s_next, log_pi_next = actor.sample(s_next, noise["at_s_next"])
    log_uniform = torch.full_like(log_pi, random.shape[-1] * math.log(0.5))
    return Proposals(torch.cat([random, at_s, at_s_next]), torch.cat([log_uniform, log_pi, log_pi_next]))
