"""How many processors a process may keep busy."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stitchrl.core.machine import cores


@pytest.mark.parametrize(("text", "allowed"), [("max 100000", 64), ("250000 100000", 2), ("50000 100000", 1), ("", 64), (None, 64)])
def test_a_containers_limit_counts(text: str | None, allowed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    if text is not None:
        (tmp_path / "cpu.max").write_text(text)
    assert cores(tmp_path / "cpu.max") == allowed
