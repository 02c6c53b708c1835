"""All estimates of one policy on one log: each with its interval, or in words why it has none.

Intervals resample episodes (or groups) with the same draws for every estimator, so that differences are paired. Values read off a fitted
model (FQE, marginalised weights, a model of the task) would show too little spread if only their first states were drawn again: to first
order their error is that of the doubly robust sum (its influence function; Kallus & Uehara, 2020, arXiv:1909.05850), whose spread theirs is.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np

from stitchrl.core.errors import DataError, DivergenceError
from stitchrl.core.intervals import Interval
from stitchrl.core.spec import Discrete
from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.behaviour_policy import Behaviour, behaviour_of
from stitchrl.evaluation.confidence import draws_together, interval_of_draws
from stitchrl.evaluation.doubly_robust import doubly_robust_estimators, drl
from stitchrl.evaluation.estimability import marginal_gate, trajectory_gate
from stitchrl.evaluation.evidence import Clock, Difference, Episodes, Estimate, Mean, Statistic, Target
from stitchrl.evaluation.fqe import Fitted, cross_fitted
from stitchrl.evaluation.importance_sampling import behaviour_value, trajectory_estimators
from stitchrl.evaluation.marginalized import Ratios, marginal_ratios
from stitchrl.evaluation.model_based import ModelValue, model_based_value

Array = np.ndarray[Any, np.dtype[Any]]

# the estimate that a verdict rests on is the first of these that is estimable
PREFERENCE = ("drl", "wdr", "wpdis", "dr", "fqe")
UNLOGGED, MASS, NEGATIVE = 0.05, 0.07, 0.2  # shares beyond which fitted values and ratios are not relied on
# imbalance that ratios of visits leave, of that without weights: bounds with fitted values to correct them, and without
BALANCE, BALANCE_ALONE = 1.0, 0.85
METHOD = "bootstrap of episodes, percentiles widened as Student's t"
INFLUENCE = "bootstrap of episodes, of the doubly robust sum's spread around this estimate"
TRAJECTORY = ("the behaviour's probabilities are right", "no hidden cause of actions and rewards")


@final
@dataclass(frozen=True)
class How:
    """How estimates are made. quick: fewer draws, one seed and fewer steps of fitted values."""

    discount: float
    clock: Clock
    level: float = 0.95
    seed: int = 0
    quick: bool = False

    @property
    def resamples(self) -> int:
        """Bootstrap draws."""
        return 500 if self.quick else 2000


@final
@dataclass(frozen=True)
class Judged:
    """One policy judged on one log.

    logged: the behaviour's own value. chosen: the name of the estimate that a verdict rests on; None where none is estimable. difference: of
    the chosen one to the logged value, paired; worse: the share of draws in which it is below 0. gates: reasons by family, None where open.
    """

    how: How
    episodes: Episodes
    behaviour: Behaviour
    fitted: Fitted | None
    ratios: Ratios | None
    estimates: tuple[Estimate, ...]
    logged: Estimate
    chosen: str | None
    difference: Interval | None
    worse: float | None
    gates: dict[str, str | None]

    def estimate(self, name: str) -> Estimate:
        """Returns the estimate of this name."""
        return next(e for e in self.estimates if e.name == name)


def judge(dataset: Dataset, target: Target, how: How, *, behaviour: Behaviour | None = None, logged: bool = False) -> Judged:
    """Returns all estimates of a policy's value on a log, and of its difference to the logged policy.

    logged: the policy is the logged one, as fitted to the log: the ratio of its probabilities to the logged ones is 1, whatever the fit says.
    Raises DataError for a policy of other spaces, and propensities that cannot be right.
    """
    behaviour = behaviour_of(dataset, how.seed) if behaviour is None else behaviour
    episodes = episodes_of(dataset, target, behaviour, how)
    if logged:
        episodes = replace(episodes, log_ratios=np.zeros(len(dataset)))
    seconds: dict[str, float] = {}
    fitted, no_fit = _tried(lambda: _fit(dataset, target, how), "fqe", seconds)
    ratios, no_ratios = _tried(lambda: _ratios(dataset, target, behaviour, how), "marginalized", seconds)
    modelled, no_model = _tried(lambda: _modelled(dataset, target, how), "model_based", seconds)
    gates = {"trajectory": trajectory_gate(episodes), "marginal": no_fit or no_ratios or _model_gate(fitted, ratios, episodes)}
    alone = gates["marginal"] or (None if ratios is None else _unbalanced(ratios, BALANCE_ALONE))
    found: dict[str, Statistic | str] = {}
    _trajectory(found, episodes, fitted, no_fit, gates["trajectory"])
    if fitted is None or ratios is None or gates["marginal"] is not None:
        found["drl"] = no_fit or no_ratios or gates["marginal"] or ""
    else:
        found["drl"] = drl(episodes, fitted.model, ratios.mu)
    influence = next((s for s in (found["drl"], found["dr"]) if isinstance(s, Mean)), None)
    spread = 0.0 if fitted is None or not math.isfinite(fitted.seed_spread) else fitted.seed_spread / math.sqrt(len(fitted.direct))
    wild = f"not estimable: {fitted.alarms[0]}" if fitted is not None and fitted.alarms else None
    direct = {
        "fqe": (None if fitted is None or wild else float(fitted.model.v_start.mean()), wild or no_fit, spread),
        "marginalized": (None if ratios is None else ratios.normalised.point, no_ratios, 0.0),
        "model_based": (None if modelled is None else modelled.value, no_model, _seed_error(modelled)),
    }
    for name, (value, reason, _) in direct.items():
        gate = alone if name == "marginalized" else gates["marginal"]
        # without the marginal gate the doubly robust sum of whole episodes serves the models; ratios of visits have only themselves
        own = None if name == "marginalized" and gate is not None else influence
        found[name] = _centred(own, value, reason, gate)
    estimates, difference, worse, chosen, logged_value = _intervals(found, {k: s for k, (*_, s) in direct.items()}, episodes, how, seconds)
    return Judged(how, episodes, behaviour, fitted, ratios, estimates, logged_value, chosen, difference, worse, gates)


def estimates(
    dataset: Dataset, target: Target, *, discount: float, clock: Clock, level: float = 0.95, seed: int = 0, quick: bool = False
) -> list[Estimate]:
    """Returns every estimate of a policy's value on a log; the one to rely on is the first estimable of PREFERENCE."""
    return list(judge(dataset, target, How(discount, clock, level, seed, quick)).estimates)


