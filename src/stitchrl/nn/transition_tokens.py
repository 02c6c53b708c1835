"""A transition as tokens: one for each dimension of the observation and of the action, one for the reward, one for the return to go."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from stitchrl.core.spec import Discrete, Space, Spec
from stitchrl.nn.discretization import Discretization, Kind


@final
class TransitionTokens(nn.Module):
    """The D = O + A + 2 tokens of a transition, in this order, and what they stand for.

    A real dimension has `bins` tokens; an integer is its own token. `stop`, one more than any of them, stands at every place of what
    comes after the task's end, and for the number 0.
    """

    def __init__(self, spec: Spec, bins: int) -> None:
        super().__init__()
        self.observation, self.action = spec.observation, spec.action
        seen, done = _reals(spec.observation), _reals(spec.action)
        self.bins = bins
        self.observation_places, self.action_places = seen or 1, done or 1
        self._seen, self._done = slice(0, seen), slice(seen, seen + done)
        self._reward, self._return = slice(seen + done, seen + done + 1), slice(seen + done + 1, seen + done + 2)
        self.discretization = Discretization(seen + done + 2, bins)  # of real dimensions alone
        # how many tokens each place knows
        self.sizes = (*_sizes(spec.observation, bins), *_sizes(spec.action, bins), bins, bins)
        self.stop = max(self.sizes)

    def measure(self, observations: Tensor, actions: Tensor, rewards: Tensor, returns: Tensor, kind: Kind) -> None:
        """Fills the bins in place from M transitions of a log, each `[M, …]`."""
        real = [x.flatten(1) for x, space in ((observations, self.observation), (actions, self.action)) if not isinstance(space, Discrete)]
        self.discretization.measure(torch.cat([*real, rewards.unsqueeze(1), returns.unsqueeze(1)], 1), kind)

    def of_observations(self, observations: Tensor) -> Tensor:
        """Returns int64 `[*batch, O]` of observations `[*batch, *O]`."""
        if isinstance(self.observation, Discrete):
            return observations.unsqueeze(-1)
        return self.discretization.tokens(observations.flatten(-len(self.observation.shape)), self._seen)

    def of_actions(self, actions: Tensor) -> Tensor:
        """Returns int64 `[*batch, A]` of actions `[*batch, A]`, or of int64 `[*batch]`."""
        return actions.unsqueeze(-1) if isinstance(self.action, Discrete) else self.discretization.tokens(actions, self._done)

    def of_rewards(self, rewards: Tensor) -> Tensor:
        """Returns int64 `[*batch, 1]` of rewards `[*batch]`."""
        return self.discretization.tokens(rewards.unsqueeze(-1), self._reward)

    def of_returns(self, returns: Tensor) -> Tensor:
        """Returns int64 `[*batch, 1]` of returns to go `[*batch]`."""
        return self.discretization.tokens(returns.unsqueeze(-1), self._return)

    def actions(self, tokens: Tensor) -> Tensor:
        """Returns actions `[*batch, A]` in [-1, 1], or int64 `[*batch]`, of tokens `[*batch, A]`."""
        if isinstance(self.action, Discrete):
            return tokens.squeeze(-1)
        # of a log whose actions were kept as they are, a bin's mean may lie outside
        return self.discretization.numbers(tokens, self._done).clamp(-1, 1)

    def observations(self, tokens: Tensor) -> Tensor:
        """Returns observations `[*batch, *O]`, or int64 `[*batch]`, of tokens `[*batch, O]`; 0 where they say stop."""
        if isinstance(self.observation, Discrete):
            return tokens.masked_fill(tokens == self.stop, 0).squeeze(-1)
        # stop may be a number beyond the bins, which then stands for none of them
        known = self.discretization.numbers(tokens.clamp_max(self.bins - 1), self._seen).masked_fill(tokens == self.stop, 0.0)
        result: Tensor = known.unflatten(-1, self.observation.shape)
        return result

    def expected_reward(self, logits: Tensor) -> Tensor:
        """Returns `[*batch]`, the mean reward by logits `[*batch, V + 1]` of its token."""
        return self._expected(logits, self._reward)

    def expected_return(self, logits: Tensor) -> Tensor:
        """Returns `[*batch]`, the mean return to go by logits `[*batch, V + 1]` of its token."""
        return self._expected(logits, self._return)

    def _expected(self, logits: Tensor, at: slice) -> Tensor:
        return logits.softmax(-1)[..., : self.bins] @ self.discretization.values[at].squeeze(0)


def _reals(space: Space) -> int:
    return 0 if isinstance(space, Discrete) else space.size


def _sizes(space: Space, bins: int) -> tuple[int, ...]:
    return (space.n,) if isinstance(space, Discrete) else (bins,) * space.size
