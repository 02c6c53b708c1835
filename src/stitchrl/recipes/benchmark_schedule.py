"""The benchmark's parent: processes one after another, two at a time or as many as asked, and one raw line for each that ends."""

from __future__ import annotations

import multiprocessing
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import connection
from pathlib import Path
from types import FrameType
from typing import Any, Literal, final

from stitchrl.core.errors import CheckpointError, ConfigError
from stitchrl.core.files import locked
from stitchrl.recipes.benchmark_runs import RAW, Job, Log, append_raw, identity, make_log, run_job
from stitchrl.recipes.benchmark_suites import seconds_of
from stitchrl.report.benchmark_rows import is_done, key_of, read_raw

Tell = Callable[[str], None]
Work = tuple[str, Callable[..., None], tuple[Any, ...]]  # title, what a process runs, with what
_PATIENCE = 60.0  # seconds that a run has to save itself after a signal


@final
@dataclass
class Outcome:
    """What came of a call: how many runs it made, found done, and lost; the lines of the runs that it was asked for; the signal that ended
    it, if one did."""

    made: int = 0
    skipped: int = 0
    failed: list[str] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    signal: int | None = None


def run(jobs: Sequence[Job], out: Path, processes: int, tell: Tell) -> Outcome:
    """Makes what is not recorded in OUT/raw.jsonl yet; a signal lets every run save itself and ends.

    Raises ConfigError where another benchmark writes there or a log cannot be made.
    """
    out.mkdir(parents=True, exist_ok=True)
    with _held(out), _listening() as heard:
        read_raw(out / RAW)  # a line that cannot be read is told before the logs are made
        logs = _logs(list(dict.fromkeys(job.task.dataset for job in jobs)), out, processes, heard, tell)
        keys = {job.key(logs[job.task.dataset].fingerprint): job for job in jobs if job.task.dataset in logs}
        done = {key_of(row) for row in _rows(keys, out) if is_done(row)}
        left = [job for key, job in keys.items() if key not in done]
        outcome = Outcome(skipped=0 if heard else len(jobs) - len(left))
        if not heard:
            tell(f"{len(left)} run(s) to make, {outcome.skipped} recorded already")
            _tell_edited(left, {key_of(row) for row in read_raw(out / RAW) if is_done(row)}, logs, tell)
            _runs(left, logs, out, processes, heard, tell, outcome)
        outcome.rows = _rows(keys, out)
        outcome.signal = heard[0] if heard else None
        return outcome


def _rows(keys: Mapping[Any, Job], out: Path) -> list[dict[str, Any]]:
    """The recorded lines of these runs, by the source that their algorithms have now; a line that tells no source stands for any."""
    rows = [row for row in read_raw(out / RAW) if key_of(row) in keys]
    return [row for row in rows if row.get("source_hash") in (None, keys[key_of(row)].source_hash)]


def _tell_edited(left: Sequence[Job], recorded: set[Any], logs: Mapping[str, Log], tell: Tell) -> None:
    """Tells of runs that are made although they are recorded: their algorithm was edited since."""
    again = [job.plan.algorithm for job in left if job.key(logs[job.task.dataset].fingerprint) in recorded]
    for name in dict.fromkeys(again):
        tell(f"{name}: its file was edited since {again.count(name)} run(s) were recorded; they are made again, and the newest count")


def _logs(names: list[str], out: Path, processes: int, heard: list[int], tell: Tell) -> dict[str, Log]:
    """The logs, made where they are not in the cache."""
    found: dict[str, Log] = {}
    work: list[Work] = [(name, make_log, (name, out / "told" / f"{name.replace('/', '-')}.txt")) for name in names]
    for title, (kind, value) in _in_processes(work, processes, heard):
        if kind == "stopped":
            break
        if kind != "log":
            raise ConfigError(f"{title}: could not be made: {value}")
        found[title] = value
        tell(f"{title}: ready, sha256 {value.fingerprint[:12]}")
    return found


