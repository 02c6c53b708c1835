"""The report of a policy on a log as one plain record (report/trust_schema.json): no NaN, no wall time, the same for the same input."""

from __future__ import annotations

import hashlib
import math
import platform
from dataclasses import asdict, dataclass, field
from typing import Any, final

import numpy as np
import torch

from stitchrl.core.intervals import Interval
from stitchrl.core.spec import Discrete
from stitchrl.core.version import VERSION
from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.behaviour_policy import Behaviour
from stitchrl.evaluation.confidence import bootstrap
from stitchrl.evaluation.estimability import effective_sizes, largest_share, pareto_k, trajectory_log_weights
from stitchrl.evaluation.estimates import Judged
from stitchrl.evaluation.evidence import AgentTarget, Estimate, Target
from stitchrl.evaluation.example_episodes import example_episodes
from stitchrl.evaluation.importance_sampling import behaviour_value, return_distribution
from stitchrl.evaluation.other_bounds import Known, other_bounds
from stitchrl.evaluation.self_checks import Found
from stitchrl.evaluation.sensitivity import Sensitivity
from stitchrl.evaluation.support import Support, policy_probabilities
from stitchrl.evaluation.trust_checks import Measured, checks_of, disagreement
from stitchrl.evaluation.value_sanity import ValueSanity
from stitchrl.evaluation.verdict import completed, verdict

RISK_SHARE = 0.1  # CVaR: the mean of the worst tenth
SIZES = 50  # points of the curve of effective sizes
MAPPED = 100  # actions at most in a map of the policy's against the logged ones


@final
@dataclass(frozen=True)
class Asked:
    """What of the question the record repeats."""

    level: float
    seed: int
    path: str | None
    command: str | None
    known: Known = field(default_factory=Known)


def record_of(m: Measured, target: Target, asked: Asked) -> dict[str, Any]:
    """Returns the report as plain JSON: no NaN, no wall time."""
    checks = completed(checks_of(m))
    judged = m.judged
    chosen = None if judged.chosen is None else judged.estimate(judged.chosen)
    logged = judged.logged.interval or Interval(behaviour_value(judged.episodes).point, math.nan, math.nan, asked.level)
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
        "policy": _policy_record(target, asked),
        "data": _data_record(m),
        "behaviour": _behaviour_record(judged.behaviour),
        "support": _support_record(m),
        "weights": _weights_record(judged),
        "estimates": [_estimate_record(e) for e in (judged.logged, *judged.estimates)],
        "disagreement": disagreement(judged),
        "other_bounds": _bounds_record(judged, asked.known),
        "self_checks": _self_checks_record(m),
        "sanity": _sanity_record(m.sanity, target),
        "risk": _risk_record(judged, asked),
        "subgroups": [
            {**asdict(s), "interval": None if s.interval is None else s.interval.to_json()} for s in m.subgroups
        ],
        "confounding": _confounding_record(m.confounding),
        "leakage": [{"kind": f.code, "column": f.column, "words": f.message} for f in m.leaks],
        "selection": {"online_evaluations": m.provenance.online, "words": m.provenance.words},
        "actions": actions_record(m.dataset, target),
        "examples": example_episodes(
            m.dataset, target, judged.behaviour, discount=judged.how.discount, seed=asked.seed
        ).to_json(),
        "before": None,
        "reproducibility": {
            "command": asked.command, "seed": asked.seed, "version": VERSION, "python": platform.python_version(),
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


def _policy_record(target: Target, asked: Asked) -> dict[str, Any]:
    record: dict[str, Any] = {
        "name": target.name,
        "algorithm": None,
        "seed": None,
        "sampled": not target.deterministic,
        "path": asked.path,
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


def _bounds_record(judged: Judged, known: Known) -> dict[str, Any]:
    return {
        "return_range": None if known.returns is None else asdict(known.returns),
        "largest_weight": known.largest_weight,
        "rows": [bound.to_json() for bound in other_bounds(judged, known)],
    }


def _self_checks_record(m: Measured) -> dict[str, Any]:
    def rows(found: list[Found] | str) -> list[dict[str, Any]]:
        return [] if isinstance(found, str) else [{**asdict(f), "interval": f.interval.to_json()} for f in found]

    synthetic = None if isinstance(m.synthetic, str) else asdict(m.synthetic)
    return {"placebo": rows(m.placebo), "leave_one_logger_out": rows(m.loggers), "semi_synthetic": synthetic}


def _sanity_record(sanity: ValueSanity | str, target: Target) -> dict[str, Any]:
    names = {"believed": "believed", "q_logged": "logged", "q_chosen": "chosen", "critic_spread": "spread"}
    if isinstance(sanity, str):
        return {"highest_possible": None, "lowest_possible": None, "units": None} | dict.fromkeys(names)
    return {"highest_possible": sanity.high, "lowest_possible": sanity.low, "units": sanity.units} | {
        key: (getattr(sanity, name) or [None])[0] for key, name in names.items()
    }


def _risk_record(judged: Judged, asked: Asked) -> dict[str, Any]:
    record: dict[str, Any] = {"quantiles": {}, "cvar": None, "probability_worse": judged.worse, "reason": None}
    if judged.gates["trajectory"] is not None:
        return record | {"reason": judged.gates["trajectory"]}
    distribution = return_distribution(judged.episodes)

    def made(statistic: Any) -> dict[str, Any]:
        interval = bootstrap(
            statistic, seed=asked.seed, resamples=min(judged.how.resamples, 500), level=asked.level, groups=judged.episodes.groups
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


def actions_record(dataset: Dataset, target: Target) -> dict[str, Any] | None:
    """Returns how often each action is logged and done by the policy, and both together `[n, n]`; None where actions are continuous."""
    action = dataset.spec.action
    if not isinstance(action, Discrete):
        return None
    rows = np.arange(0, len(dataset), max(1, len(dataset) // 50_000))
    taken, chosen = np.asarray(dataset.actions), policy_probabilities(dataset, target, rows)
    together = None
    if action.n <= MAPPED:
        together = np.zeros((action.n, action.n))
        np.add.at(together, taken[rows], chosen / len(rows))
    return {"logged": np.bincount(taken, minlength=action.n) / len(dataset), "policy": chosen.mean(0), "together": together}
