"""The verdict on a policy: a pure function of named checks, each passed, warned, failed, or not run and why.

What each outcome of a check does to the verdict (the worst outcome decides; a pass never lowers it):

| check | failed | warned | not run |
|---|---|---|---|
| estimable: an estimator passes its gates | not estimable | limits | not estimable |
| difference: to the logged policy, paired | not supported | limits | not estimable |
| support: the log holds what the policy does | not supported | limits | limits |
| weights: effective episodes, tail of the weights | limits | limits | limits |
| agreement: the estimators tell one story | not estimable | limits | limits |
| placebo: they find the logged policy's own value | not supported | limits | limits |
| leave_one_logger_out: they find another logger's value | not supported | limits | – |
| semi_synthetic: they find a value that is known | limits | limits | – |
| fqe_convergence: the fitted values have settled | limits | limits | limits |
| possible_values: no belief beyond what any return can be | not supported | limits | limits |
| behaviour_calibration: the logged policy is known well | limits | limits | limits |
| propensities: logged probabilities can be right | not estimable | limits | – |
| integrity: the log is sound | not estimable | limits | limits |
| leakage: nothing tells the action or the outcome from after it | not supported | limits | limits |
| drift: the steps estimated from are like those trained on | limits | limits | limits |
| clock: how much of the value lies beyond the log's end | limits | limits | limits |
| subgroups: no declared group is harmed | not supported | limits | – |
| confounding: what a hidden cause would need to be | limits | limits | – |
| selection: how the policy was chosen | limits | limits | limits |

A dash: the check asks for something that a log or a request need not have (several loggers, logged probabilities, declared groups);
without it the check stands in the report as not run, with why, and the verdict is unchanged.
Exit codes: 0 for supported, with or without limits, 3 for not supported, 4 for not estimable.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, final

from stitchrl.core.errors import DataError

Status = Literal["pass", "warn", "fail", "not run"]
Word = Literal["Supported", "Supported with limits", "Not supported", "Not estimable"]

SUPPORTED: Word = "Supported"
LIMITS: Word = "Supported with limits"
NOT_SUPPORTED: Word = "Not supported"
NOT_ESTIMABLE: Word = "Not estimable"
EXIT_CODES: dict[Word, int] = {SUPPORTED: 0, LIMITS: 0, NOT_SUPPORTED: 3, NOT_ESTIMABLE: 4}
_ORDER: tuple[Word, ...] = tuple(EXIT_CODES)
STATUSES: tuple[Status, ...] = ("pass", "warn", "fail", "not run")
_NAMED_IN_SENTENCE = 3  # reasons told in the sentence; the table has them all


@final
@dataclass(frozen=True)
class Rule:
    """What a check is about, the worst word that each outcome allows, and what would change a bad outcome."""

    section: str
    failed: Word
    not_run: Word
    change: str
    warned: Word = LIMITS


RULES: dict[str, Rule] = {
    "estimable": Rule(
        "Value estimates",
        NOT_ESTIMABLE,
        NOT_ESTIMABLE,
        "more episodes in which the logged actions are the policy's, or a policy closer to the log",
    ),
    "difference": Rule(
        "Value estimates",
        NOT_SUPPORTED,
        NOT_ESTIMABLE,
        "a policy whose value is clearly not below the logged one's; more episodes make it clearer",
    ),
    "support": Rule("Support", NOT_SUPPORTED, LIMITS, "episodes with the actions that the log lacks, or a policy held closer to the log"),
    "weights": Rule(
        "Importance weights", LIMITS, LIMITS, "more episodes in which the logged actions are the policy's, or a policy that is sampled"
    ),
    "agreement": Rule("Value estimates", NOT_ESTIMABLE, LIMITS, "knowing why the estimators differ: their assumptions stand beside them"),
    "placebo": Rule(
        "Self-checks",
        NOT_SUPPORTED,
        LIMITS,
        "estimators that find the logged policy's own value: look at discount, clock and propensities first",
    ),
    "leave_one_logger_out": Rule("Self-checks", NOT_SUPPORTED, SUPPORTED, "estimators that find the value of a logger left out"),
    "semi_synthetic": Rule("Self-checks", LIMITS, SUPPORTED, "estimators whose intervals hold in a model of these data; more episodes"),
    "fqe_convergence": Rule("Self-checks", LIMITS, LIMITS, "a fitted value that has settled: more steps of FQE, or a smaller discount"),
    "possible_values": Rule(
        "Value sanity", NOT_SUPPORTED, LIMITS, "a critic that believes only values that returns can reach: a more conservative training"
    ),
    "behaviour_calibration": Rule(
        "Behaviour policy", LIMITS, LIMITS, "logged action probabilities, or observations that tell the logged actions better"
    ),
    "propensities": Rule(
        "Behaviour policy", NOT_ESTIMABLE, SUPPORTED, "a repaired column of probabilities; or leave it out, and they are estimated"
    ),
    "integrity": Rule("Data", NOT_ESTIMABLE, LIMITS, "a repaired log: stitchrl data validate tells what is wrong where"),
    "leakage": Rule("Leakage", NOT_SUPPORTED, LIMITS, "training and judging again without the columns that leak"),
    "drift": Rule("Support", LIMITS, LIMITS, "evaluation episodes like those the policy was trained on, and like those it will meet"),
    "clock": Rule("Data", LIMITS, LIMITS, "longer episodes, a smaller discount, or --clock ends if the clock is part of the task"),
    "subgroups": Rule("Risk", NOT_SUPPORTED, SUPPORTED, "keeping the logged policy for the groups that lose, or more of their episodes"),
    "confounding": Rule("Hidden confounding", LIMITS, SUPPORTED, "recording what the logged decisions were based on; a trial"),
    "selection": Rule(
        "Selection", LIMITS, LIMITS, "judging on episodes that neither trained nor chose the policy, and recording how it was chosen"
    ),
}


@final
@dataclass(frozen=True)
class Check:
    """One named finding.

    words: what was found, or why the check was not run; a phrase without a full stop, read after "because". value, limit: the number
    and what it is held to. remedy: what would change a bad outcome, where it is known better than RULES does.
    Raises DataError for an unknown name or status, no words, or an outcome that rests on a number that is not finite.
    """

    name: str
    section: str
    status: Status
    words: str
    value: float | None = None
    limit: float | None = None
    remedy: str | None = None

    def __post_init__(self) -> None:
        if self.name not in RULES:
            raise DataError(f"check {self.name!r}: unknown; expected one of {', '.join(RULES)}")
        if self.status not in STATUSES:
            raise DataError(f"check {self.name}: status {self.status!r}; expected one of {', '.join(STATUSES)}")
        if not self.words.strip():
            raise DataError(f"check {self.name}: no words; say what was found, or why it was not run")
        for number in (self.value, self.limit):
            if number is not None and not math.isfinite(number):
                raise DataError(f"check {self.name}: rests on {number}; expected a finite number, or none and the reason in words")

    def to_json(self) -> dict[str, Any]:
        """{name, section, status, words, value, limit}"""
        return {key: getattr(self, key) for key in ("name", "section", "status", "words", "value", "limit")}


@final
@dataclass(frozen=True)
class Verdict:
    """The word, the sentence that says why, the exit code, and what would change the word, the most decisive first."""

    word: Word
    sentence: str
    exit_code: int
    would_change: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """{word, sentence, exit_code, would_change}"""
        return {"word": self.word, "sentence": self.sentence, "exit_code": self.exit_code, "would_change": list(self.would_change)}


def check(
    name: str, status: Status, words: str, value: float | None = None, limit: float | None = None, remedy: str | None = None
) -> Check:
    """Returns the check, in the section where RULES has it; raises DataError as Check does."""
    return Check(name, RULES[name].section if name in RULES else "", status, words, value, limit, remedy)


def held_to(name: str, value: float, words: str, *, warn: float, fail: float, remedy: str | None = None) -> Check:
    """Returns the check of a number against two limits, on whichever side of `warn` the limit `fail` lies.

    At a limit counts as past it. A number that is not finite is not run, whatever side it would fall on: a comparison with NaN never
    passes. `words` say what the number is. Raises DataError where a limit is not finite or both are equal.
    """
    if not (math.isfinite(warn) and math.isfinite(fail)) or warn == fail:
        raise DataError(f"check {name}: limits {warn} (warn) and {fail} (fail); expected two different finite numbers")
    if not math.isfinite(value):
        return check(name, "not run", f"{words}: not estimable, the number is {value}", remedy=remedy)
    side = 1.0 if fail > warn else -1.0
    status: Status = "fail" if side * value >= side * fail else "warn" if side * value >= side * warn else "pass"
    return check(name, status, words, value, fail if status == "fail" else warn, remedy)


def completed(checks: Iterable[Check]) -> tuple[Check, ...]:
    """Returns every check that there is, in the order of RULES; one that was not given is not run. Raises DataError for one given twice."""
    given: dict[str, Check] = {}
    for one in checks:
        if one.name in given:
            raise DataError(f"check {one.name}: given twice ({given[one.name].status} and {one.status}); expected one outcome")
        given[one.name] = one
    return tuple(given.get(name) or check(name, "not run", "the report did not look") for name in RULES)


def allowed(one: Check) -> Word:
    """Returns the best word that this check's outcome allows, by the table above."""
    rule = RULES[one.name]
    return {"pass": SUPPORTED, "warn": rule.warned, "fail": rule.failed, "not run": rule.not_run}[one.status]


