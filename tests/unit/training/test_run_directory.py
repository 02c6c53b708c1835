"""What may differ between a run and its resume."""

from __future__ import annotations

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
