"""What a benchmark has recorded: it stands in its own suite's table alone, and counts for as long as it is what would be run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.recipes.test_benchmark import told

TINY = ("--datasets", "gridworld", "--algorithms", "bc", "--processes", 1, "--seeds", 1)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STITCHRL_CACHE", str(tmp_path_factory.getbasetemp() / "benchmark-cache"))


def test_a_trial_takes_no_other_tables_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    pages = {}
    for steps in (20, 10):
        code, pages[steps], err = told(capsys, "run", *TINY, "--steps", steps)
        assert code == 0, err
        assert (tmp_path / f"runs/benchmark/smoke-{steps}-steps/table.md").read_text() == pages[steps]
    assert told(capsys, "table", "--suite", "smoke-20-steps") == (0, pages[20], "")

    code, page, err = told(
        capsys, "run", *TINY, "--steps", 10, "--out", "runs/benchmark/smoke-20-steps"
    )  # into what the other one wrote to
    assert code == 0 and "1 run(s) to make" in err and "| gridworld/mixed | 10 |" in page and "20-steps" not in page
    code, page, err = told(capsys, "run", *TINY, "--steps", 20)
    assert (code, page) == (0, pages[20]) and "1 recorded already" in err
    both = ("table", "--out", "runs/benchmark/smoke-20-steps")
    code, _, err = told(capsys, *both)
    assert code == 2 and "has lines of the suites smoke-20-steps, smoke-10-steps; a table is of one: choose it with --suite" in err
    assert told(capsys, *both, "--suite", "smoke-20-steps") == (0, pages[20], "")
    code, _, err = told(capsys, *both, "--suite", "smoke")
    assert code == 2 and "no line of the suite 'smoke', but of smoke-20-steps, smoke-10-steps" in err
