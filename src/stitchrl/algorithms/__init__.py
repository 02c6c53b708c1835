"""One file per algorithm. The file's name is the algorithm's name everywhere: adding a file adds the algorithm."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import inspect
import pkgutil
from pathlib import Path
from typing import Any

from stitchrl.core.errors import ConfigError
from stitchrl.core.settings import nearest


def names() -> list[str]:
    """Returns the names of all algorithms, sorted; imports none of them."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def source_hash(name: str) -> str:
    """Returns the sha256 of an algorithm's file: another one, once it was edited."""
    file = Path(__path__[0]) / f"{name}.py"
    return hashlib.sha256(file.read_bytes()).hexdigest()


def find(name: str) -> tuple[Any, Any]:
    """Returns the algorithm's class and its config's class; raises ConfigError for an unknown name."""
    from stitchrl.core.algorithm import Algorithm

    if not isinstance(name, str):
        raise ConfigError(f"algorithm is {name!r}; expected a name, such as 'iql'")
    if name not in names():
        raise ConfigError(f"unknown algorithm '{name}'.{nearest(name, names())}")
    module = importlib.import_module(f"{__name__}.{name}")
    own = [value for _, value in inspect.getmembers(module, inspect.isclass) if value.__module__ == module.__name__]
    [algorithm] = [value for value in own if issubclass(value, Algorithm)]
    [config] = [value for value in own if dataclasses.is_dataclass(value)]
    return algorithm, config
