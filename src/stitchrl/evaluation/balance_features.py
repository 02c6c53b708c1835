"""Features of observations and actions in which marginalised weights are linear: polynomials and random Fourier features.

Fourier features are those of Rahimi & Recht (2007, "Random features for large-scale kernel machines"), of a Gaussian kernel whose width
is the median distance of logged rows. Discrete actions have the features of the observation, each action its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np

from stitchrl.core.spec import Discrete
from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.evidence import Target

Array = np.ndarray[Any, np.dtype[Any]]

FOURIER = 100  # random features, at most
EPISODES = 25  # for each of them: more of them than a log can weigh add noise, and with it bias
PRODUCTS = 160  # most products of two coordinates; with more, squares alone
LIMIT = 5.0  # standard deviations: coordinates further out are held there


@final
@dataclass(frozen=True)
class Features:
    """P features of (s, a), the first the constant 1. actions: n of discrete ones, 0 of others. states: n of discrete states, 0 of others."""

    states: int
    actions: int
    mean: Array
    scale: Array
    products: tuple[Array, Array]
    frequencies: Array
    phases: Array

    @property
    def size(self) -> int:
        """P"""
        return self._plain * max(self.actions, 1)

    @property
    def _plain(self) -> int:
        return 1 + len(self.mean) + len(self.products[0]) + len(self.phases)

    def _of(self, x: Array) -> Array:
        """`[M, P]` of coordinates `[M, D]`."""
        z = np.clip((x - self.mean) * self.scale, -LIMIT, LIMIT)
        fourier = np.cos(z @ self.frequencies + self.phases)
        return np.concatenate([np.ones((len(z), 1)), z, z[:, self.products[0]] * z[:, self.products[1]], fourier], 1)

    def _coordinates(self, observations: Array) -> Array:
        if self.states:
            return np.eye(self.states)[observations]
        return np.asarray(observations, np.float64).reshape(len(observations), -1)

    def at(self, observations: Array, actions: Array) -> Array:
        """Returns `[M, P]` at pairs."""
        x = self._coordinates(observations)
        if not self.actions:
            return self._of(np.concatenate([x, np.asarray(actions, np.float64).reshape(len(x), -1)], 1))
        return self._by_action(self._of(x), np.eye(self.actions)[actions])

    def under(self, observations: Array, policy: Array) -> Array:
        """Returns `[M, P]`, the mean over a policy's probabilities `[M, n]` or its drawn actions `[M, K, A]`."""
        x = self._coordinates(observations)
        if self.actions:
            return self._by_action(self._of(x), policy)
        total = sum(self._of(np.concatenate([x, policy[:, k]], 1)) for k in range(policy.shape[1]))
        return np.asarray(total / policy.shape[1])

    def _by_action(self, plain: Array, weights: Array) -> Array:
        """The features of each action, as contrasts: the first block counts for every action, so that the first feature is 1."""
        rows = len(plain)
        others = (weights[:, 1:, None] * plain[:, None, :]).reshape(rows, -1)
        return np.concatenate([plain, others], 1)


def features_of(dataset: Dataset, target: Target, seed: int) -> Features:
    """Returns features standardised by the log, with random frequencies from the seed."""
    spec = dataset.spec
    rows = np.random.default_rng([seed, 13]).permutation(len(dataset))[:20_000]
    states = spec.observation.n if isinstance(spec.observation, Discrete) else 0
    actions = spec.action.n if isinstance(spec.action, Discrete) else 0
    seen = np.asarray(dataset.observations)[rows]
    x = np.eye(states)[seen] if states else np.asarray(seen, np.float64).reshape(len(rows), -1)
    if not actions:
        x = np.concatenate([x, np.asarray(dataset.actions, np.float64)[rows].reshape(len(rows), -1)], 1)
    spread = x.std(0)
    scale = np.where(spread > 1e-8, 1 / np.maximum(spread, 1e-8), 0.0)  # a constant coordinate says nothing
    z = np.clip((x - x.mean(0)) * scale, -LIMIT, LIMIT)
    size = z.shape[1]
    first, second = np.triu_indices(size) if size * (size + 1) // 2 <= PRODUCTS // max(actions, 1) else (np.arange(size), np.arange(size))
    if states:
        first, second = first[:0], second[:0]  # products of a one-hot vector's coordinates add nothing
    generator = np.random.default_rng([seed, 17])
    a, b = z[generator.integers(len(z), size=2000)], z[generator.integers(len(z), size=2000)]
    width = float(np.median(np.linalg.norm(a - b, axis=1))) or 1.0
    count = min(FOURIER, dataset.episodes // EPISODES) // max(actions, 1)
    frequencies = generator.standard_normal((size, count)) / width
    return Features(states, actions, x.mean(0), scale, (first, second), frequencies, generator.uniform(0, 2 * np.pi, count))
