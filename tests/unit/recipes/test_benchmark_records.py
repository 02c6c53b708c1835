"""What a benchmark has recorded: it stands in its own suite's table alone, and counts for as long as it is what would be run."""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import os
import signal
import threading
import time
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from stitchrl import algorithms
from stitchrl.cli import VERBS
from stitchrl.experiment import Result
from stitchrl.recipes import benchmark_schedule, published_goals
from stitchrl.recipes.benchmark_runs import Job, Log, jobs_of, row_of
from stitchrl.recipes.benchmark_suites import seconds_of, suite
from stitchrl.recipes.published_scores import SOURCE, published
from stitchrl.report.benchmark_rows import read_raw
from stitchrl.report.benchmark_table import benchmark_table
from tests.architecture.source_tree import ROOT
from tests.unit.recipes.test_benchmark import row, told

TINY = ("--datasets", "gridworld", "--algorithms", "bc", "--processes", 1, "--seeds", 1)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STITCHRL_CACHE", str(tmp_path_factory.getbasetemp() / "benchmark-cache"))


def one_job() -> Job:
    tasks = tuple(task for task in suite("smoke").tasks if task.dataset.startswith("gridworld"))
    [job] = jobs_of(replace(suite("smoke"), tasks=tasks), ("bc",), 1, 10)
    return job


def test_an_edited_algorithm_is_run_again(tmp_path: Path) -> None:
    """Its line is of another file; one that tells no file, as before they did, stands for any."""
    now = one_job()
    assert now.source_hash == hashlib.sha256(Path(inspect.getfile(algorithms.find("bc")[0])).read_bytes()).hexdigest()
    before = replace(now, source_hash="0" * 64)
    assert before.directory(tmp_path, "d") != now.directory(tmp_path, "d"), "what was cut short does not go on with other losses"
    lines: list[str] = []

    def run(job: Job) -> benchmark_schedule.Outcome:
        lines.clear()
        return benchmark_schedule.run([job], tmp_path, 1, lines.append)

    assert run(now).made == 1 and run(now).skipped == 1
    raw = tmp_path / "raw.jsonl"
    raw.write_text(raw.read_text().replace(now.source_hash, before.source_hash))  # as it would stand there of an earlier file
    outcome = run(now)
    assert outcome.made == 1 and "bc: its file was edited since 1 run(s) were recorded; they are made again, and the newest count" in lines
    rows = read_raw(raw)
    assert [line["source_hash"] for line in rows] == [before.source_hash, now.source_hash] and outcome.rows == rows[1:]
    assert run(now).skipped == 1 and not any("edited" in line for line in lines)
    raw.write_text(json.dumps({name: value for name, value in rows[0].items() if name != "source_hash"}) + "\n")
    assert run(now).skipped == 1


