"""What a policy can be asked beside its action, each as a module's forward: so that it can be called with a seed's parameters."""

from __future__ import annotations

from typing import Any, final

from torch import Tensor, nn

from stitchrl.core.plans import Planned
from stitchrl.core.policy import Memory, Policy


@final
class Probabilities(nn.Module):
    """Its action probabilities; `sampled`: of drawn actions, where it lists them."""

    def __init__(self, policy: Policy, sampled: bool) -> None:
        super().__init__()
        self.policy: Any = policy
        self.sampled = sampled

    def forward(self, observations: Tensor) -> Tensor:
        if self.sampled and hasattr(self.policy, "all_log_probabilities"):
            return self.policy.all_log_probabilities(observations).exp()  # type: ignore[no-any-return]
        return self.policy.action_probabilities(observations)  # type: ignore[no-any-return]


@final
class FreshMemory(nn.Module):
    """What it remembers where episodes begin."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, count: int) -> Memory | None:
        return self.policy.memory(count)


@final
class NextStep(nn.Module):
    """Its next actions, and what it remembers then."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, observations: Tensor, rewards: Tensor, memory: Memory, noise: Tensor | None) -> tuple[Tensor, Memory]:
        return self.policy.step(observations, rewards, memory, noise)


@final
class Plans(nn.Module):
    """The plans of one that plans (core/plans.py)."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy: Any = policy

    def forward(self, observations: Tensor, noise: Tensor | None) -> Planned:
        return self.policy.planned(observations, noise)  # type: ignore[no-any-return]


@final
class LogProbabilities(nn.Module):
    """Its log-probabilities of actions."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, observations: Tensor, actions: Tensor) -> Tensor:
        return self.policy.log_probabilities(observations, actions)
