"""Files that are whole or absent: atomic writes, strict JSON, a lock on a directory."""

from __future__ import annotations

import fcntl
import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stitchrl.core.errors import CheckpointError, ConfigError

MAX_JSON_BYTES = 16_000_000


def to_json_line(value: Any) -> str:
    """Returns strict JSON on one line; numbers that are not finite become null."""
    return json.dumps(_finite(value), allow_nan=False, separators=(", ", ": "))


def write_json(path: Path, value: Any) -> None:
    """Writes indented strict JSON, whole or not at all."""
    write_atomically(path, (json.dumps(_finite(value), allow_nan=False, indent=2) + "\n").encode())


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file under another name, syncs it to disk and renames it; what is no plain file (a pipe, a link such as /dev/stdout) is written
    as it is."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        path.write_bytes(content)
        return
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(path: Path | None, flag: str, *, directory: bool = False, parents: bool = True) -> None:
    """Raises ConfigError where a file, or a directory, cannot be written at a path: told before the work that it is to hold.

    None: nothing is to be written.
    parents: those of a directory that are not there will be made; those of a file never are.
    """
    if path is None:
        return
    if directory and path.exists() and not path.is_dir():
        raise ConfigError(f"{flag} is {path}, which is a file; expected a directory, or a name that is free")
    if not directory and path.is_dir():
        raise ConfigError(f"{flag} is {path}, which is a directory; expected the name of a file")
    if not (directory and parents) and not path.parent.is_dir():
        raise ConfigError(f"{flag} is {path}, and there is no directory {path.parent}; make it first")


def read_json(path: Path) -> Any:
    """Returns a JSON file's value; raises CheckpointError for a missing, oversized, malformed or non-finite one, or a repeated key."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise CheckpointError(f"{path}: {path.stat().st_size:,} bytes; expected at most {MAX_JSON_BYTES:,}")
        return json.loads(
            path.read_bytes().decode("utf-8"), object_pairs_hook=_no_repeats(path), parse_constant=_refuse(path), parse_float=_number(path)
        )
    except CheckpointError:
        raise
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:  # also a number of too many digits
        raise CheckpointError(f"{path}: not valid JSON ({str(error)[:200]})") from None


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Holds a directory for this process; raises CheckpointError naming the process that holds it. A killed process holds nothing."""
    with (directory / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "unknown"
            raise CheckpointError(
                f"{directory}: in use by process {owner}; wait for it, or choose another run directory with --run"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return value


def _no_repeats(path: Path) -> Callable[[list[tuple[str, Any]]], dict[str, Any]]:
    def collect(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise CheckpointError(f"{path}: a key is repeated in {str([k for k, _ in pairs])[:200]}")
        return found

    return collect


def _refuse(path: Path) -> Callable[[str], Any]:
    def refuse(constant: str) -> Any:
        raise CheckpointError(f"{path}: holds {constant}, which is not a JSON number")

    return refuse


def _number(path: Path) -> Callable[[str], float]:
    def number(text: str) -> float:
        if not math.isfinite(float(text)):
            raise CheckpointError(f"{path}: holds {text[:40]}, which is too large for a number")
        return float(text)

    return number
