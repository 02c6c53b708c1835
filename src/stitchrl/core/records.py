"""What a run writes while it learns: metrics.jsonl, evaluations.jsonl and alarms.jsonl, TensorBoard events beside them, W&B and MLflow if asked."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from stitchrl.core.errors import ConfigError
from stitchrl.core.files import to_json_line, write_atomically

Scalars = Mapping[str, list[float]]  # name -> one number a seed
Sink = tuple[Callable[[int, Scalars], None], Callable[[], None]]  # writes, and closes


@final
@dataclass(frozen=True)
class Logging:
    """Where metrics go beside metrics.jsonl, which is always written."""

    tensorboard: bool = True
    wandb_project: str | None = None
    """log to this Weights & Biases project (pip install wandb)"""
    mlflow_experiment: str | None = None
    """log to this MLflow experiment (pip install mlflow)"""
    quiet: bool = False
    """print nothing while training"""


@final
class Records:
    """Appends to a run's records; on resuming, what was written after the checkpoint is cut off first, so that nothing is there twice."""

    def __init__(self, directory: Path, settings: Logging, config: Mapping[str, Any], resume_step: int, seconds: float) -> None:
        self.directory = directory
        self.began = time.perf_counter() - seconds
        self.dropped = 0
        for name in ("metrics.jsonl", "evaluations.jsonl", "alarms.jsonl"):
            cut_after(directory / name, resume_step)
        sinks: list[Sink] = []
        if settings.tensorboard:
            sinks.append(_tensorboard(directory / "tensorboard", resume_step))
        if settings.wandb_project is not None:
            sinks.append(_wandb(settings.wandb_project, directory, config))
        if settings.mlflow_experiment is not None:
            sinks.append(_mlflow(settings.mlflow_experiment, directory, config))
        self.sinks = sinks

    def close(self) -> None:
        """Ends what was begun elsewhere: event files, W&B and MLflow runs."""
        for _, close in self.sinks:
            close()

    @property
    def seconds(self) -> float:
        """Time since the run began, without the time between a stop and its resume."""
        return time.perf_counter() - self.began

    def metrics(self, step: int, steps_per_second: float, values: Scalars) -> None:
        """Writes one line of metrics."""
        line = {"step": step, "seconds": round(self.seconds, 3), "steps_per_second": round(steps_per_second, 2), **values}
        self._append("metrics.jsonl", line)
        self._send(step, values)

    def metrics_so_far(self) -> list[dict[str, Any]]:
        """Returns the lines of metrics.jsonl, oldest first."""
        return [line for _, line in record_lines(self.directory / "metrics.jsonl") if line is not None]

    def alarms(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Writes lines of alarms.jsonl; the file is there from the first line of metrics on, also while nothing is wrong."""
        for line in lines:
            self._append("alarms.jsonl", dict(line))
        if not lines:
            self._write("alarms.jsonl", "")

    def evaluation_of(self, step: int) -> dict[str, Any] | None:
        """Returns the line of evaluations that a step has, or None."""
        return line_of(self.directory / "evaluations.jsonl", step)

    def evaluation(self, line: Mapping[str, Any]) -> None:
        """Writes one line of evaluations, and the means of its returns as metrics elsewhere."""
        self._append("evaluations.jsonl", dict(line))
        means = {}
        for name in ("returns", "normalized", "successes"):
            if line.get(name):
                means[f"evaluation/{name}"] = [sum(episodes) / len(episodes) for episodes in line[name]]
        for name in ("exact_value", "believed_value"):
            if line.get(name):
                means[f"evaluation/{name}"] = line[name]
        self._send(int(line["step"]), means)

    def _append(self, name: str, line: Any) -> None:
        self._write(name, to_json_line(line) + "\n")

    def _write(self, name: str, text: str) -> None:
        try:
            with (self.directory / name).open("a") as file:
                file.write(text)
        except OSError as error:  # a full disk must not end a run that still learns
            self._lost(error)

    def _send(self, step: int, values: Scalars) -> None:
        for write, _ in self.sinks:
            try:
                write(step, values)
            except OSError as error:
                self._lost(error)

    def _lost(self, error: OSError) -> None:
        self.dropped += 1
        if self.dropped == 1:
            warnings.warn(f"{self.directory}: records cannot be written ({error.strerror}); training goes on without them", stacklevel=3)


def record_lines(path: Path) -> list[tuple[str, dict[str, Any] | None]]:
    """Returns the lines of a records file, none where there is no file, each as it stands and as it reads: None where it tells no step."""
    found: list[tuple[str, dict[str, Any] | None]] = []
    for text in path.read_text(errors="replace").splitlines() if path.is_file() else ():
        try:
            line = json.loads(text)
            found.append((text, line if isinstance(line["step"], int) else None))
        except (ValueError, KeyError, TypeError):
            found.append((text, None))
    return found


def line_of(path: Path, step: int) -> dict[str, Any] | None:
    """Returns the first whole line that a records file has of a step, or None."""
    return next((line for _, line in record_lines(path) if line is not None and line["step"] == step), None)


def cut_after(path: Path, step: int) -> None:
    """Removes lines of later steps, and a last line torn by a kill; any other that cannot be read is moved to a file beside."""
    if not path.exists():
        return
    lines = record_lines(path)
    kept = [text for text, line in lines if line is not None and line["step"] <= step]
    unread = [text for text, line in lines[:-1] if line is None]
    if unread:
        aside = path.with_name(f"{path.name}.unreadable")
        with aside.open("a") as file:
            file.writelines(f"{text}\n" for text in unread)
        warnings.warn(f"{path}: {len(unread)} line(s) cannot be read and are kept in {aside.name}", stacklevel=3)
    write_atomically(path, "".join(f"{text}\n" for text in kept).encode())


def _by_seed(values: Scalars) -> dict[str, float]:
    flat = {}
    for name, numbers in values.items():
        for i, number in enumerate(numbers):
            flat[name if len(numbers) == 1 else f"{name}/seed_{i}"] = number
    return flat


def _tensorboard(directory: Path, resume_step: int) -> Sink:
    from tensorboard.compat.proto import event_pb2, summary_pb2
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(str(directory))
    if resume_step:  # readers then leave out what an earlier process wrote past its checkpoint
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        writer.add_event(event_pb2.Event(wall_time=time.time(), step=resume_step + 1, session_log=start))

    def write(step: int, values: Scalars) -> None:
        scalars = [summary_pb2.Summary.Value(tag=name, simple_value=number) for name, number in _by_seed(values).items()]
        writer.add_event(event_pb2.Event(wall_time=time.time(), step=step, summary=summary_pb2.Summary(value=scalars)))
        writer.flush()

    return write, writer.close


def _wandb(project: str, directory: Path, config: Mapping[str, Any]) -> Sink:
    try:
        import wandb
    except ImportError:
        raise ConfigError("--logging.wandb-project needs Weights & Biases: pip install wandb") from None
    run = wandb.init(project=project, dir=str(directory), name=directory.name, config=dict(config), resume="allow")
    return lambda step, values: run.log(_by_seed(values), step=step), run.finish


def _mlflow(experiment: str, directory: Path, config: Mapping[str, Any]) -> Sink:
    try:
        import mlflow
    except ImportError:
        raise ConfigError("--logging.mlflow-experiment needs MLflow: pip install mlflow") from None
    mlflow.set_experiment(experiment)
    mlflow.start_run(run_name=directory.name)
    mlflow.log_dict(dict(config), "config.json")
    return lambda step, values: mlflow.log_metrics(_by_seed(values), step=step), mlflow.end_run