def episodes_of(dataset: Dataset, target: Target, behaviour: Behaviour, how: How) -> Episodes:
    """Returns the log's numbers with the ratios of the policy's probabilities to the behaviour's; none where the policy has no density."""
    terminals = np.array(dataset.terminals, np.bool_)
    if how.clock == "ends":
        terminals[dataset.offsets[1:] - 1] = True
    try:
        log_ratios: Array | None = target.log_probabilities(dataset.observations, dataset.actions) - behaviour.log_probabilities
    except DataError:
        log_ratios = None
    groups = None
    if "groups" in dataset.columns:
        groups = np.unique(np.asarray(dataset.columns["groups"])[dataset.offsets[:-1]], return_inverse=True)[1]
    rewards = np.asarray(dataset.rewards, np.float64)
    return Episodes(np.asarray(dataset.offsets), rewards, terminals, how.discount, log_ratios, groups)


def _fit(dataset: Dataset, target: Target, how: How) -> Fitted:
    seeds = (how.seed,) if how.quick else (how.seed, how.seed + 1)
    steps = 2_000 if how.quick else 4_000
    return cross_fitted(dataset, target, discount=how.discount, clock=how.clock, folds=_folds(dataset), seeds=seeds, steps=steps)


def _ratios(dataset: Dataset, target: Target, behaviour: Behaviour, how: How) -> Ratios:
    own = None
    if dataset.lengths.max() == 1:
        try:
            own = np.exp(target.log_probabilities(dataset.observations, dataset.actions) - behaviour.log_probabilities)
        except DataError:
            pass  # a policy without a density: the ratios are fitted
    return marginal_ratios(dataset, target, discount=how.discount, clock=how.clock, folds=_folds(dataset), seed=how.seed, action_ratios=own)


