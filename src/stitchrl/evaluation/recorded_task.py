"""The tasks that a run knows: the one its policies were judged in, and the one its log is of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from stitchrl.agent import Agent
from stitchrl.core.errors import CheckpointError, ConfigError
from stitchrl.core.files import read_json
from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.references import Reference, reference_for


class RecordedTask(NamedTuple):
    environment: str
    options: dict[str, Any]
    reference: Reference | None  # what its scores are normalised by


def named_by(metadata: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns the environment that a log's metadata name, as `{"id", "options"}`; None where they name none."""
    if not metadata.get("environment"):
        return None
    return {"id": str(metadata["environment"]), "options": dict(metadata.get("environment_options") or {})}


def kept(task: dict[str, Any] | None) -> dict[str, Any] | None:
    """Returns `{"id", "options"}`; raises ConfigError for options that are no plain JSON, which a run's config.json could not keep."""
    for name, value in ({} if task is None else task["options"]).items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"environment_options: {name!r} is {type(value).__name__} {str(value)[:60]!r}; expected plain JSON values, which a run keeps to "
                f"open its environment again ({error}); give lists and numbers, or register an environment of your own that has it inside"
            ) from None
    return task


def check_named(id: str) -> str:
    """Returns the id of an environment that a log names; raises ConfigError where to open it would import a module, which is on no log's word."""
    if ":" in id:
        raise ConfigError(
            f"the log names the environment {id!r}, which is of a module: to open it would run the module, which takes your word; name it "
            f"yourself (--env {id}), or train offline (--env none)"
        )
    return id


def options_of(metadata: Mapping[str, Any], environment: str | None) -> dict[str, Any]:
    """Returns the options of an environment: those of the log's own where it is the same id, else none."""
    own = named_by(metadata)
    return own["options"] if own is not None and own["id"] == environment else {}


def task_of(run: Path, environment: str | None = None, options: Mapping[str, Any] | None = None) -> RecordedTask:
    """Returns the environment of a run directory with its options and reference: the one that it was judged in, or else its log's own.

    Where another is told, its options are those of whichever of the two has its id, else none; `options` are in place of them. Raises ConfigError
    where none is named, or by the log one of a module, CheckpointError for a config.json that is not a run's.
    """
    config = read_json(run / "config.json") if (run / "config.json").is_file() else {}
    if not isinstance(config, dict) or not all(isinstance(config.get(part) or {}, dict) for part in ("environment", "data")):
        raise CheckpointError(f"{run}/config.json: not a run's; expected an object of settings")
    judged, data = config.get("environment") or {}, config.get("data") or {}
    own = data.get("environment") or {}
    if any(part and not (isinstance(part, dict) and isinstance(part.get("options") or {}, dict)) for part in (judged, own)):
        raise CheckpointError(f"{run}/config.json: not a run's; expected an environment's id and options")
    metadata = {"reference": data.get("reference"), "environment": own.get("id"), "environment_options": own.get("options")}
    for known in (judged, own):
        if known.get("id") and environment in (None, known["id"]):
            id, opened = str(known["id"]), dict((known.get("options") or {}) if options is None else options)
            if known is own and environment is None:
                check_named(id)
            return RecordedTask(id, opened, reference_for(id, metadata, opened))
    if environment is None:
        raise ConfigError(f"{run}: names no environment, nor does its log; give one with --env (in Python: environment=)")
    return RecordedTask(environment, dict(options or {}), reference_for(environment))


def task_for(
    policy: str | Path | Agent, environment: str | Dataset | None, options: Mapping[str, Any] | None
) -> tuple[str, Mapping[str, Any]]:
    """Returns the environment to judge a policy in, and its options: a log's own, or a run's unless told.

    Raises ConfigError where none is named, or by a log one of a module, CheckpointError for what is not a run's.
    """
    if isinstance(environment, Dataset):
        if (own := named_by(environment.metadata)) is None:
            raise ConfigError(f"{environment.metadata.get('name', 'the log')}: its metadata name no environment; give the name of one")
        return check_named(own["id"]), own["options"] if options is None else options
    if isinstance(policy, Agent):
        if environment is None:
            raise ConfigError(
                "environment is None; expected the log that the policy learned from, or the name of one: a policy that was not read from a "
                "run names none"
            )
        return environment, options or {}
    task = task_of(Path(policy), environment, options)
    return task.environment, task.options
