"""Can this policy be trusted? All estimates, checks and the verdict of one policy on one log, as one plain record (report/trust_schema.json)."""

from __future__ import annotations

import hashlib
import math
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, final

import numpy as np
import torch

from stitchrl.core.errors import ConfigError, DataError
from stitchrl.core.intervals import Interval
from stitchrl.core.spec import Discrete
from stitchrl.core.version import VERSION
from stitchrl.data.column_checks import LOG_PROBABILITIES
from stitchrl.data.dataset import Dataset
from stitchrl.data.doctor import examine
from stitchrl.data.leakage import leakage, shared_groups
from stitchrl.evaluation.behaviour_policy import Behaviour, behaviour_of
from stitchrl.evaluation.confidence import bootstrap
from stitchrl.evaluation.drift import drift
from stitchrl.evaluation.estimability import effective_sizes, largest_share, pareto_k, trajectory_log_weights
from stitchrl.evaluation.estimates import How, Judged, judge
from stitchrl.evaluation.evidence import AgentTarget, Clock, Difference, Estimate, Target
from stitchrl.evaluation.importance_sampling import behaviour_value, return_distribution, weighted
from stitchrl.evaluation.self_checks import Found, leave_one_logger_out, placebo, semi_synthetic
from stitchrl.evaluation.sensitivity import Sensitivity, sensitivity
from stitchrl.evaluation.subgroups import Subgroup, subgroups
from stitchrl.evaluation.support import Support, policy_probabilities, support
from stitchrl.evaluation.trust_checks import Measured, Provenance, checks_of, disagreement
from stitchrl.evaluation.value_sanity import ValueSanity
from stitchrl.evaluation.verdict import completed, verdict

Array = np.ndarray[Any, np.dtype[Any]]

RISK_SHARE = 0.1  # CVaR: the mean of the worst tenth
SIZES = 50  # points of the curve of effective sizes


@final
@dataclass(frozen=True)
class Question:
    """What is asked of a policy and a log. trained_on: the episodes it learned from, where they are others; sanity: what its run believes."""

    discount: float
    clock: Literal["auto", "continues", "ends"] = "auto"
    level: float = 0.95
    seed: int = 0
    quick: bool = False
    subgroups: tuple[str, ...] = ()
    loggers: str = "infos/policy_id"
    trained_on: Dataset | None = None
    provenance: Provenance = field(default_factory=lambda: Provenance("unknown", None))
    sanity: ValueSanity | str = "not run: the policy comes without its run, and with it without a critic"
    path: str | None = None
    command: str | None = None


@final
@dataclass(frozen=True)
class Trust:
    """The report: `record` is plain JSON, the same for the same policy, log and seed; `seconds` is what its parts took."""

    record: dict[str, Any]
    seconds: dict[str, float]
    judged: Judged

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


