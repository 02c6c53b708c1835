"""Reading run directories as they lie: whole, torn, resumed, damaged, and TensorBoard's."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stitchrl.core.errors import CheckpointError
from stitchrl.report.records_reader import read_run, read_tensorboard


def lines(file: Path, *values: object) -> None:
    file.write_text("".join(json.dumps(v) + "\n" for v in values))


def test_reads_what_was_written(tmp_path: Path, write_run: Callable[..., Path]) -> None:
    run = read_run(write_run(tmp_path / "r", seeds=3, episodes=7, successes=True, exact=True))
    assert (run.name, run.algorithm, run.data_name, run.environment, run.seeds) == (
        "r",
        "iql",
        "mujoco/hopper/medium-v0",
        "Hopper-v5",
        [0, 1, 2],
    )
    assert run.notes == [] and len(run.evaluations) == 10
    last = run.evaluations[-1]
    assert last.step == 100_000 and last.returns.shape == (3, 7) and last.exact_value is not None and last.exact_value.shape == (3,)
    curve = run.metrics["loss/value"]
    assert curve.steps[0] == 500 and curve.steps[-1] == 100_000 and curve.values.shape == (200, 3)
    assert run.metrics["steps_per_second"].values.shape == (200, 1)


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_torn_last_line_is_left_out_and_said(tmp_path: Path, write_run: Callable[..., Path], cut: int) -> None:
    directory = write_run(tmp_path / "r")
    file = directory / "metrics.jsonl"
    file.write_bytes(file.read_bytes()[:-cut])
    run = read_run(directory)
    whole = cut == 1  # only the newline is missing: the object is complete
    assert len(run.metrics["loss/value"].steps) == (200 if whole else 199)
    assert run.notes == ([] if whole else ["metrics.jsonl: its last line (200) is torn or damaged and was left out"])


def test_empty_and_missing_files_are_a_young_run(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "metrics.jsonl").touch()
    run = read_run(tmp_path)
    assert run.metrics == {} and run.evaluations == [] and run.environment is None and run.data_name == "unknown data"


def test_a_resumed_run_counts_the_later_line_of_a_step(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    lines(tmp_path / "metrics.jsonl", {"step": 1, "a": 1.0}, {"step": 2, "a": 5.0}, {"step": 2, "a": 2.0}, {"step": 3, "a": [None]})
    lines(tmp_path / "evaluations.jsonl", *({"step": s, "returns": [[r]]} for s, r in ((10, 1.0), (20, 9.0), (20, 2.0))))
    run = read_run(tmp_path)
    assert run.metrics["a"].steps.tolist() == [1, 2, 3]
    assert run.metrics["a"].values[:2, 0].tolist() == [1.0, 2.0] and math.isnan(run.metrics["a"].values[2, 0])
    assert [e.returns.item() for e in run.evaluations] == [1.0, 2.0]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('{"step": 1, "a": NaN}\n', "NaN is not JSON"),
        ('{"step": 1, "a"\n{"step": 2}\n', "line 1: cannot be read"),
        ("[1]\n", "line 1: holds a list"),
        ('{"a": 1}\n', "'step' is None"),
        ('{"step": 1, "a": "x"}\n', "'a' is x"),
        ('{"step": 1, "a": [1]}\n{"step": 2, "a": [1, 2]}\n', r"\[1, 2\] seeds"),
    ],
)
def test_damaged_metrics_are_refused(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "metrics.jsonl").write_text(text)
    with pytest.raises(CheckpointError, match=match):
        read_run(tmp_path)


@pytest.mark.parametrize(
    "line",
    [
        {"step": 1},
        {"step": 1, "returns": [[1.0], [1.0, 2.0]]},
        {"step": 1, "returns": [[None]]},
        {"step": 1, "returns": []},
        {"step": 1, "returns": [[1.0, 2.0]], "lengths": [[1]]},
    ],
)
def test_damaged_evaluations_are_refused(tmp_path: Path, line: object) -> None:
    (tmp_path / "config.json").write_text("{}")
    lines(tmp_path / "evaluations.jsonl", line)
    with pytest.raises(CheckpointError, match="evaluations.jsonl line 1"):
        read_run(tmp_path)


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such run directory"):
        read_run(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="neither config.json"):
        read_run(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json: cannot be read"):
        read_run(tmp_path)


def write_events(directory: Path, values: dict[str, list[tuple[int, float]]]) -> Path:
    """An event file by TensorBoard's own low-level writer."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(str(directory))
    for tag, points in values.items():
        for step, value in points:
            writer.add_event(Event(step=step, wall_time=1.0 + step, summary=Summary(value=[Summary.Value(tag=tag, simple_value=value)])))
    writer.close()
    return next(directory.glob("*tfevents*"))


def test_tensorboard_scalars(tmp_path: Path) -> None:
    write_events(tmp_path / "sub", {"loss/critic/seed_0": [(1, 2.0), (2, 1.5)], "loss/critic/seed_1": [(1, 4.0)], "lr": [(1, 0.25)]})
    curves = read_tensorboard(tmp_path)
    assert set(curves) == {"loss/critic", "lr"}
    np.testing.assert_array_equal(curves["loss/critic"].values, [[2.0, 4.0], [1.5, math.nan]])
    assert curves["lr"].values.tolist() == [[0.25]]
    run = read_run(tmp_path)  # a directory of events alone is a run of which little is known
    assert run.metrics["lr"].steps.tolist() == [1.0] and "settings are unknown" in run.notes[0]


def test_torn_event_file_gives_what_is_whole(tmp_path: Path) -> None:
    file = write_events(tmp_path, {"a": [(k, float(k)) for k in range(50)]})
    file.write_bytes(file.read_bytes()[:-7])
    assert read_tensorboard(tmp_path)["a"].steps.tolist() == list(range(49))
