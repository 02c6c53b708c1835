"""Choosing a policy from a log alone: candidates ranked by one selector, with intervals, what the choice is worth, and its provenance.

"Offline policy selection is as hard as off-policy evaluation" (arXiv:2312.02355): a ranking is as good as its selector, and where no
estimate stands the candidate is ranked last and says why.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, final

import numpy as np

from stitchrl.core.errors import ConfigError, DataError
from stitchrl.core.intervals import Interval, percentile_interval
from stitchrl.core.spec import Box, Discrete
from stitchrl.data.dataset import Dataset
from stitchrl.evaluation import selection_metrics as metrics
from stitchrl.evaluation.confidence import bootstrap, draws_together
from stitchrl.evaluation.evidence import Clock, Estimate, Mean, Statistic, Target
from stitchrl.evaluation.selection_bounds import Choice, groups_of, regret_bounds, winners_curse

Array = np.ndarray[Any, np.dtype[Any]]
# by default the first of these that all policies have an estimate by, else the one that most have; benchmarks/trust/SELECTION.md tells why
DEFAULT_ESTIMATORS = ("fqe", "drl")
LOGGED = "logged behaviour"
# that fit nothing to the episodes but a model whose errors they correct, in the order in which they are asked for bounds
CORRECTED = ("drl", "dr", "wdr", "magic", "wpdis", "wis", "pdis", "is")


class Estimates(Protocol):
    """Every estimator's answer for one policy, as `evaluation/estimates.py` gives it."""

    def __call__(
        self, dataset: Dataset, target: Target, *, discount: float, clock: Clock, level: float, seed: int
    ) -> Sequence[Estimate]: ...


@final
@dataclass(frozen=True)
class Provenance:
    """What a candidate's run has used of the environment. `online_episodes`: over all seeds; None where its files do not tell."""

    run: str = ""
    online_episodes: int | None = None
    evaluations: int = 0
    same_data: bool | None = None  # was it trained on the very log that judges it?
    parent: str | None = None  # the run that it went on from online
    parent_episodes: int = 0  # of `online_episodes`, those of that run


