"""Can this policy be trusted? All estimates, checks and the verdict of one policy on one log, and what they took."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, final

import numpy as np

from stitchrl.core.errors import ConfigError, DataError
from stitchrl.data.column_checks import LOG_PROBABILITIES
from stitchrl.data.dataset import Dataset
from stitchrl.data.doctor import examine
from stitchrl.data.finite_values import check_rewards_told
from stitchrl.data.leakage import leakage, shared_groups
from stitchrl.evaluation.behaviour_policy import Behaviour, behaviour_of
from stitchrl.evaluation.confidence import bootstrap
from stitchrl.evaluation.drift import drift
from stitchrl.evaluation.estimability import trajectory_log_weights
from stitchrl.evaluation.estimates import How, Judged, judge
from stitchrl.evaluation.evidence import Clock, Difference, Estimate, Target
from stitchrl.evaluation.importance_sampling import behaviour_value, weighted
from stitchrl.evaluation.other_bounds import known_of
from stitchrl.evaluation.self_checks import USUAL_LOGGERS, check_loggers, leave_one_logger_out, placebo, semi_synthetic
from stitchrl.evaluation.sensitivity import Sensitivity, sensitivity
from stitchrl.evaluation.subgroups import Subgroup, check_columns, subgroups
from stitchrl.evaluation.support import support
from stitchrl.evaluation.trust_checks import Measured, Provenance
from stitchrl.evaluation.trust_record import Asked, record_of
from stitchrl.evaluation.value_sanity import ValueSanity

Array = np.ndarray[Any, np.dtype[Any]]


@final
@dataclass(frozen=True)
class Question:
    """What is asked of a policy and a log. trained_on: the episodes it learned from, where they are others; sanity: what its run believes.

    return_range, largest_weight: what is known of an episode's return and of its weight, for bounds that need it.
    """

    discount: float
    clock: Literal["auto", "continues", "ends"] = "auto"
    level: float = 0.95
    seed: int = 0
    quick: bool = False
    subgroups: tuple[str, ...] = ()
    loggers: str = USUAL_LOGGERS
    trained_on: Dataset | None = None
    provenance: Provenance = field(default_factory=lambda: Provenance("unknown", None))
    sanity: ValueSanity | str = "not run: the policy comes without its run, and with it without a critic"
    path: str | None = None
    command: str | None = None
    return_range: tuple[float, float] | None = None
    largest_weight: float | None = None


@final
@dataclass(frozen=True)
class Trust:
    """The report: `record` is plain JSON, the same for the same policy, log and seed; `seconds` is what its parts took."""

    record: dict[str, Any]
    seconds: dict[str, float]
    measured: Measured

    @property
    def judged(self) -> Judged:
        """All estimates."""
        return self.measured.judged

    @property
    def exit_code(self) -> int:
        """0 supported (also with limits), 3 not supported, 4 not estimable."""
        return int(self.record["verdict"]["exit_code"])


def clock_of(dataset: Dataset, discount: float, asked: Literal["auto", "continues", "ends"] = "auto") -> Clock:
    """Returns whether the log's clock is part of the task; `auto`: where there is no discount, or it always strikes at the same step and early."""
    if asked != "auto":
        return asked
    cut = np.asarray(dataset.timeouts)[dataset.offsets[1:] - 1] & ~np.asarray(dataset.terminals)[dataset.offsets[1:] - 1]
    if not cut.any():
        return "continues"
    lengths = dataset.lengths[cut]
    beyond = float(np.power(discount, lengths).sum() / dataset.episodes)
    return (
        "ends" if discount == 1 or (len(np.unique(lengths)) == 1 and lengths[0] == dataset.lengths.max() and beyond > 0.05) else "continues"
    )


