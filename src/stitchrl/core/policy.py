"""A policy: from observations to actions, alone, without critics, optimizers or data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from stitchrl.core.randomness import Noise

Memory = dict[str, Tensor]  # every tensor with the axis of environments [N] first


class Policy(nn.Module, ABC):
    """Maps observations, as the algorithm saw them, to actions in [-1, 1] (or int64 where discrete).

    Its parameters are those it needs to act and no others, so that its state is what a saved policy holds.
    samples_have_density: whether `log_probabilities` is the law of its sampled actions: not of a greedy one's, nor where samples are clipped.
    vmapped: whether several seeds' policies may act as one call of torch.func.vmap; those with a memory never do.
    reads_rewards: whether a policy with a memory must be told what its actions earned.
    drawn: whether its actions are made of noise that its paper draws anew each time, as evaluations do then; elsewhere, without noise, one draw
    made once stands for all, so that it is a function of what it sees.

    A policy with a memory acts by `step`, on what it remembers of each episode; its `forward` is what it does at an episode's first step.
    """

    samples_have_density: ClassVar[bool] = False
    vmapped: ClassVar[bool] = True
    reads_rewards: ClassVar[bool] = False
    drawn: bool = False

    @abstractmethod
    def noise(self, size: int) -> Noise | None:
        """Returns the random numbers that `size` sampled actions need, or None for a deterministic policy."""

    @abstractmethod
    def forward(self, observations: Tensor, noise: Tensor | None = None) -> Tensor:
        """Returns actions `[B, A]` (int64 `[B]` where discrete): sampled with `noise`, the mode or mean without it."""

    def memory(self, count: int) -> Memory | None:
        """Returns what it remembers where `count` episodes begin, on its parameters' device; None for a policy that remembers nothing."""
        return None

    def step(self, observations: Tensor, rewards: Tensor, memory: Memory, noise: Tensor | None = None) -> tuple[Tensor, Memory]:
        """Returns actions as `forward` does and what it remembers then. `rewards [N]`: of the actions before, 0 where an episode begins.

        May write into `memory`, which is then given up.
        """
        return self(observations, noise), memory

    def ask(self, returns: Tensor | None) -> None:
        """Asks for a return `[N]` in each environment's next episode, in the learner's units of reward; None: for what it does unasked.

        Raises TypeError for a policy that cannot be asked.
        """
        raise TypeError(f"{type(self).__name__} is not conditioned on a return: it cannot be asked for one")

    def log_probabilities(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Returns `[B]` log-probabilities (densities where continuous); raises TypeError for a policy that has none."""
        raise TypeError(f"{type(self).__name__} is deterministic: it has no action probabilities")

    def action_probabilities(self, observations: Tensor) -> Tensor:
        """Returns `[B, n]` probabilities of the policy as it acts without noise, for discrete actions."""
        raise TypeError(f"{type(self).__name__} has continuous actions: their probabilities cannot be listed")
