"""The environment that a run names: where its policies are judged unless another is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from stitchrl.core.errors import CheckpointError, ConfigError
from stitchrl.core.files import read_json


class RecordedTask(NamedTuple):
    environment: str
    options: dict[str, Any]
    data: dict[str, Any]  # what scores are normalised by: `reference`


def task_of(run: Path, environment: str | None = None) -> RecordedTask:
    """Returns the environment of a run directory with its options, or another that is told, without any.

    Raises ConfigError where none is named, CheckpointError for a config.json that is not a run's.
    """
    config = read_json(run / "config.json") if (run / "config.json").is_file() else {}
    recorded = (config.get("environment") if isinstance(config, dict) else None) or {}
    if not isinstance(config, dict) or not isinstance(recorded, dict):
        raise CheckpointError(f"{run}/config.json: not a run's; expected an object of settings")
    if environment not in (None, recorded.get("id")):
        return RecordedTask(str(environment), {}, {})
    if not recorded:
        raise ConfigError(f"{run}: the run names no environment; give one with --env (in Python: environment=)")
    return RecordedTask(
        str(recorded["id"]), dict(recorded.get("options") or {}), {"reference": (config.get("data") or {}).get("reference")}
    )
