"""The whole report on logs of a chain whose values are known: right words for a good, an equal, a far policy, and for broken columns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stitchrl.core.errors import DataError
from stitchrl.data.dataset import Dataset
from stitchrl.environments.tabular_logs import sample_log
from stitchrl.environments.tasks.chain import chain
from stitchrl.environments.tasks.tabular import policy_value, solve
from stitchrl.evaluation.evidence import TableTarget
from stitchrl.evaluation.self_checks import task_of
from stitchrl.evaluation.trust_checks import Provenance
from stitchrl.evaluation.trust_report import Question, Trust, clock_of, trust
from tests.unit.report.schema_check import faults

MDP = chain()
BEST = np.eye(MDP.actions)[solve(MDP)[1].argmax(1)]
BEHAVIOUR = 0.4 * BEST + 0.6 / MDP.actions
BETTER = 0.8 * BEST + 0.2 / MDP.actions
SCHEMA = Path(__file__).parents[3] / "src" / "stitchrl" / "report" / "trust_schema.json"


def log(episodes: int = 600, seed: int = 0) -> Dataset:
    return sample_log(MDP, np.ones(1), BEHAVIOUR[None], episodes, np.random.default_rng(seed), 400)


def with_column(dataset: Dataset, name: str, values: np.ndarray) -> Dataset:
    return Dataset(dataset.spec, {**dataset.columns, name: values}, dataset.offsets, dataset.final_observations, dataset.metadata)


def report(table: np.ndarray, dataset: Dataset | None = None, **more: Any) -> Trust:
    dataset = log() if dataset is None else dataset
    asked = {"discount": MDP.discount, "provenance": Provenance("others", 0), "quick": True} | more
    return trust(dataset, TableTarget(table, dataset.spec), Question(**asked))


def status(found: Trust, name: str) -> str:
    return next(str(c["status"]) for c in found.record["checks"] if c["name"] == name)


@pytest.fixture(scope="module")
def better() -> Trust:
    return report(BETTER)


def test_a_better_policy_near_the_log_is_found_better_and_the_interval_holds_the_truth(better: Trust) -> None:
    assert status(better, "difference") == "pass"
    assert better.record["verdict"]["word"].startswith("Supported")
    assert better.exit_code == 0
    interval = better.record["numbers"]["policy_value"]
    assert interval["low"] < policy_value(MDP, BETTER) < interval["high"]
    estimates = {e["name"]: e for e in better.record["estimates"]}
    assert {"logged", "is", "wis", "pdis", "wpdis", "dr", "wdr", "magic", "drl", "fqe", "marginalized", "model_based"} == set(estimates)
    for estimate in estimates.values():
        assert (estimate["value"] is None) == (estimate["interval"] is None) == (estimate["reason"] is not None)


def test_the_record_is_what_the_schema_says_and_has_no_nan(better: Trust) -> None:
    text = json.dumps(better.record, allow_nan=False)
    assert list(faults(json.loads(text), json.loads(SCHEMA.read_text()))) == []


def test_the_same_seed_gives_the_same_record(better: Trust) -> None:
    again = report(BETTER)
    assert json.dumps(again.record, sort_keys=True) == json.dumps(better.record, sort_keys=True)


def test_the_logged_policy_itself_shows_no_difference() -> None:
    found = report(BEHAVIOUR)
    assert status(found, "difference") == "warn"
    difference = found.record["numbers"]["difference"]
    assert difference["low"] <= 0 <= difference["high"]
    values = {e["name"]: e["value"] for e in found.record["estimates"]}
    for name in ("is", "wis", "pdis", "wpdis"):
        assert values[name] == pytest.approx(values["logged"], rel=1e-6)


def test_a_worse_policy_is_not_supported() -> None:
    worse = 0.5 * BEHAVIOUR + 0.5 * np.eye(MDP.actions)[solve(MDP)[1].argmin(1)]
    found = report(worse, log(2_000))
    assert found.record["verdict"]["word"] == "Not supported"
    assert found.exit_code == 3


def test_a_policy_that_does_what_the_log_lacks_is_not_estimable() -> None:
    timid = np.zeros_like(BEHAVIOUR)
    timid[:, 0], other = 1.0, np.eye(MDP.actions)[np.ones(MDP.states, int)]
    dataset = sample_log(MDP, np.ones(1), timid[None], 300, np.random.default_rng(1), 50)
    found = report(other, dataset)
    assert found.record["verdict"]["word"] == "Not estimable"
    assert found.exit_code == 4
    assert all(e["value"] is None and e["reason"].startswith("not estimable") for e in found.record["estimates"][1:])


def test_what_flatters_cannot_show_that_a_policy_is_better() -> None:
    found = report(BETTER, provenance=Provenance("these", 0))
    assert status(found, "difference") == "warn"
    assert "learned from" in found.record["verdict"]["sentence"]


def test_broken_propensities_are_told_and_not_used() -> None:
    dataset = log()
    broken = with_column(dataset, "behaviour_log_probabilities", np.exp(dataset.columns["behaviour_log_probabilities"]))
    found = report(BETTER, broken)
    assert status(found, "propensities") == "fail"
    assert found.record["verdict"]["word"] == "Not estimable"
    assert "probabilities" in found.record["verdict"]["sentence"]
    assert found.record["behaviour"]["source"] == "counts"


def test_episodes_in_groups_are_drawn_together() -> None:
    dataset = log(400)
    groups = with_column(dataset, "groups", np.repeat(np.arange(400) // 4, dataset.lengths))
    found = report(BETTER, groups)
    assert found.judged.episodes.groups is not None
    assert len(np.unique(found.judged.episodes.groups)) == 100


def test_subgroups_are_judged_at_a_level_that_allows_for_their_number() -> None:
    dataset = log(600)
    ward = with_column(dataset, "infos/ward", np.repeat(np.arange(600) % 3, dataset.lengths))
    found = report(BETTER, ward, subgroups=("ward",))
    rows = found.record["subgroups"]
    assert [r["episodes"] for r in rows] == [200, 200, 200]
    assert all(r["interval"]["level"] == pytest.approx(1 - 0.05 / 3) for r in rows)
    with pytest.raises(DataError, match="no column 'sex'"):
        report(BETTER, ward, subgroups=("sex",))


def test_the_task_of_the_counts_is_the_task_as_logs_grow() -> None:
    dataset = log(20_000)
    table = np.concatenate([BETTER, np.full((2, MDP.actions), 1 / MDP.actions)])
    assert policy_value(task_of(dataset, MDP.discount), table) == pytest.approx(policy_value(MDP, BETTER), abs=0.02)


def test_the_clock_is_part_of_a_task_without_discount_that_it_ends() -> None:
    assert clock_of(log(50), 0.9) == "continues"
    short = sample_log(MDP, np.ones(1), BEHAVIOUR[None], 50, np.random.default_rng(0), 3)
    assert clock_of(short, 1.0) == "ends"
    assert clock_of(short, 1.0, "continues") == "continues"
