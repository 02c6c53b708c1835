"""A reader of the part of JSON Schema 2020-12 that trust_schema.json uses; it refuses any other keyword."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,), "array": (list,), "string": (str,), "boolean": (bool,), "null": (type(None),), "integer": (int,), "number": (int, float),
}  # fmt: skip
SAID = {"$schema", "$id", "title", "description", "$defs"}
KNOWN = SAID | {
    "$ref", "anyOf", "type", "const", "enum", "properties", "required", "additionalProperties", "items", "minItems", "maxItems", "minimum", "maximum",
    "exclusiveMinimum", "exclusiveMaximum", "minLength",
}  # fmt: skip


def faults(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any] | None = None, at: str = "$") -> Iterator[str]:
    """Yields what is wrong with a value, by its path."""
    root = schema if root is None else root
    if unknown := set(schema) - KNOWN:
        raise AssertionError(f"{at}: the schema uses {sorted(unknown)}, which this reader does not know")
    if "$ref" in schema:
        yield from faults(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root, at)
    if "anyOf" in schema and all(any(True for _ in faults(value, one, root, at)) for one in schema["anyOf"]):
        yield f"{at}: fits none of {len(schema['anyOf'])} forms"
    if "const" in schema and value != schema["const"]:
        yield f"{at}: {value!r} is not {schema['const']!r}"
    if "enum" in schema and value not in schema["enum"]:
        yield f"{at}: {value!r} is none of {schema['enum']}"
    if "type" in schema:
        names = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
        fits = [isinstance(value, TYPES[name]) and (name == "boolean" or not isinstance(value, bool)) for name in names]
        if not any(fits):
            yield f"{at}: {value!r} is no {' or '.join(names)}"
            return
    if isinstance(value, dict):
        yield from _object(value, schema, root, at)
    elif isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            yield f"{at}: {len(value)} items"
        for k, item in enumerate(value):
            yield from faults(item, schema.get("items", {}), root, f"{at}[{k}]")
    elif isinstance(value, str) and len(value) < schema.get("minLength", 0):
        yield f"{at}: too short"
    elif isinstance(value, int | float) and not isinstance(value, bool):
        low, high = schema.get("minimum", value), schema.get("maximum", value)
        above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
        if not low <= value <= high or (above is not None and value <= above) or (below is not None and value >= below):
            yield f"{at}: {value} is out of range"


def _object(value: dict[str, Any], schema: Mapping[str, Any], root: Mapping[str, Any], at: str) -> Iterator[str]:
    properties, rest = schema.get("properties", {}), schema.get("additionalProperties", True)
    yield from (f"{at}: {name} is missing" for name in schema.get("required", ()) if name not in value)
    for name, one in value.items():
        if name in properties:
            yield from faults(one, properties[name], root, f"{at}.{name}")
        elif rest is False:
            yield f"{at}: {name} is not foreseen"
        elif isinstance(rest, Mapping):
            yield from faults(one, rest, root, f"{at}.{name}")
