"""Doubly robust estimators: DR (arXiv:1511.03722), WDR and MAGIC (arXiv:1604.00923), and DRL (arXiv:1908.08526, 1909.05850).

Each is the model's value at the first state plus a weighted sum of the model's errors discount^t · (r + discount · v_next - q): where the
model is right, their mean is 0 and little noise is left; where it is wrong, right weights correct it. v_next is 0 after a terminal; at a
timeout it stands for the value beyond the log, so these estimate the endless value, on the model's word for what no log shows.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stitchrl.core.errors import DataError
from stitchrl.evaluation.evidence import Episodes, Mean, Model, Statistic
from stitchrl.evaluation.importance_sampling import StepRatios, log_weights, weighted

Array = np.ndarray[Any, np.dtype[Any]]

_RETURNS = 25  # at most so many of the step counts are blended
_LEVEL = 0.5  # of WDR's interval, to which MAGIC's biases are measured
_CHUNK = 4_000_000  # numbers drawn at a time: 32 MB


def doubly_robust_estimators(episodes: Episodes, model: Model, *, draws: int = 200, seed: int = 0) -> dict[str, Statistic]:
    """Returns the statistics `dr`, `wdr` and `magic` of the policy's value.

    `dr` is unbiased where the ratios are the true ones and each episode's model comes from other episodes. `wdr` divides by the sums
    of weights at each time, an ended episode's last weight carried on; it is NaN where they are all 0 at some time, and so is `magic`.
    `magic` blends the estimates that follow the log for so many steps and the model from there on; the blend is chosen on this log, with
    `draws` bootstrap draws from `seed` (of episodes, or of groups), and then held fixed: an interval of the statistic does not hold
    the noise of that choice. Its `shares [H]` tell the blend: 1 - shares[0] is the model's alone. Raises DataError, see `log_weights`.
    """
    errors = _errors(episodes, model)
    log_weight = log_weights(episodes)
    with np.errstate(invalid="ignore", over="ignore"):
        corrections = episodes.sums(weighted(log_weight, errors))
    wdr = StepRatios(episodes, log_weight, errors, starts=model.v_start)
    shares = _magic_shares(episodes, wdr, draws, seed)
    return {
        "dr": Mean(model.v_start + corrections),
        "wdr": wdr,
        "magic": StepRatios(episodes, log_weight, errors, starts=model.v_start, shares=shares),
    }


def drl(episodes: Episodes, model: Model, marginal_ratios: Array) -> Statistic:
    """Returns the mean over episodes of v_start + sum over t of discount^t · mu_t · (r_t + discount · v_next_t - q_t).

    marginal_ratios: float64 `[N]`, mu(s, a) = d_pi(s, a) / d_b(s, a) at the logged pairs, where d(s, a) is the expected sum over an
    episode of discount^t · [s_t = s, a_t = a]: of the policy's endless episodes above, of the log's own episodes, cut off where the
    log's clock cut them, below. The discount is in both visits and again in the sum, so that the mean over the log of the sum of
    discount^t · mu_t · r_t is J. Ratios that also depend on the time, P_pi(s_t, a_t) / P_b(s_t, a_t), do as well. Consistent where the
    ratios are right or the model is. Raises DataError where a shape is not the log's.
    """
    ratios = np.asarray(marginal_ratios, np.float64)
    if ratios.shape != episodes.rewards.shape:
        raise DataError(f"marginal_ratios has shape {list(ratios.shape)}; expected [{len(episodes.rewards):,}], one for each step")
    with np.errstate(invalid="ignore", over="ignore"):
        return Mean(model.v_start + episodes.sums(ratios * _errors(episodes, model)))


def _errors(episodes: Episodes, model: Model) -> Array:
    """`[N]` discount^t · (r + discount · v_next - q)"""
    steps, count = len(episodes.rewards), episodes.count
    for name, values, size in (("q", model.q, steps), ("v_next", model.v_next, steps), ("v_start", model.v_start, count)):
        if values.shape != (size,):
            raise DataError(f"model: {name} has shape {list(values.shape)}; expected [{size:,}]")
    errors = episodes.rewards + episodes.discount * model.v_next - model.q
    return np.asarray(np.power(episodes.discount, episodes.step) * errors)


def _magic_shares(episodes: Episodes, wdr: StepRatios, draws: int, seed: int) -> Array:
    """`[H]`: the weight of the blended estimates that follow the log at time t or beyond. All NaN where WDR or the covariance is undefined.

    The weights x minimise x'(covariance + bias bias')x over the simplex. The covariance is of the episodes' parts; a bias is the distance
    to the 50 % percentile interval of WDR (Thomas & Brunskill, section 7 and algorithm 1).
    """
    horizon, count = int(episodes.lengths.max()), episodes.count
    times = _spread(horizon)
    parts = np.concatenate([np.zeros((count, 1)), wdr.contributions(times)], 1)  # [E, J]: first the model alone, last WDR
    starts = np.asarray(wdr.starts)
    estimates = parts.sum(0) + starts.mean()
    drawn = _bootstrap(episodes, wdr, draws, seed)
    if count < 2 or not np.isfinite(estimates).all() or not np.isfinite(drawn).any():
        return np.full(horizon, np.nan)
    low, high = np.quantile(drawn[np.isfinite(drawn)], [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    bias = np.maximum(low - estimates, 0) + np.minimum(high - estimates, 0)
    parts = parts + starts[:, None] / count
    centred = parts - parts.mean(0)
    blend = _least_on_simplex(count / (count - 1) * centred.T @ centred + np.outer(bias, bias))
    beyond = np.cumsum(blend[::-1])[::-1][1:]  # [J - 1]: the weight of those that reach each of `times`
    return np.asarray(beyond[np.searchsorted(times, np.arange(horizon))])


def _spread(horizon: int) -> Array:
    """Times of 0 to the last, all of them where few, else denser at first, where weights are of most use."""
    if horizon < _RETURNS:
        return np.arange(horizon)
    return np.asarray(np.unique(np.round(np.geomspace(1, horizon, _RETURNS - 1)).astype(np.int64)) - 1)


def _bootstrap(episodes: Episodes, statistic: Statistic, draws: int, seed: int) -> Array:
    """`[draws]` of the statistic, whole groups drawn again with replacement."""
    generator = np.random.default_rng(seed)
    groups = np.arange(episodes.count) if episodes.groups is None else np.unique(episodes.groups, return_inverse=True)[1]
    number = int(groups.max()) + 1
    size, found = max(1, _CHUNK // episodes.count), [np.zeros(0)]
    for start in range(0, draws, size):
        rows = [np.bincount(generator.integers(number, size=number), minlength=number) for _ in range(min(size, draws - start))]
        found.append(statistic.value(np.stack(rows)[:, groups].astype(np.float64)))
    return np.concatenate(found)


def _least_on_simplex(matrix: Array) -> Array:
    """x >= 0 of sum 1 with the least x' `matrix` x, by non-negative least squares; all on the last where the matrix is 0.

    y that minimises y'My/2 - sum(y) over y >= 0 meets the same conditions up to its scale, so x = y / sum(y).
    """
    from scipy.linalg import cholesky, solve_triangular
    from scipy.optimize import nnls

    number = len(matrix)
    scale = float(np.trace(matrix)) / number
    if scale == 0:
        return np.asarray(np.eye(number)[-1])
    factor = cholesky(matrix / scale + 1e-9 * np.eye(number))  # the ridge decides among estimates that are alike: evenly
    y = nnls(factor, solve_triangular(factor, np.ones(number), trans="T"))[0]
    return np.asarray(y / y.sum())
