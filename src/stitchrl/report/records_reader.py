"""Reading a run directory: config.json, metrics.jsonl, evaluations.jsonl, and TensorBoard event files where there is nothing else.

Files are read as they lie, also while a run is still writing or after it was killed: a torn last line is left out and said so.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from stitchrl.core.alarms import Alarm, alarms_of, read_change
from stitchrl.core.errors import CheckpointError

Array = NDArray[np.float64]


@final
@dataclass(frozen=True)
class Curve:
    """One metric over training: `steps [n]`, `values [n, S]` (one column where it is not kept by seed); NaN where null."""

    steps: Array
    values: Array


@final
@dataclass(frozen=True)
class Evaluation:
    """One line of evaluations.jsonl. Arrays are `[S, episodes]`, values `[S]`, success by task `[S, tasks]`; None where unknown."""

    step: int
    seconds: float
    environment: str
    returns: Array
    discounted_returns: Array | None = None
    lengths: Array | None = None
    successes: Array | None = None
    normalized: Array | None = None
    exact_value: Array | None = None
    believed_value: Array | None = None
    success_by_task: Array | None = None


@final
@dataclass(frozen=True)
class Run:
    """What is written about one run. `notes` says what was left out or odd in its files; `alarms` is None where no doctor watched it."""

    path: Path
    config: dict[str, Any]
    metrics: dict[str, Curve]
    evaluations: list[Evaluation]
    notes: list[str] = field(default_factory=list)
    alarms: list[Alarm] | None = None
    offline: list[Evaluation] = field(default_factory=list)  # of the run that an online phase goes on from, by its own steps

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def algorithm(self) -> str:
        return str(self.config.get("algorithm", "unknown"))

    @property
    def data(self) -> dict[str, Any]:
        return _mapping(self.config.get("data"))

    @property
    def data_name(self) -> str:
        return str(self.data.get("name") or self.data.get("source") or "unknown data")

    @property
    def training(self) -> dict[str, Any]:
        return _mapping(self.config.get("training"))

    @property
    def environment(self) -> str | None:
        """The environment's id: of the evaluations if there are any, else of the configuration."""
        if self.evaluations:
            return self.evaluations[-1].environment
        described = self.config.get("environment")
        if isinstance(described, Mapping):
            described = described.get("id") or described.get("name")
        return str(described) if described else None

    @property
    def seeds(self) -> list[int]:
        return [int(s) for s in self.config.get("seeds", [])]

    @property
    def changes(self) -> list[tuple[int, list[str]]]:
        """What a resume was allowed to change: the step at which it was, and a line for each setting."""
        told = [change for change in self.config.get("changes") or [] if isinstance(change, Mapping)]
        return [(int(change.get("step") or 0), [str(line) for line in change.get("changed") or []]) for change in told]


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


def read_run(path: Path | str) -> Run:
    """The records of one run directory; a directory with only TensorBoard event files gives its scalars as metrics.

    Raises CheckpointError where it is no run, or a line other than the last is damaged.
    """
    directory = Path(path).resolve()
    if not directory.is_dir():
        raise CheckpointError(f"{path}: no such run directory; expected one written by `stitchrl train`")
    notes: list[str] = []
    config_file = directory / "config.json"
    events = sorted(directory.rglob("*tfevents*"))
    if not config_file.exists() and not events:
        raise CheckpointError(f"{directory}: has neither config.json nor TensorBoard event files; expected a run directory")
    config = _read_json(config_file) if config_file.exists() else {}
    if not config_file.exists():
        notes.append("no config.json: read from TensorBoard event files alone, so data and settings are unknown")
    metrics = _curves(_lines(directory / "metrics.jsonl", notes), directory / "metrics.jsonl")
    if not metrics and events:
        metrics = read_tensorboard(directory)
    evaluations = _evaluations(directory / "evaluations.jsonl", notes)
    alarms = _alarms(directory / "alarms.jsonl", notes)
    return Run(directory, config, metrics, evaluations, notes, alarms, _evaluations(directory / "offline_evaluations.jsonl", notes))


def _evaluations(file: Path, notes: list[str]) -> list[Evaluation]:
    """The lines of a file by step, none where there is no file; after a resume the later line of a step counts."""
    found = {}
    for number, line in _lines(file, notes):
        evaluation = _evaluation(line, f"{file} line {number}")
        found[evaluation.step] = evaluation
    return [found[step] for step in sorted(found)]


def _alarms(file: Path, notes: list[str]) -> list[Alarm] | None:
    """The alarms of a run; None where it has no such file."""
    return alarms_of(read_change(line, f"{file} line {n}") for n, line in _lines(file, notes)) if file.is_file() else None


def _refuse(constant: str) -> float:
    raise CheckpointError(f"{constant} is not JSON; what is not finite is written as null")


def _read_json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"), parse_constant=_refuse)
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{file}: cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{file}: holds a {type(value).__name__}; expected an object")
    return value


