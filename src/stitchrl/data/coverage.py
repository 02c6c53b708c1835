"""How much of the space of states and actions a log visits: entropies, clusters and counted cells (for any number of dimensions).

SACo, the share of state-action pairs visited: Schweighofer et al., 2021, "A Dataset Perspective on Offline Reinforcement Learning"
(arXiv:2111.04714). Continuous entropy: Kozachenko and Leonenko, 1987, "Sample estimate of the entropy of a random vector".
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from stitchrl.core.spec import Box, Discrete, bounds_of
from stitchrl.data.dataset import Dataset

Array = np.ndarray[Any, np.dtype[Any]]

CLUSTERS = 64
SAMPLE = 20_000  # steps that clusters and entropies are computed on
WIDEST = 64  # dimensions; wider rows (images) are brought down by a seeded random projection
CELL_DIMENSIONS = 4
CELLS = 10  # to a dimension, over the range of the reference


def entropy(counts: Array) -> float:
    """Returns the Shannon entropy of counts, in nats; 0 where there are none."""
    total = float(np.sum(counts))
    shares = np.asarray(counts, dtype=np.float64)[np.asarray(counts) > 0] / total if total else np.ones(1)
    return float(-(shares * np.log(shares)).sum()) + 0.0  # + 0.0: no "-0.0"


def normalised_entropy(counts: Array) -> float:
    """Returns the entropy of counts divided by that of equal counts: 1 is even, 0 is all in one (also with one category only)."""
    return entropy(counts) / math.log(len(counts)) if len(counts) > 1 else 0.0


def nearest_neighbour_entropy(points: Array, k: int = 3) -> float | None:
    """Returns the differential entropy [nats] of points [M, D] by Kozachenko and Leonenko; None where points repeat or M ≤ k.

    psi(M) - psi(k) + log(volume of the unit ball) + D · mean log(distance to the k-th neighbour).
    """
    from scipy.spatial import cKDTree
    from scipy.special import digamma, gammaln

    rows, dimensions = points.shape
    if rows <= k or dimensions == 0:
        return None
    distance = np.asarray(cKDTree(points).query(points, k=k + 1)[0])[:, k]
    if (distance == 0).mean() > 0.001:  # the law has atoms (actions at a bound): it has no density
        return None
    ball = dimensions / 2 * math.log(math.pi) - float(gammaln(dimensions / 2 + 1))
    return float(float(digamma(rows) - digamma(k)) + ball + dimensions * float(np.log(distance[distance > 0]).mean()))


def sample_rows(dataset: Dataset, seed: int, size: int = SAMPLE) -> Array:
    """Returns the sorted indices of at most `size` steps (a quarter for images), drawn without replacement."""
    size = size // 4 if dataset.observations[:1].size > 1000 else size
    if len(dataset) <= size:
        return np.arange(len(dataset))
    return np.sort(np.random.default_rng(seed).choice(len(dataset), size, replace=False))


def flat_rows(column: Array, rows: Array, seed: int) -> Array:
    """Returns float64 [M, D ≤ 64] of the chosen rows; wider ones by a Gaussian projection fixed by `seed`."""
    values = np.asarray(column[rows]).reshape(len(rows), -1)
    if values.shape[1] <= WIDEST:
        return values.astype(np.float64)
    projection = np.random.default_rng(seed).standard_normal((values.shape[1], WIDEST)).astype(np.float32) / math.sqrt(WIDEST)
    parts = [values[i : i + 1024].astype(np.float32) @ projection for i in range(0, len(values), 1024)]
    return np.concatenate(parts).astype(np.float64)


def standardised(values: Array) -> Array:
    """Returns the columns with mean 0 and standard deviation 1; constant columns become 0."""
    scale = values.std(axis=0)
    return np.asarray((values - values.mean(axis=0)) / np.where(scale > 0, scale, 1.0))


def cluster(points: Array, count: int, seed: int, rounds: int = 30, batch: int = 2048) -> Array:
    """Returns int64 [M], the nearest of at most `count` centres found by mini-batch Lloyd (Sculley, 2010) with k-means++ starts."""
    random = np.random.default_rng(seed)
    pool = points[np.sort(random.choice(len(points), min(len(points), 4096), replace=False))]
    centres = [pool[random.integers(len(pool))]]
    nearest = ((pool - centres[0]) ** 2).sum(axis=1)
    while len(centres) < count and nearest.sum() > 0:
        centres.append(pool[random.choice(len(pool), p=nearest / nearest.sum())])
        nearest = np.minimum(nearest, ((pool - centres[-1]) ** 2).sum(axis=1))
    centre, seen = np.stack(centres), np.zeros(len(centres))
    for _ in range(rounds):
        chosen = points[random.choice(len(points), min(len(points), batch), replace=False)]
        member = _nearest(chosen, centre)
        members = np.bincount(member, minlength=len(centre))
        sums = np.zeros_like(centre)
        np.add.at(sums, member, chosen)
        seen += members
        hit = members > 0
        centre[hit] += (sums[hit] - members[hit, None] * centre[hit]) / seen[hit, None]
    return np.concatenate([_nearest(points[i : i + 8192], centre) for i in range(0, len(points), 8192)])


def _nearest(points: Array, centres: Array) -> Array:
    return np.asarray(((centres**2).sum(axis=1) - 2 * points @ centres.T).argmin(axis=1))


def action_rows(dataset: Dataset, rows: Array, seed: int) -> Array:
    """Returns float64 [M, D]: one-hot for discrete actions."""
    space = dataset.spec.action
    if isinstance(space, Discrete):
        return np.asarray(np.asarray(dataset.actions[rows])[:, None] == np.arange(space.n), dtype=np.float64)
    return flat_rows(dataset.actions, rows, seed)


def occupancy(dataset: Dataset, seed: int) -> dict[str, Any]:
    """Returns {"state", "state_action"}: how evenly the log is spread, each {"clusters", "of", "entropy" (normalised), "shares" (falling)}.

    Discrete states and pairs are counted, out of all there could be; others fall to the nearest of 64 clusters fitted to this log.
    """
    rows = sample_rows(dataset, seed)
    discrete = isinstance(dataset.spec.observation, Discrete)
    if isinstance(dataset.spec.observation, Discrete):
        rows = sample_rows(dataset, seed, 10 * SAMPLE)
        state = np.clip(np.asarray(dataset.observations[rows]), 0, dataset.spec.observation.n - 1)
        pair_points = None
    else:
        points = standardised(np.nan_to_num(flat_rows(dataset.observations, rows, seed), posinf=0, neginf=0))
        state = cluster(points, CLUSTERS, seed)
        pair_points = np.concatenate([points, standardised(np.nan_to_num(action_rows(dataset, rows, seed), posinf=0, neginf=0))], axis=1)
    action = _action_cells(dataset, rows, seed)
    pair = state * (action.max() + 1) + action if pair_points is None else cluster(pair_points, CLUSTERS, seed)
    result: dict[str, Any] = {"measure": "states counted" if discrete else f"{CLUSTERS} clusters by k-means", "steps": len(rows)}
    for name, labels in (("state", state), ("state_action", pair)):
        counts = np.bincount(labels)
        counts = np.sort(counts[counts > 0])[::-1]
        room = _pairs(dataset, name) if discrete else len(counts)
        shares = counts / counts.sum()
        result[name] = {
            "clusters": len(counts),
            "of": room,
            "entropy": entropy(counts) / math.log(room) if room > 1 else 0.0,
            "shares": [float(s) for s in shares[:CLUSTERS]],
        }
    return result


def action_variety(dataset: Dataset, seed: int) -> dict[str, Any]:
    """Returns {"value" in 0 … 1 or None, "measure"}: how differently the log acts in like states; 0 is one action, 1 is uniform.

    Discrete states: the normalised entropy of actions within a state, corrected for few visits (Miller and Madow), averaged over visits
    of states seen 10 times. Else from the nearest step of another episode among 5,000: the share of different actions over 1 - 1/n, or
    the root mean square difference over that of independent uniform actions, range / sqrt(6). None where actions have no bounds.
    """
    space = dataset.spec.action
    if isinstance(dataset.spec.observation, Discrete) and isinstance(space, Discrete):
        value = _conditional_entropy(np.asarray(dataset.observations), np.clip(np.asarray(dataset.actions), 0, space.n - 1), space.n)
        return {"value": value, "measure": "entropy of actions within a state"}
    if isinstance(space, Box) and not space.bounded:
        return {"value": None, "measure": "actions have no bounds to measure against"}
    rows = sample_rows(dataset, seed, 5_000)
    here, there = _nearest_elsewhere(dataset, rows, seed)
    measure = "difference of actions in neighbouring states of different episodes"
    if len(here) < 10:
        return {"value": None, "measure": f"{measure}: too few episodes"}
    actions = np.asarray(dataset.actions[rows])
    if isinstance(space, Discrete):
        value = float((actions[here] != actions[there]).mean()) / (1 - 1 / space.n) if space.n > 1 else None
    else:
        low, high = (bound.reshape(-1) for bound in bounds_of(space))
        held = np.clip(actions.reshape(len(actions), -1).astype(np.float64), low, high)
        difference = (held[here] - held[there]) / np.where(high > low, high - low, 1.0)
        value = float(np.sqrt((difference**2).mean() * 6))
    return {"value": None if value is None or not math.isfinite(value) else min(1.0, value), "measure": measure}


def _nearest_elsewhere(dataset: Dataset, rows: Array, seed: int) -> tuple[Array, Array]:
    """Returns positions in `rows` and those of the nearest of their 16 neighbours that is of another episode."""
    from scipy.spatial import cKDTree

    if isinstance(dataset.spec.observation, Discrete):
        points = np.asarray(dataset.observations[rows], dtype=np.float64)[:, None]
    else:
        points = standardised(np.nan_to_num(flat_rows(dataset.observations, rows, seed), posinf=0, neginf=0))
    neighbours = np.asarray(cKDTree(points).query(points, k=min(17, len(rows)))[1]).reshape(len(rows), -1)
    episode = np.asarray(dataset.episode_of(rows))
    elsewhere = episode[neighbours] != episode[:, None]
    here = np.flatnonzero(elsewhere.any(axis=1))
    return here, neighbours[here, elsewhere[here].argmax(axis=1)]


def _pairs(dataset: Dataset, name: str) -> int:
    states = dataset.spec.observation.n if isinstance(dataset.spec.observation, Discrete) else CLUSTERS
    return states if name == "state" else states * _action_count(dataset)


def _action_count(dataset: Dataset) -> int:
    return dataset.spec.action.n if isinstance(dataset.spec.action, Discrete) else 16


def _action_cells(dataset: Dataset, rows: Array, seed: int) -> Array:
    space = dataset.spec.action
    if isinstance(space, Discrete):
        return np.asarray(np.clip(dataset.actions[rows], 0, space.n - 1))
    return cluster(standardised(np.nan_to_num(flat_rows(dataset.actions, rows, seed), posinf=0, neginf=0)), 16, seed)


def _conditional_entropy(state: Array, action: Array, actions: int) -> float | None:
    if actions < 2:
        return None
    order = np.argsort(state, kind="stable")
    starts = np.flatnonzero(np.diff(state[order])) + 1
    total = weight = 0.0
    for part in np.split(action[order], starts):
        if len(part) < 10:
            continue
        counts = np.bincount(part, minlength=actions)
        corrected = entropy(counts) + (np.count_nonzero(counts) - 1) / (2 * len(part))
        total += len(part) * min(corrected, math.log(actions))
        weight += len(part)
    return total / weight / math.log(actions) if weight else None


def unique_pairs(dataset: Dataset) -> int | None:
    """Returns the number of different (state, action) pairs where both are discrete, else None."""
    if not (isinstance(dataset.spec.observation, Discrete) and isinstance(dataset.spec.action, Discrete)):
        return None
    pairs = np.asarray(dataset.observations, dtype=np.int64) * dataset.spec.action.n + np.asarray(dataset.actions, dtype=np.int64)
    return len(np.unique(pairs))


def coverage_reference(dataset: Dataset, seed: int = 0) -> dict[str, Any]:
    """Returns JSON to keep in metadata["reference"]["coverage"], from the log of a reference policy (a random one, a replay).

    {"unique": [[steps, pairs], …] at doubling sizes, "steps", "seed"}, and for real-valued spaces the "grid" that pairs are counted on:
    10 cells in each of 4 directions, a random projection of standardised pairs fixed by `seed`.
    """
    grid: dict[str, Any] | None = None
    if unique_pairs(dataset) is None:
        points = _pair_points(dataset, sample_rows(dataset, seed, 10 * SAMPLE))
        mean, scale = points.mean(axis=0), points.std(axis=0)
        projected = (points - mean) / np.where(scale > 0, scale, 1.0) @ _directions(points.shape[1], seed)
        low, high = projected.min(axis=0), projected.max(axis=0)
        grid = {"mean": mean.tolist(), "scale": scale.tolist(), "low": low.tolist(), "high": high.tolist()}
    cells = _cells(dataset, grid, seed)
    sizes = [len(dataset) >> k for k in range(12) if len(dataset) >> k >= 100] or [len(dataset)]
    counts = [[size, _unique_in_sample(cells, size, seed)] for size in sizes]
    return {"unique": counts, "steps": len(dataset), "seed": seed, "grid": grid}


def state_action_coverage(dataset: Dataset, reference: dict[str, Any] | None) -> dict[str, Any]:
    """Returns SACo as {"value", "unique", "reference", "steps"}: this log's different pairs over the reference's, at equal sizes.

    The reference is `coverage_reference` of another log; without one, all pairs there could be where both spaces are discrete (then
    the value is a share, and grows with the log); else the value is None, "no reference".
    """
    unique = unique_pairs(dataset)
    if reference is None:
        if unique is None:
            return {"value": None, "unique": None, "reference": "no reference", "steps": len(dataset)}
        possible = _pairs(dataset, "state_action")
        return {"value": unique / possible, "unique": unique, "reference": f"all {possible:,} possible pairs", "steps": len(dataset)}
    fitting = [(int(n), int(u)) for n, u in reference["unique"] if n <= len(dataset)]
    size, theirs = max(fitting, default=min((int(n), int(u)) for n, u in reference["unique"]))
    size = min(size, len(dataset))
    ours = _unique_in_sample(_cells(dataset, reference["grid"], reference["seed"]), size, reference["seed"])
    return {"value": ours / theirs, "unique": ours, "reference": f"{theirs:,} pairs of a reference log of equal size", "steps": size}


def _pair_points(dataset: Dataset, rows: Array) -> Array:
    # the projection of wide rows must be the same for every log, whatever the seed
    return np.concatenate([flat_rows(dataset.observations, rows, 0), action_rows(dataset, rows, 0)], axis=1)


def _directions(width: int, seed: int) -> Array:
    if width <= CELL_DIMENSIONS:
        return np.eye(width)
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((width, CELL_DIMENSIONS)))[0]


def _cells(dataset: Dataset, grid: dict[str, Any] | None, seed: int) -> Array:
    if grid is None:
        assert isinstance(dataset.spec.action, Discrete)
        return np.asarray(dataset.observations, dtype=np.int64) * dataset.spec.action.n + np.asarray(dataset.actions, dtype=np.int64)
    mean, scale, low, high = (np.asarray(grid[name]) for name in ("mean", "scale", "low", "high"))
    width = np.where(high > low, (high - low) / CELLS, 1.0)
    parts = []
    for start in range(0, len(dataset), SAMPLE):
        points = (_pair_points(dataset, np.arange(start, min(len(dataset), start + SAMPLE))) - mean) / np.where(scale > 0, scale, 1.0)
        index = np.clip(np.floor((points @ _directions(points.shape[1], seed) - low) / width), -500, 499).astype(np.int64) + 500
        parts.append(index @ (1000 ** np.arange(index.shape[1])))
    return np.concatenate(parts)


def _unique_in_sample(cells: Array, size: int, seed: int) -> int:
    if size < len(cells):
        cells = cells[np.random.default_rng(seed).choice(len(cells), size, replace=False)]
    return len(np.unique(cells))
