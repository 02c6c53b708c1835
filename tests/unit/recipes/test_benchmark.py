"""The benchmark: each run made once and recorded, a kill loses nothing, tables come from the raw lines alone, mistakes are one line."""

from __future__ import annotations

import json
import math
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stitchrl.cli import main
from stitchrl.core.errors import CheckpointError, ConfigError
from stitchrl.core.files import locked
from stitchrl.environments.make import make, mdp_of
from stitchrl.recipes import benchmark_schedule, datasets
from stitchrl.recipes.benchmark_runs import _exact_score, append_raw, jobs_of
from stitchrl.recipes.benchmark_suites import Task, fits, methods, plan_of, recipe_of, seconds_of, suite
from stitchrl.recipes.published import Recipe
from stitchrl.recipes.published_scores import SOURCE, published
from stitchrl.report.benchmark_rows import read_raw, settings_hash
from stitchrl.report.benchmark_table import benchmark_table
from tests.faults.commands import Running

TINY = ("--datasets", "gridworld", "--algorithms", "bc", "q_learning", "--processes", 2)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STITCHRL_CACHE", str(tmp_path_factory.getbasetemp() / "benchmark-cache"))


def told(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Returns exit code, stdout and stderr of a benchmark command run in this process."""
    with pytest.raises(SystemExit) as stop:
        main(["benchmark", *map(str, arguments)])
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


def test_a_suite_is_run_once_and_its_table_comes_from_raw_lines_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "benchmark"
    code, page, err = told(capsys, "run", *TINY, "--seeds", 2, "--steps", 20, "--out", out)
    assert code == 0, err
    rows = read_raw(out / "raw.jsonl")
    assert sorted((row["method"], row["seed"]) for row in rows) == [("bc", 0), ("bc", 1), ("q_learning", 0), ("q_learning", 1)]
    for row in rows:
        assert len(row["dataset_hash"]) == len(row["config_hash"]) == 64 and row["suite"] == "smoke-20-steps" and row["steps"] == 20
        assert [step for step, _ in row["curve"]] == [10, 20] and row["last"]["step"] == 20
        assert len(row["last"]["scores"]) == 20
        means = dict(row["curve"])
        assert sum(row["last"]["scores"]) / 20 == pytest.approx(means[20], abs=1e-3)
        assert sum(row["best"]["scores"]) / 20 == pytest.approx(max(means.values()), abs=1e-3)
        reference = row["reference"]
        for score, earned in zip(row["last"]["scores"], row["last"]["returns"], strict=True):
            assert score == pytest.approx(100 * (earned - reference["random"]) / (reference["expert"] - reference["random"]))
        assert {"stitchrl", "python", "torch"} <= set(row["versions"]) and row["date"] and row["seconds"] >= 0
    assert not list(out.glob("runs/*/checkpoints")) and len(list(out.glob("runs/*/policy"))) == 4
    assert page == (out / "table.md").read_text() and "| gridworld/mixed | 20 |" in page

    alone = tmp_path / "alone" / "raw.jsonl"  # nothing else of the runs is left
    alone.parent.mkdir()
    alone.write_bytes((out / "raw.jsonl").read_bytes())
    assert told(capsys, "table", "--out", alone.parent, "--to", tmp_path / "page.md") == (0, page, "")
    assert (tmp_path / "page.md").read_text() == page

    before = (out / "raw.jsonl").read_bytes()
    code, again, err = told(capsys, "run", *TINY, "--seeds", 2, "--steps", 20, "--out", out)
    assert (code, again) == (0, page) and "0 run(s) to make, 4 recorded already" in err
    assert (out / "raw.jsonl").read_bytes() == before

    (out / "raw.jsonl").write_bytes(before[:-30])  # a kill while the last line was written
    code, _, err = told(capsys, "run", *TINY, "--seeds", 2, "--steps", 20, "--out", out)
    assert code == 0 and "1 run(s) to make, 3 recorded already" in err
    repeated, first = read_raw(out / "raw.jsonl")[-1], rows[-1]
    assert len(read_raw(out / "raw.jsonl")) == 4
    assert {k: repeated[k] for k in ("last", "best", "curve", "method", "seed")} == {
        k: first[k] for k in ("last", "best", "curve", "method", "seed")
    }


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_benchmark_that_is_killed_goes_on(number: int, tmp_path: Path) -> None:
    arguments = ("benchmark", "run", "--datasets", "gridworld", "--algorithms", "bc", "--seeds", 1, "--steps", 3_000, "--processes", 1)
    Running(tmp_path, *arguments, "--out", "whole").wait().succeeded()
    running = Running(tmp_path, *arguments, "--out", "cut")
    limit = time.monotonic() + 100
    while not _saved(tmp_path) and time.monotonic() < limit:
        time.sleep(0.005)
    running.send(number)
    ended = running.wait()
    assert ended.code in (128 + number, -number), ended.err
    assert 0 < max(_saved(tmp_path)) < 3_000  # it was cut, and goes on from there
    for directory in (tmp_path / "cut" / "runs").iterdir():  # no run outlives its benchmark
        _free(directory, limit)
    Running(tmp_path, *arguments, "--out", "cut").wait().succeeded()
    (whole,), (cut,) = (read_raw(tmp_path / name / "raw.jsonl") for name in ("whole", "cut"))
    for name in ("last", "best", "curve", "config_hash", "dataset_hash"):
        assert cut[name] == whole[name]


def _saved(path: Path) -> list[int]:
    """The steps of whole checkpoints."""
    return [int(found.name[5:]) for found in path.glob("cut/runs/*/checkpoints/step_*") if found.name[5:].isdigit()]


def _free(directory: Path, limit: float) -> None:
    while True:
        try:
            with locked(directory):
                return
        except CheckpointError:
            assert time.monotonic() < limit
            time.sleep(0.02)


def _makes_no_log(name: str, told: Path, *_: Any) -> None:
    (told.parent.parent / "begun").touch()
    time.sleep(300)


def test_a_signal_while_logs_are_made_ends_the_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def send() -> None:
        while not (tmp_path / "begun").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    jobs = jobs_of(suite("smoke"), (), 1, 20)
    monkeypatch.setattr(benchmark_schedule, "make_log", _makes_no_log)
    threading.Thread(target=send, daemon=True).start()
    outcome = benchmark_schedule.run(jobs, tmp_path, 1, lambda _: None)
    assert (outcome.signal, outcome.made, outcome.skipped, outcome.failed) == (signal.SIGTERM, 0, 0, [])


def test_the_time_of_every_method_that_fits_is_told() -> None:
    for task in suite("full").tasks:
        assert all(seconds_of(task, method) > 0 for method in methods() if fits(task, method))


@pytest.mark.parametrize("name", ["standard", "full"])
def test_methods_that_are_scored_exactly_share_a_discount(name: str) -> None:
    for task in suite(name).tasks:
        if task.dataset.startswith("icu-sepsis"):
            assert {getattr(plan_of(task, method, 0).settings, "discount", 1.0) for method in task.methods} == {1.0}


def test_a_run_that_diverges_is_recorded_and_the_others_go_on(tmp_path: Path) -> None:
    tasks = tuple(task for task in suite("smoke").tasks if task.dataset.startswith("gridworld"))
    good, bad = jobs_of(replace(suite("smoke"), tasks=tasks), ("bc",), 2, 20)
    settings = replace(bad.plan.settings, learning_rate=1e38)
    bad = replace(bad, plan=replace(bad.plan, settings=settings))
    lines: list[str] = []
    outcome = benchmark_schedule.run([bad, good], tmp_path, 1, lines.append)
    assert (outcome.made, outcome.skipped, outcome.signal) == (1, 0, None)
    assert len(outcome.failed) == 1 and "not finite" in outcome.failed[0] and "\n" not in outcome.failed[0]
    failed, made = read_raw(tmp_path / "raw.jsonl")
    assert failed["kind"] == "diverged" and "error" not in made
    page = benchmark_table([failed, made], published, SOURCE)
    assert "FAILED: gridworld/mixed bc seed 1: " in page
    assert benchmark_schedule.run([bad, good], tmp_path, 1, lines.append).skipped == 1  # what failed is tried again


def row(dataset: str, method: str, seed: int, score: float, **more: Any) -> dict[str, Any]:
    at = {"step": 10, "scores": [score, score], "returns": [0.0, 0.0]}
    best = {"step": 5, "scores": [score + 10] * 2, "returns": [0.0, 0.0]}
    found = {"dataset": dataset, "method": method, "seed": seed, "steps": 10, "config_hash": "c" * 64, "dataset_hash": "d" * 64}
    found |= {
        "versions": {"stitchrl": "0"},
        "date": "2026-11-21T10:00:00+00:00",
        "suite": "made",
        "seconds": 36.0,
        "measure": "normalised score",
    }
    found |= {"last": at, "best": best, "log_return": 5.0, "reference": {"random": 0.0, "expert": 10.0}}
    return found | more


def test_a_table_in_numbers() -> None:
    """IQM of 0, 40, 60, 200 is 50; over two logs of 10 … and 30 … it is that of all four. The log's own score is 100 · 5 / 10."""
    rows = [row("hopper/medium", "bc", i, x) for i, x in enumerate((0.0, 40.0, 60.0, 200.0))]
    rows += [row("hopper/medium", "iql", 0, 7.0), row("walker2d/medium", "bc", 0, 10.0), row("walker2d/medium", "iql", 0, 30.0)]
    rows += [row("made/other", "bc", 0, 90.0), row("made/other", "iql", 0, 90.0)]  # of another scale
    page = benchmark_table(rows, published, SOURCE)
    assert "| hopper/medium | 10 | 50.0 | 50.0 [" in page
    last, best = page.split("## Best policy")
    assert "7.00 [7.00, 7.00] (1 of 4 seeds)" in last and "60.0 [" in best
    # of 0, 10, 40, 60, 200 one is cut at each end: 36.67
    assert "| bc | 5 | 36.7 [" in page
    assert "| hopper-medium-v2 | hopper/medium | 53.5 ± 1.8 | 67.5 ± 3.8 |" in page and "not the same data" in page
    assert "0.1 hours of one core" in page
    assert page == benchmark_table(list(rows), published, SOURCE)


def test_logs_without_a_method_in_common_have_tables_of_their_own() -> None:
    rows = [row("a/log", "bc", 0, 1.0), row("b/log", "iql", 0, 2.0), row("b/log", "bc", 0, 3.0), row("a/goals", "hiql", 0, 4.0)]
    last = benchmark_table(rows, published, SOURCE).split("## Best policy")[0]
    assert "| log | steps | its own score | bc | iql |" in last and "| log | steps | its own score | hiql |" in last
    assert "| a/log | 10 | 50.0 | 1.00 [1.00, 1.00] | – |" in last and "| a/goals | 10 | 50.0 | 4.00 [4.00, 4.00] |" in last


def test_an_exact_value_stands_in_place_of_episodes() -> None:
    rows = [row("made/log", "bc", seed, 99.0) for seed in range(3)]
    for line, x in zip(rows, (20.0, 30.0, 40.0), strict=True):
        line["last"] |= {"exact_score": x}
        line["best"] |= {"exact_score": x + 5}
    last, best = benchmark_table(rows, published, SOURCE).split("## Best policy")
    assert "without episodes" in last and "| 30.0 [20.0, 40.0] |" in last and "| 35.0 [25.0, 45.0] |" in best
    page = benchmark_table([*rows[:2], row("made/log", "bc", 2, 99.0)], published, SOURCE)
    assert "| 99.0 [99.0, 99.0] |" in page, "not where one seed's is unknown"


def test_values_are_exact_scores_where_nothing_is_discounted() -> None:
    sepsis = next(job for job in jobs_of(suite("standard"), ("bcq",), 1, 20) if job.task.dataset == "icu-sepsis/mixed")
    told = {"reference": {"random": 0.5, "expert": 1.0}, "discount": 1.0}
    line = {"exact_value": [0.75]}
    assert _exact_score(line, sepsis, told) == pytest.approx(50.0)
    assert _exact_score({"exact_value": None}, sepsis, told) is None and _exact_score(line, sepsis, {"discount": 1.0}) is None
    assert _exact_score(line, jobs_of(suite("smoke"), ("iql",), 1, 20)[0], told) is None, "which discounts by 0.99"


def test_methods_that_learned_from_logs_of_other_hashes_are_told() -> None:
    rows = [row("made/log", "bc", 0, 1.0), row("made/log", "iql", 0, 2.0)]
    assert "not one log" not in benchmark_table(rows, published, SOURCE)
    rows.append(row("made/log", "td3_bc", 0, 3.0, dataset_hash="f" * 64))
    assert f"bc, iql from {rows[0]['dataset_hash'][:12]}; td3_bc from ffffffffffff" in benchmark_table(rows, published, SOURCE)


def test_the_newest_settings_count_and_the_page_says_so() -> None:
    old = row("made/log", "bc", 0, 1.0)
    new = row("made/log", "bc", 0, 2.0, config_hash="e" * 64, date="2026-11-22T10:00:00+00:00")
    page = benchmark_table([new, old], published, SOURCE)
    assert "2.00 [2.00, 2.00]" in page and "1.00" not in page and "1 raw lines of older settings or data are left out" in page
    assert "One seed" in page and "Published" not in page
    lost = row("made/log", "bc", 0, 0.0, error="lost")
    assert "FAILED" in benchmark_table([old, lost], published, SOURCE) and "FAILED" not in benchmark_table([lost, old], published, SOURCE)
    half = benchmark_table([old, row("made/log", "bc", 1, 2.0)], published, SOURCE, 0.5)
    assert "its 50 % stratified-bootstrap interval" in half and "their 50 % interval covers less than that" in half and "95" not in half
    with pytest.raises(CheckpointError, match="the line of made/log bc seed 0 has no 'best'"):
        benchmark_table([old, {k: v for k, v in old.items() if k != "best"}], published, SOURCE)
    with pytest.raises(CheckpointError, match="no run came to its end"):
        benchmark_table([row("a", "b", 0, 0.0, error="lost")], published, SOURCE)


def test_raw_lines_are_whole_or_told(tmp_path: Path) -> None:
    file = tmp_path / "raw.jsonl"
    assert read_raw(file) == []
    one, three = ({"dataset": "d", "method": "m", "seed": seed} for seed in (1, 3))
    append_raw(file, one)
    file.write_bytes(file.read_bytes() + b'{"b": ')
    assert read_raw(file) == [one]
    append_raw(file, three)
    assert read_raw(file) == [one, three] and file.read_text().count("\n") == 2
    file.write_bytes(file.read_bytes().rstrip())  # as an editor may leave it: the last line is whole
    append_raw(file, one)
    assert read_raw(file) == [one, three, one] and file.read_text().count("\n") == 3
    for other, told in (
        ("nonsense", "line 2 is no JSON object"),
        ('{"seed": 1, "step": 2}', "line 2 has no dataset, method; expected what"),
        (json.dumps(one | {"seed": "a"}), 'raw.jsonl: line 2: seed is "a"; expected an integer'),
        (json.dumps(one | {"versions": None}), "line 2: versions is null; expected an object"),
        (json.dumps(one | {"reference": {"random": 1}}), "line 2: reference has expert null; expected a number"),
        (json.dumps(one | {"last": {"scores": []}}), "line 2: last has scores"),
        (json.dumps(one | {"best": {"scores": [1.0, math.nan]}}), "line 2: best has scores .*NaN"),
    ):
        file.write_text(f"{json.dumps(one)}\n{other}\n{json.dumps(three)}\n")
        with pytest.raises(CheckpointError, match=told):
            read_raw(file)


@pytest.mark.parametrize("name", ["smoke", "standard", "sequences", "antmaze", "atari", "full"])
def test_a_suite_names_what_exists(name: str) -> None:
    found = suite(name)
    logs = [task.dataset for task in found.tasks]
    assert len(set(logs)) == len(logs) >= 2 and set(logs) <= set(datasets.available())
    for task in found.tasks:
        for method in task.methods:
            assert fits(task, method), (task.dataset, method)
            made = plan_of(task, method, 3)
            assert made.seeds == (3,) and made.training.steps == (task.size(method).steps or task.steps)
    if name == "standard":  # on two cores of the machine that the speeds were measured on
        seconds = found.seeds * sum(seconds_of(t, m) for t in found.tasks for m in t.methods)
        assert seconds / 2 < 2 * 3600


def test_larger_networks_and_batches_are_told_to_take_longer() -> None:
    small, large = (Task("antmaze/large-navigate", ("hiql",), 10_000, settings=more) for more in ({"hidden": (256, 256)}, {}))
    assert seconds_of(replace(large, batch_size=None), "hiql") > 20 * seconds_of(small, "hiql")


def test_integer_tasks_are_told_apart() -> None:
    from stitchrl.environments.make import spec_of
    from stitchrl.recipes.datasets import available

    for task in (*suite("smoke").tasks, *suite("standard").tasks[-1:], *suite("atari").tasks):
        world = make(available()[task.dataset].environment)
        assert task.integer_actions == hasattr(spec_of(world).action, "n"), task.dataset
        assert mdp_of(world) is None or task.integer_actions
        world.close()


def test_settings_come_from_the_most_particular_recipe() -> None:
    def found(method: str, dataset: str, integer_actions: bool = False) -> Recipe:
        recipe = recipe_of(method, Task(dataset, (), 1, integer_actions))
        assert recipe is not None
        return recipe

    assert found("iql", "halfcheetah/medium").settings["expectile"] == 0.7
    assert found("iql", "antmaze/umaze-play").settings["expectile"] == 0.9
    assert found("rebrac", "antmaze/umaze-play").settings["discount"] == 0.999
    assert found("rebrac", "halfcheetah/medium").settings["critic_penalty"] == 0.01  # CORL's configs/offline/rebrac
    assert found("sac_n", "pointmaze/large").settings["ensemble"] == 25
    assert found("sac_n", "pendulum/mixed").settings == {"ensemble": 10, "diversity": 0.0}
    assert found("filtered_bc", "hopper/medium").preprocessing.best_episodes == 0.1
    frames = found("filtered_bc", "breakout/mixed", True)
    assert (frames.preprocessing.best_episodes, frames.preprocessing.standardize_observations, frames.batch_size) == (0.1, False, 100)
    assert found("cql", "icu-sepsis/mixed", True).preprocessing.reward_scale == 20.0
    assert found("cql", "breakout/mixed", True).preprocessing.reward_bound == 1.0
    assert found("decision_transformer", "pong/expert", True).settings["longest_episode"] == 27_000
    assert found("bc", "gridworld/mixed", True).settings == {}
    assert not fits(Task("gridworld/mixed", (), 1, True), "sac_n")
    walks, earned = Task("pointmaze/navigate", (), 1), Task("pointmaze/umaze", (), 1)
    assert [(fits(walks, name), fits(earned, name)) for name in ("iql", "bc", "gciql", "hiql")] == [(False, True)] * 2 + [(True, False)] * 2
    with pytest.raises(ConfigError, match="unknown method 'filterd_bc'. Did you mean 'filtered_bc'"):
        found("filterd_bc", "hopper/medium")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("run --suite smok", "unknown suite 'smok'. Did you mean 'smoke'"),
        ("run --algorithms iqll", "unknown method 'iqll'. Did you mean 'iql'"),
        ("run --datasets gridworld --algorithms td3_bc", "'td3_bc' fits no log of the suite smoke: it learns other actions"),
        ("run --datasets atari", "the suite smoke has gridworld/mixed"),
        ("run --algorithms hiql", "'hiql' fits no log of the suite smoke: it learns other actions, or goals"),
        ("run --seeds 0", "--seeds is 0"),
        ("run --steps 0", "steps is 0"),
        ("run --processes 0", "--processes is 0"),
        ("run --algoritms bc", "unknown option --algoritms. Did you mean --algorithms"),
        ("table --out nowhere", "holds no raw.jsonl"),
        ("tabel", "unknown command 'benchmark tabel'"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = told(capsys, *arguments.split())
    assert (code, out) == (2, "") and words in err and len(err.strip().splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_a_setting_that_says_nothing_changes_no_hash() -> None:
    job = jobs_of(suite("smoke"), ("iql",), 1, 20)[0]
    without = {
        name: {k: v for k, v in part.items() if v is not None} if isinstance(part, dict) else part for name, part in job.config.items()
    }
    assert without != job.config
    assert settings_hash(without) == settings_hash(json.loads(json.dumps(job.config))) == job.config_hash
    assert settings_hash(without | {"training": {**without["training"], "batch_size": 1}}) != job.config_hash


def test_what_was_run_here_is_what_the_standard_suite_would_run() -> None:
    rows = read_raw(Path(__file__).parents[3] / "benchmarks" / "scores" / "standard" / "raw.jsonl")
    known = {(job.task.dataset, job.method, job.seed): job.config_hash for job in jobs_of(suite("standard"), (), None, None)}
    assert {(row["dataset"], row["method"], row["seed"]) for row in rows} == known.keys()
    assert [key for row in rows if known.get(key := (row["dataset"], row["method"], row["seed"])) != row["config_hash"]] == []


def test_what_decides_a_run_decides_its_hash() -> None:
    job = jobs_of(suite("smoke"), ("iql",), 1, 20)[0]
    plan = job.plan
    others = [
        replace(plan, settings=replace(plan.settings, expectile=0.8)),
        replace(plan, preprocessing=replace(plan.preprocessing, reward_scale=2.0)),
        replace(plan, training=replace(plan.training, batch_size=9)),
        replace(plan, evaluation=replace(plan.evaluation, episodes=9)),
        replace(plan, goals=replace(plan.goals, value_current=0.123)),
    ]
    hashes = {job.config_hash, *(replace(job, plan=other).config_hash for other in others)}
    assert len(hashes) == 1 + len(others)
    alike = replace(plan, seeds=(7,), training=replace(plan.training, threads=2, log_every=3, device="cpu"))
    assert replace(job, plan=alike).config_hash == job.config_hash
    assert len({job.key("a"), replace(job, plan=alike).key("a"), job.key("b")}) == 3  # another seed, other data


def test_two_benchmarks_do_not_share_a_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with locked(tmp_path):
        code, _, err = told(capsys, "run", *TINY, "--steps", 5, "--out", tmp_path)
    assert code == 2 and "in use by process" in err and "--out" in err


def test_a_dry_run_tells_and_makes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = told(capsys, "run", "--suite", "full", "--dry-run", "--out", tmp_path / "none")
    assert code == 0 and "halfcheetah/medium iql seed 4" in out.splitlines()
    assert err.startswith(f"{len(out.splitlines())} run(s) on ") and " h " in err
    few = ("run", "--datasets", "pendulum/mixed", "--algorithms", "bc", "--seeds", 2, "--dry-run", "--processes")
    assert told(capsys, *few, 64)[2] == told(capsys, *few, 2)[2] != told(capsys, *few, 1)[2]  # no more than there are runs
    assert not (tmp_path / "none").exists()
