"""Comparisons: numbers worked out by hand, and every warning when it is due and not otherwise."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from stitchrl.core.errors import DataError
from stitchrl.report.comparison import compare
from stitchrl.report.records_reader import read_run
from stitchrl.report.summary import common_ground, interval_text, method_labels, short_number, spread_text

Write = Callable[..., Path]


def by_hand(directory: Path, evaluations: list[dict[str, object]], **config: object) -> Path:
    directory.mkdir()
    settings = {"algorithm": "bc", "data": {"name": "d", "fingerprint": "f"}, "training": {"steps": 20}, **config}
    (directory / "config.json").write_text(json.dumps(settings))
    (directory / "evaluations.jsonl").write_text("".join(json.dumps({"environment": "E-v0", **e}) + "\n" for e in evaluations))
    return directory


def test_numbers_by_hand(tmp_path: Path) -> None:
    first = {"step": 10, "returns": [[8.0, 12.0], [20.0, 20.0]]}  # seeds score 10 and 20
    second = {"step": 20, "returns": [[4.0, 8.0], [10.0, 12.0]], "successes": [[0, 1], [1, 1]], "exact_value": [5.0, 6.0]}  # 6 and 11
    row = compare([by_hand(tmp_path / "a", [first, second])]).rows[0]
    assert row.last is not None and row.best is not None
    assert (row.last.step, row.last.seeds, row.last.episodes, row.last.mean) == (20, 2, 2, 8.5)
    assert row.last.deviation == pytest.approx(math.sqrt(12.5))
    assert row.last.exact_value == 5.5 and row.last.believed_value is None and row.last.normalized is None
    assert row.last.success is not None and row.last.success.estimate == 0.75
    assert (row.best.step, row.best.iqm.estimate) == (10, 15.0)


def test_iqm_is_over_seeds_and_equals_scipy(tmp_path: Path, write_run: Write) -> None:
    run = read_run(write_run(tmp_path / "r", seeds=9))
    row = compare([run]).rows[0]
    assert run.evaluations[-1].normalized is not None and row.last is not None
    assert row.last.iqm.estimate == pytest.approx(scipy.stats.trim_mean(run.evaluations[-1].normalized.mean(1), 0.25))
    assert row.last.iqm.low < row.last.iqm.estimate < row.last.iqm.high


def test_best_first_and_stable_beside_others(tmp_path: Path, write_run: Write) -> None:
    low, high = write_run(tmp_path / "low", algorithm="bc", final=30), write_run(tmp_path / "high", final=80, seed=1)
    both = compare([low, high])
    assert [row.run.name for row in both.rows] == ["high", "low"]
    assert both.rows[1].last == compare([low]).rows[0].last  # its interval does not depend on its company
    assert both.to_json() == compare([high, low]).to_json() | {"improvements": both.to_json()["improvements"]}
    improvement = both.improvements[0]
    assert (improvement.method, improvement.other, improvement.probability.estimate) == ("iql", "bc", 1.0)


def test_methods_over_tasks(tmp_path: Path, write_run: Write) -> None:
    runs = [
        write_run(tmp_path / f"{a}-{t}", algorithm=a, final=f, data=t, environment=t, seed=k)
        for k, (a, f, t) in enumerate([("iql", 80, "x"), ("iql", 60, "y"), ("bc", 40, "x"), ("bc", 20, "y"), ("cql", 50, "x")])
    ]
    result = compare(runs)
    assert [(a.method, a.tasks, a.scores) for a in result.aggregates] == [("iql", 2, 8), ("bc", 2, 8)]
    pooled = np.concatenate([read_run(r).evaluations[-1].normalized.mean(1) for r in runs[:2]])  # type: ignore[union-attr]
    assert result.aggregates[0].iqm.estimate == pytest.approx(scipy.stats.trim_mean(pooled, 0.25))
    assert any(w.startswith("cql: not run on every task") for w in result.warnings)
    assert {(i.method, i.other): i.tasks for i in result.improvements}[("iql", "bc")] == 2


def test_seeds_trained_apart_are_pooled(tmp_path: Path, write_run: Write) -> None:
    runs = [write_run(tmp_path / f"s{k}", seeds=1, seed=k) for k in range(3)] + [write_run(tmp_path / "bc", algorithm="bc", final=20)]
    result = compare(runs)
    assert [row.label for row in result.rows if row.method == "iql"] != ["iql"] * 3  # told apart by name
    assert len(result.improvements) == 1 and result.improvements[0].probability.estimate == 1.0
    assert any(w.startswith("one seed") for w in result.warnings)


def test_labels_tell_settings_apart(tmp_path: Path, write_run: Write) -> None:
    runs = [read_run(write_run(tmp_path / f"t{t}", settings={"expectile": t, "discount": 0.99})) for t in (0.7, 0.9)]
    other = read_run(write_run(tmp_path / "bc", algorithm="bc"))
    assert method_labels([*runs, other]) == ["iql (expectile=0.7)", "iql (expectile=0.9)", "bc"]


def test_where_a_run_was_computed_is_no_difference_of_method(tmp_path: Path, write_run: Write) -> None:
    runs = [write_run(tmp_path / name) for name in ("a", "b", "c")]
    for run, device, share in zip(runs, ("cpu", "cuda", "cpu"), (1.0, 1.0, 0.1), strict=True):
        config = json.loads((run / "config.json").read_text())
        config["training"]["device_used"] = device
        config["preprocessing"] = {"best_episodes": share}
        (run / "config.json").write_text(json.dumps(config))
    assert method_labels([read_run(run) for run in runs]) == ["iql (best_episodes=1.0)"] * 2 + ["iql (best_episodes=0.1)"]


def test_what_went_on_online_is_another_method_and_another_task_is_another_one(tmp_path: Path, write_run: Write) -> None:
    runs = [write_run(tmp_path / name, seeds=5) for name in ("offline", "online", "faster", "longer", "sampled")]
    online = {"mixing": 0.5, "warm_start": 400, "rows_from_log": 128}
    changes: list[dict[str, object]] = [
        {},
        {"parent": {"path": "offline"}, "online": online},
        {"parent": {"path": "offline"}, "online": online | {"mixing": 0.25, "rows_from_log": 64}},
        {"environment": {"id": "Hopper-v5", "options": {"max_episode_steps": 50}}},
        {"evaluation": {"sampled": True, "epsilon": 0.05}},
    ]
    for run, change in zip(runs, changes, strict=True):
        config = json.loads((run / "config.json").read_text()) | change
        (run / "config.json").write_text(json.dumps(config))
    assert method_labels([read_run(run) for run in runs[:2]]) == ["iql (fine_tuned=False)", "iql (fine_tuned=True)"]
    told = method_labels([read_run(run) for run in runs[:3]])
    assert told[1:] == ["iql (fine_tuned=True, online.mixing=0.5)", "iql (fine_tuned=True, online.mixing=0.25)"]
    assert compare(runs[:2]).improvements and not compare([runs[0], runs[3]]).improvements
    assert {row.task for row in compare([runs[0], runs[3]]).rows} == {
        f"mujoco/hopper/medium-v0 in Hopper-v5 (max_episode_steps={steps})" for steps in ("50", "unset")
    }
    text = "\n".join(compare([runs[0], runs[4]]).warnings)
    assert "policies act in different ways (" in text and "sampled, 0.05 of the actions random" in text and "by mode or mean" in text


def test_a_copy_is_told(tmp_path: Path, write_run: Write) -> None:
    """Bit for bit the same run, as a second directory: its seeds would count twice."""
    runs = [write_run(tmp_path / name, seeds=3) for name in ("a", "b")]
    assert any("whose method and data it has too: they are pooled, and a copy counts as more seeds" in w for w in compare(runs).warnings)


def test_a_coverage_that_was_measured_at_another_level_is_not_told(tmp_path: Path, write_run: Write) -> None:
    runs = [write_run(tmp_path / "a", seeds=3)]
    assert any("their 95 % interval covers only about 73 %" in w for w in compare(runs).warnings)
    assert not any("95 %" in w for w in compare(runs, level=0.5).warnings)


def test_warnings_are_due(tmp_path: Path, write_run: Write) -> None:
    a = write_run(tmp_path / "a", seeds=5)
    b = write_run(tmp_path / "b", algorithm="bc", seeds=5, fingerprint="0" * 64, steps=50_000, episodes=20, evaluations=7)
    (b / "evaluations.jsonl").write_bytes((b / "evaluations.jsonl").read_bytes()[:-30])
    config = json.loads((b / "config.json").read_text()) | {"version": "0.2.0"}
    (b / "config.json").write_text(json.dumps(config))
    text = "\n".join(compare([a, b]).warnings)
    for due in (
        "the data differ between runs (000000000000, 3f5a3f5a3f5a)",
        "last checkpoints are at different steps (iql 100,000, bc 42,857)",
        "different numbers of episodes",
        "bc: last evaluated at step 42,857 of 50,000 planned",
        "bc: evaluations.jsonl: its last line (7) is torn",
        "different versions of StitchRL (0.1.0, 0.2.0)",
    ):
        assert due in text
    assert "seeds" not in text


def test_no_warning_without_cause(tmp_path: Path, write_run: Write) -> None:
    runs = [write_run(tmp_path / n, algorithm=n, seeds=6, evaluations=1, seed=k) for k, n in enumerate(("bc", "iql"))]
    assert compare(runs).warnings == []


def test_unlike_data_in_one_environment_are_different_tasks(tmp_path: Path, write_run: Write) -> None:
    result = compare([write_run(tmp_path / "a", data="m"), write_run(tmp_path / "b", data="e")])
    assert any(w.startswith("Hopper-v5: trained on different data (e, m)") for w in result.warnings)
    assert result.improvements == [] and len(result.aggregates) == 1  # one method, two tasks


def test_a_run_without_evaluations_has_a_row_of_dashes(tmp_path: Path, write_run: Write) -> None:
    result = compare([write_run(tmp_path / "a"), write_run(tmp_path / "b", algorithm="bc", evaluations=0)])
    assert [row.last is None for row in result.rows] == [False, True]
    assert any("bc: was never evaluated" in w for w in result.warnings)
    assert "–" in result.text()
    with pytest.raises(DataError, match="no runs"):
        compare([])


def test_returns_where_some_run_is_not_normalised(tmp_path: Path, write_run: Write) -> None:
    result = compare([write_run(tmp_path / "a"), write_run(tmp_path / "b", algorithm="bc", normalized=False)])
    assert result.measure == "return" and result.rows[0].last is not None and result.rows[0].last.mean > 1000


def test_text_is_aligned_and_json_is_strict(tmp_path: Path, write_run: Write) -> None:
    result = compare([write_run(tmp_path / "a", seeds=1, episodes=1), write_run(tmp_path / "b", algorithm="bc", seed=2)])
    text = result.text().splitlines()
    rule = next(i for i, line in enumerate(text) if line.startswith("──"))
    assert text[rule - 1].split()[0] == "run"
    assert all(len(text[rule + k]) <= len(text[rule]) for k in (1, 2))
    value = json.loads(result.json())
    alone = next(row for row in value["rows"] if row["label"] == "iql")
    assert alone["last"]["deviation"] is None and alone["last"]["iqm"]["low"] is None  # one number has no spread


def test_common_ground_prefers_all_tasks() -> None:
    one = np.ones(2)
    grouped = {"a": {"x": one, "y": one}, "b": {"x": one, "y": one}, "c": {"x": one}}
    methods, tasks = common_ground(grouped)
    assert (list(methods), tasks) == (["a", "b"], ["x", "y"])
    methods, tasks = common_ground({"a": {"x": one, "y": one}, "c": {"x": one}})
    assert (list(methods), tasks) == (["a", "c"], ["x"])
    assert common_ground({"a": {"x": one}, "b": {"y": one}}) == ({}, [])
    assert common_ground({}) == ({}, [])


def test_number_words() -> None:
    assert [short_number(x) for x in (1234.5, 123.45, 12.345, 0.12345, -0.5, -0.0001, None, math.nan)] == [
        "1,234", "123.5", "12.35", "0.123", "−0.500", "0.000", "–", "–",
    ]  # fmt: skip
    assert spread_text(69.72, 3.449) == "69.7 ± 3.4" and spread_text(5.0, math.nan) == "5.00"
    assert interval_text(None) == "–"
