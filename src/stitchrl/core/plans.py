"""What a planner would do from where it stands, to be looked at: the plans that it weighs, and how the best of them came about."""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor


class Planned(NamedTuple):
    """K plans of T states from each of N observations, in the learner's units."""

    states: Tensor  # [N, K, T, *O], int64 [N, K, T] where discrete; the first is the observation
    scores: Tensor  # [N, K], higher is better
    stages: Tensor  # [N, J, T, *O], how the best plan came about, first to last; J = 0 where it came at once


@runtime_checkable
class Planner(Protocol):
    """A policy whose plans can be seen."""

    score: str  # what the scores are, in words

    def planned(self, observations: Tensor, noise: Tensor | None = None) -> Planned:
        """Returns the plans made where episodes begin with `observations [N, *O]`; `noise` as `forward` takes it."""
