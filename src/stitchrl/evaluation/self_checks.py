"""Checks of the estimators themselves on the log at hand: placebo, a logger left out, and a task made from the log whose truth is known."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
from scipy.sparse import csr_array, hstack, vstack

from stitchrl.core.errors import ConfigError, DataError
from stitchrl.core.intervals import Interval
from stitchrl.core.spec import Discrete
from stitchrl.data.dataset import Dataset
from stitchrl.environments.tabular_logs import sample_log
from stitchrl.environments.tasks.tabular import TabularMDP, policy_value
from stitchrl.evaluation.behaviour_policy import Behaviour
from stitchrl.evaluation.behaviour_target import behaviour_target
from stitchrl.evaluation.confidence import student_t
from stitchrl.evaluation.counted_task import count_task
from stitchrl.evaluation.estimates import How, Judged, judge
from stitchrl.evaluation.evidence import Estimate, TableTarget, Target

Array = np.ndarray[Any, np.dtype[Any]]

LOGGERS = 4  # left out at most, those of the most episodes; of real-valued states, where each takes long, one
USUAL_LOGGERS = "infos/policy_id"
FEWEST = 30  # episodes of a logger that is left out
REPLICATIONS = 5
EPISODES = 2_000  # of a replication at most


@final
@dataclass(frozen=True)
class Found:
    """One estimate of a value that is known: `contains` says whether its interval holds the truth (within the truth's own error)."""

    name: str
    interval: Interval
    truth: float
    contains: bool


@final
@dataclass(frozen=True)
class SemiSynthetic:
    """The policy's estimates in a task made of the log's counts. `covered` of `replications` intervals held `truth`; `refused` were none."""

    estimator: str
    truth: float
    bias: float
    covered: int
    refused: int
    replications: int


def placebo(dataset: Dataset, behaviour: Behaviour, how: How) -> list[Found]:
    """Returns every estimate of the logged policy's own value, which the log measures: each has to contain it."""
    judged = judge(dataset, behaviour_target(dataset, how.seed), replace(how, quick=True), behaviour=behaviour, logged=True)
    if judged.logged.interval is None:
        raise DataError(f"not run: {judged.logged.reason}")
    return [_found(e.name, e.interval, judged.logged.interval, paired=True) for e in judged.estimates if e.interval is not None]


def check_loggers(dataset: Dataset, column: str) -> None:
    """Raises ConfigError for a column that was asked for and is not there; the usual one may be missing."""
    if column != USUAL_LOGGERS and dataset.column_of(column) is None:
        raise ConfigError(f"loggers is '{column}'; the data have no such column, but {', '.join(sorted(dataset.columns))}")


def leave_one_logger_out(dataset: Dataset, how: How, column: str = USUAL_LOGGERS) -> list[Found]:
    """Returns, for each logger with enough episodes, its value as estimated from the others' episodes beside what it earned.

    column: which logger acted, one value for each episode, with or without its "infos/". Raises DataError, with "not run: …", where the log
    does not tell.
    """
    name = dataset.column_of(column)
    if name is None:
        raise DataError(f"not run: the log has no column '{column}' that tells its loggers apart")
    logger = np.asarray(dataset.columns[name])[dataset.offsets[:-1]]
    names, counts = np.unique(logger, return_counts=True)
    finite = isinstance(dataset.spec.observation, Discrete) and isinstance(dataset.spec.action, Discrete)
    chosen = names[np.argsort(-counts, kind="stable")][: LOGGERS if finite else 1]
    kept = [name for name in chosen if (logger == name).sum() >= FEWEST and (logger != name).sum() >= FEWEST]
    if len(names) < 2 or not kept:
        raise DataError(f"not run: {len(names)} loggers; expected at least 2, one of them with {FEWEST} episodes")
    result = []
    for name in kept:
        arm, others = dataset.select(logger == name), dataset.select(logger != name)
        judged = judge(others, behaviour_target(arm, how.seed, f"logger {name}"), replace(how, quick=True))
        if judged.chosen is None:
            continue
        truth = student_t(arm.returns(how.discount), how.level)
        interval = judged.estimate(judged.chosen).interval
        assert interval is not None
        result.append(_found(f"logger {name} ({judged.chosen})", interval, truth, paired=False))
    if not result:
        raise DataError("not run: no logger's value is estimable from the others' episodes")
    return result


def _found(name: str, interval: Interval, truth: Interval, *, paired: bool) -> Found:
    """`paired`: the truth is of the same episodes, and its error not another one."""
    slack = 0.0 if paired or not math.isfinite(truth.high) else 0.5 * (truth.high - truth.low)
    low = interval.estimate - math.hypot(interval.estimate - interval.low, slack)
    high = interval.estimate + math.hypot(interval.high - interval.estimate, slack)
    return Found(name, interval, truth.estimate, low <= truth.estimate <= high)


def semi_synthetic(dataset: Dataset, target: Target, how: How) -> SemiSynthetic:
    """Returns how well the policy's estimate does in a task of the log's own counts, where its value is known exactly.

    Raises DataError, with "not run: …", where states or actions are not discrete.
    """
    observation, action = dataset.spec.observation, dataset.spec.action
    if not isinstance(observation, Discrete) or not isinstance(action, Discrete):
        raise DataError("not run: it needs discrete states and actions")
    mdp = task_of(dataset, how.discount)
    own, logged = (
        _with_more_states(t.probabilities(np.arange(observation.n)), mdp.states) for t in (target, behaviour_target(dataset, how.seed))
    )
    limit = int(dataset.lengths.max()) if dataset.timeouts.any() else None
    truth = policy_value(mdp, own, how.discount, limit if how.clock == "ends" else None)
    generator = np.random.default_rng([how.seed, 13])
    found: list[Estimate] = []
    for k in range(REPLICATIONS):
        log = sample_log(mdp, np.ones(1), logged[None], min(dataset.episodes, EPISODES), generator, limit or 100_000)
        judged: Judged = judge(log, TableTarget(own, log.spec), replace(how, quick=True, seed=how.seed + k))
        found += [judged.estimate(judged.chosen)] if judged.chosen is not None else []
    if not found:
        return SemiSynthetic("none", truth, 0.0, 0, REPLICATIONS, REPLICATIONS)
    covered = sum(e.interval.low <= truth <= e.interval.high for e in found if e.interval is not None)
    bias = float(np.mean([e.interval.estimate for e in found if e.interval is not None])) - truth
    return SemiSynthetic(found[0].name, truth, bias, covered, REPLICATIONS - len(found), REPLICATIONS)


def task_of(dataset: Dataset, discount: float) -> TabularMDP:
    """Returns the task of a discrete log's counts: its states, one for all never logged, and the end, the last, which is terminal."""
    assert isinstance(dataset.spec.observation, Discrete)
    ones = np.ones(len(dataset))
    task = count_task(
        dataset.spec, np.asarray(dataset.observations), np.asarray(dataset.actions), np.asarray(dataset.rewards, np.float64),
        dataset.next_observations(), np.asarray(dataset.terminals), ones,
    )  # fmt: skip
    states, actions = task.logged.shape
    unlogged = csr_array(np.where(task.logged, 0.0, 1.0).reshape(-1, 1))
    owner = csr_array((np.ones(states * actions), (np.arange(states * actions), np.repeat(np.arange(states), actions))))
    moves = csr_array(task.pairs + (owner @ task.pooled).multiply(unlogged))
    ends = np.clip(1 - np.asarray(moves.sum(1)).reshape(-1, 1), 0, 1)
    ends[ends < 1e-12] = 0.0
    transition = csr_array(vstack([hstack([moves, csr_array(ends)]), csr_array((actions, states + 1))]))
    transition.eliminate_zeros()
    reward = np.concatenate([task.reward.reshape(-1), np.zeros(actions)])
    initial = np.bincount(np.asarray(dataset.observations)[dataset.offsets[:-1]], minlength=states + 1) / dataset.episodes
    terminal = np.arange(states + 1) == states
    return TabularMDP(transition, np.repeat(reward, np.diff(transition.indptr)), initial, terminal, discount)


def _with_more_states(table: Array, states: int) -> Array:
    return np.concatenate([table, np.full((states - len(table), table.shape[1]), 1 / table.shape[1])])
