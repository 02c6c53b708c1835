"""Untrusted files read in a process of their own, which writes plain columns: a parser that crashes is an error, not an end."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, final

import numpy as np

from stitchrl.core.errors import DataError
from stitchrl.data.columns import Array

_PACKAGE_ROOT = Path(__file__).resolve().parents[3]
_ADDRESS_SPACE = 24 << 30  # bytes of virtual memory; libraries reserve far more than they use
_SECONDS = 900
_CHILD = "import sys; sys.path.insert(0, {root!r}); from stitchrl.data.sources.isolation import child; child()"

Extraction = Callable[[Path, dict[str, Any], "Sink"], dict[str, Any]]


@final
class Sink:
    """Where an extraction puts its columns, piece by piece: files in `directory`, or memory where there is none."""

    def __init__(self, directory: Path | None, max_bytes: int) -> None:
        self._directory, self._left = directory, max_bytes
        self._kinds: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {}
        self._rows: dict[str, int] = {}
        self._files: dict[str, IO[bytes]] = {}
        self._pieces: dict[str, list[Array]] = {}

    def add(self, name: str, piece: Array) -> None:
        """Appends rows to column `name`. Raises DataError where dtype or row shape changes, or the size limit is passed."""
        kind = (piece.dtype.newbyteorder("="), piece.shape[1:])
        known = self._kinds.setdefault(name, kind)
        if kind != known:
            found, expected = f"{list(kind[1])} {kind[0]}", f"{list(known[1])} {known[0]}"
            raise DataError(f"'{name}' has rows of {found} after row {self._rows[name]:,}; expected {expected}, as before")
        self._left -= piece.nbytes
        if self._left < 0:
            raise DataError(f"'{name}': the columns together pass the size limit. Raise max_bytes only for a file you trust")
        self._rows[name] = self._rows.get(name, 0) + len(piece)
        piece = np.ascontiguousarray(piece, dtype=kind[0])
        if self._directory is None:
            self._pieces.setdefault(name, []).append(piece)
            return
        if name not in self._files:
            self._files[name] = (self._directory / f"{len(self._files)}.bin").open("wb")
        if piece.nbytes:
            self._files[name].write(piece.reshape(-1).view(np.uint8).data)

    def description(self) -> list[dict[str, Any]]:
        """Returns name, dtype and shape of each column in the order of the files, after closing them."""
        for file in self._files.values():
            file.close()
        return [{"name": n, "dtype": k[0].str, "shape": [self._rows[n], *k[1]]} for n, k in self._kinds.items()]

    def columns(self) -> dict[str, Array]:
        """Returns the columns that were kept in memory."""
        return {name: pieces[0] if len(pieces) == 1 else np.concatenate(pieces) for name, pieces in self._pieces.items()}


def extract(
    function: Extraction, path: Path, options: dict[str, Any], isolated: bool, max_bytes: int, seconds: float = _SECONDS
) -> tuple[dict[str, Array], dict[str, Any]]:
    """Returns the columns and the notes that `function(path, options, sink)` makes of a file, from a process of its own if `isolated`.

    Columns from the other process are memory-mapped from temporary files that are already unlinked. Raises DataError.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file")
    if not isolated:
        sink = Sink(None, max_bytes)
        notes = _run(function, path, options, sink)
        return sink.columns(), notes
    directory = Path(tempfile.mkdtemp(prefix="stitchrl-read-"))
    try:
        request = {"module": function.__module__, "function": function.__name__, "path": str(path.absolute()), "options": options}
        reply = _ask_child(request | {"directory": str(directory), "max_bytes": max_bytes}, path.name, seconds)
        return {x["name"]: _map(directory / f"{i}.bin", x) for i, x in enumerate(reply["columns"])}, reply["notes"]
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def child() -> None:
    """Runs one extraction that standard input asks for, and prints its outcome as JSON: the other process's whole program."""
    request = json.load(sys.stdin)
    _limit(request["max_bytes"])
    sys.stdout.flush()
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # nothing that a library prints gets into the answer
    function = getattr(importlib.import_module(request["module"]), request["function"])
    sink = Sink(Path(request["directory"]), request["max_bytes"])
    try:
        notes = _run(function, Path(request["path"]), request["options"], sink)
        outcome = {"columns": sink.description(), "notes": notes}
    except DataError as error:
        outcome = {"error": str(error)}
    json.dump(outcome, answer)
    answer.flush()
    os._exit(0)  # a damaged file may leave a library that crashes when it is torn down


def _run(function: Extraction, path: Path, options: dict[str, Any], sink: Sink) -> dict[str, Any]:
    try:
        return function(path, options, sink)
    except DataError:
        raise
    except (MemoryError, RecursionError) as error:
        raise DataError(f"{path.name}: too large or too deep to be read ({type(error).__name__})") from None
    except Exception as error:  # whatever a parser raises for a damaged file; bugs show their type here
        text = re.sub(r"\s+", " ", str(error))[:160]
        raise DataError(f"{path.name}: damaged, or not of the expected kind ({type(error).__name__}: {text})") from None


def _ask_child(request: dict[str, Any], where: str, seconds: float) -> dict[str, Any]:
    keep = ("PATH", "TMPDIR", "TEMP", "TMP", "SYSTEMROOT", "LD_LIBRARY_PATH", "HOME")
    environment = {name: os.environ[name] for name in keep if name in os.environ}
    environment |= {"HDF5_PLUGIN_PATH": "", "HDF5_USE_FILE_LOCKING": "FALSE", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-I", "-c", _CHILD.format(root=str(_PACKAGE_ROOT))]
    try:
        done = subprocess.run(
            command, input=json.dumps(request).encode(), capture_output=True, timeout=seconds, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        raise DataError(f"{where}: not read after {seconds:.0f} seconds, so it is given up") from None
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise DataError(f"{where}: the library that reads it crashed ({name}); the file is damaged or hostile")
    try:
        reply: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
        raise DataError(f"{where}: could not be read in a process of its own ({last[0][:200]})") from None
    if "error" in reply:
        raise DataError(reply["error"])
    return reply


def _map(path: Path, column: dict[str, Any]) -> Array:
    shape, dtype = tuple(column["shape"]), np.dtype(column["dtype"])
    if not path.stat().st_size:
        return np.zeros(shape, dtype)
    mapped = np.memmap(path, dtype, "c", shape=shape)  # copy on write: the array may be written to, its file is private anyway
    return mapped if os.name == "posix" else np.array(mapped)


def _limit(max_bytes: int) -> None:
    try:
        import resource
    except ImportError:  # not on this system
        return
    for name, most in ((resource.RLIMIT_AS, _ADDRESS_SPACE), (resource.RLIMIT_FSIZE, max_bytes), (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(name)[1]
        resource.setrlimit(name, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
