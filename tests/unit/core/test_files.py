"""Files that are whole or absent."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from stitchrl.cli import main
from stitchrl.core.files import write_atomically
from tests.architecture.source_tree import PACKAGE
from tests.unit.recipes.test_benchmark import row


def _table(tmp_path: Path) -> tuple[str, ...]:
    (tmp_path / "raw.jsonl").write_text(json.dumps(row("made/log", "bc", 0, 1.0)) + "\n")
    return "benchmark", "table", "--out", str(tmp_path), "--to"


def test_a_page_is_whole_or_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    page, command = tmp_path / "page.md", _table(tmp_path)
    page.write_text("before")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as during:
        during.setattr(os, "fsync", killed)
        with pytest.raises(SystemExit):
            main([*command, str(page)])
    assert page.read_text() == "before" and {file.name for file in tmp_path.iterdir()} == {"raw.jsonl", "page.md"}
    with pytest.raises(SystemExit):
        main([*command, str(page)])
    assert "interquartile" in page.read_text(encoding="utf-8")


def test_what_cannot_be_written_is_told_before_the_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands = {
        _table(tmp_path): "--to",
        ("compare", "none", "--html"): "--html",
        ("data", "report", "gridworld/mixed", "--json"): "--json",
    }
    commands[("select", "none", "--data", "gridworld/mixed", "--html")] = "--html"
    for command, flag in commands.items():
        with pytest.raises(SystemExit) as stop:
            main([*command, str(tmp_path / "gone" / "page")])
        told = capsys.readouterr()
        assert (stop.value.code, told.out) == (2, "") and f"{flag} is {tmp_path / 'gone' / 'page'}, and there is no directory" in told.err


def test_what_is_no_plain_file_is_written_as_it_is(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_atomically(pipe, b"a page")
    assert os.read(reading, 100) == b"a page" and pipe.is_fifo()
    os.close(reading)


def test_a_link_stays_and_what_it_points_to_is_written(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("before")
    (tmp_path / "link").symlink_to(tmp_path / "there")
    write_atomically(tmp_path / "link", b"after")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "there").read_text() == "after"


def test_no_verb_writes_what_a_kill_could_cut_short() -> None:
    assert [
        path.name for path in (PACKAGE / "verbs").glob("*.py") if re.search(r"\.write_(text|bytes)\(|open\(.?['\"][wa]", path.read_text())
    ] == []
