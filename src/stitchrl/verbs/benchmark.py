"""`stitchrl benchmark run · table`: standard tasks, generated here, and the tables made from their raw lines."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from stitchrl.core.errors import ConfigError
from stitchrl.core.files import check_writable, write_atomically
from stitchrl.core.machine import cores
from stitchrl.core.settings import OpenFraction, check_settings
from stitchrl.verbs.flags import parse

DEFAULT_OUT = Path("runs/benchmark")


@final
@dataclass(frozen=True)
class Run:
    suite: str = "smoke"
    """smoke: minutes; standard: under two hours on two cores; sequences: sequence models and diffusion; antmaze; atari; full:
    the papers' steps"""
    algorithms: tuple[str, ...] = ()
    """algorithms, or recipes that are methods of their own (filtered_bc); none: the suite's"""
    datasets: tuple[str, ...] = ()
    """of the suite's logs only those of these names, or whose names begin so"""
    seeds: int | None = None
    """how many; None: the suite's"""
    steps: int | None = None
    """gradient steps of every run; None: the suite's"""
    device: str = "auto"
    """of all runs: cpu, cuda, cuda:1 …; auto takes CUDA where there is one"""
    processes: int | None = None
    """runs at a time, one thread each; None: as many as there are cores, on CUDA one"""
    out: Path | None = None
    """raw.jsonl, table.md, the runs' directories; what is recorded there is not made again. None: runs/benchmark/SUITE, with --steps
    runs/benchmark/SUITE-N-steps"""
    dry_run: bool = False
    """tell what would be made, and what it takes, and stop"""


@final
@dataclass(frozen=True)
class Table:
    suite: str | None = None
    """lines of this suite alone (with --steps it was SUITE-N-steps); needed where the file has lines of several"""
    out: Path | None = None
    """what `benchmark run` wrote to, or a raw.jsonl; None: runs/benchmark/SUITE"""
    to: Path | None = None
    """write the page there too"""
    level: OpenFraction = 0.95
    """of the intervals"""


def run(arguments: Sequence[str]) -> int:
    """Trains and scores a suite, and prints its table; returns 1 where a run was lost, 128 + n for a signal n."""
    a = parse(Run, arguments, "stitchrl benchmark run", "Train and score algorithms on standard logs, each run once; rerun to go on.")
    from stitchrl.recipes import benchmark_runs, benchmark_schedule

    jobs = _jobs(a)
    out = DEFAULT_OUT / benchmark_runs.label(a.suite, a.steps) if a.out is None else a.out
    check_writable(out, "--out", directory=True)
    if a.out is None and (DEFAULT_OUT / "raw.jsonl").is_file():
        _tell(
            f"{DEFAULT_OUT} has lines of before suites had directories of their own, which are left alone; they count with --out {DEFAULT_OUT}"
        )
    processes = _processes(a)
    _tell(_forecast(jobs, processes))
    if a.dry_run:
        print("\n".join(job.title for job in jobs))
        return 0
    outcome = benchmark_schedule.run(jobs, out, processes, _tell)
    if outcome.made or outcome.skipped:
        text = _page(outcome.rows)
        write_atomically(out / "table.md", text.encode())
        print(text, end="")
    for line in outcome.failed:
        _tell(f"FAILED: {line}")
    if outcome.signal is not None:
        _tell(f"stopped by a signal; the same command goes on in {out}")
        return 128 + outcome.signal
    return 1 if outcome.failed else 0


def table(arguments: Sequence[str]) -> int:
    """Prints the table of raw lines."""
    a = parse(Table, arguments, "stitchrl benchmark table", "The tables of a benchmark, made from its raw lines alone.")
    from stitchrl.report.benchmark_rows import of_suite, read_raw

    check_settings(a, "stitchrl benchmark table")
    check_writable(a.to, "--to")
    out = DEFAULT_OUT / (a.suite or Run.suite) if a.out is None else a.out
    file = out if out.is_file() else out / "raw.jsonl"
    if not file.is_file():
        raise _no_lines(a, out)
    text = _page(of_suite(read_raw(file), a.suite, file), a.level)
    if a.to is not None:
        write_atomically(a.to, text.encode())
    print(text, end="")
    return 0