def _folds(dataset: Dataset) -> int:
    """More where fitting is exact and cheap: pairs of state and action that only few episodes hold are then seen by nearly all folds."""
    units = dataset.episodes if "groups" not in dataset.columns else len(np.unique(dataset.columns["groups"]))
    return min(10 if _is_tabular(dataset) else 2, units)


def _is_tabular(dataset: Dataset) -> bool:
    return isinstance(dataset.spec.observation, Discrete) and isinstance(dataset.spec.action, Discrete)


def _modelled(dataset: Dataset, target: Target, how: How) -> ModelValue:
    if how.quick and not _is_tabular(dataset):
        raise DataError("not estimable: a model of real-valued states is left out where estimates are quick")
    return model_based_value(dataset, target, discount=how.discount, clock=how.clock, seed=how.seed)


def _model_gate(fitted: Fitted, ratios: Ratios, episodes: Episodes) -> str | None:
    """Returns why values fitted to the log and ratios of visits cannot be relied on, or None: what the policy does is not in the log."""
    numbers = ratios.diagnostics
    unlogged = fitted.diagnostics.get("unlogged_share", 0.0)
    if unlogged > UNLOGGED:
        return f"not estimable: {unlogged:.0%} of the policy's expected visits are states and actions that the log lacks; needs under {UNLOGGED:.0%}"
    if abs(numbers["mass"] - 1) > MASS:
        return f"not estimable: the ratios of visits sum to {numbers['mass']:.2f} of an episode, not to 1; needs a policy nearer to the log"
    if unbalanced := _unbalanced(ratios, BALANCE):
        return unbalanced
    if numbers["unseen_share"] > UNLOGGED:
        return (
            f"not estimable: {numbers['unseen_share']:.0%} of the weight is on steps that other episodes lack; needs under {UNLOGGED:.0%}"
        )
    if numbers["negative_share"] > NEGATIVE:
        return f"not estimable: {numbers['negative_share']:.0%} of the ratios of visits are negative; needs a policy nearer to the log"
    if fitted.alarms:
        return f"not estimable: {fitted.alarms[0]}"
    return marginal_gate(np.maximum(ratios.mu, 0.0), episodes)


def _unbalanced(ratios: Ratios, limit: float) -> str | None:
    error = ratios.diagnostics["balance_error"]
    if error <= limit:
        return None
    return f"not estimable: ratios of visits leave other episodes {error:.2f} times as unbalanced as none; needs at most {limit:g}: more episodes"


@final
class Shifted(Statistic):
    """Another statistic plus a number. MAGIC's blend and the model in it do not vary in a bootstrap: it is given WDR's spread, which has both."""

    def __init__(self, other: Statistic, by: float) -> None:
        self.other, self.by, self.episodes = other, by, other.episodes

    def value(self, counts: Array) -> Array:
        return np.asarray(self.other.value(counts) + self.by)


def _tried(make: Callable[[], Any], name: str, seconds: dict[str, float]) -> tuple[Any, str | None]:
    """What `make` returns and None, or None and the reason in words."""
    began = time.perf_counter()
    try:
        return make(), None
    except (DataError, DivergenceError) as error:
        words = str(error)
        return None, words if words.startswith("not estimable") else f"not estimable: {words}"
    finally:
        seconds[name] = time.perf_counter() - began