def trust(dataset: Dataset, target: Target, question: Question) -> Trust:
    """Returns the report of a policy on a log. Raises DataError for a policy of other spaces, ConfigError for a question that makes no sense."""
    if not 0 <= question.discount <= 1 or not 0 < question.level < 1:
        raise ConfigError(f"discount {question.discount} and level {question.level}; expected numbers from 0 to 1, the level between them")
    how = How(question.discount, clock_of(dataset, question.discount, question.clock), question.level, question.seed, question.quick)
    seconds: dict[str, float] = {}

    def timed(name: str, make: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        try:
            return make()
        finally:
            seconds[name] = time.perf_counter() - began

    propensities, behaviour = timed("behaviour", lambda: _behaviour(dataset, how.seed))
    judged = timed("estimates", lambda: judge(dataset, target, how, behaviour=behaviour))
    integrity = timed("integrity", lambda: examine(dataset))
    measured = Measured(
        dataset=dataset,
        judged=judged,
        support=timed("support", lambda: support(dataset, target, behaviour, seed=how.seed)),
        drift=timed("drift", lambda: _drift(question, dataset)),
        integrity=integrity,
        propensities=propensities,
        leaks=timed("leakage", lambda: _leaks(question, dataset)),
        placebo=timed("placebo", lambda: _or_why(lambda: placebo(dataset, behaviour, how))),
        loggers=timed("leave_one_logger_out", lambda: _or_why(lambda: leave_one_logger_out(dataset, how, question.loggers))),
        synthetic=timed("semi_synthetic", lambda: _or_why(lambda: semi_synthetic(dataset, target, how))),
        sanity=question.sanity,
        subgroups=timed("subgroups", lambda: _subgroups(dataset, judged, question)),
        confounding=_or_why(lambda: _confounding(judged)),
        provenance=question.provenance,
    )
    return Trust(record_of(measured, target, question), seconds, judged)


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
    return found if question.trained_on is None else [*shared_groups(question.trained_on, dataset), *found]


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


# ------------------------------------------------------------------------------------------------------------------------- record


def record_of(m: Measured, target: Target, question: Question) -> dict[str, Any]:
    """Returns the report as plain JSON: no NaN, no wall time."""
    checks = completed(checks_of(m))
    judged = m.judged
    chosen = None if judged.chosen is None else judged.estimate(judged.chosen)
    logged = judged.logged.interval or Interval(behaviour_value(judged.episodes).point, math.nan, math.nan, question.level)
    record = {
        "format": 1,
        "verdict": verdict(checks).to_json(),
        "numbers": {
            "behaviour_value": logged.to_json(),
            "policy_value": None if chosen is None or chosen.interval is None else chosen.interval.to_json(),
            "effective_episodes": _effective(judged),
            "difference": None if judged.difference is None else judged.difference.to_json(),
            "estimator": judged.chosen,
        },
        "checks": [c.to_json() for c in checks],
        "policy": _policy_record(target, question),
        "data": _data_record(m),
        "behaviour": _behaviour_record(judged.behaviour),
        "support": _support_record(m),
        "weights": _weights_record(judged),
        "estimates": [_estimate_record(e) for e in (judged.logged, *judged.estimates)],
        "disagreement": disagreement(judged),
        "self_checks": _self_checks_record(m),
        "sanity": _sanity_record(m.sanity, target),
        "risk": _risk_record(judged, question),
        "subgroups": [
            {**asdict(s), "interval": None if s.interval is None else s.interval.to_json()} for s in m.subgroups
        ],
        "confounding": _confounding_record(m.confounding),
        "leakage": [{"kind": f.code, "column": f.column, "words": f.message} for f in m.leaks],
        "selection": {"online_evaluations": m.provenance.online, "words": m.provenance.words},
        "actions": _actions_record(m.dataset, target),
        "reproducibility": {
            "command": question.command, "seed": question.seed, "version": VERSION, "python": platform.python_version(),
            "numpy": np.__version__, "torch": torch.__version__,
        },
    }  # fmt: skip
    clean: dict[str, Any] = _finite(record)
    return clean


def _finite(value: Any) -> Any:
    """The value with plain Python numbers, None for what is not finite."""
    if isinstance(value, dict):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    if isinstance(value, np.ndarray):
        return _finite(value.tolist())
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value


def _effective(judged: Judged) -> float | None:
    """The number of logged episodes that the estimate is as good as, by the weights that it rests on."""
    if judged.chosen in ("wpdis", "wdr", "dr") and judged.episodes.log_ratios is not None:
        return float(effective_sizes(judged.episodes)[-1])
    return None if judged.ratios is None else judged.ratios.diagnostics.get("episode_ess")


def _policy_record(target: Target, question: Question) -> dict[str, Any]:
    record: dict[str, Any] = {
        "name": target.name,
        "algorithm": None,
        "seed": None,
        "sampled": not target.deterministic,
        "path": question.path,
    }
    if not isinstance(target, AgentTarget):
        return record | {"fingerprint": None}
    agent, digest = target.agent, hashlib.sha256()
    for name, value in sorted(agent.parameters.items()):
        digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
    return record | {"algorithm": agent.name, "seed": agent.seeds[0], "fingerprint": digest.hexdigest()}


def _data_record(m: Measured) -> dict[str, Any]:
    dataset, how = m.dataset, m.judged.how
    quantiles = np.linspace(0, 1, 5)
    return {
        "name": str(dataset.metadata.get("name", "in memory")),
        "fingerprint": dataset.fingerprint(),
        "episodes": dataset.episodes,
        "steps": len(dataset),
        "evaluation_episodes": dataset.episodes,
        "discount": how.discount,
        "clock": how.clock,
        "return_quantiles": np.quantile(dataset.returns(how.discount), quantiles),
        "length_quantiles": np.quantile(dataset.lengths, quantiles),
        "terminal_share": float(np.asarray(dataset.terminals)[dataset.offsets[1:] - 1].mean()),
        "reward_range": [float(dataset.rewards.min()), float(dataset.rewards.max())],
    }


def _behaviour_record(behaviour: Behaviour) -> dict[str, Any]:
    calibration = behaviour.calibration
    bins = [] if calibration is None else list(zip(calibration.predicted, calibration.observed, calibration.count, strict=True))
    return {
        "source": behaviour.source,
        "ece": None if calibration is None else calibration.error,
        "bins": [{"predicted": p, "observed": o, "count": c} for p, o, c in bins],
        "smallest": behaviour.smallest,
        "near_deterministic": behaviour.near_deterministic,
    }


def _support_record(m: Measured) -> dict[str, Any]:
    s: Support = m.support
    least = [
        {
            "episode": d.episode, "step": d.step, "observation": d.observation, "logged_action": d.logged_action,
            "policy_action": d.policy_action, "probability": d.probability, "distance": d.distance,
            "neighbours": [{"episode": n.episode, "step": n.step, "action": n.action} for n in d.neighbours],
        }
        for d in s.least
    ]  # fmt: skip
    found: dict[str, Any] = {"auroc": None, "worst": []}
    beyond = None
    if not isinstance(m.drift, str):
        beyond = m.drift.beyond_99
        worst = sorted(m.drift.columns, key=lambda c: -c.distance)[:10]
        found = {"auroc": m.drift.auroc, "worst": [{"dimension": c.column, "difference": c.distance, "p": c.p} for c in worst]}
    return {
        "below_1_percent": s.below_1, "below_5_percent": s.below_5, "observation_beyond": beyond, "action_beyond": s.beyond_99,
        "least": least, "drift": found,
    }  # fmt: skip


def _weights_record(judged: Judged) -> dict[str, Any]:
    episodes = judged.episodes
    if episodes.log_ratios is None:
        return {"effective_sizes": [], "largest_share": None, "pareto_k": None}
    sizes = effective_sizes(episodes)
    at = np.unique(np.linspace(0, len(sizes) - 1, min(SIZES, len(sizes))).astype(np.int64))
    last = trajectory_log_weights(episodes)
    return {"effective_sizes": [[int(t), float(sizes[t])] for t in at], "largest_share": largest_share(last), "pareto_k": pareto_k(last)}


def _estimate_record(e: Estimate) -> dict[str, Any]:
    return {
        "name": e.name, "value": e.value, "interval": None if e.interval is None else e.interval.to_json(), "interval_method": e.interval_method,
        "reason": e.reason, "assumptions": list(e.assumptions), "diagnostics": dict(e.diagnostics),
    }  # fmt: skip


def _self_checks_record(m: Measured) -> dict[str, Any]:
    def rows(found: list[Found] | str) -> list[dict[str, Any]]:
        return [] if isinstance(found, str) else [{**asdict(f), "interval": f.interval.to_json()} for f in found]

    synthetic = None if isinstance(m.synthetic, str) else asdict(m.synthetic)
    return {"placebo": rows(m.placebo), "leave_one_logger_out": rows(m.loggers), "semi_synthetic": synthetic}


def _sanity_record(sanity: ValueSanity | str, target: Target) -> dict[str, Any]:
    names = {"believed": "believed", "q_logged": "logged", "q_chosen": "chosen", "critic_spread": "spread"}
    if isinstance(sanity, str):
        return {"highest_possible": None, "lowest_possible": None} | dict.fromkeys(names)
    return {"highest_possible": sanity.high, "lowest_possible": sanity.low} | {
        key: (getattr(sanity, name) or [None])[0] for key, name in names.items()
    }


def _risk_record(judged: Judged, question: Question) -> dict[str, Any]:
    record: dict[str, Any] = {"quantiles": {}, "cvar": None, "probability_worse": judged.worse, "reason": None}
    if judged.gates["trajectory"] is not None:
        return record | {"reason": judged.gates["trajectory"]}
    distribution = return_distribution(judged.episodes)

    def made(statistic: Any) -> dict[str, Any]:
        interval = bootstrap(
            statistic, seed=question.seed, resamples=min(judged.how.resamples, 500), level=question.level, groups=judged.episodes.groups
        )
        return interval.to_json()

    record["quantiles"] = {f"{q:g}": made(distribution.quantile(q)) for q in (0.25, 0.5, 0.75)}
    record["cvar"] = {"alpha": RISK_SHARE, "interval": made(distribution.tail(RISK_SHARE))}
    return record


def _confounding_record(found: Sensitivity | str) -> dict[str, Any]:
    words = "no test of data can rule a hidden cause out; this is how strong it would have to be"
    if isinstance(found, str):
        return {"gamma_flips": None, "curve": [], "reason": found, "words": words}
    return {"gamma_flips": found.flips, "curve": [list(row) for row in found.curve], "reason": None, "words": words}


def _actions_record(dataset: Dataset, target: Target) -> dict[str, Any] | None:
    action = dataset.spec.action
    if not isinstance(action, Discrete):
        return None
    rows = np.arange(0, len(dataset), max(1, len(dataset) // 50_000))
    logged = np.bincount(np.asarray(dataset.actions), minlength=action.n) / len(dataset)
    return {"logged": logged, "policy": policy_probabilities(dataset, target, rows).mean(0)}
