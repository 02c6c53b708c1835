"""The behaviour policy: the probabilities with which the logged actions were drawn, as logged or estimated out of fold, and their calibration."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, Literal, final

import numpy as np

from stitchrl.core.errors import ConfigError, DataError
from stitchrl.core.spec import Discrete
from stitchrl.data.column_checks import LOG_PROBABILITIES
from stitchrl.data.dataset import Dataset
from stitchrl.data.findings import Finding
from stitchrl.evaluation.action_models import fit_classifier, fit_gaussian, gaussian_log_density, log_loss
from stitchrl.evaluation.nearest_steps import TREE_DIMENSIONS, features, folds_of, sample, units_of

Array = np.ndarray[Any, np.dtype[Any]]
Method = Literal["auto", "counts", "knn", "boosting", "linear"]
Source = Literal["logged", "counts", "knn", "boosting", "linear", "gaussian"]
Classifier = Literal["knn", "boosting", "linear"]

EDGES = (0.0, 0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # of predicted probabilities
PRIOR = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1e4)  # pseudo-observations that pull a state to what is usual
DISCOUNT = (0.0, 0.4, 0.7, 0.9)  # taken from every count that is not 0
EVEN = (0.0, 0.3, 0.7, 1.0)  # of what is usual: the share of uniform actions; the rest is the marginal
CHOOSING_ROWS = 100_000
CERTAIN = 0.95  # a step whose likeliest action has this probability is near-deterministic
TIGHT = 0.01  # continuous: a deviation below this share of the action's own is
KNN_MOST_STEPS = 200_000  # beyond, neighbours in more than TREE_DIMENSIONS take too long to be the automatic choice
PREDICT_ROWS = 65_536


@final
@dataclass(frozen=True)
class Calibration:
    """Predicted against observed frequencies on steps that the model has not seen; bins that hold nothing are left out.

    Discrete: bins of p(a|s) over all steps and actions; `error` (ECE) is the probability mass per step that would have to move, in 0 … 1.
    Continuous: `predicted` are levels of the predicted distribution of each dimension, `observed` the share of actions below them;
    `error` is their mean absolute difference.
    """

    measure: str
    predicted: tuple[float, ...]
    observed: tuple[float, ...]
    count: tuple[int, ...]
    error: float


@final
@dataclass(frozen=True)
class Behaviour:
    """What drew the logged actions.

    log_probabilities: float64 `[N]` of the logged actions, log-densities where continuous; finite. probabilities: float32 `[N, n]` of all
    discrete actions at the logged observations, estimated out of fold (also where the logged actions' own are logged); None where
    continuous. calibration, log_loss: of the estimate, out of fold, in nats a step. near_deterministic: share of the steps whose action
    the behaviour (almost) never varies. smallest: the least probability (density) of a logged action. estimated: beside logged ones.
    """

    log_probabilities: Array
    source: Source
    probabilities: Array | None
    calibration: Calibration | None
    log_loss: float
    near_deterministic: float
    smallest: float
    findings: tuple[Finding, ...] = ()
    estimated: Behaviour | None = None


def logged_probabilities(dataset: Dataset) -> Array:
    """Returns float64 `[N]`: the log-probabilities (log-densities) of the logged actions, as logged.

    Raises DataError in words where the column is absent or impossible: NaN, probability 0, above 1 for discrete actions, probabilities
    where logarithms are due, percentages.
    """
    if LOG_PROBABILITIES not in dataset.columns:
        raise DataError(f"the log has no column '{LOG_PROBABILITIES}'; name the column of propensities when reading it, or estimate them")
    logs = np.asarray(dataset.columns[LOG_PROBABILITIES], np.float64).reshape(len(dataset), -1)
    if logs.shape[1] != 1:
        raise DataError(f"'{LOG_PROBABILITIES}' has {logs.shape[1]} numbers a step; expected one, that of the whole action: sum them")
    logs = logs[:, 0]
    discrete = isinstance(dataset.spec.action, Discrete)
    for wrong, found, do in (
        (np.isnan(logs), "is NaN", "every logged action had a probability: fill it in, or drop the column and have it estimated"),
        (np.isneginf(logs), "is -inf: probability 0 at an action that was logged", "which is impossible: correct the propensities or the actions"),
        (np.isposinf(logs), "is infinite", "expected the logarithm of a probability: a deterministic policy has no density to log"),
        (logs > 1e-5 if discrete else np.zeros(0, np.bool_), "is above 0, a probability above 1", _guess(logs)),
    ):  # fmt: skip
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            episode = int(dataset.episode_of(row))
            place = f"episode {episode:,} step {row - int(dataset.offsets[episode]):,}"
            raise DataError(f"'{LOG_PROBABILITIES}' {found} ({logs[row]:.4g}) in {place} and in {int(wrong.sum()):,} rows; {do}")
    # logarithms of densities spread over several nats on both sides of a constant; a whole column within 0 … 1 is none
    if not discrete and len(logs) >= 20 and logs.min() >= 0 and logs.max() <= 1 and logs.std() > 0.02:
        raise DataError(f"'{LOG_PROBABILITIES}' lies within {logs.min():.3g} … {logs.max():.3g} in all rows; {_guess(logs)}")
    return logs


def _guess(logs: Array) -> str:
    low, high = logs.min(), logs.max()
    if low >= 0 and high <= 1 + 1e-6:
        return "all are in 0 … 1, so they look like probabilities: declare the column as behaviour_probability, or take logarithms"
    if low >= 0 and high <= 100 + 1e-6:
        return "all are in 0 … 100, so they look like percentages: divide by 100 and take logarithms"
    return "expected natural logarithms of probabilities, at most 0 for discrete actions"


def estimate_behaviour(dataset: Dataset, *, method: Method = "auto", folds: int = 5, seed: int) -> Behaviour:
    """Returns the behaviour policy estimated from the log: each step's from episodes (groups) other than its own.

    "counts": smoothed counts, for discrete states and actions. "knn", "boosting", "linear": calibrated classifiers, or for continuous
    actions means of a Gaussian whose covariance comes from residuals of units held out. "auto": counts where they apply, else what predicts a
    subsample better out of fold. Raises ConfigError for counts elsewhere, DataError where observations or actions are not finite.
    """
    if method not in ("auto", "counts", "knn", "boosting", "linear"):
        raise ConfigError(f"behaviour method {method!r} is unknown; expected auto, counts, knn, boosting or linear")
    if folds < 2 or len(dataset) < 2:
        raise ConfigError(f"estimating out of fold needs at least 2 folds and 2 steps; found {folds} and {len(dataset):,}")
    action, tabular = dataset.spec.action, isinstance(dataset.spec.observation, Discrete)
    units = units_of(dataset)
    fold = folds_of(units, min(folds, len(np.unique(units))), seed)
    if not isinstance(action, Discrete):
        if method == "counts":
            raise ConfigError("counts need discrete states and actions; use knn, boosting or linear")
        return _gaussian(dataset, method, units, fold, seed)
    if tabular and method in ("auto", "counts"):
        return _discrete(dataset, "counts", _counted(dataset, fold, action.n, seed))
    if method == "counts":
        raise ConfigError("counts need discrete states; use knn, boosting or linear")
    x, actions = features(dataset, np.arange(len(dataset))), np.asarray(dataset.actions)
    if tabular:  # neighbours and trees of state numbers would join states that have nothing in common
        raise ConfigError(f"{method} needs observations of real numbers; this log has discrete states: use counts")
    source = _better(x, actions, units, fold, action.n, seed) if method == "auto" else method
    table = np.empty((len(dataset), action.n), np.float32)
    for k in range(int(fold.max()) + 1):
        train = np.flatnonzero(fold != k)
        predict = fit_classifier(source, x[train], actions[train], units[train], action.n, seed + k)
        for rows in _pieces(np.flatnonzero(fold == k)):
            table[rows] = predict(x[rows])
    return _discrete(dataset, source, table)


def _pieces(rows: Array) -> list[Array]:
    return [rows[i : i + PREDICT_ROWS] for i in range(0, len(rows), PREDICT_ROWS)]


def _better(x: Array, actions: Array, units: Array, fold: Array, count: int, seed: int) -> Classifier:
    kinds: tuple[Classifier, ...] = ("boosting", "linear", "knn")
    if x.shape[1] > TREE_DIMENSIONS and len(x) > KNN_MOST_STEPS:
        kinds = kinds[:2]
    generator = np.random.default_rng(seed)
    train, test = sample(np.flatnonzero(fold != 0), 10_000, generator), sample(np.flatnonzero(fold == 0), 4_000, generator)
    losses: dict[Classifier, float] = {}
    for kind in kinds:
        predict = fit_classifier(kind, x[train], actions[train], units[train], count, seed)
        losses[kind] = log_loss(predict(x[test]), actions[test])
    return min(losses, key=losses.__getitem__)


def _counted(dataset: Dataset, fold: Array, count: int, seed: int) -> Array:
    """Returns float32 [N, n]: smoothed counts of the state in the other folds.

    (max(c - d, 0) + (p + d K) m) / (C + p): c of C visits took the action, K actions were taken at all, m mixes the marginal and uniform
    actions. Prior p, discount d and mixture are those of the least log-loss out of fold. Teh, 2006, "A Hierarchical Bayesian Language
    Model based on Pitman-Yor Processes".
    """
    assert isinstance(dataset.spec.observation, Discrete)
    states, actions = np.asarray(dataset.observations), np.asarray(dataset.actions)
    size, pair = dataset.spec.observation.n * count, states * count + actions
    total = np.bincount(pair, minlength=size)
    folds = [np.flatnonzero(fold == k) for k in range(int(fold.max()) + 1)]
    others = [(total - np.bincount(pair[rows], minlength=size)).reshape(-1, count) for rows in folds]
    marginals = [(table.sum(0) + 0.5) / (table.sum() + 0.5 * count) for table in others]
    generator, parts = np.random.default_rng(seed), []
    for rows, table, marginal in zip(folds, others, marginals, strict=True):
        some = sample(rows, CHOOSING_ROWS // len(folds), generator)
        s, a = states[some], actions[some]
        parts.append((table[s, a], table.sum(1)[s], (table > 0).sum(1)[s], marginal[a]))
    taken, visits, kinds, usual = (np.concatenate(column) for column in zip(*parts, strict=True))

    def loss(choice: tuple[float, float, float]) -> float:
        prior, discount, even = choice
        base = (1 - even) * usual + even / count
        return float(-np.log((np.maximum(taken - discount, 0) + (prior + discount * kinds) * base) / (visits + prior)).sum())

    prior, discount, even = min(itertools.product(PRIOR, DISCOUNT, EVEN), key=loss)
    probabilities = np.empty((len(dataset), count), np.float32)
    for rows, table, marginal in zip(folds, others, marginals, strict=True):
        rest = prior + discount * (table > 0).sum(1, keepdims=True)
        base = (1 - even) * marginal + even / count
        smooth = (np.maximum(table - discount, 0) + rest * base) / (table.sum(1, keepdims=True) + prior)
        probabilities[rows] = smooth[states[rows]]
    return probabilities


def _discrete(dataset: Dataset, source: Source, probabilities: Array) -> Behaviour:
    actions = np.asarray(dataset.actions)
    chosen = np.maximum(probabilities[np.arange(len(actions)), actions].astype(np.float64), np.finfo(np.float32).tiny)
    certain = float((probabilities.max(axis=1) >= CERTAIN).mean())
    logs = np.log(np.minimum(chosen, 1.0))
    return Behaviour(logs, source, probabilities, calibration_of(probabilities, actions), float(-logs.mean()), certain, float(chosen.min()))


def calibration_of(probabilities: Array, actions: Array) -> Calibration:
    """Returns predicted against observed frequencies of all actions `[N, n]`, in bins that are narrow near 0; see Calibration."""
    edges, size = np.asarray(EDGES), len(EDGES) - 1
    sums = np.zeros((3, size))
    for start in range(0, len(actions), PREDICT_ROWS):
        some = np.asarray(probabilities[start : start + PREDICT_ROWS], np.float64)
        cell = np.clip(np.searchsorted(edges, some.ravel(), side="right") - 1, 0, size - 1)
        hit = (actions[start : start + PREDICT_ROWS, None] == np.arange(some.shape[1])).ravel()
        for row, weights in enumerate((None, some.ravel(), hit.astype(np.float64))):
            sums[row] += np.bincount(cell, weights, minlength=size)
    count, predicted, observed = sums[:, sums[0] > 0]
    error = float(np.abs(predicted - observed).sum() / (2 * len(actions)))
    expected, found = tuple((predicted / count).tolist()), tuple((observed / count).tolist())
    return Calibration("probabilities of all actions", expected, found, tuple(int(c) for c in count), error)


def _gaussian(dataset: Dataset, method: Method, units: Array, fold: Array, seed: int) -> Behaviour:
    x = features(dataset, np.arange(len(dataset)))
    actions = np.asarray(dataset.actions, np.float64).reshape(len(dataset), -1)
    if not np.isfinite(actions).all():
        row = int(np.flatnonzero(~np.isfinite(actions).all(axis=1))[0])
        raise DataError(f"'actions' is not finite in episode {int(dataset.episode_of(row)):,}; fill the values in or drop the episodes")
    states = dataset.spec.observation.n if isinstance(dataset.spec.observation, Discrete) else None
    near = ("knn",) if x.shape[1] <= TREE_DIMENSIONS and len(x) <= KNN_MOST_STEPS else ()
    kinds = {"auto": ("ridge", "boosting", *near), "linear": ("ridge",), "boosting": ("ridge", "boosting"), "knn": ("knn",)}[method]
    logs, levels, tight = np.empty(len(x)), np.empty(actions.shape), np.empty(len(x), np.bool_)
    spread = np.where(actions.std(axis=0) > 0, actions.std(axis=0), 1.0)
    for k in range(int(fold.max()) + 1):
        train = np.flatnonzero(fold != k)
        predict = fit_gaussian(kinds, x[train], actions[train], units[train], seed + k, states)
        for rows in _pieces(np.flatnonzero(fold == k)):
            mean, deviation, correlations = predict(x[rows])
            logs[rows] = gaussian_log_density(actions[rows], mean, deviation, correlations)
            levels[rows] = (actions[rows] - mean) / deviation
            tight[rows] = (deviation < TIGHT * spread).all(axis=1)
    smallest = float(np.exp(np.clip(logs.min(), -700.0, 700.0)))
    calibration = _levels_calibration(levels)
    return Behaviour(logs, "gaussian", None, calibration, float(-logs.mean()), float(tight.mean()), smallest, _atoms(dataset, actions))


def _levels_calibration(scaled: Array) -> Calibration:
    from scipy.special import ndtr

    level = np.linspace(0.05, 0.95, 19)
    ranks = np.sort(ndtr(scaled).ravel())
    counts = np.searchsorted(ranks, level, side="right")
    observed = counts / len(ranks)
    error = float(np.abs(observed - level).mean())
    measure = "levels of each dimension's distribution"
    return Calibration(measure, tuple(level.tolist()), tuple(observed.tolist()), tuple(counts.tolist()), error)


def _atoms(dataset: Dataset, actions: Array) -> tuple[Finding, ...]:
    low, high = actions.min(axis=0), actions.max(axis=0)
    at_edge = ((actions == low) | (actions == high)).mean(axis=0)
    share = float(at_edge.max())
    if share <= 0.01 or len(dataset) < 100:
        return ()
    message = (
        f"{share:.1%} of the actions lie exactly on the edge of their range in dimension {int(at_edge.argmax())}: they were clipped there"
    )
    advice = "A density misses such points: trust importance weights of this log only with the logged probabilities of the clipped policy."
    return (Finding("behaviour-has-atoms", "warning", message, "actions", count=int(share * len(dataset)), advice=advice),)


def behaviour_of(dataset: Dataset, seed: int, *, method: Method = "auto", folds: int = 5) -> Behaviour:
    """Returns the behaviour with the logged log-probabilities where there are any (the estimate beside them), else the estimate.

    Raises DataError where the logged ones are impossible; `findings` tells where they contradict the log.
    """
    from stitchrl.evaluation.propensity_checks import check_logged

    logs = logged_probabilities(dataset) if LOG_PROBABILITIES in dataset.columns else None
    estimated = estimate_behaviour(dataset, method=method, folds=folds, seed=seed)
    if logs is None:
        return estimated
    discrete = isinstance(dataset.spec.action, Discrete)
    certain = float((logs >= np.log(CERTAIN)).mean()) if discrete else estimated.near_deterministic
    findings = tuple(check_logged(dataset, logs, estimated))
    smallest = float(np.exp(np.clip(logs.min(), -700.0, 700.0)))
    return Behaviour(
        logs, "logged", estimated.probabilities, estimated.calibration, estimated.log_loss, certain, smallest, findings, estimated
    )
