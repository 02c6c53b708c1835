"""From what was measured of a policy on a log to named checks: which number is held to which limit, and in which words."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

from stitchrl.core.intervals import Interval
from stitchrl.core.spec import Discrete
from stitchrl.data.dataset import Dataset
from stitchrl.data.findings import Finding
from stitchrl.evaluation.drift import Drift
from stitchrl.evaluation.estimates import Judged
from stitchrl.evaluation.self_checks import Found, SemiSynthetic
from stitchrl.evaluation.sensitivity import Sensitivity
from stitchrl.evaluation.subgroups import Subgroup
from stitchrl.evaluation.support import Support
from stitchrl.evaluation.value_sanity import ValueSanity
from stitchrl.evaluation.verdict import Check, Status, check, held_to

MISSED = 1.5  # half-widths from the known value at which a self-check counts as failed, and not as the one miss in twenty
FLIPS = (1.25, 1.05)  # gamma: below the first a warning, below the second a failure


@final
@dataclass(frozen=True)
class Provenance:
    """Where a policy comes from. trained_on: "these" episodes, "regrouped" (these, in other groups), "others" of its log, "another" log, or
    "unknown". online: episodes run in an environment before now. learned_steps: its own steps in an environment that it learned from
    (`stitchrl finetune`)."""

    trained_on: str
    online: int | None
    learned_steps: int = 0

    @property
    def words(self) -> str:
        """How the policy was trained and chosen, as far as its run tells."""
        on = {
            "these": "trained on the very episodes that judge it, which flatters it",
            "regrouped": "trained on the log that judges it, in other groups; which episodes it held out is not known, so it may be flattered",
            "others": "judged on episodes held out of its training",
            "another": "judged on another log than it was trained on; that they have no episode in common is not checked",
            "unknown": "nothing tells whether it was trained on these episodes",
        }[self.trained_on]
        if self.learned_steps:
            on += f"; after that it learned from {self.learned_steps:,} steps of its own in an environment"
        if self.online is None:
            return f"{on}; how it was chosen is not recorded"
        if self.online == 0:
            return f"{on}; no online episode was used before"
        return f"{on}; {self.online:,} online episodes were run during its training, which may have chosen it"


@final
@dataclass(frozen=True)
class Measured:
    """All that a report rests on; a text where something could not be had says why."""

    dataset: Dataset
    judged: Judged
    support: Support
    drift: Drift | str
    integrity: list[Finding]
    propensities: str | None  # what is wrong with the logged ones
    leaks: list[Finding]
    placebo: list[Found] | str
    loggers: list[Found] | str
    synthetic: SemiSynthetic | str
    sanity: ValueSanity | str
    subgroups: list[Subgroup]
    confounding: Sensitivity | str
    provenance: Provenance


def checks_of(m: Measured) -> list[Check]:
    """Returns one check for every rule of the verdict."""
    return [*_estimates(m), *_self_checks(m), *_policy(m), *_data(m)]


def disagreement(judged: Judged) -> float | None:
    """Returns the largest distance of an estimate to the chosen one, in standard errors of the two together; None with fewer than two."""
    if judged.chosen is None:
        return None
    chosen = judged.estimate(judged.chosen).interval
    others = [e.interval for e in judged.estimates if e.interval is not None and e.name != judged.chosen]
    if chosen is None or not others:
        return None
    gaps = [abs(o.estimate - chosen.estimate) / max(math.hypot(_error(o), _error(chosen)), 1e-300) for o in others]
    return max((gap for gap in gaps if math.isfinite(gap)), default=None)


def _error(interval: Interval) -> float:
    return (interval.high - interval.low) / 3.92


def _estimates(m: Measured) -> Iterator[Check]:
    judged = m.judged
    names = [e.name for e in judged.estimates if e.reason is None]
    if judged.chosen is None:
        main = judged.estimate("drl")
        yield check("estimable", "fail", f"no estimator that a verdict can rest on passes its gate ({_plain(main.reason or '')})")
        yield check("difference", "not run", "the policy's value is not estimable")
    else:
        yield check(
            "estimable", "pass", f"{len(names)} of {len(judged.estimates)} estimators pass their gates; {judged.chosen} is relied on"
        )
        yield _difference(judged.difference, m.provenance.trained_on)
    closed = [reason for reason in judged.gates.values() if reason is not None]
    if not closed:
        yield check("weights", "pass", "whole episodes and single steps have enough effective weight")
    elif len(closed) == len(judged.gates):
        yield check("weights", "fail", f"the log shares too little with the policy: {_plain(closed[0])}")
    else:
        yield check("weights", "warn", f"some estimators are closed: {_plain(closed[0])}")
    gap = disagreement(judged)
    if gap is None:
        yield check("agreement", "not run", "there are fewer than two estimates to compare")
    else:
        yield held_to("agreement", gap, f"the furthest estimate is {gap:.1f} standard errors from {judged.chosen}", warn=2.5, fail=5.0)
    if judged.fitted is None:
        yield check("fqe_convergence", "not run", _plain(judged.estimate("fqe").reason or "no value was fitted"))
    elif judged.fitted.alarms:
        yield check("fqe_convergence", "fail", judged.fitted.alarms[0])
    elif judged.fitted.warnings:
        yield check("fqe_convergence", "warn", judged.fitted.warnings[0])
    else:
        words = "solved exactly" if judged.fitted.method == "tabular" else "settled, and the same for every seed"
        yield check("fqe_convergence", "pass", f"the fitted value is {words}")


def _difference(interval: Interval | None, trained_on: str) -> Check:
    if interval is None or not math.isfinite(interval.low + interval.high):
        return check("difference", "not run", "the difference to the logged policy has no interval")
    words = f"{abs(interval.estimate):.4g} ({interval.low:.4g} to {interval.high:.4g})"
    if interval.low > 0 and trained_on in ("these", "regrouped"):  # what flatters cannot show that it is better; that it is worse, it can
        more = f"it looks worth more than the logged policy by {words}, but on the episodes it learned from, which flatters it"
        return check("difference", "warn", more, interval.low, 0.0, "judging on episodes held out: train with --preprocessing.held-out 0.3")
    if interval.low > 0:
        return check("difference", "pass", f"it is worth more than the logged policy by {words}", interval.low, 0.0)
    if interval.high < 0:
        return check("difference", "fail", f"it is worth less than the logged policy by {words}", interval.high, 0.0)
    side = "more" if interval.estimate > 0 else "less"
    return check("difference", "warn", f"no difference to the logged policy is shown: {side} by {words}", interval.low, 0.0)


def _self_checks(m: Measured) -> Iterator[Check]:
    yield _placebo(m)
    if isinstance(m.loggers, str):
        yield check("leave_one_logger_out", "not run", _plain(m.loggers))
    else:
        missed = [f for f in m.loggers if not f.contains]
        status: Status = "pass" if not missed else "fail" if 2 * len(missed) >= len(m.loggers) and _far(missed) else "warn"
        words = f"{len(m.loggers) - len(missed)} of {len(m.loggers)} loggers' values are found from the others' episodes"
        yield check("leave_one_logger_out", status, words, float(len(missed)), 0.0)
    synthetic = m.synthetic
    if isinstance(synthetic, str):
        yield check("semi_synthetic", "not run", _plain(synthetic))
    elif synthetic.refused == synthetic.replications:
        yield check("semi_synthetic", "warn", "in a task made of the log's counts this policy is not estimable from so many episodes")
    else:
        tried = synthetic.replications - synthetic.refused
        holds: Status = "pass" if synthetic.covered >= tried - 1 else "fail" if 2 * synthetic.covered < tried else "warn"
        words = f"in a task made of the log's counts {synthetic.covered} of {tried} intervals ({synthetic.estimator}) hold the true value"
        yield check("semi_synthetic", holds, words, float(synthetic.covered), float(tried - 1))


def _placebo(m: Measured) -> Check:
    if isinstance(m.placebo, str):
        return check("placebo", "not run", _plain(m.placebo))
    missed = [f for f in m.placebo if not f.contains]
    chosen = [f for f in missed if f.name == m.judged.chosen]
    if chosen and _far(chosen):
        found = chosen[0]
        words = f"{found.name} says {found.interval.estimate:.4g} of the logged policy, which earned {found.truth:.4g}"
        return check("placebo", "fail", words, found.interval.estimate, found.truth)
    if missed:
        return check(
            "placebo", "warn", f"{len(missed)} of {len(m.placebo)} estimators miss the logged policy's own value: {missed[0].name}"
        )
    if not m.placebo:
        return check("placebo", "not run", "the logged policy's own value is not estimable")
    return check("placebo", "pass", f"all {len(m.placebo)} estimators find the logged policy's own value")


def _far(found: list[Found]) -> bool:
    return any(
        abs(f.interval.estimate - f.truth) > MISSED * max(f.interval.high - f.interval.estimate, f.interval.estimate - f.interval.low)
        for f in found
    )


def _policy(m: Measured) -> Iterator[Check]:
    yield _support(m)
    if isinstance(m.sanity, str):
        yield check("possible_values", "not run", _plain(m.sanity))
    elif m.sanity.reason is not None:
        believes = math.isfinite(m.sanity.high)  # else its algorithm has no critic, which could believe too much
        yield check("possible_values", "not run" if believes else "pass", _plain(m.sanity.reason))
    else:
        problems = m.sanity.problems
        status: Status = "pass" if not problems else "fail" if any(p.level == "fail" for p in problems) else "warn"
        yield check("possible_values", status, problems[0].sentence if problems else "its critic believes only what returns can reach")
    if not m.subgroups:
        yield check("subgroups", "not run", "no subgroup was named (--subgroups COLUMN)")
    else:
        told = [s for s in m.subgroups if s.interval is not None]
        harmed = [s for s in told if s.interval is not None and s.interval.high < 0]
        if harmed:
            yield check("subgroups", "fail", f"it is worth less than the logged policy where {harmed[0].column} is {harmed[0].value}")
        elif not told:
            yield check("subgroups", "not run", "no subgroup has enough episodes")
        else:
            told_all: Status = "pass" if len(told) == len(m.subgroups) else "warn"
            yield check(
                "subgroups", told_all, f"none of {len(told)} subgroups is shown to lose; {len(m.subgroups) - len(told)} not estimable"
            )
    if isinstance(m.confounding, str):
        yield check("confounding", "not run", _plain(m.confounding))
    elif m.confounding.flips is None:
        yield check("confounding", "pass", f"weights wrong by a factor of {m.confounding.limit:g} would not turn the conclusion")
    else:
        gamma = m.confounding.flips
        words = f"a hidden cause that makes the weights wrong by a factor of {gamma:.2f} could turn the conclusion"
        yield held_to("confounding", gamma, words, warn=FLIPS[0], fail=FLIPS[1])
    trained, online = m.provenance.trained_on, m.provenance.online
    if trained == "unknown" and online is None:
        yield check("selection", "not run", m.provenance.words)
    else:
        yield check("selection", "pass" if trained in ("others", "another") and online == 0 else "warn", m.provenance.words)


def _support(m: Measured) -> Check:
    s = m.support
    if isinstance(m.dataset.spec.action, Discrete):
        assert s.below_1 is not None
        more = s.below_1 - (s.logged_below_1 or 0.0)
        words = f"{s.below_1:.1%} of its decisions have a probability below 1 % in the log ({s.logged_below_1 or 0.0:.1%} of the log's own)"
        return held_to("support", more, words, warn=0.05, fail=0.3)
    assert s.beyond_99 is not None
    words = f"{s.beyond_99:.1%} of its decisions are further from the logged ones than 99 % of those are from each other"
    return held_to("support", s.beyond_99, words, warn=0.05, fail=0.3)


def _data(m: Measured) -> Iterator[Check]:
    behaviour = m.judged.behaviour
    if behaviour.source == "logged":
        yield check("behaviour_calibration", "pass", "the logged policy's probabilities are logged")
    elif behaviour.calibration is None:
        yield check("behaviour_calibration", "not run", "the estimated behaviour could not be held against the log")
    else:
        error = behaviour.calibration.error
        words = f"the logged policy is estimated ({behaviour.source}) with a calibration error of {error:.3f} out of fold"
        yield held_to("behaviour_calibration", error, words, warn=0.05, fail=0.15)
    if m.propensities is not None:
        yield check("propensities", "fail", m.propensities)
    elif behaviour.source != "logged":
        yield check("propensities", "not run", "the log has no probabilities of its actions; they are estimated")
    elif behaviour.findings:
        yield check("propensities", "warn", behaviour.findings[0].message)
    else:
        yield check("propensities", "pass", "the logged probabilities agree with the logged actions")
    errors = [f for f in m.integrity if f.severity == "error"]
    warned = [f for f in m.integrity if f.severity == "warning"]
    worst = (errors or warned)[:1]
    words = f"{worst[0].message}" if worst else "nothing is wrong in the log"
    yield check("integrity", "fail" if errors else "warn" if warned else "pass", words, float(len(errors) + len(warned)), 0.0)
    if m.leaks:
        more = f" (and {len(m.leaks) - 1} more)" if len(m.leaks) > 1 else ""
        yield check("leakage", "fail", m.leaks[0].message.rstrip(".") + more, float(len(m.leaks)), 0.0)
    else:
        yield check("leakage", "pass", "no observation tells the action or the outcome from after it")
    if isinstance(m.drift, str) or m.drift.auroc is None:
        yield check("drift", "not run", _plain(m.drift if isinstance(m.drift, str) else m.drift.reason or "too few episodes"))
    else:
        words = f"a classifier tells the training steps from these with an AUROC of {m.drift.auroc:.2f}"
        sure = m.drift.auroc_p is not None and m.drift.auroc_p <= 0.01
        yield (
            held_to("drift", m.drift.auroc, words, warn=0.6, fail=0.8) if sure else check("drift", "pass", f"{words}, no more than chance")
        )
    cut = m.judged.episodes.cut_off()
    yield held_to("clock", cut, f"the clock leaves up to {cut:.1%} of the discounted value beyond the log", warn=0.01, fail=0.05)


def _plain(words: str) -> str:
    """The words without the report's own prefixes, as a phrase."""
    for prefix in ("not estimable: ", "not run: "):
        words = words.removeprefix(prefix)
    return words or "unknown"