def trust(dataset: Dataset, target: Target, question: Question, *, other: Trust | None = None) -> Trust:
    """Returns the report of a policy on a log. Raises DataError for a policy of other spaces, ConfigError for a question that makes no sense.

    other: the report of another policy on the same log, asked the same: what it found of the log alone is not made again.
    """
    if not 0 <= question.discount <= 1 or not 0 < question.level < 1:
        raise ConfigError(f"discount {question.discount} and level {question.level}; expected numbers from 0 to 1, the level between them")
    check_rewards_told(dataset, "every estimate", "")
    check_columns(dataset, question.subgroups)
    check_loggers(dataset, question.loggers)
    known = known_of(dataset, question.discount, question.return_range, question.largest_weight)
    how = How(question.discount, clock_of(dataset, question.discount, question.clock), question.level, question.seed, question.quick)
    seconds: dict[str, float] = {}

    def timed(name: str, make: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        try:
            return make()
        finally:
            seconds[name] = time.perf_counter() - began

    def of_log(name: str, make: Callable[[], Any]) -> Any:
        return timed(name, make) if other is None else getattr(other.measured, name)

    if other is None:
        propensities, behaviour = timed("behaviour", lambda: _behaviour(dataset, how.seed))
    else:
        propensities, behaviour = other.measured.propensities, other.judged.behaviour
    judged = timed("estimates", lambda: judge(dataset, target, how, behaviour=behaviour))
    measured = Measured(
        dataset=dataset,
        judged=judged,
        support=timed("support", lambda: support(dataset, target, behaviour, seed=how.seed)),
        drift=timed("drift", lambda: _drift(question, dataset)),
        integrity=of_log("integrity", lambda: examine(dataset)),
        propensities=propensities,
        leaks=timed("leakage", lambda: _leaks(question, dataset)),
        placebo=of_log("placebo", lambda: _or_why(lambda: placebo(dataset, behaviour, how))),
        loggers=of_log("loggers", lambda: _or_why(lambda: leave_one_logger_out(dataset, how, question.loggers))),
        synthetic=timed("semi_synthetic", lambda: _or_why(lambda: semi_synthetic(dataset, target, how))),
        sanity=question.sanity,
        subgroups=timed("subgroups", lambda: _subgroups(dataset, judged, question)),
        confounding=_or_why(lambda: _confounding(judged)),
        provenance=question.provenance,
    )
    asked = Asked(question.level, question.seed, question.path, question.command, known)
    return Trust(timed("record", lambda: record_of(measured, target, asked)), seconds, measured)


def _or_why(make: Callable[[], Any]) -> Any:
    try:
        return make()
    except DataError as error:
        return str(error)


def _behaviour(dataset: Dataset, seed: int) -> tuple[str | None, Behaviour]:
    """What is wrong with the logged propensities, or None; and the behaviour, estimated where they cannot be used."""
    try:
        return None, behaviour_of(dataset, seed)
    except DataError as error:
        if LOG_PROBABILITIES not in dataset.columns:
            raise
        columns = {name: column for name, column in dataset.columns.items() if name != LOG_PROBABILITIES}
        without = Dataset(dataset.spec, columns, dataset.offsets, dataset.final_observations, dataset.metadata)
        return str(error), behaviour_of(without, seed)


def _drift(question: Question, dataset: Dataset) -> Any:
    if question.trained_on is None:
        return "not run: the episodes it was trained on are not at hand apart from these"
    return drift(question.trained_on, dataset, seed=question.seed)


def _leaks(question: Question, dataset: Dataset) -> list[Any]:
    found = leakage(dataset, seed=question.seed)
    if question.trained_on is not None:
        found = [*found, *shared_groups(question.trained_on, dataset)]
    return [f for f in found if f.severity != "note"]  # a note: equal episodes of few states can be chance


def _chosen(judged: Judged) -> Estimate:
    if judged.chosen is None:
        raise DataError("not run: the policy's value is not estimable")
    return judged.estimate(judged.chosen)


def _subgroups(dataset: Dataset, judged: Judged, question: Question) -> list[Subgroup]:
    if not question.subgroups:
        return []
    if judged.chosen is None:
        return [Subgroup(column, "all", dataset.episodes, None, "not estimable in the whole log") for column in question.subgroups]
    statistic = _chosen(judged).statistic
    assert statistic is not None
    difference = Difference(statistic, behaviour_value(judged.episodes))
    return subgroups(
        dataset, question.subgroups, difference,
        lambda s, level: bootstrap(s, seed=question.seed, resamples=judged.how.resamples, level=level, method="expanded"), question.level,
    )  # fmt: skip


def _confounding(judged: Judged) -> Sensitivity:
    """How far the difference to the logged policy may move: from whole episodes' weights where they are usable, else from single steps'."""
    if judged.difference is None or judged.difference.low <= 0 <= judged.difference.high:
        raise DataError("not run: no difference to the logged policy is shown that could be turned")
    episodes = judged.episodes
    logged = behaviour_value(episodes).point
    if judged.gates["trajectory"] is None:
        weights = weighted(trajectory_log_weights(episodes), np.ones(episodes.count))
        found = sensitivity(weights, episodes.discounted(episodes.rewards), logged)
        return replace(found, curve=[(g, low - logged, high - logged) for g, low, high in found.curve])
    assert judged.ratios is not None
    weights = np.power(episodes.discount, episodes.step) * judged.ratios.mu
    mean = float(weights.sum()) / episodes.count
    found = sensitivity(weights, episodes.rewards, logged / mean)
    return replace(found, curve=[(g, low * mean - logged, high * mean - logged) for g, low, high in found.curve])
