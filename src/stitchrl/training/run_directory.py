"""The directory of a run: who may write in it, and whether it is the run it is taken for."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from stitchrl.core.errors import CheckpointError
from stitchrl.core.files import locked, read_json, write_json
from stitchrl.core.settings import nearest

# What may differ between a run and its resume without another answer to "which run is this?"
FREE = ("version", "versions", "training.device", "training.compile_reason", "training.threads", "training.log_every", "training.save_every",
        "training.keep_checkpoints",
        "online.rows_from_log",  # follows from the mixing and the batch size, which may not
        "logging", "evaluation", "data.source",
        "data.table_schema",  # what was read by it has a fingerprint, which may not
        "data.environment",  # told of the log; the one that policies are judged in is `environment`
        "parent.path", "command")  # fmt: skip

_FOLLOWS = {"training.compiled": "training.steps"}  # decided by it, where it is not told

# All that is there of a run that was refused before its first step: it may be started anew.
BEGUN = frozenset({"config.json", "tensorboard"})

PROBE = "config.json.probe"


@contextmanager
def opened(path: Path, config: Mapping[str, Any], *, resume: bool, overwrite: bool, allow_change: Sequence[str] = ()) -> Iterator[None]:
    """Holds a run directory, in which nothing is changed until the run is to `begin`; raises CheckpointError if it is in use, holds another run,
    or cannot be written."""
    if resume and overwrite:
        raise CheckpointError(f"{path}: --resume continues the run that is there and --overwrite replaces it; give one of them")
    with ExitStack() as stack:
        try:
            path.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(path))
            _check(path, config, resume, overwrite, allow_change)
            write_json(path / PROBE, config)  # a directory that cannot be written is told now, not at the first checkpoint
            (path / PROBE).unlink()
        except OSError as error:
            raise CheckpointError(f"{path}: the run directory cannot be written ({error.strerror}); choose another with --run") from None
        yield


def begin(path: Path, config: Mapping[str, Any], *, resume: bool) -> None:
    """Makes a directory that is held the run's own, empty unless it goes on: when all that can be refused was not."""
    if not resume:
        _empty(path)
    write_json(path / "config.json", config)


def _check(path: Path, config: Mapping[str, Any], resume: bool, overwrite: bool, allow_change: Sequence[str]) -> None:
    file = path / "config.json"
    if resume:
        if not file.exists():
            raise CheckpointError(f"{path}: no run to resume here (no config.json); leave --resume out to start one")
        before = read_json(file)
        _check_names(allow_change, {**_flat(before), **_flat(config)})
        differences = changed(before, config)
        free = (*FREE, *allow_change)
        refused = [line for name, line in differences.items() if not _covered(name, free) and not _covered(_FOLLOWS.get(name, name), free)]
        if refused:
            raise CheckpointError(
                f"{path}: not the run that is there: {'; '.join(refused)}. Resume with the same settings, or allow it with --allow-change"
            )
        return
    present = {entry.name for entry in path.iterdir() if not _unfinished(entry.name)} - {"lock", PROBE}
    if present and not _is_run(file):
        raise CheckpointError(f"{path}: not empty and not a run; choose another directory with --run")
    if present - BEGUN and not overwrite:
        raise CheckpointError(
            f"{path}: already holds a run; continue it with --resume, replace it with --overwrite, or choose another with --run"
        )


def _check_names(allowed: Sequence[str], known: Mapping[str, Any]) -> None:
    """Raises CheckpointError for what may change and is no setting of a run, nor a group of them."""
    for name in allowed:
        if not any(_covered(setting, (name,)) for setting in known):
            raise CheckpointError(f"--allow-change {name}: a run has no such setting.{nearest(name, sorted(known))}")


def _unfinished(name: str) -> bool:
    """Whether a file is what a kill left of a config.json, or of its probe, that was being written."""
    return name.startswith("config.json") and ".tmp-" in name


def _is_run(file: Path) -> bool:
    """Whether a config.json is one of ours: nothing else is ever emptied."""
    try:
        config = read_json(file)
    except CheckpointError:
        return False
    return isinstance(config, dict) and {"format", "algorithm", "settings", "training", "seeds"} <= set(config)


def changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """Returns the settings that differ, by dotted name, each with a line that tells both values."""
    old, new = _flat(before), _flat(now)
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return {name: f"{name} is {new.get(name)!r} and was {old.get(name)!r}" for name in names}


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping) and value:
        return {k: v for key, inner in value.items() for k, v in _flat(inner, f"{name}.{key}" if name else str(key)).items()}
    return {name: list(value) if isinstance(value, tuple) else value}


def _covered(name: str, allowed: Sequence[str]) -> bool:
    return any(name == entry or name.startswith(entry + ".") for entry in allowed)


def _empty(path: Path) -> None:
    for entry in path.iterdir():
        if entry.name == "lock":
            continue
        if entry.is_dir() and not entry.is_symlink():  # a link's target is never followed
            shutil.rmtree(entry)
        else:
            entry.unlink()
