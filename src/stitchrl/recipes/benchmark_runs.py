"""Running a suite: one process a run, skipped where it is done, resumed where it was cut short, one raw line for each."""

from __future__ import annotations

import datetime
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, final

import torch

from stitchrl import algorithms
from stitchrl.algorithms import source_hash
from stitchrl.core.errors import ConfigError, DivergenceError, StitchError
from stitchrl.core.files import to_json_line
from stitchrl.core.records import Logging
from stitchrl.evaluation.references import Reference, normalized_score
from stitchrl.experiment import Plan, Result, device_of, run_experiment
from stitchrl.recipes import datasets
from stitchrl.recipes.benchmark_suites import Suite, Task, fits, plan_of
from stitchrl.recipes.dataset_cache import cache_directory
from stitchrl.report.benchmark_rows import is_row, settings_hash
from stitchrl.training import checkpoint

RAW = "raw.jsonl"
_FREE = ("log_every", "save_every", "keep_checkpoints", "threads", "device")  # of Training: no answer to "which run is this?"
_PACKAGES = (
    "torch", "numpy", "gymnasium", "gymnasium-robotics", "mujoco", "icu-sepsis", "highway-env", "ale-py", "opencv-python-headless",
)  # fmt: skip


@final
@dataclass(frozen=True)
class Log:
    """What a process told of a dataset that it made or opened."""

    name: str
    fingerprint: str
    mean_return: float


@final
@dataclass(frozen=True)
class Job:
    """One run: one seed of a method on one log."""

    suite: str
    method: str
    task: Task
    plan: Plan
    source_hash: str  # of its algorithm's file when the benchmark began

    @property
    def seed(self) -> int:
        return self.plan.seeds[0]

    @property
    def title(self) -> str:
        return f"{self.task.dataset} {self.method} seed {self.seed}"

    @property
    def config(self) -> dict[str, Any]:
        """All that decides the run's numbers, but its data and seed."""
        parts = {name: value for name, value in asdict(self.plan).items() if name != "seeds"}
        return parts | {"training": {name: value for name, value in parts["training"].items() if name not in _FREE}}

    @property
    def config_hash(self) -> str:
        return settings_hash(self.config)

    def key(self, fingerprint: str) -> tuple[str, str, int, str, str]:
        """What makes a run the one that is recorded."""
        return self.task.dataset, self.method, self.seed, self.config_hash, fingerprint

    def directory(self, out: Path, fingerprint: str) -> Path:
        """Where it is learned: another one for other settings, data or source, and on another kind of device, which cannot go on with it."""
        device = device_of(self.plan.training.device).type
        hashes = f"{self.config_hash[:8]}-{fingerprint[:8]}-{self.source_hash[:8]}" + ("" if device == "cpu" else f"-{device}")
        return out / "runs" / f"{self.task.dataset.replace('/', '-')}-{self.method}-{self.seed}-{hashes}"


def label(suite: str, steps: int | None) -> str:
    """Returns the name of a suite as its lines and its directory have it: with --steps it is another one."""
    return suite if steps is None else f"{suite}-{steps}-steps"


def jobs_of(suite: Suite, methods: tuple[str, ...], seeds: int | None, steps: int | None, device: str = "auto") -> list[Job]:
    """Returns the runs of a suite, seed by seed, so that a table can be made early; raises ConfigError where a method fits no log of it.

    The device is no part of what a run is: what is recorded of one counts on all.
    """
    for method in methods:
        if not any(fits(task, method) for task in suite.tasks):
            raise ConfigError(
                f"'{method}' fits no log of the suite {suite.name}: it learns other actions, or goals where there are none; "
                "leave it out, or choose another suite"
            )
    count = suite.seeds if seeds is None else seeds
    if count < 1:
        raise ConfigError(f"--seeds is {count}; expected at least 1")
    first: list[Job] = []
    for task in suite.tasks:
        for method in methods or task.methods:
            if fits(task, method):
                plan = plan_of(task, method, 0, steps)
                plan = replace(plan, training=replace(plan.training, device=device))
                first.append(Job(label(suite.name, steps), method, task, plan, source_hash(plan.algorithm)))
    return [replace(job, plan=replace(job.plan, seeds=(seed,))) for seed in range(count) for job in first]


def to_make(names: list[str]) -> list[str]:
    """Returns those of the built-in logs that are not in the cache yet."""
    known, root = datasets.available(), cache_directory()
    return [name for name in names if known[name].shipped is None and not (root / f"{name}-{known[name].revision}").exists()]


def append_raw(file: Path, row: dict[str, Any]) -> None:
    """Adds a line, after cutting off one that a kill tore, and syncs it to disk. One that only lacks its end is kept."""
    with file.open("ab+") as stream:
        stream.seek(0)
        content = stream.read()
        end = content.rfind(b"\n") + 1
        whole = is_row(content[end:])
        if not whole:
            stream.truncate(end)
        stream.write(("\n" * whole + to_json_line(row) + "\n").encode())
        stream.flush()
        os.fsync(stream.fileno())


# ------------------------------------------------------------------------------------------------------- in a process of its own


