"""Logged steps as points: their features, and the nearest of them to others, exactly and in bounded memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from stitchrl.core.errors import DataError
from stitchrl.core.spec import Discrete
from stitchrl.data.coverage import flat_rows
from stitchrl.data.dataset import Dataset

Array = np.ndarray[Any, np.dtype[Any]]

TREE_DIMENSIONS = 8  # beyond, a k-d tree visits nearly every point, and products of matrices are faster
CHUNK = 256  # queries compared with all references at once
ROWS = 16_384  # rows read at once


def features(dataset: Dataset, rows: Array) -> Array:
    """Returns float32 `[M, D ≤ 64]` of the observations in `rows`; wider ones by a random projection that is the same for every log.

    Discrete observations are one column of their numbers. Raises DataError where one is not finite.
    """
    column = dataset.observations
    if isinstance(dataset.spec.observation, Discrete):
        return np.asarray(column[rows], dtype=np.float32)[:, None]
    parts = [flat_rows(column, rows[i : i + ROWS], 0).astype(np.float32) for i in range(0, len(rows), ROWS)]
    values = np.concatenate(parts)
    bad = ~np.isfinite(values).all(axis=1)
    if bad.any():
        row = int(rows[np.flatnonzero(bad)[0]])
        episode = int(dataset.episode_of(row))
        place = f"episode {episode:,} step {row - int(dataset.offsets[episode]):,}"
        raise DataError(f"'observations' is not finite in {place} and in {int(bad.sum()):,} rows; fill the values in or drop the episodes")
    return values


def units_of(dataset: Dataset) -> Array:
    """Returns int64 `[N]`: the unit that each step belongs to, never parted by a split.

    A group of episodes where the column `groups` exists, else an episode; in a log of one unit, blocks of a tenth of it.
    """
    unit = np.arange(dataset.episodes)
    if "groups" in dataset.columns:
        unit = np.unique(np.asarray(dataset.columns["groups"])[dataset.offsets[:-1]], return_inverse=True)[1]
    if len(np.unique(unit)) > 1:
        return np.repeat(unit, dataset.lengths)
    return np.arange(len(dataset)) * min(10, len(dataset)) // len(dataset)


def folds_of(units: Array, folds: int, seed: int) -> Array:
    """Returns int64 `[N]`: the fold 0 … folds - 1 of each step; a unit lies in one fold, and the folds hold equally many units."""
    names, position = np.unique(units, return_inverse=True)
    return np.asarray((np.random.default_rng(seed).permutation(len(names)) % folds)[position])


def sample(rows: Array, size: int, generator: np.random.Generator) -> Array:
    """Returns at most `size` of `rows`, drawn without replacement, in their order."""
    return rows if len(rows) <= size else np.sort(generator.choice(rows, size, replace=False))


def neighbours(references: Array, queries: Array, k: int) -> tuple[Array, Array]:
    """Returns Euclidean distances float64 `[Q, k]` and positions int64 `[Q, k]` in `references [R, D]`, nearest first; k at most R."""
    k = min(k, len(references))
    if references.shape[1] <= TREE_DIMENSIONS:
        from scipy.spatial import cKDTree

        distance, position = cKDTree(np.asarray(references, np.float64)).query(np.asarray(queries, np.float64), k=k)
        return np.asarray(distance).reshape(len(queries), k), np.asarray(position, dtype=np.int64).reshape(len(queries), k)
    points = np.asarray(references, np.float32)
    half_squares = 0.5 * (points**2).sum(axis=1)
    distances, positions = np.empty((len(queries), k)), np.empty((len(queries), k), np.int64)
    for start in range(0, len(queries), CHUNK):
        some = np.asarray(queries[start : start + CHUNK], np.float32)
        near = np.argpartition(half_squares - some @ points.T, min(k, len(points) - 1), axis=1)[:, :k]
        # the short formula cancels near 0; the chosen few are measured again
        exact = np.sqrt(((points[near].astype(np.float64) - some[:, None]) ** 2).sum(axis=2))
        order = np.argsort(exact, axis=1, kind="stable")
        distances[start : start + CHUNK] = np.take_along_axis(exact, order, 1)
        positions[start : start + CHUNK] = np.take_along_axis(near, order, 1)
    return distances, positions
