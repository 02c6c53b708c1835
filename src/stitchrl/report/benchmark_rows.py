"""The benchmark's raw lines: one JSON object for each run, all that its tables are made from."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stitchrl.core.errors import CheckpointError, ConfigError

_KINDS: tuple[tuple[tuple[str, ...], Any, str], ...] = (
    (("suite", "dataset", "method", "config_hash", "dataset_hash", "date", "algorithm"), str, "a string"),
    (("seed", "steps"), int, "an integer"),
    (("seconds",), int | float, "a number"),
    (("log_return",), int | float | None, "a number"),
    (("versions", "last", "best"), dict, "an object"),
    (("reference",), dict | None, "an object"),
)


def read_raw(file: Path) -> list[dict[str, Any]]:
    """Returns the lines of a raw file, none where there is no file; a last line torn by a kill is left out.

    `config_hash` is of the settings in the line, whatever it was recorded with. Raises CheckpointError for a line of something else, by its number.
    """
    if not file.exists():
        return []
    try:
        lines = file.read_text().splitlines(keepends=True)
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{file}: cannot be read ({error})") from None
    found = []
    for number, line in enumerate(lines, start=1):
        row = _row(line)
        if row is None:
            if number == len(lines) and not line.endswith("\n"):
                break
            raise CheckpointError(f"{file}: line {number} is no JSON object; remove the line, and its run is made again")
        if missing := [name for name in ("dataset", "method", "seed") if name not in row]:
            raise CheckpointError(
                f"{file}: line {number} has no {', '.join(missing)}; expected what `stitchrl benchmark run` writes to raw.jsonl. "
                "Give its directory as --out"
            )
        if (wrong := _mistake(row)) is not None:
            raise CheckpointError(f"{file}: line {number}: {wrong}; mend the line, or remove it, and its run is made again")
        if isinstance(row.get("config"), dict):
            row["config_hash"] = settings_hash(row["config"])
        found.append(row)
    return found


def _mistake(row: Mapping[str, Any]) -> str | None:
    """What a table cannot be made from, of what a line has."""
    for names, kind, told in _KINDS:
        for name in names:
            if name in row and (not isinstance(row[name], kind) or isinstance(row[name], bool)):
                return f"{name} is {json.dumps(row[name])[:60]}; expected {told}"
    for name in ("random", "expert") if row.get("reference") is not None else ():
        if not _finite([row["reference"].get(name)]):
            return f"reference has {name} {json.dumps(row['reference'].get(name))[:60]}; expected a number"
    for name in ("last", "best"):
        scores = row[name].get("scores") if name in row else [0.0]
        if not isinstance(scores, list) or not scores or not _finite(scores):
            return f"{name} has scores {json.dumps(scores)[:60]}; expected a list of numbers, one for each episode"
    return None


def _finite(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int | float) and math.isfinite(value) for value in values)


def is_row(line: bytes) -> bool:
    """Whether a line is a whole JSON object, with or without its end."""
    return _row(line) is not None


def _row(line: str | bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def settings_hash(config: Mapping[str, Any]) -> str:
    """Returns the sha256 of a run's settings; one that is null says nothing, so that a new setting which changes nothing changes no hash."""
    return hashlib.sha256(json.dumps(_told(config), sort_keys=True).encode()).hexdigest()


def _told(value: Any) -> Any:
    return {name: _told(part) for name, part in value.items() if part is not None} if isinstance(value, Mapping) else value


def of_suite(rows: Sequence[dict[str, Any]], suite: str | None, file: Path) -> list[dict[str, Any]]:
    """Returns a suite's lines; all, where `suite` is None.

    Raises ConfigError where there is none of the suite, and without one where there are several: a table is of one suite.
    """
    known = list(dict.fromkeys(str(row["suite"]) for row in rows if "suite" in row))
    if suite is None and len(known) > 1:
        raise ConfigError(f"{file}: has lines of the suites {', '.join(known)}; a table is of one: choose it with --suite")
    if suite is not None and suite not in known:
        raise ConfigError(
            f"{file}: has no line of the suite '{suite}', but of {', '.join(known) or 'none'}; choose one of these, or another --out"
        )
    return [row for row in rows if suite is None or row.get("suite") == suite]


def is_done(row: dict[str, Any]) -> bool:
    """Returns whether a raw line is of a run that came to its end."""
    return row.get("error") is None


def key_of(row: dict[str, Any]) -> tuple[Any, ...]:
    """Returns `Job.key` of the run that a raw line is of."""
    return tuple(row.get(name) for name in ("dataset", "method", "seed", "config_hash", "dataset_hash"))