def make_log(name: str, told: Path, answer: Connection) -> None:
    """Answers ("log", Log): the dataset is in the cache from then on."""

    def work() -> tuple[str, Any]:
        dataset = datasets.load(name)
        return "log", Log(name, dataset.fingerprint(), float(dataset.returns().mean()))

    _answer(work, told, answer)


def run_job(job: Job, log: Log, directory: Path, told: Path, answer: Connection) -> None:
    """Answers ("row", the raw line) or ("stopped", None) after a signal; the run's checkpoints stay until its line is recorded."""

    def work() -> tuple[str, Any]:
        algorithms.find(job.plan.algorithm)  # read now, so that a later edit is not what is learned with
        if source_hash(job.plan.algorithm) != job.source_hash:
            raise ConfigError(f"{job.plan.algorithm}: its file was edited while the benchmark ran; the same command makes this run anew")
        dataset = datasets.load(job.task.dataset)
        begun = (directory / "config.json").exists()
        # its line was taken out of the raw file
        ended = (directory / "policy").exists() and not checkpoint.steps(directory / "checkpoints")
        result = run_experiment(
            job.plan, dataset, path=directory, source=job.task.dataset, environment=str(dataset.metadata["environment"]),
            environment_options=dataset.metadata.get("environment_options") or {}, logging=Logging(tensorboard=False, quiet=True),
            resume=begun and not ended, overwrite=ended,
        )  # fmt: skip
        if result.signal is not None:
            return "stopped", None
        return "row", row_of(job, log, directory, result, dataset.metadata)

    _answer(work, told, answer)


def _answer(work: Callable[[], tuple[str, Any]], told: Path, answer: Connection) -> None:
    """Does the work in a process of its own: what it prints goes to a file, a mistake becomes an answer, and it ends when its parent does."""
    torch.set_num_threads(1)
    os.setpgid(0, 0)  # a terminal's Ctrl-C reaches the parent alone, which passes it on once
    _end_with_parent()
    told.parent.mkdir(parents=True, exist_ok=True)
    with told.open("a") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    try:
        answer.send(work())
    except DivergenceError as error:
        answer.send(("diverged", str(error)))
    except (StitchError, OSError, MemoryError) as error:
        answer.send(("error", str(error) or type(error).__name__))


def _end_with_parent() -> None:
    """Passes SIGTERM to this process when its parent is gone, so that a killed benchmark leaves no run behind."""
    from multiprocessing import connection, parent_process

    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def row_of(job: Job, log: Log, directory: Path, result: Result, metadata: dict[str, Any]) -> dict[str, Any]:
    """Returns the raw line of a run that came to its end: scores, hashes, versions, and all that a table is made from."""
    lines = [json.loads(line) for line in (directory / "evaluations.jsonl").read_text().splitlines()]
    measure = "normalized" if all(line.get("normalized") for line in lines) else "returns"
    exact = [_exact_score(line, job, metadata) for line in lines]
    means = [sum(line[measure][0]) / len(line[measure][0]) if score is None else score for line, score in zip(lines, exact, strict=True)]
    best = means.index(max(means))
    return identity(job, log.fingerprint) | {
        "measure": "normalised score" if measure == "normalized" else "return",
        "algorithm": job.plan.algorithm,
        "last": _scores(lines[-1], measure, exact[-1]),
        "best": _scores(lines[best], measure, exact[best]),
        "curve": [[line["step"], round(mean, 4)] for line, mean in zip(lines, means, strict=True)],
        "log_return": log.mean_return,
        "reference": metadata.get("reference"),
        "note": metadata.get("note"),
        "environment": metadata["environment"],
        "exact_value": None if lines[-1].get("exact_value") is None else lines[-1]["exact_value"][0],
        "alarms": [alarm.name for alarm in result.alarms],
        "device": str(device_of(job.plan.training.device)),
        "seconds": round(lines[-1]["seconds"] + lines[-1]["rollout_seconds"], 1),
        "config": job.config,
    }


def _exact_score(line: dict[str, Any], job: Job, metadata: dict[str, Any]) -> float | None:
    """The normalised score of an evaluation's exact value, where that is of returns as episodes are scored: undiscounted."""
    reference, discount = metadata.get("reference"), getattr(job.plan.settings, "discount", metadata.get("discount"))
    if line.get("exact_value") is None or reference is None or discount != 1:
        return None
    return float(normalized_score(line["exact_value"][0], Reference(reference["random"], reference["expert"])))


def _scores(line: dict[str, Any], measure: str, exact: float | None) -> dict[str, Any]:
    found = {"step": line["step"], "scores": line[measure][0], "returns": line["returns"][0]}
    return found if exact is None else found | {"exact_score": exact}


def identity(job: Job, fingerprint: str) -> dict[str, Any]:
    """Returns the part of a raw line that says which run it is of, by what, and when."""
    return {
        "suite": job.suite,
        "dataset": job.task.dataset,
        "method": job.method,
        "seed": job.seed,
        "steps": job.plan.training.steps,
        "config_hash": job.config_hash,
        "dataset_hash": fingerprint,
        "source_hash": job.source_hash,
        "versions": _versions(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _versions() -> dict[str, str]:
    from stitchrl.core.version import VERSION

    found = {"stitchrl": VERSION, "python": sys.version.split()[0]}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
