"""Nothing is unpickled or evaluated; an algorithm neither waits for the device nor draws its own random numbers."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.architecture.source_tree import FILES, PACKAGE, dotted, label, tree

MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
CALLS = {"eval", "exec", "torch.load", "pandas.read_pickle", "yaml.load", "yaml.unsafe_load", "os.system"}
WAITS = {"item", "tolist", "cpu", "numpy", "synchronize"}
DRAWS = {
    "rand", "randn", "randint", "randperm", "rand_like", "randn_like", "randint_like", "multinomial", "bernoulli", "normal",
    "normal_", "uniform_", "random_", "bernoulli_", "exponential_", "manual_seed", "sample", "rsample",
}  # fmt: skip


def unsafe(module: ast.Module) -> Iterator[str]:
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from (f"import {a.name}" for a in node.names if a.name.split(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            yield f"from {node.module} import …"
        elif isinstance(node, ast.Call):
            if dotted(node.func) in CALLS:
                yield f"{dotted(node.func)}(…)"
            for keyword in node.keywords:
                if keyword.arg in ("allow_pickle", "shell") and not (
                    isinstance(keyword.value, ast.Constant) and keyword.value.value is False
                ):
                    yield f"{keyword.arg}=…"


def impure(module: ast.Module) -> Iterator[str]:
    for node in ast.walk(module):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        whole, method = dotted(node.func), node.func.attr
        if method in WAITS or (method in DRAWS and not isinstance(node.func.value, ast.Name | ast.Attribute)):
            yield f".{method}(…)"
        elif method in DRAWS and (whole.startswith(("torch.", "np.random", "numpy.random", "random.")) or method.endswith("_")):
            yield f"{whole}(…)"


@pytest.mark.parametrize("path", FILES, ids=label)
def test_nothing_is_unpickled_or_evaluated(path: Path) -> None:
    assert list(unsafe(tree(path))) == []


@pytest.mark.parametrize("path", sorted((PACKAGE / "algorithms").glob("*.py")), ids=label)
def test_an_algorithm_is_pure(path: Path) -> None:
    assert list(impure(tree(path))) == []


@pytest.mark.parametrize(
    "line", ["import pickle", "from joblib import load", "torch.load(p)", "eval(s)", "np.load(p, allow_pickle=True)", "run(c, shell=True)"]
)
def test_the_check_finds_what_is_unsafe(line: str) -> None:
    assert len(list(unsafe(ast.parse(line)))) == 1


@pytest.mark.parametrize("line", ["loss.item()", "loss.mean().cpu()", "torch.randn(3)", "x.normal_()", "Normal(m, s).rsample()"])
def test_the_check_finds_what_is_impure(line: str) -> None:
    assert len(list(impure(ast.parse(line)))) == 1
    assert list(impure(ast.parse("noise['a'] * torch.exp(x).mean()"))) == []