def _trajectory(found: dict[str, Statistic | str], episodes: Episodes, fitted: Fitted | None, no_fit: str | None, gate: str | None) -> None:
    """Adds the estimators that weight whole episodes."""
    if gate is not None:
        found.update(dict.fromkeys(("is", "wis", "pdis", "wpdis", "dr", "wdr", "magic"), gate))
        return
    found.update(trajectory_estimators(episodes))
    if fitted is None:
        found.update(dict.fromkeys(("dr", "wdr", "magic"), no_fit or ""))
    else:
        robust = doubly_robust_estimators(episodes, fitted.model)
        found.update(robust | {"magic": Shifted(robust["wdr"], robust["magic"].point - robust["wdr"].point)})


def _centred(influence: Mean | None, value: float | None, reason: str | None, gate: str | None) -> Statistic | str:
    """An estimate read off a model, with the doubly robust sum's spread around it."""
    if value is None:
        return reason or ""
    if influence is None:
        return f"not estimable: a value read off a model has no interval without marginal weights ({(gate or '').removeprefix('not estimable: ')})"
    return Mean(influence.values - influence.point + value)


def _intervals(
    found: dict[str, Statistic | str], spreads: dict[str, float], episodes: Episodes, how: How, seconds: dict[str, float]
) -> tuple[tuple[Estimate, ...], Interval | None, float | None, str | None, Estimate]:
    """Every estimate with its interval, the paired difference to the logged value, the chance that it is below 0, the chosen one's name."""
    base = behaviour_value(episodes)
    usable = {name: s for name, s in found.items() if isinstance(s, Statistic)}
    drawn = draws_together([base, *usable.values()], seed=how.seed, resamples=how.resamples, groups=episodes.groups)
    of = dict(zip(usable, drawn[1:], strict=True))

    def interval(statistic: Statistic, values: Array) -> Interval:
        return interval_of_draws(statistic, values, level=how.level, groups=episodes.groups, method="expanded")

    result = []
    for name, statistic in found.items():
        if isinstance(statistic, str):
            result.append(Estimate.refused(name, statistic, seconds=seconds.get(name, 0.0)))
            continue
        made = widened(interval(statistic, of[name]), spreads.get(name, 0.0))
        if not np.isfinite([made.estimate, made.low, made.high]).all():
            result.append(
                Estimate.refused(name, "not estimable: undefined on this log or in its bootstrap draws", seconds=seconds.get(name, 0.0))
            )
            continue
        method = INFLUENCE if name in spreads else METHOD
        result.append(
            Estimate(
                name,
                made.estimate,
                made,
                method,
                assumptions=TRAJECTORY,
                seconds=seconds.get(name, 0.0),
                statistic=statistic,
                seed_error=spreads.get(name, 0.0),
            )
        )
    logged = interval(base, drawn[0])
    own = Estimate("logged", logged.estimate, logged, METHOD, statistic=base) if np.isfinite([logged.low, logged.high]).all() else (
        Estimate.refused("logged", f"not estimable: {episodes.count} episodes give no interval")
    )  # fmt: skip
    estimable = {e.name for e in result if e.reason is None}
    chosen = next((name for name in PREFERENCE if name in estimable), None)
    if chosen is None or own.reason is not None:
        return tuple(result), None, None, None, own
    gap = of[chosen] - drawn[0]
    difference = interval(Difference(usable[chosen], base), gap)
    return tuple(result), difference, float(np.mean(gap < 0)), chosen, own


def _seed_error(modelled: ModelValue | None) -> float:
    """The error that other seeds of networks show; models of drawn episodes differ by the log's own error, which is counted already."""
    return modelled.diagnostics["spread"] if modelled is not None and modelled.kind == "network" else 0.0


def widened(interval: Interval, spread: float) -> Interval:
    """Returns the interval with a further independent error of standard deviation `spread`."""
    if spread == 0:
        return interval
    more = 1.96 * spread
    low, high = interval.estimate - interval.low, interval.high - interval.estimate
    return Interval(
        interval.estimate, interval.estimate - math.hypot(low, more), interval.estimate + math.hypot(high, more), interval.level
    )
