"""What may differ between a run and its resume."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stitchrl.core.errors import CheckpointError
from stitchrl.training import run_directory


def config(steps: int, compiled: bool) -> dict[str, object]:
    return {"format": 1, "training": {"steps": steps, "compile": "auto", "compiled": compiled}}


def test_what_a_kill_left_of_a_config_that_was_being_written_is_no_run(tmp_path: Path) -> None:
    for name in ("config.json.tmp-7", "config.json.probe.tmp-7"):
        (tmp_path / name).write_text('{"format')
    with run_directory.opened(tmp_path, config(10, False), resume=False, overwrite=False):
        run_directory.begin(tmp_path, config(10, False), resume=False)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["config.json", "lock"]


def test_more_steps_may_be_enough_to_compile_them(tmp_path: Path) -> None:
    with run_directory.opened(tmp_path, config(10_000, False), resume=False, overwrite=False):
        run_directory.begin(tmp_path, config(10_000, False), resume=False)
    with run_directory.opened(tmp_path, config(30_000, True), resume=True, overwrite=False, allow_change=["training.steps"]):
        pass
    for changed in (config(30_000, False), config(10_000, True)):
        with pytest.raises(CheckpointError, match="was"), run_directory.opened(tmp_path, changed, resume=True, overwrite=False):
            pass


def test_a_stopped_run_may_end_where_it_stands_and_hold_out_fewer(tmp_path: Path) -> None:
    def told(steps: int, held_out: float) -> dict[str, object]:
        return {"training": {"steps": steps}, "preprocessing": {"held_out": held_out}}

    allowed = ["training.steps", "preprocessing"]
    run_directory.begin(tmp_path, told(8, 0.4), resume=False)
    (tmp_path / "checkpoints" / "step_0000000004").mkdir(parents=True)
    with run_directory.opened(tmp_path, told(4, 0.4), resume=True, overwrite=False, allow_change=allowed):
        run_directory.begin(tmp_path, told(4, 0.4), resume=True, step=4, steps=4)
    with run_directory.opened(tmp_path, told(8, 0.2), resume=True, overwrite=False, allow_change=allowed):
        run_directory.begin(tmp_path, told(8, 0.2), resume=True, step=4, steps=8)
    held = run_directory.opened(tmp_path, told(8, 0.3), resume=True, overwrite=False, allow_change=allowed)
    with (
        pytest.raises(CheckpointError, match="held_out is 0.3 and was 0.2: of the episodes that it would hold out, some were learned"),
        held,
    ):
        pass
    changes = json.loads((tmp_path / "config.json").read_text())["changes"]
    assert [change["changed"] for change in changes] == [
        ["training.steps is 4 and was 8"], ["training.steps is 8 and was 4", "preprocessing.held_out is 0.2 and was 0.4"],
    ]  # fmt: skip
