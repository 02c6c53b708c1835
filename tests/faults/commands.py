"""The command as a process of its own that tests may kill: forked from a server that has the heavy imports done, or started afresh."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from tests.architecture.source_tree import ROOT

FORKS = multiprocessing.get_context("forkserver")
PRELOADED = "api report.run verbs.train verbs.evaluate algorithms.iql algorithms.q_learning environments.make data.sources.npz"
FORKS.set_forkserver_preload(["gymnasium", *(f"stitchrl.{name}" for name in PRELOADED.split()), "tests.faults.commands"])
TIMES = ("seconds", "steps_per_second", "rollout_seconds")  # of a record: all that may differ between a run and its repeat


@final
@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str

    def refused(self, *words: str, code: int = 2) -> str:
        """Returns what was told, after checking that it is one line with the words in it, the exit code, and no traceback."""
        assert self.code == code, (self.code, self.out, self.err)
        lines = self.err.strip().splitlines()
        assert len(lines) == 1 and "Traceback" not in self.err, self.err
        for word in words:
            assert word in lines[0], (word, lines[0])
        return lines[0]

    def succeeded(self) -> Ended:
        assert self.code == 0, (self.code, self.err)
        return self


def serve(arguments: list[str], files: tuple[str, str], folder: str, environment: dict[str, str], file_limit: int | None) -> None:
    """What a forked process does."""
    import resource

    for descriptor, file in zip((1, 2), files, strict=True):
        opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(opened, descriptor)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    os.environ.update(environment)
    os.chdir(folder)
    if file_limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    from stitchrl.cli import main

    main(arguments)


@final
class Running:
    """A command under way, its words to the terminal in files beside `folder`."""

    def __init__(
        self, folder: Path, *arguments: object, environment: Mapping[str, str] | None = None, file_limit: int | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.files = folder / "told.out", folder / "told.err"
        told = str(self.files[0]), str(self.files[1])
        given = [str(a) for a in arguments], told, str(folder), dict(environment or {}), file_limit
        self.process = FORKS.Process(target=serve, args=given)
        self.process.start()

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def send(self, number: int) -> None:
        if self.process.is_alive():
            os.kill(self.pid, number)

    def wait(self, seconds: float = 120) -> Ended:
        """Returns how it ended; a signal's number below zero."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            raise AssertionError(f"still running after {seconds} s; it said {self.files[1].read_text()}")
        return Ended(self.process.exitcode, self.files[0].read_text(), self.files[1].read_text())

    def reaches(self, run: Path, step: int, seconds: float = 120) -> bool:
        """Waits until the run's metrics have come to a step; False if it ended before."""
        limit = time.monotonic() + seconds
        while time.monotonic() < limit:
            if step_of(run) >= step:
                return True
            if not self.process.is_alive():
                return step_of(run) >= step
            time.sleep(0.002)
        raise AssertionError(f"step {step} was not reached in {seconds} s")


def stitchrl(folder: Path, *arguments: object, **options: Any) -> Ended:
    """Returns how a command ended."""
    return Running(folder, *arguments, **options).wait()


def afresh(folder: Path, *arguments: object, environment: Mapping[str, str] | None = None) -> Ended:
    """Returns how a command ended that a fresh interpreter ran."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "stitchrl.cli", *map(str, arguments)], cwd=folder, capture_output=True, text=True, timeout=120, check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")} | dict(environment or {}),
    )  # fmt: skip
    return Ended(done.returncode, done.stdout, done.stderr)


def step_of(run: Path) -> int:
    """Returns the last step that the metrics tell."""
    try:
        lines = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return 0
    whole = [line for line in lines if line.endswith(b"\n")]
    return int(json.loads(whole[-1])["step"]) if whole else 0


def records(run: Path, name: str) -> list[dict[str, Any]]:
    """Returns a run's records without what depends on the clock."""
    lines = [json.loads(line) for line in (run / f"{name}.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def results(run: Path) -> dict[str, Any]:
    """Returns all that a repeat of a run must reproduce: policy and last state bit for bit, metrics and evaluations but for times."""
    state = max((run / "checkpoints").glob("step_*")) / "state.safetensors"
    found: dict[str, Any] = {file.name: file.read_bytes() for file in sorted((run / "policy").iterdir())}
    found |= {"state": state.read_bytes(), "newest": state.parent.name, "metrics": records(run, "metrics")}
    return found | ({"evaluations": records(run, "evaluations")} if (run / "evaluations.jsonl").exists() else {})
