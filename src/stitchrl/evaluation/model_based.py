"""Model-based evaluation: a model of the task fitted on the log, and the policy's value in it.

Discrete states and actions: the task that the log's counts tell, solved exactly (certainty equivalence; the same number as tabular fitted
Q-evaluation on all episodes). Otherwise an ensemble of models is rolled out under the policy from the logged first states. An ensemble's
spread is what its members disagree on, which bounds no error that they share.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from stitchrl.core.errors import DataError
from stitchrl.core.spec import Box, Discrete
from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.counted_task import ASSUMED, count_task, solve
from stitchrl.evaluation.crossfit import Steps, check_target, folds_of, policy_at, read_steps
from stitchrl.evaluation.evidence import Clock, Mean, Target
from stitchrl.evaluation.fqe import one_thread

Array = np.ndarray[Any, np.dtype[Any]]

REMAINDER = 0.01  # of the discount: how much may lie beyond the horizon that is chosen
LONGEST = 1000  # steps of a rollout, at most, unless told
STARTS = 1000  # first states, at most, that are rolled out; where there are fewer, each several times
MARGIN = 0.1  # of a coordinate's logged range: further out a rollout has left the data
HELD = 0.5  # likewise: where a rollout is held, so that a model that explodes stays a number


@final
@dataclass(frozen=True)
class ModelValue:
    """A policy's value in models of the task.

    kind: "counts", "ridge" or "network". value: the mean over members. members: `[M]`, of models of drawn episodes (counts, ridge) or other
    seeds (network). v_start: `[E]` of the logged first states; NaN for those that were not rolled out. diagnostics: spread (standard deviation
    of two or more members), horizon, beyond (share of the discount after it), left_share (of rollout steps that left the logged range), held_out
    (standardised mean square error), unlogged_share (of the policy's visits, of counts).
    """

    kind: str
    value: float
    members: Array
    v_start: Array
    assumptions: tuple[str, ...]
    warnings: tuple[str, ...]
    alarms: tuple[str, ...]
    diagnostics: dict[str, float]

    @property
    def statistic(self) -> Mean | None:
        """The mean over episodes of `v_start`; a bootstrap of it does not refit the model. None where some first states were not rolled out."""
        return Mean(self.v_start) if np.isfinite(self.v_start).all() else None


def model_based_value(
    dataset: Dataset,
    target: Target,
    *,
    discount: float,
    clock: Clock,
    seed: int = 0,
    horizon: int | None = None,
    members: int | None = None,
    steps: int = 2_000,
) -> ModelValue:
    """Returns the policy's value in models fitted on all of the log.

    horizon: steps after which a rollout stops; by default the clock's limit where the clock ends the task, else where 1 % of the discount is
    left, at most 1,000, and with discount 1 the longest logged episode. Counts take a horizon only where it is told or the clock's.
    members: models, by default 10 of counts and 3 of others. steps: of learning, of networks. Raises DataError ("not estimable: …").
    """
    check_target(dataset, target)
    log = read_steps(dataset, discount, clock)
    if horizon is not None and horizon < 1:
        raise DataError(f"horizon is {horizon}; expected at least 1 step")
    if isinstance(dataset.spec.observation, Discrete):
        if not isinstance(dataset.spec.action, Discrete):
            raise DataError("not estimable: no model is made here of discrete states with real-valued actions")
        return _counted(dataset, target, discount, log, seed, horizon or log.limit, members or 10)
    with one_thread():
        return _rolled_out(dataset, target, discount, log, seed, horizon, members or 3, steps)


def _counted(dataset: Dataset, target: Target, discount: float, log: Steps, seed: int, horizon: int | None, members: int) -> ModelValue:
    assert isinstance(dataset.spec.observation, Discrete)
    policy = target.probabilities(np.arange(dataset.spec.observation.n))
    s, a = np.asarray(dataset.observations), np.asarray(dataset.actions)
    ends = log.ends if log.limit is None else np.asarray(dataset.terminals)
    generator = np.random.default_rng([seed, 23])

    def fitted(counts: Array) -> tuple[Array, float]:
        task = count_task(dataset.spec, s, a, log.rewards, log.following, ends, np.repeat(counts, dataset.lengths).astype(np.float64))
        solution = solve(task, policy, s[log.first], discount, horizon)
        left = None if horizon is None else np.full(dataset.episodes, horizon)
        return solution.v(s[log.first], left), solution.unlogged

    v_start, unlogged = fitted(np.ones(dataset.episodes))
    values, failed = [], 0
    for _ in range(members):
        counts = np.bincount(generator.integers(dataset.episodes, size=dataset.episodes), minlength=dataset.episodes)
        try:
            values.append(float(counts @ fitted(counts)[0] / counts.sum()))
        except DataError:  # a drawn log in which the policy never ends
            failed += 1
    warnings = []
    if failed:
        warnings.append(f"in {failed} of {members} drawn logs the policy has no finite value")
    if unlogged > 0.05:
        warnings.append(f"{unlogged:.0%} of the policy's expected visits are state-action pairs that were never logged")
    numbers = {"unlogged_share": unlogged} | _spread(values) | ({} if horizon is None else {"horizon": float(horizon)})
    made = ("the logged states are Markov states: what comes next depends on state and action alone", ASSUMED)
    return ModelValue("counts", float(v_start.mean()), np.array(values), v_start, made, tuple(warnings), (), numbers)


def _spread(values: Any) -> dict[str, float]:
    return {"spread": float(np.std(values, ddof=1))} if len(values) > 1 else {}


def _horizon(dataset: Dataset, discount: float, log: Steps, told: int | None) -> int:
    if told is not None:
        return told
    if log.limit is not None:
        return log.limit
    if discount in (0.0, 1.0):
        return 1 if discount == 0 else int(dataset.lengths.max())
    return min(max(math.ceil(math.log(REMAINDER) / math.log(discount)), 1), LONGEST)


def _rolled_out(
    dataset: Dataset, target: Target, discount: float, log: Steps, seed: int, told: int | None, members: int, steps: int
) -> ModelValue:
    from stitchrl.evaluation.dynamics import fit_ensemble

    assert isinstance(dataset.spec.observation, Box)
    if dataset.episodes < 2:
        raise DataError("not estimable: a model needs at least two episodes, one of them to be judged by")
    held_out = np.repeat(folds_of(dataset, min(5, dataset.episodes), seed) == 0, dataset.lengths)
    ensemble = fit_ensemble(dataset, log, held_out, seed, members=members, steps=steps)
    horizon = _horizon(dataset, discount, log, told)
    starts = np.unique(np.linspace(0, dataset.episodes - 1, min(STARTS, dataset.episodes)).round().astype(np.int64))
    repeats = math.ceil(STARTS / len(starts))
    first = np.repeat(np.asarray(dataset.observations[log.first[starts]], np.float64).reshape(len(starts), -1), repeats, 0)
    returns, alive, left = np.zeros((members, len(starts))), np.zeros(members), np.zeros(members)
    for m in range(members):
        rolled, alive[m], left[m] = _rollout(ensemble, m, dataset, target, discount, first, horizon, seed)
        returns[m] = rolled.reshape(-1, repeats).mean(1)
    if not np.isfinite(returns).all():
        raise DataError("not estimable: rollouts of the model ended with values that are not finite")
    values = returns.mean(1)
    beyond = 0.0 if log.limit is not None and told is None else float(alive.mean() * discount**horizon)
    numbers = {"horizon": float(horizon), "beyond": beyond, "left_share": float(left.mean()), "held_out": ensemble.held_out} | _spread(
        values
    )
    alarms, warnings = [], []
    if left.mean() > 0.05:
        alarms.append(f"{left.mean():.0%} of the rollouts' steps left the logged range of observations by more than {MARGIN:.0%} of it")
    if beyond > 0.05:
        warnings.append(f"{beyond:.0%} of the discounted time lies beyond the horizon of {horizon:,} steps and counts as worth nothing")
    v_start = np.full(dataset.episodes, np.nan)
    v_start[starts] = returns.mean(0)
    made = ("observations are Markov states", "the noise of a step does not depend on the state", f"a model of kind '{ensemble.kind}' fits")
    return ModelValue(ensemble.kind, float(values.mean()), values, v_start, made, tuple(warnings), tuple(alarms), numbers)


def _rollout(
    ensemble: Any, member: int, dataset: Dataset, target: Target, discount: float, first: Array, horizon: int, seed: int
) -> tuple[Array, float, float]:
    """Discounted returns `[E]` of one member, the share alive at the horizon, and the share of steps outside the logged range."""
    assert isinstance(dataset.spec.observation, Box)
    seen = np.asarray(dataset.observations, np.float64).reshape(len(dataset), -1)
    low, high = seen.min(0), seen.max(0)
    width = np.where(high > low, high - low, 1.0)
    generator = np.random.default_rng([seed, 29, member])
    mean, scale = ensemble.standard.outputs
    s, alive = first.copy(), np.ones(len(first))
    total, outside, steps = np.zeros(len(first)), 0.0, 0.0
    for t in range(horizon):
        shown = s.reshape(len(s), *dataset.spec.observation.shape).astype(dataset.spec.observation.dtype)
        a = _acted(target, shown, generator)
        change, ending = ensemble.predict(member, ensemble.standard.pairs(s, a))
        noise = ensemble.errors[generator.integers(len(ensemble.errors), size=len(s))]
        change = (change + noise) * scale + mean
        total += discount**t * alive * change[:, -1]
        alive = alive * (generator.random(len(s)) >= ending)
        s = s + change[:, :-1]
        out = ((s < low - MARGIN * width) | (s > high + MARGIN * width)).any(1)
        outside, steps = outside + float((out * alive).sum()), steps + float(alive.sum())
        s = np.clip(s, low - HELD * width, high + HELD * width)
        if not alive.any():
            break
    return total, float(alive.mean()), outside / max(steps, 1.0)


def _acted(target: Target, observations: Array, generator: np.random.Generator) -> Array:
    """One action at each observation: int64 `[M]` drawn from the probabilities where discrete, else `[M, A]`."""
    if isinstance(target.spec.action, Discrete):
        cumulative = np.cumsum(target.probabilities(observations), 1)
        drawn = (generator.random((len(observations), 1)) > cumulative).sum(1)
        return np.asarray(np.minimum(drawn, target.spec.action.n - 1))
    return policy_at(target, observations, 1, int(generator.integers(1 << 31)))[:, 0]
