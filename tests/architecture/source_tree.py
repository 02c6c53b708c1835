"""The files of the package, read once, for the tests of its shape."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "stitchrl"
FILES = sorted(PACKAGE.rglob("*.py"))
ALGORITHMS = sorted(path.stem for path in (PACKAGE / "algorithms").glob("*.py") if path.name != "__init__.py")


def label(path: Path) -> str:
    """Returns a file's path from the repository's root: the name of its test."""
    return str(path.relative_to(ROOT))


@cache
def tree(path: Path) -> ast.Module:
    """Returns a file's syntax tree."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def dotted(node: ast.AST) -> str:
    """Returns `a.b.c` of a name or an attribute, the subscript and call dropped; empty for anything else."""
    if isinstance(node, ast.Subscript):
        return dotted(node.value)
    if isinstance(node, ast.Call):
        return dotted(node.func)
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""
