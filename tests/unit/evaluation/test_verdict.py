"""The verdict's rule, check by check and status by status, against a table written out here and the one users read."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from stitchrl.core.errors import DataError
from stitchrl.evaluation import verdict as module
from stitchrl.evaluation.verdict import Check, Status, Verdict, check, completed, held_to, verdict

GOOD, LIMITS, AGAINST, UNKNOWN = "Supported", "Supported with limits", "Not supported", "Not estimable"
# check: the word where it alone failed, warned, was not run, and every other one passed
RULE = {
    "estimable": (UNKNOWN, LIMITS, UNKNOWN),
    "difference": (AGAINST, LIMITS, UNKNOWN),
    "support": (AGAINST, LIMITS, LIMITS),
    "weights": (LIMITS, LIMITS, LIMITS),
    "agreement": (UNKNOWN, LIMITS, LIMITS),
    "placebo": (AGAINST, LIMITS, LIMITS),
    "leave_one_logger_out": (AGAINST, LIMITS, GOOD),
    "semi_synthetic": (LIMITS, LIMITS, GOOD),
    "fqe_convergence": (LIMITS, LIMITS, LIMITS),
    "possible_values": (AGAINST, LIMITS, LIMITS),
    "behaviour_calibration": (LIMITS, LIMITS, LIMITS),
    "propensities": (UNKNOWN, LIMITS, GOOD),
    "integrity": (UNKNOWN, LIMITS, LIMITS),
    "leakage": (AGAINST, LIMITS, LIMITS),
    "drift": (LIMITS, LIMITS, LIMITS),
    "clock": (LIMITS, LIMITS, LIMITS),
    "subgroups": (AGAINST, LIMITS, GOOD),
    "confounding": (LIMITS, LIMITS, GOOD),
    "selection": (LIMITS, LIMITS, LIMITS),
}
OUTCOMES: tuple[Status, ...] = ("fail", "warn", "not run")
CASES = [(name, status, word) for name, words in RULE.items() for status, word in zip(OUTCOMES, words, strict=True)]
DOCS = Path(__file__).parents[3] / "docs" / "trust.md"


def passing() -> dict[str, Check]:
    return {name: check(name, "pass", f"{name} is fine") for name in RULE}


def judged(**statuses: Status) -> Verdict:
    return verdict([replace(one, status=statuses.get(name, "pass"), words=f"words of {name}") for name, one in passing().items()])


def rows(text: str) -> dict[str, tuple[str, ...]]:
    """Returns the rule's rows in a page or docstring: {check: words where failed, warned, not run}."""
    told = {"not estimable": UNKNOWN, "not supported": AGAINST, "limits": LIMITS, "–": GOOD}
    found = re.findall(r"^\| `?([a-z_]+)`?: [^|]+\| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", text, flags=re.MULTILINE)
    return {name: tuple(told[cell.strip()] for cell in cells) for name, *cells in found}


@pytest.mark.parametrize(("name", "status", "word"), CASES)
def test_each_outcome_of_each_check_does_what_the_table_says(name: str, status: Status, word: str) -> None:
    found = judged(**{name: status})
    assert (found.word, found.exit_code) == (word, {GOOD: 0, LIMITS: 0, AGAINST: 3, UNKNOWN: 4}[word])
    if word != GOOD:
        assert f"words of {name}" in found.sentence, "the sentence says why"
        assert len(found.would_change) == 1, "one check was bad, so one thing would change it"
    if word != GOOD and status == "not run":
        assert f"words of {name}" in found.would_change[0], "what is missing is told with why"


@pytest.mark.parametrize("text", [module.__doc__, DOCS.read_text(encoding="utf-8")], ids=["docstring", "docs/trust.md"])
def test_the_documented_tables_are_the_rule(text: str) -> None:
    assert rows(text) == RULE


def test_every_check_can_lower_the_verdict() -> None:
    assert set(RULE) == set(module.RULES)
    assert judged().word == GOOD
    assert [name for name in RULE if judged(**{name: "fail"}).word == GOOD] == []


def test_the_worst_outcome_decides_and_never_improves_by_another_bad_one() -> None:
    order = [GOOD, LIMITS, AGAINST, UNKNOWN]
    singles = {(name, status): order.index(word) for name, status, word in CASES}
    for (a, i), (b, j) in itertools.combinations(singles.items(), 2):
        if a[0] != b[0]:
            assert order.index(judged(**dict([a, b])).word) == max(i, j)


def test_the_order_of_checks_does_not_matter() -> None:
    given = [replace(one, status=s) for one, s in zip(passing().values(), itertools.cycle(("pass", "warn", "fail", "not run")))]
    assert verdict(given) == verdict(reversed(given))


def test_a_check_not_given_is_not_run_and_is_listed() -> None:
    every = completed([check("support", "pass", "1 % of decisions")])
    assert [one.name for one in every] == list(RULE)
    assert [one.name for one in every if one.status != "not run"] == ["support"]
    assert all(one.words for one in every)
    assert verdict([]).word == UNKNOWN, "a report that looked at nothing supports nothing"
    without = [one for name, one in passing().items() if name != "integrity"]
    assert verdict(without).word == LIMITS and "integrity was not checked" in verdict(without).sentence


def test_the_sentence_names_the_reasons_and_counts_the_rest() -> None:
    found = judged(support="fail", leakage="fail", placebo="fail", subgroups="fail", drift="warn")
    assert found.sentence.endswith("; and 1 more.") and "drift" not in found.sentence
    assert len(found.would_change) == 4, "what only limits waits until the rest is repaired"
    assert judged(drift="warn", clock="warn").sentence == (
        "These data do not speak against the policy: words of difference. Limits: words of drift; words of clock."
    )


def test_a_remedy_of_its_own_goes_before_the_general_one() -> None:
    checks = passing() | {"support": check("support", "fail", "31 % without support", remedy="≈ 900 more episodes with action 4")}
    assert verdict(checks.values()).would_change == ("≈ 900 more episodes with action 4",)


@pytest.mark.parametrize(
    ("value", "status"),
    [(0.0, "pass"), (0.0499, "pass"), (0.05, "warn"), (0.0999, "warn"), (0.1, "fail"), (0.9, "fail"), (math.nan, "not run")],
)
def test_a_number_is_held_to_its_limits(value: float, status: str) -> None:
    assert held_to("support", value, "share", warn=0.05, fail=0.1).status == status
    assert held_to("support", -value, "share", warn=-0.05, fail=-0.1).status == status, "the other side"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_passes_on_neither_side(value: float) -> None:
    for warn, fail in ((1.0, 2.0), (2.0, 1.0)):
        found = held_to("weights", value, "effective episodes", warn=warn, fail=fail)
        assert (found.status, found.value) == ("not run", None) and "not estimable" in found.words
    with pytest.raises(DataError, match="finite"):
        check("weights", "pass", "effective episodes", value)


def test_mistakes_are_refused() -> None:
    with pytest.raises(DataError, match="unknown"):
        check("colour", "pass", "green")
    with pytest.raises(DataError, match="status 'ok'"):
        check("support", "ok", "fine")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no words"):
        check("support", "not run", " ")
    with pytest.raises(DataError, match="given twice"):
        verdict([check("support", "pass", "a"), check("support", "fail", "b")])
    with pytest.raises(DataError, match="two different"):
        held_to("support", 0.1, "share", warn=0.2, fail=0.2)


def test_json_has_the_schemas_keys() -> None:
    assert list(check("support", "pass", "a", 0.1, 0.2, "b").to_json()) == ["name", "section", "status", "words", "value", "limit"]
    assert judged().to_json()["would_change"] == list(judged().would_change)
