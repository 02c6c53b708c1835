"""Least-squares values of a policy, linear in features (LSTD-Q: Bradtke & Barto, 1996; Lagoudakis & Parr, 2003): what FQE's network starts from.

A network learns slowly what differs little from step to step and much over an episode, such as a small cost of every action; least squares
do not. The network then learns what they leave over.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np

from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.balance_features import features_of
from stitchrl.evaluation.crossfit import CHUNK, Steps
from stitchrl.evaluation.evidence import Target

Array = np.ndarray[Any, np.dtype[Any]]

ROWS = 50  # logged steps for each feature, below which a constant is all that is fitted
RIDGE = 1e-6  # of the features' second moments


@final
@dataclass(frozen=True)
class LinearValues:
    """Of each fit: q `[N]` at the logged pairs, after `[N]` the policy's value at the next observations (also past an end), start `[E]`."""

    q: Array
    after: Array
    start: Array
    linear: bool  # or a constant


def linear_values(
    dataset: Dataset,
    target: Target,
    discount: float,
    log: Steps,
    policies: tuple[Array, Array],
    fits: list[Array],
    bounds: tuple[float, float],
    seed: int,
) -> list[LinearValues]:
    """Returns values fitted on each of `fits` (bool `[N]`), read everywhere.

    policies: what the policy does at first and at next observations. Where a fit has too few rows for its features, or its values leave
    `bounds`, the one constant that solves the Bellman equation on average over its rows.
    """
    features, going = features_of(dataset, target, seed), 1 - log.ends.astype(np.float64)
    size = features.size
    balance, gram, earned = np.zeros((len(fits), size, size)), np.zeros((len(fits), size, size)), np.zeros((len(fits), size))
    for start in range(0, len(dataset), CHUNK):
        rows = slice(start, start + CHUNK)
        phi = features.at(dataset.observations[rows], dataset.actions[rows])
        change = phi - discount * going[rows, None] * features.under(log.following[rows], policies[1][rows])
        for k, fit in enumerate(fits):
            own = phi[fit[rows]]
            balance[k] += own.T @ change[fit[rows]]
            gram[k] += own.T @ own
            earned[k] += own.T @ log.rewards[rows][fit[rows]]
    weights = np.stack([_solved(*sums) for sums in zip(balance, gram, earned, strict=True)], 1)  # [P, folds]
    q, after = np.empty((2, len(dataset), len(fits)))
    for start in range(0, len(dataset), CHUNK):
        rows = slice(start, start + CHUNK)
        q[rows] = features.at(dataset.observations[rows], dataset.actions[rows]) @ weights
        after[rows] = features.under(log.following[rows], policies[1][rows]) @ weights
    first = features.under(dataset.observations[log.first], policies[0]) @ weights
    found = []
    for k, fit in enumerate(fits):
        values = np.concatenate([q[:, k], after[:, k], first[:, k]])
        if fit.sum() >= ROWS * size and np.isfinite(values).all() and values.min() >= bounds[0] and values.max() <= bounds[1]:
            found.append(LinearValues(q[:, k], after[:, k], first[:, k], True))
            continue
        constant = float(log.rewards[fit].mean()) / max(1 - discount * float(going[fit].mean()), 1e-6)
        steps = np.full(len(dataset), constant)
        found.append(LinearValues(steps, steps, np.full(dataset.episodes, constant), False))
    return found


def _solved(balance: Array, gram: Array, earned: Array) -> Array:
    """Weights `[P]`; NaN where the equations have no one solution."""
    scale = float(np.trace(gram)) / len(gram)
    try:
        return np.asarray(np.linalg.solve(balance + RIDGE * scale * np.eye(len(gram)), earned))
    except np.linalg.LinAlgError:
        return np.full(len(earned), np.nan)
