"""Two policies side by side on logs of a chain whose values are known: the paired difference holds the truth, and refusals are told in words."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stitchrl.report
from stitchrl.core.errors import DataError
from stitchrl.core.intervals import Interval
from stitchrl.data.dataset import Dataset
from stitchrl.environments.tabular_logs import sample_log
from stitchrl.environments.tasks.chain import chain
from stitchrl.environments.tasks.tabular import policy_value, solve
from stitchrl.evaluation.before_after import paired_differences, with_before
from stitchrl.evaluation.evidence import TableTarget
from stitchrl.evaluation.trust_checks import Provenance
from stitchrl.evaluation.trust_report import Question, Trust, trust

MDP = chain()
BEST = np.eye(MDP.actions)[solve(MDP)[1].argmax(1)]
BEHAVIOUR = 0.4 * BEST + 0.6 / MDP.actions
FIRST = 0.55 * BEST + 0.45 / MDP.actions
SECOND = 0.8 * BEST + 0.2 / MDP.actions
SCHEMA = json.loads((Path(stitchrl.report.__file__).parent / "trust_schema.json").read_text(encoding="utf-8"))


def log(episodes: int = 400, seed: int = 0) -> Dataset:
    return sample_log(MDP, np.ones(1), BEHAVIOUR[None], episodes, np.random.default_rng(seed), 400)


DATASET = log()


def report(table: np.ndarray, dataset: Dataset = DATASET, other: Trust | None = None, **more: Any) -> Trust:
    asked = {"discount": MDP.discount, "provenance": Provenance("others", 0), "quick": True} | more
    return trust(dataset, TableTarget(table, dataset.spec), Question(**asked), other=other)


@pytest.fixture(scope="module")
def second() -> Trust:
    return report(SECOND, return_range=(0.0, 1.0))


@pytest.fixture(scope="module")
def first(second: Trust) -> Trust:
    return report(FIRST, other=second, return_range=(0.0, 1.0))


def test_the_paired_difference_holds_the_true_one_and_is_narrower_than_an_unpaired_one(first: Trust, second: Trust) -> None:
    truth = policy_value(MDP, SECOND) - policy_value(MDP, FIRST)
    both = with_before(second, first)
    shown = both.record["before"]["estimator"]
    found = paired_differences(second.judged, first.judged)
    chosen = found[shown]
    assert isinstance(chosen, Interval) and 0 < chosen.low < truth < chosen.high
    intervals = [side.judged.estimate(shown).interval for side in (second, first)]
    assert all(i is not None for i in intervals)
    assert chosen.estimate == pytest.approx(intervals[0].estimate - intervals[1].estimate)  # type: ignore[union-attr]
    apart = math.hypot(*(i.high - i.low for i in intervals if i is not None))
    assert chosen.high - chosen.low < apart
    assert next(row for row in both.record["before"]["differences"] if row["name"] == shown)["interval"] == chosen.to_json()


def test_the_judged_policys_own_record_is_left_as_it_was(first: Trust, second: Trust) -> None:
    both = with_before(second, first).record
    assert second.record["before"] is None
    assert {**both, "before": None} == second.record
    assert both["before"]["verdict"] == first.record["verdict"] and both["before"]["numbers"] == first.record["numbers"]


def test_a_report_made_after_another_says_what_it_says_alone(first: Trust) -> None:
    alone = report(FIRST, return_range=(0.0, 1.0))
    assert json.dumps(alone.record, sort_keys=True) == json.dumps(first.record, sort_keys=True)


def test_a_policy_does_not_differ_from_itself(second: Trust) -> None:
    for found in paired_differences(second.judged, second.judged).values():
        assert isinstance(found, str) or (found.estimate, found.low, found.high) == (0.0, 0.0, 0.0)


def test_seeds_of_networks_widen_the_difference(first: Trust, second: Trust) -> None:
    def noisy(found: Trust, error: float) -> Any:
        return replace(found.judged, estimates=tuple(replace(e, seed_error=error) for e in found.judged.estimates))

    plain, wide = paired_differences(second.judged, first.judged)["wis"], paired_differences(noisy(second, 3.0), noisy(first, 4.0))["wis"]
    assert isinstance(plain, Interval) and isinstance(wide, Interval)
    assert wide.high - wide.estimate == pytest.approx(math.hypot(plain.high - plain.estimate, 1.96 * 5.0))


def test_what_one_of_them_cannot_be_is_told_in_words(first: Trust, second: Trust) -> None:
    def refused(found: Trust, name: str, why: str) -> Any:
        kept = [e if e.name != name else e.refused(name, why) for e in found.judged.estimates]
        return replace(found.judged, estimates=tuple(kept))

    after, before = refused(second, "wis", "not estimable: too far"), refused(first, "pdis", "not estimable: too few")
    found = paired_differences(after, before)
    assert found["wis"] == "not estimable after: too far" and found["pdis"] == "not estimable before: too few"
    assert isinstance(found["is"], Interval)
    twice = paired_differences(after, refused(first, "wis", "not estimable: too few"))["wis"]
    assert twice == "not estimable after: too far; before: too few"
    assert paired_differences(after, refused(first, "wis", "not estimable: too far"))["wis"] == "not estimable: too far"


def test_the_record_follows_the_schema_and_the_same_seed_gives_the_same_bytes(first: Trust, second: Trust) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    text = json.dumps(with_before(second, first).record, allow_nan=False)
    assert [error.message for error in jsonschema.Draft202012Validator(SCHEMA).iter_errors(json.loads(text))] == []
    assert json.dumps(with_before(second, first).record, allow_nan=False) == text


def test_reports_of_other_logs_or_questions_are_not_compared(first: Trust, second: Trust) -> None:
    elsewhere = replace(first, record=first.record | {"data": first.record["data"] | {"fingerprint": "another"}})
    how = replace(first.judged, how=replace(first.judged.how, level=0.9))
    for other in (elsewhere, replace(first, measured=replace(first.measured, judged=how))):
        with pytest.raises(DataError, match="expected the same log"):
            with_before(second, other)


def test_what_a_policy_learned_online_is_told() -> None:
    words = Provenance("others", 120, 5_000).words
    assert "learned from 5,000 steps of its own in an environment" in words and "120 online episodes" in words
    assert "steps of its own" not in Provenance("others", 120).words
