"""Marginalised importance weights: minimax weight learning with linear features (Uehara et al., 2020, arXiv:1910.12809, section 4).

The weights mu(s, a) = d_pi(s, a) / d_b(s, a), the ratio of expected discounted visits in an episode, are those for which every feature f is
in balance over the log: mean over episodes of sum over t of discount^t · mu_t · [f(s_t, a_t) - discount · (1 - end_t) · f(s_t+1, pi)] equals
the mean of f(s_0, pi). In this form, which is ours, a task that ends may have discount 1. The weights are linear in the same features,
mu = 1 + phi·alpha, and drawn towards 1, the behaviour's own, by a ridge. Where states and actions are discrete the features are one for
each pair, the equations reduce to one for each state, and are solved without a ridge (one chosen as below did harm in logs of 100 episodes).

Elsewhere the ridge is the one of a grid whose weights, fitted on one half of the fitting episodes, leave the other half best in balance, both
ways, and half of it for both halves together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np
from scipy.sparse import csr_array, diags_array, eye_array
from scipy.sparse.linalg import splu

from stitchrl.core.errors import DataError
from stitchrl.core.spec import Discrete
from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.balance_features import Features, features_of
from stitchrl.evaluation.counted_task import leads_to
from stitchrl.evaluation.crossfit import CHUNK, Steps, check_target, folds_of, policy_at, read_steps
from stitchrl.evaluation.evidence import Clock, Mean, Ratio, Target

Array = np.ndarray[Any, np.dtype[Any]]

RIDGES = tuple(float(x) for x in np.logspace(-4, 0, 9))  # beside the metric's own scale, in which no singular value exceeds 1
FLOOR = 1e-4  # of the largest variance: directions in which the log varies less are left out
DRAWS = 4  # actions of a continuous stochastic policy at each state


@final
@dataclass(frozen=True)
class Ratios:
    """Cross-fitted ratios mu `[N]` of the policy's discounted visits to the log's.

    Linear ones may be negative. They stay so: set to 0 they break the balance, which made a value of -6.8 one of -7.9 in a trial on an LQG.

    statistic: the mean over episodes of sum discount^t · mu · reward. normalised: the same divided by the weighted mass that leaves the task
    (sum of discount^t · mu · (1 - discount where the step goes on)), which is 1 where the ratios are right.
    diagnostics: ess, kish_share (Kish's effective number of steps of discount^t · mu, and its share of that of discount^t), episode_ess,
    largest_share (of one episode), negative_share (of the discounted steps), mass (1 where right), balance_error
    (of held-out episodes, the norm beside that of mu = 1: below 1 the weights help), ridge, unseen_share (weight on pairs not met in fitting).
    """

    mu: Array
    statistic: Mean
    normalised: Ratio
    diagnostics: dict[str, float]
    warnings: tuple[str, ...]
    assumptions: tuple[str, ...]


def marginal_ratios(
    dataset: Dataset, target: Target, *, discount: float, clock: Clock, folds: int = 2, seed: int = 0, action_ratios: Array | None = None
) -> Ratios:
    """Returns ratios at all logged steps, each fitted on the other folds' episodes (groups stay whole).

    action_ratios: `[N]`, pi(a|s) / b(a|s) of the logged actions; where every episode is one step they are the ratios, and nothing is fitted.
    Raises DataError, with "not estimable: …" where no finite ratios solve the equations, or a fold has fewer than two episodes to fit on.
    """
    check_target(dataset, target)
    log = read_steps(dataset, discount, clock)
    fold = folds_of(dataset, folds, seed)
    finite = isinstance(dataset.spec.observation, Discrete) and isinstance(dataset.spec.action, Discrete)
    if action_ratios is not None and log.time.max() == 0:
        mu, numbers = np.asarray(action_ratios, np.float64), {"balance_error": 0.0, "ridge": 0.0, "unseen_share": 0.0}
    else:
        mu, numbers = (_finite if finite else _featured)(dataset, target, discount, log, fold, seed)
    if not np.isfinite(mu).all():
        raise DataError("not estimable: the marginalised weights are not finite")
    return _judged(dataset, log, discount, mu, numbers, folds)


def _halves(fold: Array, seed: int) -> Array:
    """int64 `[E]`, 0 or 1: each fold's episodes in two halves, between which the ridge is chosen."""
    half = np.empty(len(fold), np.int64)
    generator = np.random.default_rng([seed, 11])
    for k in range(int(fold.max()) + 1):
        own = np.flatnonzero(fold == k)
        half[own[generator.permutation(len(own))]] = np.arange(len(own)) % 2
    for k in range(int(fold.max()) + 1):
        others = half[fold != k] if fold.max() else half
        if len(np.unique(others)) < 2:
            raise DataError(
                f"not estimable: {len(fold):,} episodes are too few to fit marginalised weights on other episodes than their own"
            )
    return half


def _judged(dataset: Dataset, log: Steps, discount: float, mu: Array, numbers: dict[str, float], folds: int) -> Ratios:
    present = np.power(discount, log.time)
    numbers["negative_share"] = float(present[mu < 0].sum() / present.sum())

    def by_episode(values: Array) -> Array:
        return np.asarray(np.add.reduceat(present * values, log.first))

    leaving = 1 - discount * (1 - log.ends.astype(np.float64))
    earned, mass, weight = by_episode(mu * log.rewards), by_episode(mu * leaving), by_episode(mu)
    if weight.sum() <= 0:
        raise DataError("not estimable: no logged step has any weight under the policy")
    if mass.sum() <= 0:
        raise DataError("not estimable: no weight leaves the task: in the logged steps the policy never ends")
    ess = _kish(present * mu)
    numbers |= {"ess": ess, "kish_share": ess / _kish(present), "episode_ess": _kish(weight)}
    numbers |= {"largest_share": float(np.abs(weight).max() / np.abs(weight).sum()), "mass": float(mass.mean())}
    warnings = []
    if numbers["negative_share"] > 0.2:
        warnings.append(f"{numbers['negative_share']:.0%} of the weights are negative: the features fit badly")
    if abs(numbers["mass"] - 1) > 0.2:
        warnings.append(f"the weighted mass that leaves the task is {numbers['mass']:.2f}, not 1: visits of the policy lie outside the log")
    if numbers["balance_error"] > 1:
        warnings.append(f"held-out balance is worse than without weights ({numbers['balance_error']:.2f} times)")
    if log.limit is not None:
        cut = float(np.where(dataset.terminals[dataset.offsets[1:] - 1], 0.0, np.power(discount, dataset.lengths)).mean())
        if cut > 0.05:
            warnings.append(
                f"the clock is part of the task and the ratios do not know the time; {cut:.0%} of the discount is left at its end"
            )
    assumptions: tuple[str, ...] = (
        "the ratio of visits, or the policy's Q, is linear in the features",
        "the logged steps cover the policy's visits",
    )
    if folds == 1:
        assumptions = (*assumptions, "fitted and read on the same episodes, not cross-fitted")
    return Ratios(mu, Mean(earned), Ratio(earned[:, None], mass[:, None]), numbers, tuple(warnings), assumptions)


def _kish(weights: Array) -> float:
    return float(weights.sum() ** 2 / np.square(weights).sum())


# Discrete states and actions -----------------------------------------------------------------------------------------------------


@final
@dataclass(frozen=True)
class _Flow:
    """Discounted visits of some episodes, as means over them. visits: `[S, n]`.

    flow: sparse `[S · n, S]`, those that go on, times the discount. start: `[S]`.
    """

    visits: Array
    flow: csr_array
    start: Array


def _finite(dataset: Dataset, target: Target, discount: float, log: Steps, fold: Array, seed: int) -> tuple[Array, dict[str, float]]:
    assert isinstance(dataset.spec.observation, Discrete) and isinstance(dataset.spec.action, Discrete)
    states, choices = dataset.spec.observation.n, dataset.spec.action.n
    policy = target.probabilities(np.arange(states))
    s, a = np.asarray(dataset.observations), np.asarray(dataset.actions)
    present = np.power(discount, log.time)

    def flow_of(episodes: Array) -> _Flow:
        rows = np.repeat(episodes, dataset.lengths)
        pair, count = s * choices + a, int(episodes.sum())
        visits = np.bincount(pair[rows], present[rows], states * choices).reshape(states, choices) / count
        on = rows & ~log.ends
        flow = csr_array((discount * present[on] / count, (pair[on], log.following[on])), shape=(states * choices, states))
        return _Flow(visits, flow, np.bincount(s[log.first[episodes]], minlength=states) / count)

    mu = np.empty(len(dataset))
    errors, unseen = [], 0.0
    for k in range(int(fold.max()) + 1):
        flow, rows = flow_of(fold != k if fold.max() else fold == k), np.repeat(fold == k, dataset.lengths)
        table, judged = _table(flow, policy, discount == 1), flow_of(fold == k)
        mu[rows] = table[s[rows], a[rows]]
        unseen += float((present[rows] * mu[rows])[flow.visits[s[rows], a[rows]] == 0].sum())
        errors.append(_imbalance(judged, table, policy) / max(_imbalance(judged, np.ones_like(table), policy), 1e-300))
    numbers = {"balance_error": float(np.sqrt(np.mean(errors))), "ridge": 0.0}
    return mu, numbers | {"unseen_share": unseen / max(float((present * mu).sum()), 1e-300)}


def _table(flow: _Flow, policy: Array, undiscounted: bool) -> Array:
    """`[S, n]`: the solution mu of visits · mu = pi · inflow(mu), where inflow = start + flow' mu: one equation for each state's inflow.

    A pair that was not logged in a logged state is given the state's ratio times that of the action's probability to a share smoothed by
    one step; one of a state not logged, 1. Raises DataError where the equations have no solution.
    """
    seen = flow.visits > 0
    share = np.where(seen, policy / np.where(seen, flow.visits, 1.0), 0.0)  # of the inflow, for each visit
    states, choices = policy.shape
    columns = np.repeat(np.arange(states), choices)
    spread = csr_array((share.reshape(-1), (np.arange(states * choices), columns)), shape=(states * choices, states))
    inflow = _inflow(flow, spread, undiscounted)
    total = flow.visits.sum(1)
    smallest = float(flow.visits[seen].min())
    smoothed = (flow.visits + smallest) / (total + smallest * choices)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        guess = np.where(total[:, None] > 0, inflow[:, None] / total[:, None] * policy / smoothed, 1.0)
    return np.where(seen, share * inflow[:, None], guess)


def _inflow(flow: _Flow, spread: csr_array, undiscounted: bool) -> Array:
    """`[S]`: the solution of inflow = start + flow' spread inflow.

    Without discount, of states from which no logged step of the policy leads to an end, one step more than was logged is taken to end.
    """
    onward = flow.flow
    states, choices = flow.visits.shape
    if undiscounted:
        visits = flow.visits.reshape(-1)
        chain = csr_array(spread.T @ onward)  # [S, S], where the policy goes on to
        ending = np.asarray(spread.T @ (visits - np.asarray(onward.sum(1)).reshape(-1))) > 1e-12
        stuck = np.repeat(~leads_to(chain, ending), choices)
        onward = diags_array(np.where(stuck, 1 - 1 / (1 + visits / visits[visits > 0].min()), 1.0)) @ onward
    try:
        inflow: Array = splu(csr_array(eye_array(states) - onward.T @ spread).tocsc()).solve(flow.start)
    except RuntimeError:
        raise DataError("not estimable: in the logged steps the policy never ends, and with discount 1 its visits have no bound") from None
    return inflow


def _imbalance(flow: _Flow, table: Array, policy: Array) -> float:
    """The sum over pairs of the squared imbalance, each divided by its visits."""
    inflow = flow.start + flow.flow.T @ table.reshape(-1)
    residual = flow.visits * table - policy * inflow[:, None]
    smallest = float(flow.visits[flow.visits > 0].min())
    return float((np.square(residual) / (flow.visits + smallest)).sum())


# Real-valued observations or actions ---------------------------------------------------------------------------------------------


@final
@dataclass(frozen=True)
class _Sums:
    """Of some episodes, as sums: balance `[P, P]` (rows f, columns phi), gram of phi and of f's changes `[P, P]`, start `[P]`, their count."""

    balance: Array
    gram: Array
    changes: Array
    start: Array
    count: int

    def __add__(self, other: _Sums) -> _Sums:
        both = zip(self.arrays, other.arrays, strict=True)
        balance, gram, changes, start = (a + b for a, b in both)
        return _Sums(balance, gram, changes, start, self.count + other.count)

    @property
    def arrays(self) -> tuple[Array, Array, Array, Array]:
        """All but the count."""
        return self.balance, self.gram, self.changes, self.start

    def imbalance(self, alpha: Array, metric: Array) -> float:
        """The squared norm, in a metric, of the mean imbalance of mu = 1 + phi·alpha; the first feature is the constant 1."""
        residual = metric @ (self.balance @ alpha + self.balance[:, 0] - self.start) / self.count
        return float(residual @ residual)


def _featured(dataset: Dataset, target: Target, discount: float, log: Steps, fold: Array, seed: int) -> tuple[Array, dict[str, float]]:
    features = features_of(dataset, target, seed)
    start_policy = policy_at(target, dataset.observations[log.first], DRAWS, seed)
    next_policy = policy_at(target, log.following, DRAWS, seed + 1)
    present, of_row = np.power(discount, log.time), np.repeat(np.arange(dataset.episodes), dataset.lengths)
    part = fold * 2 + _halves(fold, seed)
    nothing = np.zeros((features.size,) * 2)
    sums = [_Sums(nothing, nothing, nothing, nothing[0], 0) for _ in range(part.max() + 1)]
    for p in range(len(sums)):
        own = np.flatnonzero(part == p)
        if len(own):
            start = features.under(dataset.observations[log.first[own]], start_policy[own]).sum(0)
            sums[p] += _Sums(nothing, nothing, nothing, start, len(own))
            rows = np.flatnonzero(part[of_row] == p)
            for i in range(0, len(rows), CHUNK):
                sums[p] += _step_sums(features, dataset, log, next_policy, present, discount, rows[i : i + CHUNK])
    mu = np.empty(len(dataset))
    errors, ridges = [], []
    for k in range(int(fold.max()) + 1):
        fitting = [p for p in range(len(sums)) if p // 2 != k or not fold.max()]
        halves = [_total([sums[p] for p in fitting if p % 2 == h]) for h in (0, 1)]
        whole = halves[0] + halves[1]
        white = _metrics(whole)
        losses = [sum(halves[1 - h].imbalance(_solve(halves[h], ridge, *white), white[1]) for h in (0, 1)) for ridge in RIDGES]
        ridge = RIDGES[int(np.argmin(losses))] / 2  # all fitting episodes are twice a half, and carry half its noise
        alpha, own_sums = _solve(whole, ridge, *white), _total([sums[p] for p in (2 * k, 2 * k + 1) if p < len(sums)])
        rows = np.flatnonzero(fold[of_row] == k)
        for i in range(0, len(rows), CHUNK):
            chunk = rows[i : i + CHUNK]
            mu[chunk] = 1 + features.at(dataset.observations[chunk], dataset.actions[chunk]) @ alpha
        errors.append(own_sums.imbalance(alpha, white[1]) / max(own_sums.imbalance(np.zeros_like(alpha), white[1]), 1e-300))
        ridges.append(ridge)
    return mu, {"balance_error": float(np.sqrt(np.mean(errors))), "ridge": float(np.mean(ridges)), "unseen_share": 0.0}


def _step_sums(features: Features, dataset: Dataset, log: Steps, next_policy: Array, present: Array, discount: float, rows: Array) -> _Sums:
    phi = features.at(dataset.observations[rows], dataset.actions[rows])
    after = features.under(log.following[rows], next_policy[rows])
    weighted = phi * present[rows, None]
    change = phi - discount * (1 - log.ends[rows, None].astype(np.float64)) * after
    changes = change.T @ (change * present[rows, None])
    return _Sums(change.T @ weighted, phi.T @ weighted, changes, np.zeros(features.size), 0)


def _total(sums: list[_Sums]) -> _Sums:
    whole = sums[0]
    for other in sums[1:]:
        whole += other
    return whole


def _metrics(sums: _Sums) -> tuple[Array, Array]:
    """Matrices that make the features white, of the directions in which the log varies, and in those directions their changes.

    No direction of the changes is left out: the constant's is as small as 1 - discount, and it alone holds the weights' mass.
    """
    white = _whitening(sums.gram / sums.count, FLOOR)
    return white, _whitening(white @ (sums.changes / sums.count) @ white.T, 1e-10) @ white


def _whitening(moments: Array, floor: float) -> Array:
    """A matrix W with W moments W' = 1 on the directions above `floor` of the largest."""
    values, vectors = np.linalg.eigh(moments)
    kept = values > values.max() * floor
    return np.asarray(vectors[:, kept].T / np.sqrt(values[kept])[:, None])


def _solve(sums: _Sums, ridge: float, white: Array, metric: Array) -> Array:
    """alpha: the least squared imbalance in the metric plus ridge · mean of (phi·alpha)². White makes phi so; the matrix has no value above 1.

    The metric counts a feature's imbalance beside its own mean square change f - discount · f': as values, sums of such changes, do.
    """
    matrix = metric @ (sums.balance / sums.count) @ white.T
    wanted = metric @ (sums.start - sums.balance[:, 0]) / sums.count
    solved = np.linalg.solve(matrix.T @ matrix + ridge * np.eye(matrix.shape[1]), matrix.T @ wanted)
    return np.asarray(white.T @ solved)
