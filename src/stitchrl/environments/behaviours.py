"""Behaviours: what acts while a log is written. Each knows N slots at once and draws from the generator it is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, final

import numpy as np
from numpy.typing import ArrayLike

from stitchrl.core.errors import ConfigError
from stitchrl.core.spec import Box, Discrete, Spec, bounds_of

Array = np.ndarray[Any, np.dtype[Any]]
Acted = tuple[Array, Array | None]


class Behaviour(Protocol):
    """Acts in N slots. Slots whose `mask` is true begin a new episode with the next call of `act`."""

    @property
    def description(self) -> str:
        """What it is, in words, for the provenance of a log."""

    def reset(self, mask: Array) -> None:
        """Forgets the slots of bool `mask [N]`."""

    def act(self, observations: Array, generator: np.random.Generator) -> Acted:
        """Returns actions `[N, *A]` and the log-probabilities (densities where continuous) `[N]` they had, None where unknown."""

    def action_probabilities(self, observations: Array) -> Array | None:
        """Returns `[N, n]` for discrete actions, of a behaviour without memory; None where there are none to list."""

    def policy_ids(self) -> Array | None:
        """Returns int64 `[N]`, which of several policies acts in each slot; None where there is one."""


@final
class RandomBehaviour:
    """Every action as likely."""

    def __init__(self, spec: Spec) -> None:
        if isinstance(spec.action, Box) and not spec.action.bounded:
            raise ConfigError(f"a random behaviour needs bounded actions; found a Box from {spec.action.low} to {spec.action.high}")
        self.space = spec.action
        self.description = "uniformly random"

    def reset(self, mask: Array) -> None:
        pass

    def act(self, observations: Array, generator: np.random.Generator) -> Acted:
        count = len(observations)
        if isinstance(self.space, Discrete):
            return generator.integers(self.space.n, size=count), np.full(count, -np.log(self.space.n))
        low, high = bounds_of(self.space)
        density = -float(np.log(high - low).sum())
        return generator.uniform(low, high, (count, *self.space.shape)), np.full(count, density)

    def action_probabilities(self, observations: Array) -> Array | None:
        return np.full((len(observations), self.space.n), 1 / self.space.n) if isinstance(self.space, Discrete) else None

    def policy_ids(self) -> Array | None:
        return None


@final
class TabularBehaviour:
    """Draws from a table of probabilities `[S, A]`."""

    def __init__(self, probabilities: ArrayLike, description: str = "a table of probabilities") -> None:
        table = np.asarray(probabilities, np.float64)
        if table.ndim != 2 or not (table >= 0).all() or not np.allclose(table.sum(1), 1, atol=1e-6):
            raise ConfigError(f"a tabular behaviour needs rows of probabilities [S, A]; found shape {list(table.shape)}")
        self.probabilities = table / table.sum(1, keepdims=True)
        self.description = description

    def reset(self, mask: Array) -> None:
        pass

    def act(self, observations: Array, generator: np.random.Generator) -> Acted:
        rows = self.probabilities[observations]
        actions = draw_actions(rows, generator)
        return actions, np.log(rows[np.arange(len(rows)), actions])

    def action_probabilities(self, observations: Array) -> Array | None:
        return np.asarray(self.probabilities[observations])

    def policy_ids(self) -> Array | None:
        return None


@final
class ScriptedBehaviour:
    """A function from observations `[N, *O]` to actions `[N, *A]`, always the same for the same observation."""

    def __init__(self, function: Callable[[Array], ArrayLike], description: str) -> None:
        self.function, self.description = function, description

    def reset(self, mask: Array) -> None:
        pass

    def act(self, observations: Array, generator: np.random.Generator) -> Acted:
        return np.asarray(self.function(observations)), None

    def action_probabilities(self, observations: Array) -> Array | None:
        return None

    def policy_ids(self) -> Array | None:
        return None


@final
class PolicyBehaviour:
    """A saved policy, loaded by the caller: its `act(observations, generator)` returns actions, or actions and log-probabilities."""

    def __init__(self, act: Callable[[Array, np.random.Generator], Any], description: str) -> None:
        self.function, self.description = act, description

    def reset(self, mask: Array) -> None:
        pass

    def act(self, observations: Array, generator: np.random.Generator) -> Acted:
        acted = self.function(observations, generator)
        actions, log_probabilities = acted if isinstance(acted, tuple) else (acted, None)
        return np.asarray(actions), None if log_probabilities is None else np.asarray(log_probabilities)

    def action_probabilities(self, observations: Array) -> Array | None:
        return None

    def policy_ids(self) -> Array | None:
        return None


@final
class NoisyBehaviour:
    """Another behaviour, disturbed: with probability `epsilon` a random action, and Gaussian noise of `sigma` on continuous ones.

    `sigma` is in units of half the action range; noisy actions are clipped to their bounds, so they have no density to record.
    """

    def __init__(self, inner: Behaviour, spec: Spec, epsilon: float = 0.0, sigma: float = 0.0) -> None:
        if not 0 <= epsilon <= 1 or sigma < 0:
            raise ConfigError(f"noise has epsilon {epsilon} and sigma {sigma}; expected epsilon from 0 to 1, sigma of at least 0")
        if sigma and isinstance(spec.action, Discrete):
            raise ConfigError(f"Gaussian noise (sigma {sigma}) needs continuous actions; use epsilon for discrete ones")
        self.inner, self.space, self.epsilon, self.sigma = inner, spec.action, epsilon, sigma
        self.random = RandomBehaviour(spec)
        noise = [f"{epsilon:g} random actions"] * (epsilon > 0) + [f"Gaussian noise {sigma:g}"] * (sigma > 0)
        self.description = f"{inner.description} with {' and '.join(noise) or 'no noise'}"

    def reset(self, mask: Array) -> None:
        self.inner.reset(mask)

    def act(self, observations: Array, generator: np.random.Generator) -> Acted:
        actions, inner_log = self.inner.act(observations, generator)
        if self.epsilon == 0 and self.sigma == 0:
            return actions, inner_log
        others, _ = self.random.act(observations, generator)
        replace = generator.random(len(actions)) < self.epsilon
        if isinstance(self.space, Discrete):
            actions = np.where(replace, others, actions)
            probabilities = self.action_probabilities(observations)
            if probabilities is None:
                return actions, None
            return actions, np.log(probabilities[np.arange(len(actions)), actions])
        low, high = bounds_of(self.space)
        noise = self.sigma * (high - low) / 2 * generator.standard_normal(actions.shape)
        noisy = np.clip(actions + noise, low, high)
        return np.where(replace.reshape(-1, *[1] * (actions.ndim - 1)), others, noisy), None

    def action_probabilities(self, observations: Array) -> Array | None:
        inner = self.inner.action_probabilities(observations)
        return None if inner is None else (1 - self.epsilon) * inner + self.epsilon / inner.shape[1]

    def policy_ids(self) -> Array | None:
        return self.inner.policy_ids()


@final
class MixtureBehaviour:
    """Several behaviours, one of them drawn for each episode.

    Log-probabilities are those under the behaviour that acts, not under the mixture: the one with which importance weights of
    whole episodes are unbiased. `policy_ids` says which it was.
    """

    def __init__(self, parts: Sequence[tuple[float, Behaviour]]) -> None:
        weights = np.array([weight for weight, _ in parts], np.float64)
        if not len(parts) or not (weights > 0).all() or not np.isfinite(weights).all():
            raise ConfigError(f"a mixture has the weights {weights.tolist()}; expected at least one, all above 0")
        self.weights = weights / weights.sum()
        self.parts = [behaviour for _, behaviour in parts]
        self.description = "; ".join(f"{w:.0%} {part.description}" for w, part in zip(self.weights, self.parts, strict=True))
        self._ids: Array = np.zeros(0, np.int64)

    def reset(self, mask: Array) -> None:
        if len(self._ids) != len(mask):
            self._ids = np.full(len(mask), -1)
        self._ids[mask] = -1
        for part in self.parts:
            part.reset(mask)

    def act(self, observations: Array, generator: np.random.Generator) -> Acted:
        if len(self._ids) != len(observations):
            self.reset(np.ones(len(observations), np.bool_))
        fresh = self._ids < 0
        if fresh.any():
            self._ids[fresh] = generator.choice(len(self.parts), int(fresh.sum()), p=self.weights)
        acted = [part.act(observations, generator) for part in self.parts]  # all slots, so that a part with memory sees each one
        rows = np.arange(len(observations))
        actions = np.stack([actions for actions, _ in acted])[self._ids, rows]
        logs = [log for _, log in acted if log is not None]
        return actions, np.stack(logs)[self._ids, rows] if len(logs) == len(acted) else None

    def action_probabilities(self, observations: Array) -> Array | None:
        return None  # it remembers which part acts

    def policy_ids(self) -> Array | None:
        return self._ids.copy()


def draw_actions(probabilities: Array, generator: np.random.Generator) -> Array:
    """Returns int64 `[N]`, one action drawn from each row of `probabilities [N, n]`; never one of probability 0."""
    cumulative = np.cumsum(probabilities, axis=1)
    points = generator.random(len(probabilities))[:, None] * cumulative[:, -1:]
    return np.asarray((cumulative <= points).sum(axis=1))
