"""The report's part on asked returns: what it draws and says, and that a damaged file is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stitchrl.core.errors import CheckpointError
from stitchrl.report.asked_page import FILE, asked_section

RECORD = {"environment": "Hopper-v5", "asked": [0, 1000, 500], "returns": [[[10, 30], [900, 700], [400, 500]]], "logged": [-5, 800]}


def test_it_says_what_was_obtained_for_each_target(tmp_path: Path) -> None:
    assert asked_section(tmp_path) is None
    (tmp_path / FILE).write_text(json.dumps(RECORD))
    section = asked_section(tmp_path)
    assert section is not None and section.title == "Asked and obtained"
    assert "asked 0, obtained 20; asked 500, obtained 450; asked 1000, obtained 800" in section.body  # the curve, by what was asked
    assert "2 episodes of each seed" in section.body and "returns in the log" in section.body
    (tmp_path / FILE).write_text(json.dumps(RECORD | {"logged": None}))
    section = asked_section(tmp_path)
    assert section is not None and "returns in the log" not in section.body
    (tmp_path / FILE).write_text(json.dumps(RECORD | {"settings": {"context": 1}, "sampled": True}))
    section = asked_section(tmp_path)
    assert section is not None and "Hopper-v5, with context 1, sampled actions: 2 episodes" in section.body


@pytest.mark.parametrize(
    "changed", [{"asked": [0, 1]}, {"returns": [[1, 2, 3]]}, {"logged": [1]}, {"asked": "many"}, {"returns": [[[float("nan")] * 2] * 3]}]
)
def test_a_damaged_file_is_told(tmp_path: Path, changed: dict[str, object]) -> None:
    (tmp_path / FILE).write_text(json.dumps(RECORD | changed))
    with pytest.raises(CheckpointError, match="asked_returns.json"):
        asked_section(tmp_path)
    (tmp_path / FILE).write_text("{")
    with pytest.raises(CheckpointError, match="run `stitchrl evaluate --targets` again"):
        asked_section(tmp_path)
