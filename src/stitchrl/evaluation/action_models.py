"""Conditional models of actions given observations: calibrated classifiers, and Gaussians with a mean and covariance that may vary.

Gradient boosting by histograms (scikit-learn); temperature scaling after Guo et al., 2017, "On Calibration of Modern Neural Networks"
(arXiv:1706.04599), here with a share of the marginal mixed in; that nearest neighbours are well calibrated behaviour policies: Raghu et
al., 2018, "Behaviour Policy Estimation in Off-Policy Policy Evaluation: Calibration Matters" (arXiv:1807.01066).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from stitchrl.core.errors import ConfigError
from stitchrl.evaluation.nearest_steps import TREE_DIMENSIONS, neighbours

Array = np.ndarray[Any, np.dtype[Any]]
Predict = Callable[[Array], Array]

FIT_ROWS = 20_000  # steps that a model is fitted on
NEAREST_ROWS = 50_000  # steps among which neighbours are sought, in few dimensions
TREES = 600  # of one classifier, over all actions
NEIGHBOURS = (10, 30, 100)
SHARPNESS = (0.4, 0.55, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5)  # exponents of the probabilities
MIXING = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)  # shares of the marginal; above 0, so that no action has probability 0
SMALLEST_DEVIATION = 1e-3  # of the action's own standard deviation: below it the behaviour counts as deterministic


def boosting(kind: str, **settings: Any) -> Any:
    """Returns an unfitted "classifier" or "regressor" of scikit-learn. Raises ConfigError where it is not installed."""
    try:
        from sklearn import ensemble
    except ImportError:
        raise ConfigError("estimating a behaviour policy needs scikit-learn; pip install scikit-learn, or log the probabilities") from None
    model = ensemble.HistGradientBoostingClassifier if kind == "classifier" else ensemble.HistGradientBoostingRegressor
    return model(early_stopping=False, **settings)


def marginal_of(actions: Array, count: int) -> Array:
    """Returns float64 `[n]`: how often each action is taken, with half an observation added to each."""
    counts = np.bincount(actions, minlength=count) + 0.5
    return np.asarray(counts / counts.sum())


def log_loss(probabilities: Array, actions: Array) -> float:
    """Returns the mean of -log p(action), in nats."""
    return float(-np.log(np.take_along_axis(probabilities, actions[:, None], 1)).mean())


def fit_classifier(kind: str, x: Array, actions: Array, units: Array, count: int, seed: int) -> Predict:
    """Returns a function from observations `[M, D]` to calibrated probabilities float64 `[M, n]`, every one above 0.

    kind: "boosting", "knn" or "linear" (multinomial logistic regression). A fifth of the units
    calibrates what the others fitted; rows are subsampled to FIT_ROWS (NEAREST_ROWS).
    """
    generator = np.random.default_rng(seed)
    held = held_out(units, 0.2, generator)
    marginal = marginal_of(actions, count)
    fit, check = np.flatnonzero(~held), np.flatnonzero(held)
    size = NEAREST_ROWS if kind == "knn" and x.shape[1] <= TREE_DIMENSIONS else FIT_ROWS
    fit, check = (generator.choice(rows, min(len(rows), limit), replace=False) for rows, limit in ((fit, size), (check, FIT_ROWS // 4)))
    if not len(fit) or not len(check) or len(np.unique(actions[fit])) < 2:
        return lambda query: np.tile(marginal, (len(query), 1))
    raw = _raw_models(kind, x[fit], actions[fit], count, seed)
    best = (math.inf, raw[0], 1.0, 1.0)
    for predict in raw:
        loss, sharpness, mixing = _calibrated(predict(x[check]), actions[check], marginal)
        if loss < best[0]:
            best = (loss, predict, sharpness, mixing)
    _, predict, sharpness, mixing = best
    return lambda query: tempered(predict(query), marginal, sharpness, mixing)


def held_out(units: Array, share: float, generator: np.random.Generator) -> Array:
    """Returns bool `[M]`: rows of a drawn share of the units; of the rows, where there is one unit."""
    names, position = np.unique(units, return_inverse=True)
    if len(names) < 2:
        return np.asarray(generator.random(len(units)) < share)
    chosen = np.zeros(len(names), np.bool_)
    chosen[generator.permutation(len(names))[: min(max(round(share * len(names)), 1), len(names) - 1)]] = True
    return np.asarray(chosen[position])


def tempered(probabilities: Array, marginal: Array, sharpness: float, mixing: float) -> Array:
    """Returns p^sharpness, normalised, with the marginal mixed in."""
    powered = np.maximum(probabilities, 1e-6) ** sharpness
    return np.asarray((1 - mixing) * powered / powered.sum(axis=1, keepdims=True) + mixing * marginal)


def _calibrated(probabilities: Array, actions: Array, marginal: Array) -> tuple[float, float, float]:
    best = (math.inf, 1.0, 1.0)
    for sharpness in SHARPNESS:
        powered = np.take_along_axis(tempered(probabilities, marginal, sharpness, 0.0), actions[:, None], 1)[:, 0]
        for mixing in MIXING:
            loss = float(-np.log((1 - mixing) * powered + mixing * marginal[actions]).mean())
            best = min(best, (loss, sharpness, mixing))
    return best


def _raw_models(kind: str, x: Array, actions: Array, count: int, seed: int) -> list[Predict]:
    if kind == "knn":
        return _nearest(x, actions, count)
    return [_linear(x, actions, count) if kind == "linear" else _boosted(x, actions, count, seed)]


def _linear(x: Array, actions: Array, count: int) -> Predict:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    seen, (mean, scale) = np.unique(actions), _scales(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # calibration and log-loss on other units judge what it found
        model = LogisticRegression(max_iter=100).fit((x - mean) / scale, actions)

    def predict(query: Array) -> Array:
        table = np.zeros((len(query), count))
        table[:, seen] = model.predict_proba((query - mean) / scale)
        return table

    return predict


def _boosted(x: Array, actions: Array, count: int, seed: int) -> Predict:
    seen = np.unique(actions)
    rounds = min(max(TREES // (len(seen) if len(seen) > 2 else 1), 15), 100)
    rate = 0.1 if rounds >= 60 else 0.2
    settings = {"max_iter": rounds, "learning_rate": rate, "max_leaf_nodes": 15, "min_samples_leaf": 30, "l2_regularization": 1.0}
    model = boosting("classifier", random_state=seed, **settings).fit(x, actions)

    def predict(query: Array) -> Array:
        table = np.zeros((len(query), count))
        table[:, seen] = model.predict_proba(query)
        return table

    return predict


def _nearest(x: Array, actions: Array, count: int) -> list[Predict]:
    mean, scale = _scales(x)
    points = (x - mean) / scale

    def predict(query: Array, k: int) -> Array:
        taken = actions[neighbours(points, (query - mean) / scale, k)[1]]
        cells = np.arange(len(query))[:, None] * count + taken
        return np.asarray(np.bincount(cells.ravel(), minlength=len(query) * count).reshape(len(query), count) / taken.shape[1])

    return [lambda query, k=k: predict(query, k) for k in NEIGHBOURS if k <= len(x)] or [lambda query: predict(query, 1)]  # type: ignore[misc]


def _scales(x: Array) -> tuple[Array, Array]:
    scale = x.std(axis=0)
    return x.mean(axis=0), np.where(scale > 0, scale, 1.0)


def fit_gaussian(
    kinds: Sequence[str], x: Array, actions: Array, units: Array, seed: int, states: int | None
) -> Callable[[Array], tuple[Array, Array, Array]]:
    """Returns a function from observations `[M, D]` to means `[M, A]`, deviations `[M, A]` and the residuals' correlations `[A, A]`.

    kinds: what may make a mean, each dimension taking the best on units held out: "ridge", "boosting", "knn"; states: the number of
    discrete states, whose means are then shrunk to the mean of all. The deviations vary with the state where that predicts better.
    """
    generator = np.random.default_rng(seed)
    rows = generator.choice(len(x), min(len(x), FIT_ROWS), replace=False)
    x, actions, units = x[rows], np.asarray(actions[rows], np.float64), units[rows]
    held = held_out(units, 0.35, generator)
    fit = ~held
    spread = np.where(actions.std(axis=0) > 0, actions.std(axis=0), 1.0)
    means: list[Predict] = []
    rounds = min(80, max(30, 400 // actions.shape[1]))  # what many dimensions may cost together
    for j in range(actions.shape[1]):
        choices = [_mean_model(kind, x[fit], actions[fit, j], seed, rounds) for kind in kinds] if states is None else []
        choices = choices or [_state_means(x[fit], actions[fit, j], states or 1)]
        means.append(min(choices, key=lambda predict: float(((predict(x[held]) - actions[held, j]) ** 2).mean())))
    residuals = actions[held] - np.stack([predict(x[held]) for predict in means], 1)
    floor = SMALLEST_DEVIATION * spread
    overall = np.maximum(np.sqrt((residuals**2).mean(axis=0)), floor)
    varying = None if states is not None or "boosting" not in kinds else _varying(x[held], residuals, units[held], overall, floor, seed)

    def deviations(query: Array) -> Array:
        return np.tile(overall, (len(query), 1)) if varying is None else varying(query)

    scaled = residuals / deviations(x[held])
    correlations = np.clip(scaled.T @ scaled / len(scaled), -0.999, 0.999)
    norm = np.sqrt(np.maximum(np.diag(correlations), 1e-12))
    correlations = 0.99 * correlations / np.outer(norm, norm)
    np.fill_diagonal(correlations, 1.0)
    return lambda query: (np.stack([predict(query) for predict in means], 1), deviations(query), correlations)


def _mean_model(kind: str, x: Array, y: Array, seed: int, rounds: int) -> Predict:
    if kind == "boosting":
        settings = {"max_iter": rounds, "learning_rate": 0.15, "max_leaf_nodes": 31, "min_samples_leaf": 20}
        model = boosting("regressor", random_state=seed, **settings).fit(x, y)
        return lambda query: np.asarray(model.predict(query))
    mean, scale = _scales(x)
    points = (x - mean) / scale
    if kind == "knn":
        return lambda query: np.asarray(y[neighbours(points, (query - mean) / scale, 20)[1]].mean(axis=1))
    design = np.concatenate([points, np.ones((len(x), 1))], 1).astype(np.float64)
    weights = np.linalg.solve(design.T @ design + 1e-3 * len(x) * np.eye(design.shape[1]), design.T @ (y - y.mean()))
    return lambda query: np.asarray(((query - mean) / scale) @ weights[:-1] + weights[-1] + y.mean())


def _state_means(x: Array, y: Array, states: int) -> Predict:
    state = x[:, 0].astype(np.int64)
    visits = np.bincount(state, minlength=states)
    table = (np.bincount(state, y, minlength=states) + 2 * y.mean()) / (visits + 2)
    return lambda query: np.asarray(table[query[:, 0].astype(np.int64)])


def _varying(x: Array, residuals: Array, units: Array, overall: Array, floor: Array, seed: int) -> Predict | None:
    """Returns deviations as a function of the state, or None where they do not predict the residuals of other units better.

    The gamma deviance of squared residuals is twice the Gaussian's negative log-likelihood in its variance.
    """
    second = held_out(units, 0.5, np.random.default_rng(seed + 1))
    if min(second.sum(), (~second).sum()) < 200:
        return None
    squares = np.maximum(residuals**2, floor**2)
    settings = {"loss": "gamma", "max_iter": 40, "learning_rate": 0.1, "max_leaf_nodes": 8, "min_samples_leaf": 50}
    models = [boosting("regressor", random_state=seed, **settings).fit(x[~second], squares[~second, j]) for j in range(squares.shape[1])]

    def variances(query: Array) -> Array:
        return np.stack([np.asarray(model.predict(query)) for model in models], 1)

    guess, level = variances(x[second]), (squares[~second]).mean(axis=0)
    gain = 0.5 * (np.log(level) + squares[second] / level - np.log(guess) - squares[second] / guess).mean(axis=0)
    if gain.sum() < 0.01 * len(gain):
        return None
    correction = np.clip((squares[second] / guess).mean(axis=0), 0.5, 2.0)
    return lambda query: np.asarray(np.where(gain > 0, np.maximum(np.sqrt(correction * variances(query)), floor), overall))


def gaussian_log_density(actions: Array, mean: Array, deviation: Array, correlations: Array) -> Array:
    """Returns float64 `[M]`: the log-density of actions `[M, A]`."""
    lower = np.linalg.cholesky(correlations)
    scaled = np.linalg.solve(lower, ((actions - mean) / deviation).T)
    constant = 0.5 * actions.shape[1] * math.log(2 * math.pi) + float(np.log(np.diag(lower)).sum())
    return np.asarray(-0.5 * (scaled**2).sum(axis=0) - np.log(deviation).sum(axis=1) - constant)