def _runs(jobs: list[Job], logs: dict[str, Log], out: Path, processes: int, heard: list[int], tell: Tell, outcome: Outcome) -> None:
    by_title = {job.title: job for job in jobs}
    work: list[Work] = []
    directories: dict[Any, Path] = {}
    for job in jobs:
        log = logs[job.task.dataset]
        directory = directories[job.key(log.fingerprint)] = job.directory(out, log.fingerprint)
        work.append((job.title, run_job, (job, log, directory, out / "told" / f"{directory.name}.txt")))
    began, total = time.monotonic(), sum(seconds_of(job.task, job.method, job.plan) for job in jobs)
    expected, ended = 0.0, 0
    for title, (kind, value) in _in_processes(work, processes, heard):
        job = by_title[title]
        ended += 1
        expected += seconds_of(job.task, job.method, job.plan)
        left = (time.monotonic() - began) * (total - expected) / expected
        count = f"[{ended}/{len(jobs)}]"
        if kind == "row":
            append_raw(out / RAW, value)
            _remove(directories[key_of(value)] / "checkpoints")  # not before: a kill between would cost the run
            outcome.made += 1
            last, best = (sum(value[name]["scores"]) / len(value[name]["scores"]) for name in ("last", "best"))
            tell(f"{count} {title}: {value['measure']} {last:.1f}, best {best:.1f} ({value['seconds']:.0f} s); {duration(left)} left")
        elif kind == "stopped":
            tell(f"{count} {title}: stopped; the same command goes on from its checkpoint")
        else:
            append_raw(out / RAW, identity(job, logs[job.task.dataset].fingerprint) | {"error": str(value), "kind": kind})
            outcome.failed.append(f"{title}: {value}")
            tell(f"{count} {title}: {kind}: {value}")


def _remove(checkpoints: Path) -> None:
    """Removes a run's checkpoints: renamed first, so that a kill leaves all of them or none."""
    gone = checkpoints.with_name("checkpoints.gone")
    try:
        checkpoints.rename(gone)
    except OSError:
        return
    shutil.rmtree(gone, ignore_errors=True)


def _in_processes(work: Sequence[Work], processes: int, heard: list[int]) -> Iterator[tuple[str, tuple[str, Any]]]:
    """Runs each piece of work in a process of its own, so many at a time; yields its title and answer as they come."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["stitchrl.recipes.benchmark_runs", "stitchrl.environments.make"])
    waiting, running = list(work), dict[Any, tuple[str, Any]]()
    asked: float | None = None
    try:
        while (waiting and not heard) or running:
            while waiting and not heard and len(running) < processes:
                title, function, arguments = waiting.pop(0)
                ours, theirs = context.Pipe(duplex=False)
                process = context.Process(target=function, args=(*arguments, theirs))
                process.start()
                theirs.close()
                running[ours] = (title, process)
            if heard and asked is None:
                asked = time.monotonic()
                _each(running, "terminate")
            if asked is not None and (len(heard) > 1 or time.monotonic() - asked > _PATIENCE):
                _each(running, "kill")
            ready = connection.wait(list(running), timeout=0.2)
            for answer in [pipe for pipe in running if pipe in ready]:
                title, process = running.pop(answer)
                yield title, _received(answer, process, asked=bool(heard))
    finally:  # a mistake ends the call, not only its own process
        _each(running, "terminate")
        for _, process in running.values():
            process.join()


def _each(running: dict[Any, tuple[str, Any]], verb: Literal["terminate", "kill"]) -> None:
    for _, process in running.values():
        getattr(process, verb)()


def _received(ours: Any, process: Any, *, asked: bool) -> tuple[str, Any]:
    """What a process answered; one that ends without a word, or is stopped though nobody `asked` it to, is lost."""
    try:
        answer: tuple[str, Any] = ours.recv()
    except EOFError:
        answer = ("stopped", None)
    ours.close()
    process.join()
    code = process.exitcode
    if answer[0] != "stopped" or (asked and code in (0, -signal.SIGTERM, -signal.SIGKILL, 128 + signal.SIGTERM)):
        return answer
    if code == -signal.SIGKILL:
        how = "was killed, as where memory runs out (fewer --processes take less)"
    elif code < 0:
        how = f"was ended by {signal.Signals(-code).name}"
    else:
        how = f"ended with code {code}" if code else "was told to stop by a signal of its own"
    return "error", f"its process {how}; what it said is in the directory told/"


@contextmanager
def _held(out: Path) -> Iterator[None]:
    try:
        with locked(out):
            yield
    except CheckpointError as error:
        if "in use by process" not in str(error):
            raise
        raise ConfigError(f"{str(error).partition(';')[0]}; wait for that benchmark, or choose another directory with --out") from None


@contextmanager
def _listening() -> Iterator[list[int]]:
    """The signals heard so far; the first asks to stop, the second stops at once."""
    heard: list[int] = []

    def hear(number: int, frame: FrameType | None) -> None:
        heard.append(number)

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, hear) for number in numbers]
    try:
        yield heard
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def duration(seconds: float) -> str:
    """Returns a length of time in words: `40 s`, `12 min`, `1 h 35 min`, `1,320 h (55 days)`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes >= 2 * 24 * 60:
        return f"{round(minutes / 60):,} h ({round(minutes / (24 * 60)):,} days)"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