@final
@dataclass(frozen=True)
class Candidate:
    """One policy with what is known of it. `score`: None where the selector cannot tell. `estimate`: in the unit of value."""

    name: str
    score: float | None
    estimate: Estimate
    estimates: tuple[Estimate, ...] = ()
    difference: Interval | None = None  # to the logged behaviour, on the same redrawn episodes
    best_share: float | None = None  # of redrawn logs in which its estimate is the highest
    provenance: Provenance | None = None
    truth: float | None = None
    scores: Mapping[str, float | None] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values; null for what is unknown."""
        return {
            "name": self.name,
            "score": self.score,
            **_estimate_json(self.estimate),
            "difference_to_logged": None if self.difference is None else self.difference.to_json(),
            "best_share": self.best_share,
            "truth": self.truth,
            "provenance": None if self.provenance is None else dict(self.provenance.__dict__),
            "scores": dict(self.scores),
            "estimates": [_estimate_json(e) for e in self.estimates],
        }


@final
@dataclass(frozen=True)
class Selection:
    """The candidates from the best to the worst by `selector`. `choice` and `regret` are in the unit of value; `notes` say what is missing.

    uniform, ranked: the value of the best of k = 1 … n trained policies tried in the environment, picked at random or in this order;
    from true values where `truth_known`, else from estimates, which makes it optimistic.
    """

    selector: str
    estimator: str
    candidates: tuple[Candidate, ...]
    choice: Choice | None
    chosen: str | None
    regret: dict[int, Interval]
    uniform: tuple[float, ...]
    ranked: tuple[float, ...]
    truth_known: bool
    agreement: dict[str, float | None]
    notes: tuple[str, ...]
    level: float
    discount: float
    seed: int
    top: int
    data: Mapping[str, Any] = field(default_factory=dict)  # where the log that judged comes from

    def to_json(self) -> dict[str, Any]:
        """Plain values; null for what is unknown."""
        c = self.choice
        return {
            "format": 1,
            "selector": self.selector,
            "estimator": self.estimator,
            "level": self.level,
            "discount": self.discount,
            "seed": self.seed,
            "top": self.top,
            "chosen": self.chosen,
            "candidates": [candidate.to_json() for candidate in self.candidates],
            "winners_curse": None if c is None else {"naive": c.naive, "honest": c.honest.to_json(), "optimism": c.optimism},
            "regret_bounds": {str(k): bound.to_json() for k, bound in self.regret.items()},
            "expected_online_performance": {
                "from": "true values" if self.truth_known else "estimates",
                "at_random": list(self.uniform),
                "in_this_order": list(self.ranked),
            },
            "agreement_with_truth": self.agreement,
            "notes": list(self.notes),
            "data": dict(self.data),
        }


def select(
    targets: Sequence[Target],
    dataset: Dataset,
    estimate: Estimates,
    *,
    discount: float,
    selector: str = "default",
    others: Mapping[str, Sequence[float | None]] | None = None,
    clock: Clock = "continues",
    level: float = 0.95,
    seed: int = 0,
    top: int = 3,
    resamples: int = 1000,
    provenance: Sequence[Provenance] | None = None,
    truth: Sequence[float | None] | None = None,
) -> Selection:
    """Returns the candidates and the logged behaviour, ranked by one selector.

    selector: `default`; an estimator's name; `lower` or `lower:NAME`, the lower end of its interval; or a key of `others`, scores for each
    target that higher is better of (`likeness` is always there). truth: known values of the targets, which the ranking does not read.
    Raises ConfigError for an unknown selector, DataError where there is no candidate.
    """
    if not targets:
        raise DataError("nothing to select from; expected at least one trained policy")
    scores = {"likeness": [likeness(t, dataset, seed=seed) for t in targets], **(others or {})}
    made: list[tuple[Estimate, ...]] = []
    for target in targets:
        made.append(tuple(estimate(dataset, target, discount=discount, clock=clock, level=level, seed=seed)))
        kind, name = _parse(selector, made, scores)  # known after the first: estimates may take minutes
    returns = dataset.returns(discount)
    if not np.isfinite(returns).all():
        raise DataError("the log has rewards that are not finite; `stitchrl data validate` lists them")
    groups = groups_of(dataset.columns, dataset.offsets)
    logged = _logged(returns, groups, level, seed, resamples)
    candidates = []
    for i, (target, estimates) in enumerate(zip(targets, made, strict=True)):
        main = next((e for e in estimates if e.name == name), Estimate.refused(name, "this estimator was not run"))
        candidates.append(
            Candidate(
                target.name, _score(kind, main, scores.get(selector, [None] * len(made))[i]), main, estimates,
                provenance=provenance[i] if provenance else None, truth=truth[i] if truth else None,
                scores={key: _finite(column[i]) for key, column in scores.items()},
            )
        )  # fmt: skip
    known = float(returns.mean()) if truth is not None else None  # the log's own mean stands for its truth
    candidates.append(Candidate(LOGGED, _score(kind, logged, None), logged, (logged,), truth=known))
    settings = {"discount": discount, "level": level, "seed": seed, "top": top}
    return _ranked(candidates, selector, kind, name, groups, resamples, settings)


def likeness(target: Target, dataset: Dataset, *, seed: int = 0, rows: int = 20_000) -> float:
    """Returns how much a policy acts as the log does: the mean probability of the logged action; of continuous actions, minus the mean
    squared distance to it in half ranges."""
    space = dataset.spec.action
    taken = np.sort(np.random.default_rng(seed).permutation(len(dataset))[:rows])
    observations, actions = np.asarray(dataset.observations[taken]), np.asarray(dataset.actions[taken])
    if isinstance(space, Discrete):
        return float(np.take_along_axis(target.probabilities(observations), actions[:, None], 1).mean())
    own = target.draw(observations, 1, seed)[0].reshape(len(taken), -1)
    return -float((((own - actions.reshape(len(taken), -1)) / _half_range(space)) ** 2).mean())


def _half_range(space: Any) -> Array:
    if not isinstance(space, Box):
        return np.ones(1)
    half = (np.asarray(space.high, np.float64) - np.asarray(space.low, np.float64)).reshape(-1) / 2
    return np.where(np.isfinite(half) & (half > 0), half, 1.0)


def _parse(selector: str, made: Sequence[Sequence[Estimate]], others: Mapping[str, Any]) -> tuple[str, str]:
    """("value" | "lower" | "other", the estimator whose estimates are shown)"""
    names = list(dict.fromkeys(e.name for estimates in made for e in estimates))
    if selector in others:
        return "other", _default(made, names)
    kind, _, name = selector.partition(":") if selector.startswith("lower") else ("value", "", selector)
    if name in ("", "default"):
        name = _default(made, names)
    if name not in names or kind not in ("value", "lower"):
        options = ["default", *names, "lower", *(f"lower:{n}" for n in names[:1]), *others]
        raise ConfigError(f"selector '{selector}' is unknown; expected one of {', '.join(options)}")
    return kind, name


def _default(made: Sequence[Sequence[Estimate]], names: Sequence[str]) -> str:
    have = {name: sum(e.name == name and e.reason is None for es in made for e in es) for name in DEFAULT_ESTIMATORS if name in names}
    return max(have, key=lambda name: have[name]) if have else next(iter(names), DEFAULT_ESTIMATORS[0])


def _logged(returns: Array, groups: Array | None, level: float, seed: int, resamples: int) -> Estimate:
    statistic = Mean(returns)
    interval = bootstrap(statistic, seed=seed, resamples=resamples, level=level, groups=groups, method="expanded")
    if not math.isfinite(interval.low):
        return Estimate.refused("measured", "one episode (or group) has no interval")
    return Estimate("measured", statistic.point, interval, "expanded percentile bootstrap of episodes", statistic=statistic)


def _score(kind: str, estimate: Estimate, other: float | None) -> float | None:
    if kind == "other":
        return _finite(other)
    if estimate.value is None or estimate.interval is None:
        return None
    return _finite(estimate.value if kind == "value" else estimate.interval.low)


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _ranked(
    candidates: list[Candidate], selector: str, kind: str, name: str, groups: Array | None, resamples: int, settings: dict[str, Any]
) -> Selection:
    """The selection of candidates with scores: joint draws, bounds, correction, curves."""
    level, seed, top = settings["level"], settings["seed"], settings["top"]
    # of those without a score and an estimate the list of what is not ranked tells why
    ranked_bare = [c for c in candidates if c.estimate.reason is not None and c.score is not None]
    notes = [f"{c.name}: not estimable by {name}: {_bare(c.estimate.reason)}" for c in ranked_bare]
    joint = [i for i, c in enumerate(candidates) if c.estimate.statistic is not None and math.isfinite(c.estimate.statistic.point)]
    statistics = [s for i in joint if (s := candidates[i].estimate.statistic) is not None]
    sizes = {s.episodes for s in statistics}
    choice: Choice | None = None
    if len(sizes) == 1 and len(statistics) > 1:
        draws = draws_together(statistics, seed=seed, resamples=resamples, groups=groups)
        candidates = _compared(candidates, joint, draws, level)
        choice = _choice(statistics, kind, name, groups, settings, notes)
    else:
        notes.append("no correction of the choice: fewer than two candidates have estimates on the same episodes")
    regret = _bounds(candidates, name, groups, resamples, settings, notes)
    places = metrics.order([_number(c.score) for c in candidates])
    ordered = tuple(candidates[i] for i in places)
    trained = [c for c in ordered if c.name != LOGGED]
    truth_known = bool(trained) and all(c.truth is not None for c in trained)
    worth = [(_number(c.score), _number(c.truth if truth_known else c.estimate.value)) for c in trained]
    if not truth_known and any(c.truth is not None for c in ordered if c.name == LOGGED):
        notes.append("no comparison with recorded values: not every candidate has one by this discount")
    able = [(s, v) for s, v in worth if math.isfinite(v) and math.isfinite(s)]
    return Selection(
        selector, name, ordered, choice, ordered[0].name if ordered[0].score is not None else None, regret,
        tuple(map(float, metrics.expected_online_performance([v for _, v in able]))) if able else (),
        tuple(map(float, metrics.ranked_performance(*zip(*able, strict=True)))) if able else (),
        truth_known, _agreement(ordered, top) if truth_known else {}, tuple(notes), level, settings["discount"], seed, top,
    )  # fmt: skip


def _compared(candidates: list[Candidate], joint: list[int], draws: Array, level: float) -> list[Candidate]:
    """The candidates with their differences to the logged behaviour, which is the last of `joint`, and how often each comes first."""
    made = list(candidates)
    defined = np.isfinite(draws).all(0)
    first = np.bincount(draws[:, defined].argmax(0), minlength=len(joint)) / max(int(defined.sum()), 1)
    for j, i in enumerate(joint):
        own, base = candidates[i].estimate.value, candidates[joint[-1]].estimate.value
        apart = draws[j] - draws[-1]
        share = float(first[j]) if defined.any() else None
        if own is None or base is None or candidates[joint[-1]].name != LOGGED or not np.isfinite(apart).mean() > 0.95:
            made[i] = replace(made[i], best_share=share)
        else:
            difference = percentile_interval(own - base, apart[np.isfinite(apart)], level)
            made[i] = replace(made[i], difference=difference, best_share=share)
    return made


def _bounds(
    candidates: list[Candidate], own: str, groups: Array | None, resamples: int, settings: dict[str, Any], notes: list[str]
) -> dict[int, Interval]:
    """Bounds of regret@1 and @top of all scored candidates, by the selector's estimator, or the first of CORRECTED that all of them have.

    What they rest on, or why there are none, goes to `notes`.
    """
    scored = [c for c in candidates if c.score is not None]
    found: dict[str, list[Statistic]] = {}
    for name in dict.fromkeys((own, *CORRECTED)):
        those = [c.estimate.statistic if c.name == LOGGED else _statistic(c, name) for c in scored]
        found[name] = [s for s in those if s is not None and math.isfinite(s.point)]
    used = next((name for name, statistics in found.items() if len(statistics) == len(scored) > 1), "")
    if not used:
        most = max(found, key=lambda name: len(found[name]))
        notes.append(
            f"no bounds of the regret: at most {len(found[most])} of {len(scored)} candidates have estimates by one estimator, "
            "and the best may be among the others"
        )
        return {}
    scores, points = np.array([_number(c.score) for c in scored]), np.array([s.point for s in found[used]])
    regret: dict[int, Interval] = {}
    try:
        draws = draws_together(found[used], seed=settings["seed"], resamples=resamples, groups=groups)
        for k in sorted({1, settings["top"]}):
            if k < len(scored):
                regret[k] = regret_bounds(k, scores, points, draws, settings["level"])
    except DataError as error:
        notes.append(f"no bounds of the regret: {error}")
    if regret:
        notes.append(
            f"the bounds of the regret come from the estimates by {used}; what these get wrong for another reason than chance is not in them"
        )
    return regret


def _statistic(candidate: Candidate, name: str) -> Statistic | None:
    return next((e.statistic for e in candidate.estimates if e.name == name and e.reason is None), None)


def _choice(
    statistics: list[Statistic], kind: str, name: str, groups: Array | None, settings: dict[str, Any], notes: list[str]
) -> Choice | None:
    """The honest value of choosing by the estimates; what it leaves out, or why there is none, goes to `notes`."""
    if kind == "other":
        notes.append("the selector does not read the estimates, so its choice does not inflate them: no winner's-curse correction is due")
        return None
    if kind == "lower":
        notes.append("the winner's curse is measured for a choice by the estimate itself; choosing by its lower end inflates it less")
    if name not in CORRECTED:
        notes.append(f"{name} is fitted to both halves of the episodes: the correction leaves out what the halves share by it")
    try:
        return winners_curse(statistics, seed=settings["seed"], level=settings["level"], groups=groups)
    except DataError as error:
        notes.append(f"no winner's-curse correction: {error}")
        return None


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _agreement(candidates: Sequence[Candidate], top: int) -> dict[str, float | None]:
    """How the trained candidates' scores agree with their true values."""
    trained = [c for c in candidates if c.name != LOGGED]
    scores, truth = [_number(c.score) for c in trained], [_number(c.truth) for c in trained]
    correlation = metrics.rank_correlation(scores, truth)
    found: dict[str, float | None] = {"spearman": correlation.spearman, "kendall": correlation.kendall, "used": float(correlation.used)}
    for k in sorted({1, min(top, len(trained))}):
        found[f"regret@{k}"] = metrics.regret_at(k, scores, truth)
        found[f"normalised_regret@{k}"] = metrics.regret_at(k, scores, truth, normalised=True)
    everyone = [c for c in candidates if c.truth is not None]
    place = next((i for i, c in enumerate(everyone) if c.name == LOGGED), None)
    if place is not None and 2 <= top <= len(everyone):
        ratio = metrics.sharpe_ratio_at(top, [_number(c.score) for c in everyone], [_number(c.truth) for c in everyone], place)
        found[f"sharpe_ratio@{top}"] = ratio
    return {key: _finite(value) for key, value in found.items()}


def _bare(reason: str | None) -> str | None:
    return None if reason is None else reason.removeprefix("not estimable: ")


def _estimate_json(estimate: Estimate) -> dict[str, Any]:
    interval = None if estimate.interval is None else estimate.interval.to_json()
    return {"estimator": estimate.name, "value": estimate.value, "interval": interval, "not_estimable": _bare(estimate.reason)}