def _no_lines(a: Table, out: Path) -> ConfigError:
    """What to tell where there is no raw file; raises ConfigError for a suite that is unknown."""
    from stitchrl.recipes.benchmark_suites import suite  # slow: it loads PyTorch, which a table does without

    if (out / "config.json").is_file():
        return ConfigError(f"{out}: is a run's directory; give the one that `stitchrl benchmark run` wrote raw.jsonl to as --out")
    name, steps = re.fullmatch(r"(.*?)(?:-(\d+)-steps)?", a.suite or Run.suite).groups()  # type: ignore[union-attr]
    suite(name)
    where = None if a.out is None else a.out.parent if a.out.suffix else a.out
    how = "".join(f" --{word} {value}" for word, value in (("suite", name), ("steps", steps), ("out", where)) if value is not None)
    return ConfigError(f"{out}: holds no raw.jsonl; `stitchrl benchmark run{how}` writes one. Give its directory as --out")


def _jobs(a: Run) -> list[Any]:
    from dataclasses import replace

    from stitchrl.recipes.benchmark_runs import jobs_of
    from stitchrl.recipes.benchmark_suites import suite

    chosen = suite(a.suite)
    if a.datasets:
        names = _chosen(a.datasets, [task.dataset for task in chosen.tasks], chosen.name)
        chosen = replace(chosen, tasks=tuple(task for task in chosen.tasks if task.dataset in names))
    return jobs_of(chosen, tuple(dict.fromkeys(a.algorithms)), a.seeds, a.steps, a.device)


def _processes(a: Run) -> int:
    """How many runs go on at a time; raises ConfigError for none, and for a device that is not there."""
    from stitchrl.experiment import device_of

    device = device_of(a.device)
    if a.processes is None:
        return 1 if device.type == "cuda" else cores()
    if a.processes < 1:
        raise ConfigError(f"stitchrl benchmark run: --processes is {a.processes}; expected at least 1")
    return a.processes


def _chosen(asked: Sequence[str], names: Sequence[str], suite: str) -> set[str]:
    """The logs that are asked for: a name chooses the log of this very name, or where there is none those that begin so."""
    found = {start: {start} if start in names else {name for name in names if name.startswith(start)} for start in asked}
    unknown = [start for start, chosen in found.items() if not chosen]
    files = [name for name in unknown if Path(name).exists()]
    if files:
        raise ConfigError(
            f"--datasets {' '.join(files)}: a suite has built-in logs alone. For a log of your own: "
            f"`stitchrl train METHOD --data {files[0]} --seeds 3` with each method, then `stitchrl compare` of the runs"
        )
    if unknown:
        raise ConfigError(f"--datasets {' '.join(unknown)}: the suite {suite} has {', '.join(names)}")
    return set().union(*found.values())


def _forecast(jobs: list[Any], processes: int) -> str:
    """What the call takes, before it takes it."""
    from stitchrl.recipes.benchmark_runs import to_make
    from stitchrl.recipes.benchmark_schedule import duration
    from stitchrl.recipes.benchmark_suites import seconds_of, weights_of
    from stitchrl.recipes.datasets import available

    processes = min(processes, len(jobs))
    names = list(dict.fromkeys(job.task.dataset for job in jobs))
    new = [available()[name] for name in to_make(names)]
    making, disk = sum(recipe.seconds for recipe in new), sum(recipe.megabytes for recipe in new)
    seconds = sum(seconds_of(job.task, job.method, job.plan) for job in jobs)
    # a record and a policy of each, and checkpoints while it runs
    megabytes = 2 * len(jobs) + 10 * processes * max(weights_of(job.plan) for job in jobs)
    made = f" ({len(new)} to make: about {duration(making / min(processes, len(new)))} and {disk:.0f} MB)" if new else ""
    return (
        f"{len(jobs)} run(s) on {len(names)} log(s){made}: about {duration(seconds / processes)} "
        f"in {processes} process(es) of a CPU core each, {megabytes:.0f} MB; less where some are recorded already"
    )


def _page(rows: list[dict[str, Any]], level: float = 0.95) -> str:
    from stitchrl.recipes.published_scores import published, source_of
    from stitchrl.report.benchmark_table import benchmark_table

    return benchmark_table(rows, published, source_of({str(row["dataset"]) for row in rows}), level)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