def _lines(file: Path, notes: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of each whole line. A last line without its end is torn and noted; damage elsewhere raises."""
    if not file.exists():
        return
    raw = file.read_bytes().split(b"\n")
    last = max((n for n, text in enumerate(raw, 1) if text.strip()), default=0)
    for number, text in enumerate(raw, 1):
        if not text.strip():
            continue
        try:
            value = json.loads(text, parse_constant=_refuse)
        except ValueError as error:
            if number == last and not isinstance(error, CheckpointError):
                notes.append(f"{file.name}: its last line ({number}) is torn or damaged and was left out")
                return
            raise CheckpointError(f"{file} line {number}: cannot be read: {error}; remove the line to go on without it") from error
        if not isinstance(value, dict):
            raise CheckpointError(f"{file} line {number}: holds a {type(value).__name__}; expected an object")
        yield number, value


def _curves(lines: Iterator[tuple[int, dict[str, Any]]], file: Path) -> dict[str, Curve]:
    """{name: Curve}; where a step was written twice (a resume), the later line counts."""
    points: dict[str, dict[int, list[float]]] = {}
    for number, line in lines:
        step = line.get("step")
        if not isinstance(step, int) or isinstance(step, bool):
            raise CheckpointError(f"{file} line {number}: 'step' is {step!r}; expected an integer")
        for name, value in line.items():
            if name != "step":
                points.setdefault(name, {})[step] = _numbers(value, f"{file} line {number}: {name!r}")
    curves = {}
    for name, by_step in points.items():
        widths = {len(v) for v in by_step.values()}
        if len(widths) > 1:
            raise CheckpointError(f"{file}: {name!r} has {sorted(widths)} seeds on different lines; expected one number of seeds")
        steps = sorted(by_step)
        curves[name] = Curve(np.array(steps, np.float64), np.array([by_step[s] for s in steps], np.float64))
    return curves


def _numbers(value: Any, where: str) -> list[float]:
    values = value if isinstance(value, list) else [value]
    if not all(v is None or (isinstance(v, int | float) and not isinstance(v, bool)) for v in values):
        raise CheckpointError(f"{where} is {str(value)[:80]}; expected a number, or one for each seed")
    return [math.nan if v is None else float(v) for v in values]


def _evaluation(line: dict[str, Any], where: str) -> Evaluation:
    def table(name: str) -> Array | None:
        if line.get(name) is None:
            return None
        try:
            value = np.array(line[name], np.float64)
        except (TypeError, ValueError):
            value = np.empty(0)
        if value.ndim != 2 or not value.size or not np.isfinite(value).all():
            raise CheckpointError(f"{where}: {name!r} must be finite numbers, as many episodes for each seed; found {str(line[name])[:80]}")
        return value

    def values(name: str) -> Array | None:
        return None if line.get(name) is None else np.array(_numbers(line[name], f"{where}: {name!r}"))

    returns, step = table("returns"), line.get("step")
    if returns is None or not isinstance(step, int):
        raise CheckpointError(f"{where}: has no 'returns' or no integer 'step'; expected both")
    tables = {name: table(name) for name in ("discounted_returns", "lengths", "successes", "normalized")}
    for name, value in tables.items():
        if value is not None and value.shape != returns.shape:
            raise CheckpointError(f"{where}: {name!r} has shape {value.shape} and 'returns' {returns.shape}; each episode needs one")
    return Evaluation(
        step=step,
        seconds=float(line.get("seconds") or math.nan),
        environment=str(line.get("environment", "unknown environment")),
        returns=returns,
        exact_value=values("exact_value"),
        believed_value=values("believed_value"),
        success_by_task=table("success_by_task"),
        **tables,
    )


def read_tensorboard(directory: Path | str) -> dict[str, Curve]:
    """{tag: Curve} of the scalars in all event files below a directory, of any library; steps written twice keep the later value.

    Tags that end in `/seed_0`, `/seed_1` … (also `seed0`) become the columns of one curve.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    points: dict[str, dict[int, float]] = {}
    for folder in sorted({file.parent for file in Path(directory).rglob("*tfevents*")}):
        events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0}).Reload()
        for tag in events.Tags()["scalars"]:
            points.setdefault(tag, {}).update({e.step: float(e.value) for e in events.Scalars(tag)})
        for tag in events.Tags()["tensors"]:  # what newer writers store for a scalar
            from tensorboard.util.tensor_util import make_ndarray

            scalars = {e.step: make_ndarray(e.tensor_proto) for e in events.Tensors(tag)}
            points.setdefault(tag, {}).update({s: float(v) for s, v in scalars.items() if v.shape == () and v.dtype.kind in "fiu"})
    grouped: dict[str, dict[int, dict[int, float]]] = {}
    for tag, values in points.items():
        seeded = re.fullmatch(r"(.+)/seed_?(\d+)", tag)
        name, seed = (seeded[1], int(seeded[2])) if seeded else (tag, 0)
        if values:
            grouped.setdefault(name, {})[seed] = values
    curves = {}
    for name, seeds in grouped.items():
        steps = sorted(set().union(*seeds.values()))
        columns = [[seeds[s].get(step, math.nan) for step in steps] for s in sorted(seeds)]
        curves[name] = Curve(np.array(steps, np.float64), np.array(columns).T)
    return curves
