"""Settings as frozen dataclasses: types with their ranges, and strict reading from plain JSON values."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from annotated_types import Ge, Gt, Le, Lt, MinLen

from stitchrl.core.errors import ConfigError

T = TypeVar("T")

Fraction = Annotated[float, Ge(0), Le(1)]
OpenFraction = Annotated[float, Gt(0), Lt(1)]
Rate = Annotated[float, Gt(0), Le(1)]
Share = Annotated[float, Ge(0), Lt(1)]
Positive = Annotated[float, Gt(0)]
NonNegative = Annotated[float, Ge(0)]
Natural = Annotated[int, Ge(0)]
Count = Annotated[int, Ge(1)]
Several = Annotated[int, Ge(2)]
Hidden = tuple[Count, ...]  # units of each hidden layer
Levels = Annotated[tuple[Count, ...], MinLen(1)]  # multiples of a width, one a level


def nearest(name: str, known: list[str]) -> str:
    """Returns ` Did you mean 'x'?` for the closest known name, else the list of all."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" Did you mean '{close[0]}'?" if close else f" Known: {', '.join(known)}."


def read_settings(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    """Returns the dataclass filled from plain values; raises ConfigError naming the setting, what it was and what it must be."""
    from pydantic import TypeAdapter, ValidationError  # heavy, and not needed to print help

    assert dataclasses.is_dataclass(kind)
    known = [field.name for field in dataclasses.fields(kind)]
    for name in values:
        if name not in known:
            raise ConfigError(f"{where}: unknown setting '{name}'.{nearest(name, known)}")
    for name, value in values.items():
        if not _finite(value):
            raise ConfigError(f"{where}: {name} is {value}; expected a finite number" + ("" if isinstance(value, float) else " throughout"))
    try:
        return TypeAdapter(kind).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        expected = first["msg"].lower().replace("valid tuple", "list of values")
        raise ConfigError(f"{where}: {name} is {first['input']!r}; {expected}") from None


def _finite(value: Any) -> bool:
    """Whether a number is finite, or all of a list's."""
    return all(map(_finite, value)) if isinstance(value, list | tuple) else not isinstance(value, float) or math.isfinite(value)


def check_settings(settings: Any, where: str) -> None:
    """Raises ConfigError where a value is of the wrong type or out of its range."""
    read_settings(type(settings), {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}, where)


def refuse_changed(settings: Any, names: tuple[str, ...], where: str, do: str = "leave it out") -> None:
    """Raises ConfigError, and says what to do, if one of these settings, which have no effect here, was given another value than its default."""
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if field.name in names and value != field.default:
            raise ConfigError(f"{field.name} is {value!r}, and has no effect {where}; {do}")


def to_json(settings: Any) -> dict[str, Any]:
    """Returns a dataclass as plain JSON values."""
    return dataclasses.asdict(settings)
