"""Classes are abstract or final, never both, one level deep."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.architecture.source_tree import FILES, dotted, label, tree

ABSTRACT = {"ABC", "Protocol"}
VALUES = {"NamedTuple", "TypedDict", "Enum", "IntEnum", "StrEnum"}  # cannot, or by their nature do not, have subclasses here


def last(name: str) -> str:
    return name.rpartition(".")[2]


def classes(path: Path) -> list[ast.ClassDef]:
    return [node for node in ast.walk(tree(path)) if isinstance(node, ast.ClassDef)]


def is_final(node: ast.ClassDef) -> bool:
    return any(last(dotted(decorator)) == "final" for decorator in node.decorator_list)


def is_abstract(node: ast.ClassDef) -> bool:
    abstract_base = any(last(dotted(b)) in ABSTRACT for b in node.bases) or any(k.arg == "metaclass" for k in node.keywords)
    marked = [dotted(d) for child in node.body if isinstance(child, ast.FunctionDef) for d in child.decorator_list]
    return abstract_base or any(last(name) == "abstractmethod" for name in marked)


def is_value_or_error(node: ast.ClassDef) -> bool:
    bases = [last(dotted(base)) for base in node.bases]
    return any(base in VALUES or base.endswith(("Error", "Exception", "Warning", "Interrupt")) for base in bases)


OURS = {node.name: node for path in FILES for node in classes(path)}


@pytest.mark.parametrize("path", [path for path in FILES if classes(path)], ids=label)
def test_a_class_is_abstract_or_final(path: Path) -> None:
    loose = [n.name for n in classes(path) if not is_value_or_error(n) and is_abstract(n) == is_final(n)]
    assert loose == [], "decorate with @final, or make it an ABC or Protocol; not both"


def test_inheritance_is_one_level_deep() -> None:
    def parents(node: ast.ClassDef) -> list[str]:
        return [last(dotted(base)) for base in node.bases if last(dotted(base)) in OURS]

    deep = [name for name, node in OURS.items() if any(parents(OURS[parent]) for parent in parents(node))]
    assert deep == []


def test_the_check_tells_the_kinds_apart() -> None:
    source = "class A(abc.ABC): ...\n@final\nclass B(A): ...\nclass C(A): ...\n@final\nclass D(Protocol[T]): ...\nclass E(ValueError): ..."
    a, b, c, d, e = (node for node in ast.parse(source).body if isinstance(node, ast.ClassDef))
    assert [(is_abstract(n), is_final(n)) for n in (a, b, c, d)] == [(True, False), (False, True), (False, False), (True, True)]
    assert is_value_or_error(e) and not is_value_or_error(c)