def verdict(checks: Iterable[Check]) -> Verdict:
    """Returns the verdict: the worst word that any check allows. Checks not given count as not run. Raises DataError as `completed` does."""
    every = completed(checks)
    word = max((allowed(one) for one in every), key=_ORDER.index)
    against = sorted((one for one in every if allowed(one) != SUPPORTED), key=lambda one: -_ORDER.index(allowed(one)))
    decisive = [one for one in against if allowed(one) == word]
    changes: tuple[str, ...]
    if word == SUPPORTED:
        changes = ("new episodes on which a check fails: run this again when the log, the policy or where it is used changes",)
    else:
        # a limit does not matter before what is worse is repaired
        changes = tuple(dict.fromkeys(_change(one) for one in against if word == LIMITS or allowed(one) != LIMITS))
    return Verdict(word, _sentence(word, every, decisive), EXIT_CODES[word], changes)


def _change(one: Check) -> str:
    if one.status == "not run" and one.remedy is None:
        return f"the check {_title(one)}, which was not run: {_phrase(one)}"
    return one.remedy or RULES[one.name].change


def _title(one: Check) -> str:
    return one.name.replace("_", " ")


def _phrase(one: Check) -> str:
    return one.words.strip().rstrip(".")


def _reasons(decisive: list[Check]) -> str:
    told = [f"{_title(one)} was not checked ({_phrase(one)})" if one.status == "not run" else _phrase(one) for one in decisive]
    rest = len(told) - _NAMED_IN_SENTENCE
    return "; ".join(told[:_NAMED_IN_SENTENCE]) + (f"; and {rest} more" if rest > 0 else "")


def _sentence(word: Word, every: tuple[Check, ...], decisive: list[Check]) -> str:
    difference = _phrase(next(one for one in every if one.name == "difference"))
    if word == SUPPORTED:
        return f"These data support the policy: {difference}, and no check speaks against it."
    if word == LIMITS:
        others = [one for one in decisive if one.name != "difference"]
        limits = f" Limits: {_reasons(others)}." if others else ""
        return f"These data do not speak against the policy: {difference}.{limits}"
    if word == NOT_SUPPORTED:
        return f"These data speak against using the policy: {_reasons(decisive)}."
    return f"These data cannot tell what the policy is worth: {_reasons(decisive)}."
