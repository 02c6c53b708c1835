"""The directory of a run: who may write in it, and whether it is the run it is taken for."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from stitchrl.core.errors import CheckpointError
from stitchrl.core.files import locked, read_json, write_json
from stitchrl.core.records import line_of
from stitchrl.core.settings import nearest

# What may differ between a run and its resume without another answer to "which run is this?"
FREE = ("version", "versions", "training.device", "training.compile_reason", "training.threads", "training.log_every", "training.save_every",
        "training.keep_checkpoints",
        "recipe",  # its name alone: what it set may not
        "online.rows_from_log",  # follows from the mixing and the batch size, which may not
        "logging", "evaluation", "data.source",
        "data.table_schema",  # what was read by it has a fingerprint, which may not
        "data.steps_fingerprint", "data.groups_fingerprint",  # parts of that
        "data.environment",  # told of the log; the one that policies are judged in is `environment`
        "parent.path", "command", "changes")  # fmt: skip

_FOLLOWS = {"training.compiled": "training.steps"}  # decided by it, where it is not told

# How policies are judged: it may change, and be honoured by judgements that are still to come.
_JUDGING = ("evaluation", "environment")

# A policy, and what is said of it and not of one that has learned on.
OF_ONE_POLICY = ("policy", "trust.json", "trust.html", "asked_returns.json", "plans.npz", "plans_*")

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
            _refuse_foreign(path, resume)
            path.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(path))
            _check(path, config, resume, overwrite, allow_change)
            write_json(path / PROBE, config)  # a directory that cannot be written is told now, not at the first checkpoint
            (path / PROBE).unlink()
        except OSError as error:
            raise CheckpointError(f"{path}: the run directory cannot be written ({error.strerror}); choose another with --run") from None
        yield


def begin(path: Path, config: Mapping[str, Any], *, resume: bool, step: int = 0, steps: int = 0) -> None:
    """Makes a directory that is held the run's own, empty unless it goes on from `step` of `steps`: when all that can be refused was not.

    What differs from before is kept in config.json under `changes`, by step; the policy so far and what was said of it are set aside. Raises
    CheckpointError for a change that no step or evaluation is left to honour.
    """
    if not resume:
        _empty(path)
        write_json(path / "config.json", config)
        return
    before = read_json(path / "config.json")
    own = _flat(before)
    differences = {
        name: line
        for name, line in changed(before, config).items()
        if not _covered(name, FREE) and name not in _FOLLOWS or _judges(name) and name in own  # what no earlier version had is no change
    }
    if step >= steps:
        _refuse_late(path, step, differences)
    else:
        _set_aside(path, step)
    changes = [*before.get("changes", []), *([{"step": step, "changed": list(differences.values())}] if differences else [])]
    kept = {"recipe": before["recipe"]} if config.get("recipe") is None and before.get("recipe") else {}  # not told again, it is the same
    write_json(path / "config.json", {**config, **kept, **({"changes": changes} if changes else {})})


def _judges(name: str) -> bool:
    """Whether a setting says how policies are judged, and not only with how many processes."""
    return _covered(name, _JUDGING) and name != "evaluation.processes"


def _refuse_late(path: Path, step: int, differences: Mapping[str, str]) -> None:
    """Raises CheckpointError for differences that come after the last step, unless they are of an evaluation that is still to be made."""
    done = line_of(path / "evaluations.jsonl", step) is not None
    refused = [line for name, line in differences.items() if name != "training.steps" and (done or not _judges(name))]
    if refused:
        raise CheckpointError(
            f"{path}: has taken all its {step:,} steps, so nothing is left to honour that {'; '.join(refused)}. Give more steps "
            f"(--allow-change training.steps), or leave these as they were; `stitchrl evaluate {path}` judges the policy anew"
        )


def _set_aside(path: Path, step: int) -> None:
    """Moves the policy that is there and what was said of it, which is to learn on from `step`, to earlier/step_N."""
    found = sorted(entry.name for pattern in OF_ONE_POLICY for entry in path.glob(pattern))
    if not found:
        return
    older = path / "earlier" / f"step_{step}"
    older.mkdir(parents=True, exist_ok=True)
    for name in found:
        if (older / name).is_dir():  # of the same step: the same policy
            shutil.rmtree(older / name)
        os.replace(path / name, older / name)
    if said := [name for name in found if name != "policy"]:
        warnings.warn(
            f"{path}: {', '.join(said)} are of the policy so far, which learns on from step {step:,}; kept in {older}", stacklevel=3
        )


def _refuse_foreign(path: Path, resume: bool) -> None:
    """Raises CheckpointError for a directory that is no run's, before anything of ours is put into it."""
    file = path / "config.json"
    if resume and not file.exists():
        raise CheckpointError(f"{path}: no run to resume here (no config.json); leave --resume out to start one")
    if not resume and path.exists() and _present(path) and not _is_run(file):
        raise CheckpointError(f"{path}: not empty and not a run; choose another directory with --run")


def _present(path: Path) -> set[str]:
    """Returns the names of what is in a directory, without what a process holds it by or a kill left."""
    return {entry.name for entry in path.iterdir() if not _unfinished(entry.name)} - {"lock", PROBE}


def _check(path: Path, config: Mapping[str, Any], resume: bool, overwrite: bool, allow_change: Sequence[str]) -> None:
    file = path / "config.json"
    if resume:
        before = read_json(file)
        if not isinstance(before, dict) or not before:
            raise CheckpointError(f"{file}: not a run's; expected what `stitchrl train` wrote. Bring that back, or choose another --run")
        _check_names(allow_change, {**_flat(before), **_flat(config)})
        differences = changed(before, config)
        _check_held_out(path, differences, before, config)
        free = (*FREE, *allow_change)
        refused = {
            name: line for name, line in differences.items() if not _covered(name, free) and not _covered(_FOLLOWS.get(name, name), free)
        }
        if refused:
            if "data.fingerprint" in refused:  # what else differs of the log follows
                refused = {name: line for name, line in refused.items() if not name.startswith(("data.", "spec."))}
                refused["data.fingerprint"] = f"{differences['data.fingerprint']}: it learns from another log (--data)"
            raise CheckpointError(
                f"{path}: not the run that is there: {'; '.join(refused.values())}. Resume with the same settings, or allow it with --allow-change"
            )
        return
    if _present(path) - BEGUN and not overwrite:
        raise CheckpointError(
            f"{path}: already holds a run; continue it with --resume, replace it with --overwrite, or choose another with --run"
        )


def _check_held_out(path: Path, differences: Mapping[str, str], before: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Raises CheckpointError where episodes would be held out of which some may have been learned from so far."""
    share, log = "preprocessing.held_out", "data.fingerprint"
    was, now = (float(_flat(each).get(share) or 0) for each in (before, config))
    name = share if now > was else log if log in differences and now else None  # a smaller share holds out some of the same
    if name is not None and any((path / "checkpoints").glob("step_*")):
        raise CheckpointError(
            f"{path}: {differences[name]}: of the episodes that it would hold out, some were learned from already. Train anew, in another --run"
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
