"""A file has one idea, a function fits a screen, a name says what is inside."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

from tests.architecture.source_tree import FILES, PACKAGE, ROOT, label, tree

FORBIDDEN = {
    "utils", "util", "common", "base", "helper", "helpers", "manager", "managers",
    "handler", "handlers", "wrapper", "wrappers", "factory", "factories", "misc",
}  # fmt: skip
FILE_LINES = 400
FUNCTION_LINES = 50
LOOP_LINES = 150  # training/trainer.py: the loop reads as one


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Returns the lines of a function from `def` on, its docstring apart."""
    lines = (function.end_lineno or function.lineno) - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function) is not None:
        lines -= (first.end_lineno or first.lineno) - first.lineno + 1
    return lines


def test_the_package_is_found() -> None:
    assert PACKAGE / "core" / "errors.py" in FILES


@pytest.mark.parametrize("path", FILES, ids=label)
def test_a_file_has_at_most_400_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= FILE_LINES


@pytest.mark.parametrize("path", FILES, ids=label)
def test_a_function_has_at_most_50_lines(path: Path) -> None:
    limit = LOOP_LINES if path.name == "trainer.py" else FUNCTION_LINES
    functions = [node for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert {f.name: length(f) for f in functions if length(f) > limit} == {}


@pytest.mark.parametrize("path", FILES, ids=label)
def test_a_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(tree(path)), "the first line of a module says what it is"


def test_no_name_is_empty_of_meaning() -> None:
    folders = {folder for path in FILES for folder in path.relative_to(PACKAGE).parents}
    names = [path.stem for path in FILES] + [folder.name for folder in folders]
    bad = [name for name in names if FORBIDDEN & set(name.lower().strip("_").split("_"))]
    classes = [node.name for path in FILES for node in ast.walk(tree(path)) if isinstance(node, ast.ClassDef)]
    bad += [name for name in classes if name.lower().endswith(("manager", "handler", "wrapper", "factory", "helper", "utils"))]
    assert bad == []


def test_file_names_are_unique_in_the_package() -> None:
    count = Counter(path.name for path in FILES if path.name != "__init__.py")
    assert [name for name, times in count.items() if times > 1] == []


def test_test_file_names_are_unique() -> None:
    # pytest imports test files by their bare name
    count = Counter(path.name for path in (ROOT / "tests").rglob("*.py") if path.name not in ("__init__.py", "conftest.py"))
    assert [name for name, times in count.items() if times > 1] == []


def test_every_folder_of_modules_is_a_package() -> None:
    folders = {path.parent for path in FILES}
    assert [label(folder) for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []


def test_the_version_is_stated_once() -> None:
    import tomllib

    import stitchrl

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert stitchrl.__version__ == project["version"]
