"""What each algorithm's file brings with it: a docs page and golden losses."""

from __future__ import annotations

import importlib

import pytest

from tests.architecture.source_tree import ALGORITHMS, PACKAGE, ROOT


@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_algorithm_has_its_docs_page(name: str) -> None:
    page = ROOT / "docs" / "algorithms" / f"{name}.md"
    assert page.is_file(), f"write {page.relative_to(ROOT)}: equations, every metric, differences from the paper"
    assert len(page.read_text(encoding="utf-8").split()) > 100, f"{page.relative_to(ROOT)} says too little to be read"


@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_algorithm_has_its_golden_losses(name: str) -> None:
    golden = ROOT / "tests" / "golden" / f"{name}.txt"
    assert golden.is_file(), f"record {golden.relative_to(ROOT)} with `make golden`"
    assert golden.read_text(encoding="utf-8").strip(), f"{golden.relative_to(ROOT)} is empty"


@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_algorithm_cites_its_source(name: str) -> None:
    first = (importlib.import_module(f"stitchrl.algorithms.{name}").__doc__ or "").splitlines()[0]
    assert any(mark in first for mark in ("arXiv:", "doi:", "19", "20")), f"the first line names the paper and its year: {first!r}"


def test_pages_and_golden_files_have_their_algorithm() -> None:
    pages = {path.stem for path in (ROOT / "docs" / "algorithms").glob("*.md")} - {"index"}
    golden = {path.stem for path in (ROOT / "tests" / "golden").glob("*.txt")}
    assert (pages | golden) - set(ALGORITHMS) == set(), "left over from an algorithm that is gone or renamed"


def test_algorithms_are_discovered_by_file_name() -> None:
    from stitchrl import algorithms

    assert (PACKAGE / "algorithms" / "__init__.py").is_file()
    assert algorithms.names() == ALGORITHMS
