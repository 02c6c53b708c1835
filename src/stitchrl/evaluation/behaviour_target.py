"""The logged policy itself, as a policy to judge: fitted to the whole log, and asked anywhere."""

from __future__ import annotations

from typing import Any, final

import numpy as np

from stitchrl.core.errors import DataError
from stitchrl.core.spec import Box, Discrete, bounds_of
from stitchrl.data.coverage import flat_rows
from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.action_models import fit_classifier, fit_gaussian, gaussian_log_density, marginal_of
from stitchrl.evaluation.evidence import TableTarget, Target
from stitchrl.evaluation.nearest_steps import TREE_DIMENSIONS, features, units_of

Array = np.ndarray[Any, np.dtype[Any]]


def behaviour_target(dataset: Dataset, seed: int, name: str = "the logged policy") -> Target:
    """Returns a policy that acts as the log does: shares of counts (the whole log's in a state it lacks), a calibrated classifier, or a Gaussian."""
    action, observation = dataset.spec.action, dataset.spec.observation
    if isinstance(action, Discrete) and isinstance(observation, Discrete):
        pair = np.asarray(dataset.observations) * action.n + np.asarray(dataset.actions)
        counts = np.bincount(pair, minlength=observation.n * action.n).reshape(-1, action.n)
        table = np.where(counts.sum(1, keepdims=True) > 0, counts, marginal_of(np.asarray(dataset.actions), action.n))
        return TableTarget(table / table.sum(1, keepdims=True), dataset.spec, name)
    return _FittedTarget(dataset, seed, name)


@final
class _FittedTarget(Target):
    """A calibrated classifier of discrete actions, or a Gaussian of continuous ones."""

    def __init__(self, dataset: Dataset, seed: int, name: str) -> None:
        self.spec, self.name, self.deterministic = dataset.spec, name, False
        x, units = features(dataset, np.arange(len(dataset))), units_of(dataset)
        action = dataset.spec.action
        if isinstance(action, Discrete):
            kind = "knn" if x.shape[1] <= TREE_DIMENSIONS else "boosting"
            self._classify = fit_classifier(kind, x, np.asarray(dataset.actions), units, action.n, seed)
            return
        actions = np.asarray(dataset.actions, np.float64).reshape(len(dataset), -1)
        states = dataset.spec.observation.n if isinstance(dataset.spec.observation, Discrete) else None
        self._gaussian = fit_gaussian(("ridge", "boosting"), x, actions, units, seed, states)

    def probabilities(self, observations: Array) -> Array:
        if not isinstance(self.spec.action, Discrete):
            raise DataError(f"{self.name}: actions are continuous; their probabilities cannot be listed")
        return np.asarray(self._classify(_flat(observations)), np.float64)

    def log_probabilities(self, observations: Array, actions: Array) -> Array:
        if isinstance(self.spec.action, Discrete):
            return np.asarray(np.log(np.take_along_axis(self.probabilities(observations), np.asarray(actions)[:, None], 1)[:, 0]))
        flat = np.asarray(actions, np.float64).reshape(len(actions), -1)
        return gaussian_log_density(flat, *self._gaussian(_flat(observations)))

    def draw(self, observations: Array, count: int, seed: int) -> Array:
        generator = np.random.default_rng(seed)
        if isinstance(self.spec.action, Discrete):
            cumulative = np.cumsum(self.probabilities(observations), 1)[None]
            return np.asarray(np.minimum((generator.random((count, len(observations), 1)) > cumulative).sum(-1), self.spec.action.n - 1))
        assert isinstance(self.spec.action, Box)
        mean, deviation, correlations = self._gaussian(_flat(observations))
        noise = generator.standard_normal((count, *mean.shape)) @ np.linalg.cholesky(correlations).T
        low, high = (bound.reshape(-1) for bound in bounds_of(self.spec.action))
        drawn = np.clip(mean + deviation * noise, low, high)
        return np.asarray(drawn.reshape(count, len(observations), *self.spec.action.shape), np.float32)


def _flat(observations: Array) -> Array:
    if np.asarray(observations).ndim == 1:
        return np.asarray(observations, np.float32)[:, None]
    return flat_rows(observations, np.arange(len(observations)), 0).astype(np.float32)
