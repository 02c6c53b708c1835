"""Drift: do two sets of episodes come from one source? Tests that exchange whole episodes, for steps of one episode are not independent.

Per column the Kolmogorov-Smirnov statistic (total variation where discrete); p-values by permuting episodes (groups), corrected for the
number of columns by the maximum of standardised statistics (Westfall and Young, 1993). Over all columns a classifier's two-sample AUROC
(Lopez-Paz and Oquab, 2017, "Revisiting Classifier Two-Sample Tests", arXiv:1610.06545).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, final

import numpy as np

from stitchrl.core.spec import Discrete
from stitchrl.data.coverage import action_rows
from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.action_models import boosting
from stitchrl.evaluation.nearest_steps import features, folds_of, neighbours, sample, units_of

Array = np.ndarray[Any, np.dtype[Any]]

STEPS = 10_000  # of each side
REFERENCES = 25_000
PERMUTATIONS = 199
NEAREST = 5


@final
@dataclass(frozen=True)
class ColumnDrift:
    """One column's difference: in standard deviations (None where discrete), as the largest difference of distributions, and its p-value.

    p is for exchangeable episodes, corrected for the number of columns; 0.005 is the smallest there is.
    """

    column: str
    mean_difference: float | None
    distance: float
    p: float


@final
@dataclass(frozen=True)
class Drift:
    """How an evaluation log differs from a training log.

    auroc: of a classifier that tells their steps (observation and action) apart, on episodes it has not seen, 0.5 if it cannot, with
    its p-value. beyond_95, beyond_99: share of the evaluation's observations further from the training log's than 95 % and 99 % of that
    log's own, measured between its halves; None where states are discrete, then `unseen` is the share of states that it has not.
    """

    columns: tuple[ColumnDrift, ...]
    auroc: float | None
    auroc_p: float | None
    beyond_95: float | None
    beyond_99: float | None
    unseen: float | None
    reason: str | None = None

    @property
    def drifted(self) -> tuple[str, ...]:
        """The columns whose corrected p-value is at most 0.01, the most different first."""
        return tuple(c.column for c in sorted(self.columns, key=lambda c: -c.distance) if c.p <= 0.01)

    def to_json(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return asdict(self) | {"drifted": list(self.drifted)}


def drift(train: Dataset, evaluation: Dataset, *, seed: int) -> Drift:
    """Returns what differs between two logs of the same spaces; on a sample of 10,000 steps of each. Same seed, same result.

    Needs 4 episodes (groups) on either side; else `reason` says so and the tests are absent.
    """
    sides = (train, evaluation)
    generator = np.random.default_rng(seed)
    rows = [sample(np.arange(len(side)), STEPS, generator) for side in sides]
    own = [units_of(side)[r] for side, r in zip(sides, rows, strict=True)]
    unit = np.concatenate([own[0], own[1] + own[0].max() + 1])
    label = np.repeat([False, True], [len(r) for r in rows])
    beyond = _beyond(train, evaluation, seed)
    if min(len(np.unique(u)) for u in own) < 4:
        return Drift((), None, None, *beyond, "fewer than 4 episodes (groups) on one side: nothing to exchange")
    unit = np.unique(unit, return_inverse=True)[1]
    values, names, discrete = _values(sides, rows)
    columns = _columns(values, names, discrete, label, unit, generator)
    auroc, p = _classifier(values, discrete, label, unit, seed)
    return Drift(columns, auroc, p, *beyond)


def _values(sides: tuple[Dataset, Dataset], rows: list[Array]) -> tuple[Array, list[str], Array]:
    """Returns float64 [M, C] of observations, actions and rewards, their names, and which are discrete."""
    parts, names, discrete = [], [], []
    for name, space in (("observations", sides[0].spec.observation), ("actions", sides[0].spec.action)):
        if isinstance(space, Discrete):
            parts.append(np.concatenate([np.asarray(side.columns[name])[r] for side, r in zip(sides, rows, strict=True)])[:, None])
        elif name == "observations":
            parts.append(np.concatenate([features(side, r) for side, r in zip(sides, rows, strict=True)]))
        else:
            parts.append(np.concatenate([action_rows(side, r, 0) for side, r in zip(sides, rows, strict=True)]))
        width = parts[-1].shape[1]
        names += [name] if isinstance(space, Discrete) else [f"{name}[{k}]" for k in range(width)]
        discrete += [isinstance(space, Discrete)] * width
    parts.append(np.concatenate([np.asarray(side.rewards)[r] for side, r in zip(sides, rows, strict=True)])[:, None])
    return np.concatenate(parts, 1).astype(np.float64), [*names, "rewards"], np.array([*discrete, False])


def _permuted(label: Array, unit: Array, generator: np.random.Generator) -> Array:
    """Returns bool [1 + PERMUTATIONS, M]: the labels, then those of exchanged units."""
    of_unit = np.zeros(unit.max() + 1, np.bool_)
    of_unit[unit[label]] = True
    return np.stack([label, *(generator.permutation(of_unit)[unit] for _ in range(PERMUTATIONS))])


def _columns(
    values: Array, names: list[str], discrete: Array, label: Array, unit: Array, generator: np.random.Generator
) -> tuple[ColumnDrift, ...]:
    labels = _permuted(label, unit, generator)
    weights = np.where(labels, 1.0 / labels.sum(1, keepdims=True), -1.0 / (~labels).sum(1, keepdims=True))
    statistics = np.stack([_distance(values[:, k], weights, bool(discrete[k])) for k in range(len(names))], 1)  # [1 + P, C]
    spread = statistics.std(axis=0)
    scores = (statistics - statistics.mean(axis=0)) / np.where(spread > 1e-9, spread, 1.0)
    largest = scores.max(axis=1)
    found = []
    for k, name in enumerate(names):
        deviation = values[:, k].std()
        apart = (values[label, k].mean() - values[~label, k].mean()) / deviation if deviation > 0 else 0.0
        p = float((largest >= scores[0, k]).mean()) if statistics[0, k] > 1e-9 else 1.0
        found.append(ColumnDrift(name, None if discrete[k] else float(apart), float(statistics[0, k]), p))
    return tuple(found)


def _distance(column: Array, weights: Array, discrete: bool) -> Array:
    """Returns [P]: the largest difference of the two distribution functions; half the sum of differences of frequencies where discrete."""
    order = np.argsort(column, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(column[order])), len(column) - 1)
    found = np.empty(len(weights))
    for start in range(0, len(weights), 25):
        total = np.cumsum(weights[start : start + 25, order], axis=1)[:, ends]
        steps = np.diff(total, axis=1, prepend=0.0)
        found[start : start + 25] = 0.5 * np.abs(steps).sum(1) if discrete else np.abs(total).max(1)
    return found


def _classifier(values: Array, discrete: Array, label: Array, unit: Array, seed: int) -> tuple[float, float]:
    """Returns the AUROC over two folds of units, and the share of exchanges of units (scores kept) that reach it."""
    fold = np.zeros(len(label), np.int64)
    for side in (False, True):
        fold[label == side] = folds_of(unit[label == side], 2, seed)
    inputs = _ordered(values, discrete, label, fold)
    generator, aurocs = np.random.default_rng(seed), []
    for k in (0, 1):
        settings = {"max_iter": 60, "max_leaf_nodes": 15, "min_samples_leaf": 30}
        model = boosting("classifier", random_state=seed, **settings).fit(inputs[k][fold != k], label[fold != k])
        rows = fold == k
        scores = model.predict_proba(inputs[k][rows])[:, 1]
        aurocs.append(auroc_of(scores, _permuted(label[rows], np.unique(unit[rows], return_inverse=True)[1], generator)))
    together = np.mean(aurocs, axis=0)
    return float(together[0]), float((together >= together[0]).mean())


def _ordered(values: Array, discrete: Array, label: Array, fold: Array) -> list[Array]:
    # a category becomes its share of evaluation steps in the training fold: trees cannot split 700 states otherwise
    found = []
    for k in (0, 1):
        inputs = values.copy()
        for j in np.flatnonzero(discrete):
            code = values[:, j].astype(np.int64)
            train = fold != k
            counts, hits = (np.bincount(code[train], w, minlength=code.max() + 1) for w in (None, label[train].astype(np.float64)))
            inputs[:, j] = ((hits + label.mean()) / (counts + 1.0))[code]
        found.append(inputs)
    return found


def auroc_of(scores: Array, labels: Array) -> Array:
    """Returns [P]: the area under the ROC curve of scores `[M]` for each row of labels `[P, M]`; ties count half."""
    from scipy.stats import rankdata

    ranks, positive = rankdata(scores), labels.sum(axis=1)
    return np.asarray((labels @ ranks - positive * (positive + 1) / 2) / (positive * (labels.shape[1] - positive)))


def _beyond(train: Dataset, evaluation: Dataset, seed: int) -> tuple[float | None, float | None, float | None]:
    if isinstance(train.spec.observation, Discrete):
        known = np.isin(np.asarray(evaluation.observations), np.unique(train.observations))
        return None, None, float(1 - known.mean())
    generator, side = np.random.default_rng(seed), folds_of(units_of(train), 2, seed)
    halves = [np.flatnonzero(side == k) for k in (0, 1)]
    base, held = sample(halves[0], REFERENCES, generator), sample(halves[1], STEPS, generator)
    other = sample(np.arange(len(evaluation)), STEPS, generator)
    points = [features(log, rows).astype(np.float64) for log, rows in ((train, base), (train, held), (evaluation, other))]
    scale = np.where(points[0].std(axis=0) > 0, points[0].std(axis=0), 1.0)
    near = [neighbours(points[0] / scale, p / scale, NEAREST)[0].mean(axis=1) for p in points[1:]]
    limits = np.quantile(near[0], (0.95, 0.99))
    return float((near[1] > limits[0]).mean()), float((near[1] > limits[1]).mean()), None