def test_a_table_takes_the_seeds_of_the_newest_source() -> None:
    old = [row("made/log", "bc", seed, 1.0, source_hash="a" * 64) for seed in range(3)]
    new = row("made/log", "bc", 0, 2.0, source_hash="b" * 64, date="2026-11-22T10:00:00+00:00")
    page = benchmark_table([*old, new], published, SOURCE)
    assert "2.00 [2.00, 2.00]" in page and "1.00" not in page and "3 raw lines of older settings, data or sources are left out" in page
    untold = [row("made/log", "bc", seed, 1.0) for seed in (1, 2)]
    assert "left out" not in benchmark_table([*untold, new], published, SOURCE)


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (["hopper/medium"], {"hopper/medium"}),
        (["hopper/medium-"], {"hopper/medium-replay", "hopper/medium-expert"}),
        (["hopper/medium", "pointmaze"], {"hopper/medium", "pointmaze/umaze", "pointmaze/medium", "pointmaze/large"}),
    ],
)
def test_a_logs_whole_name_is_that_log_alone(asked: list[str], found: set[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = told(capsys, "run", "--suite", "full", "--datasets", *asked, "--algorithms", "bc", "--seeds", 1, "--dry-run")
    assert code == 0 and {line.split()[0] for line in out.splitlines()} == found, err


def test_what_to_do_with_a_log_of_ones_own_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (file := tmp_path / "my.npz").touch()
    code, _, err = told(capsys, "run", "--datasets", file)
    assert code == 2 and f"`stitchrl train METHOD --data {file} --seeds 3`" in err and "`stitchrl compare`" in err


def test_a_device_is_handed_to_the_runs_and_decides_nothing_recorded() -> None:
    there, here = (jobs_of(suite("smoke"), ("bc",), 1, 10, device)[0] for device in ("cuda:1", "auto"))
    assert there.plan.training.device == "cuda:1" and there.key("log") == here.key("log")


def test_runs_on_a_gpu_are_made_one_at_a_time(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("stitchrl.verbs.benchmark.cores", lambda: 5)
    for there, options, processes in ((True, (), 1), (True, ("--device", "cpu"), 5), (True, ("--processes", 3), 3), (False, (), 5)):
        monkeypatch.setattr("torch.cuda.is_available", lambda there=there: there)
        code, _, err = told(capsys, "run", *options, "--dry-run")
        assert code == 0 and f"in {processes} process(es) of a CPU core each" in err
    code, _, err = told(capsys, "run", "--device", "tpu", "--dry-run")
    assert code == 2 and "device 'tpu' cannot be used" in err


def test_a_table_tells_of_hours_on_a_gpu() -> None:
    rows = [row("made/log", "bc", seed, 1.0, device=device) for seed, device in enumerate(("cpu", "cuda"))]
    assert "hours of one core;" in benchmark_table(rows[:1], published, SOURCE)
    assert "hours of one process, some on a GPU;" in benchmark_table(rows, published, SOURCE)


def test_a_run_whose_line_was_not_recorded_is_not_learned_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object) -> None:
        raise OSError("no space")

    job = one_job()
    with monkeypatch.context() as during:
        during.setattr(benchmark_schedule, "append_raw", full_disk)
        with pytest.raises(OSError, match="no space"):
            benchmark_schedule.run([job], tmp_path, 1, lambda _: None)
    [directory] = (tmp_path / "runs").iterdir()
    learned = (directory / "metrics.jsonl").read_bytes()
    assert list(directory.glob("checkpoints/step_*")) and read_raw(tmp_path / "raw.jsonl") == []
    assert benchmark_schedule.run([job], tmp_path, 1, lambda _: None).made == 1
    assert (directory / "metrics.jsonl").read_bytes() == learned and len(read_raw(tmp_path / "raw.jsonl")) == 1  # times and all
    assert not (directory / "checkpoints").exists()


def _dies(title: str, number: int, answer: Connection) -> None:
    if number:
        os.kill(os.getpid(), number)
    answer.send(("stopped", None))  # as a run does that hears a signal of its own


@pytest.mark.parametrize(
    ("number", "words"), [(signal.SIGKILL, "memory runs out"), (signal.SIGTERM, "ended by SIGTERM"), (0, "a signal of its own")]
)
def test_a_process_that_is_lost_is_an_error_and_not_a_stop(number: int, words: str) -> None:
    answers = list(benchmark_schedule._in_processes([("a", _dies, ("a", number))], 1, []))
    assert [(title, kind) for title, (kind, _) in answers] == [("a", "error")] and words in answers[0][1][1]


def _waits(title: str, answer: Connection) -> None:
    time.sleep(100)


def test_a_process_that_was_asked_to_end_is_stopped_and_not_lost() -> None:
    heard: list[int] = []
    threading.Timer(0.5, heard.append, [signal.SIGTERM]).start()
    assert list(benchmark_schedule._in_processes([("a", _waits, ("a",))], 1, heard)) == [("a", ("stopped", None))]


def test_an_algorithm_edited_while_the_benchmark_runs_is_not_recorded_as_it_was(tmp_path: Path) -> None:
    job = replace(one_job(), source_hash="0" * 64)  # of the file as the benchmark began
    outcome = benchmark_schedule.run([job], tmp_path, 1, lambda _: None)
    assert outcome.made == 0 and "bc: its file was edited while the benchmark ran" in outcome.failed[0]


def test_a_run_that_is_lost_is_told_and_recorded_and_made_by_the_next_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = one_job()
    with monkeypatch.context() as during:
        during.setattr(benchmark_schedule, "run_job", _is_killed)
        outcome = benchmark_schedule.run([job], tmp_path, 1, lambda _: None)
    assert outcome.made == 0 and len(outcome.failed) == 1 and "memory runs out" in outcome.failed[0]
    [line] = read_raw(tmp_path / "raw.jsonl")
    assert line["kind"] == "error" and "memory runs out" in line["error"]
    assert benchmark_schedule.run([job], tmp_path, 1, lambda _: None).made == 1


def _is_killed(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_runs_seconds_hold_its_last_evaluation(tmp_path: Path) -> None:
    line = {"step": 10, "seconds": 12.0, "rollout_seconds": 30.5, "returns": [[1.0]], "normalized": [[50.0]]}
    (tmp_path / "evaluations.jsonl").write_text(json.dumps(line) + "\n")
    result = Result(tmp_path, None, 10, {}, line)  # type: ignore[arg-type]
    assert row_of(one_job(), Log("gridworld/mixed", "d", 1.0), tmp_path, result, {"environment": "a"})["seconds"] == 42.5


def test_published_scores_without_a_method_in_common_have_tables_of_their_own() -> None:
    rows = [row("pointmaze/umaze", "bc", 0, 1.0), row("pointmaze/navigate", "hiql", 0, 2.0), row("pointmaze/navigate", "qrl", 0, 2.0)]
    page = benchmark_table(rows, published, SOURCE)
    assert "| maze2d-umaze-v1 | pointmaze/umaze | 0.4 ± 8.7 |" in page
    assert "| pointmaze-medium-navigate-v0 | pointmaze/navigate | 79.0 ± 5.0 | 82.0 ± 5.0 |" in page


def test_the_commands_help_names_every_suite() -> None:
    for name in ("smoke", "standard", "sequences", "antmaze", "atari", "full"):
        assert suite(name).name in VERBS["benchmark run"][2].partition(": ")[2].split(", ")


def test_a_trial_takes_no_other_tables_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    pages = {}
    for steps in (20, 10):
        code, pages[steps], err = told(capsys, "run", *TINY, "--steps", steps)
        assert code == 0, err
        assert (tmp_path / f"runs/benchmark/smoke-{steps}-steps/table.md").read_text() == pages[steps]
    assert told(capsys, "table", "--suite", "smoke-20-steps") == (0, pages[20], "")

    code, page, err = told(
        capsys, "run", *TINY, "--steps", 10, "--out", "runs/benchmark/smoke-20-steps"
    )  # into what the other one wrote to
    assert code == 0 and "1 run(s) to make" in err and "| gridworld/mixed | 10 |" in page and "20-steps" not in page
    code, page, err = told(capsys, "run", *TINY, "--steps", 20)
    assert (code, page) == (0, pages[20]) and "1 recorded already" in err
    both = ("table", "--out", "runs/benchmark/smoke-20-steps")
    code, _, err = told(capsys, *both)
    assert code == 2 and "has lines of the suites smoke-20-steps, smoke-10-steps; a table is of one: choose it with --suite" in err
    assert told(capsys, *both, "--suite", "smoke-20-steps") == (0, pages[20], "")
    code, _, err = told(capsys, *both, "--suite", "smoke")
    assert code == 2 and "no line of the suite 'smoke', but of smoke-20-steps, smoke-10-steps" in err


def test_a_length_of_time_in_words() -> None:
    told = {40: "40 s", 720: "12 min", 5_700: "1 h 35 min", 40 * 3600: "40 h 00 min", 55 * 86_400: "1,320 h (55 days)"}
    assert {seconds: benchmark_schedule.duration(seconds) for seconds in told} == told


def test_the_time_that_is_told_is_near_what_was_recorded() -> None:
    """Of the standard suite's recorded runs, each of a minute or more: the least of its seeds, as the machine did other work besides."""
    recorded: dict[tuple[str, str], float] = {}
    for line in read_raw(ROOT / "benchmarks" / "scores" / "standard" / "raw.jsonl"):
        key = line["dataset"], line["method"]
        if "seconds" in line:
            recorded[key] = min(line["seconds"], recorded.get(key, math.inf))
    told = {(task.dataset, method): seconds_of(task, method) for task in suite("standard").tasks for method in task.methods}
    long = {key: seconds for key, seconds in recorded.items() if seconds >= 60}
    assert len(long) > 15 and {key: told[key] / seconds for key, seconds in long.items() if not 0.5 < told[key] / seconds < 2} == {}
    assert 0.7 < sum(told[key] for key in recorded) / sum(recorded.values()) < 1.5


def test_every_log_of_ogbenchs_kinds_stands_beside_its_published_scores() -> None:
    for log in published_goals.LOGS:
        found = published(log)
        assert found is not None and set(found[1]) == {"gcbc", "gcivl", "gciql", "qrl", "crl", "hiql"}, log
    theirs = published("antmaze/medium-explore")
    assert theirs is not None and theirs[0] == "antmaze-medium-explore-v0" and theirs[1]["hiql"] == (37, 10)
