"""A dataset as a directory of plain files: dataset.json, and one .npy for each column, memory-mapped when opened."""

from __future__ import annotations

import glob
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from stitchrl.core.errors import ConfigError, DataError
from stitchrl.core.spec import Spec
from stitchrl.data.dataset import Dataset
from stitchrl.data.frame_stacks import frames_in_order, frames_of, stacks_of_episodes
from stitchrl.data.npy import open_npy

FORMAT = "stitchrl-dataset"
VERSION = 1
_KEYS = {"format", "version", "steps", "episodes", "spec", "columns", "metadata"}
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,150}\.npy")
_LARGEST_JSON = 16 << 20
_CHUNK = 1 << 24  # bytes


def replace_file(path: Path, write_to: Callable[[str], Any]) -> None:
    """Calls `write_to(temporary path)` and puts the outcome at `path`, on disk and complete or not at all. Raises DataError."""
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.tmp-", dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror})") from None
    try:
        write_to(temporary)
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise DataError(f"{path}: could not be written ({str(error)[:120]}); nothing was left behind") from None
    finally:
        Path(temporary).unlink(missing_ok=True)


def save_dataset(dataset: Dataset, directory: Path, overwrite: bool = False) -> None:
    """Writes the dataset into a new directory, complete or not at all. Raises DataError."""
    if directory.exists() and not overwrite:
        raise DataError(f"{directory}: exists already. Choose another name, or pass overwrite=True")
    if directory.exists() and not (directory / "dataset.json").is_file():
        raise DataError(f"{directory}: exists and is no dataset (it has no dataset.json), so it is not overwritten. Choose another name")
    files = {name: re.sub(r"[^A-Za-z0-9_-]", ".", name) + ".npy" for name in dataset.columns}
    if len(set(files.values())) < len(files) or not all(_FILE.fullmatch(x) for x in files.values()):
        raise DataError(f"{directory}: columns {sorted(files)} cannot become file names; rename them with letters, digits and _")
    record = {
        "format": FORMAT,
        "version": VERSION,
        "steps": len(dataset),
        "episodes": dataset.episodes,
        "spec": dataset.spec.to_json(),
        "columns": files,
        "metadata": dataset.metadata,
    }
    stacks = frames_of(dataset)
    if stacks is not None:  # the column's file holds its frames, each once, those of the final observations among them
        record["frame_stack"] = stacks.depth
    try:
        text = json.dumps(record, indent=1, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DataError(f"{directory}: metadata must be plain JSON values with finite numbers; {error}") from None
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{directory.name}.tmp-", dir=directory.parent))
    except OSError as error:
        raise DataError(f"{directory}: cannot be written ({error.strerror})") from None
    try:
        for name, column in dataset.columns.items():
            frames = stacks is not None and name == "observations"
            _write_npy(temporary / files[name], frames_in_order(dataset) if frames else column)
        _write_npy(temporary / "offsets.npy", dataset.offsets)
        if stacks is None:
            _write_npy(temporary / "final_observations.npy", dataset.final_observations)
        (temporary / "dataset.json").write_text(text + "\n", encoding="utf-8")
        temporary.chmod(0o755)
        _move_into_place(temporary, directory)
    except OSError as error:
        raise DataError(f"{directory}: could not be written ({error.strerror}); nothing was left behind") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_leftovers(directory: Path) -> None:
    """Removes what killed processes left of saving a dataset here, as far as it may; nobody else may be saving it."""
    for kind in ("tmp", "old"):
        for leftover in directory.parent.glob(f".{glob.escape(directory.name)}.{kind}-*"):
            shutil.rmtree(leftover, ignore_errors=True)


def open_dataset(directory: Path) -> Dataset:
    """Returns the dataset of a directory, its columns memory-mapped. Raises DataError."""
    record = _read_record(directory)
    where = directory.name
    try:
        spec = Spec.from_json(record["spec"])
    except (ConfigError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{where}/dataset.json: 'spec' is not understood ({str(error)[:120]})") from None
    files = record["columns"]
    if not isinstance(files, dict) or len(files) > 10_000:
        raise DataError(f"{where}/dataset.json: 'columns' must map column names to .npy files")
    columns = {}
    for name, file in files.items():
        if not isinstance(file, str) or not _FILE.fullmatch(file):
            raise DataError(
                f"{where}/dataset.json: column '{name[:80]}' names the file {str(file)[:80]!r}; expected a .npy file in the directory"
            )
        columns[name] = open_npy(directory / file, f"{where}/{file}")
    offsets = np.array(open_npy(directory / "offsets.npy", f"{where}/offsets.npy"))
    if offsets.dtype != np.int64 or offsets.ndim != 1 or len(offsets) < 2 or (np.diff(offsets) < 1).any():
        raise DataError(f"{where}/offsets.npy: {offsets.dtype} {list(offsets.shape)}; expected int64 that rise from 0")
    try:
        if "frame_stack" in record:
            columns["observations"], final = _stacked(columns.get("observations"), offsets, record["frame_stack"])
        else:
            final = open_npy(directory / "final_observations.npy", f"{where}/final_observations.npy")
        dataset = Dataset(spec, columns, offsets, final, record["metadata"])
        _check_ends(dataset)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    if (record["steps"], record["episodes"]) != (len(dataset), dataset.episodes):
        said, found = f"{record['steps']} steps, {record['episodes']} episodes", f"{len(dataset)} and {dataset.episodes}"
        raise DataError(f"{where}/dataset.json says {said[:80]}; the columns hold {found}")
    return dataset


def read_json(path: Path, largest: int = _LARGEST_JSON, constants: bool = False) -> dict[str, Any]:
    """Returns the object of a JSON file: bounded size and depth, no repeated keys; NaN only with `constants`. Raises DataError."""
    try:
        size = path.stat().st_size
        if size > largest:
            raise DataError(f"{path.name}: {size:,} bytes of JSON; expected at most {largest:,}")
        return parse_json(path.read_bytes(), path.name, constants)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def parse_json(text: bytes, where: str, constants: bool = False) -> dict[str, Any]:
    """Returns the object that `text` holds. `constants`: let NaN and Infinity through. Raises DataError naming `where`."""
    try:
        hook = None if constants else _refuse_constant
        value = json.loads(text.decode("utf-8"), object_pairs_hook=_unique, parse_constant=hook)
    except RecursionError:
        raise DataError(f"{where}: JSON nested too deeply") from None
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    except ValueError as error:  # JSON and UTF-8 errors
        raise DataError(f"{where}: not valid JSON ({str(error)[:120]})") from None
    if not isinstance(value, dict):
        raise DataError(f"{where}: holds a {type(value).__name__}; expected an object {{…}}")
    return value


def _read_record(directory: Path) -> dict[str, Any]:
    record = read_json(directory / "dataset.json")
    where = f"{directory.name}/dataset.json"
    if record.get("format") != FORMAT:
        raise DataError(f"{where}: format {str(record.get('format'))[:40]!r}; expected {FORMAT!r}")
    if record.get("version") != VERSION:
        raise DataError(
            f"{where}: format version {str(record.get('version'))[:20]}; this release reads version {VERSION}. Upgrade stitchrl"
        )
    if set(record) - {"frame_stack"} != _KEYS:
        odd = ", ".join(sorted(x[:40] for x in (set(record) - {"frame_stack"}) ^ _KEYS))
        raise DataError(f"{where}: unknown or missing keys: {odd[:200]}")
    if not isinstance(record["metadata"], dict) or not isinstance(record["spec"], dict):
        raise DataError(f"{where}: 'metadata' and 'spec' must be objects {{…}}")
    return record


def _stacked(frames: Any, offsets: Any, depth: Any) -> Any:
    """Observations and final observations of frames that are stored once."""
    if frames is None or isinstance(depth, bool) or not isinstance(depth, int) or not 1 <= depth <= 1_000:
        raise DataError(f"'frame_stack' is {str(depth)[:20]}; expected the number of frames to an observation, and a column 'observations'")
    return stacks_of_episodes(frames, offsets, depth)


def _check_ends(dataset: Dataset) -> None:
    """Raises DataError unless every episode, and nothing within one, ends in a terminal or a timeout."""
    ends = np.flatnonzero(np.asarray(dataset.terminals) | np.asarray(dataset.timeouts)) + 1
    if not np.array_equal(ends, dataset.offsets[1:]):
        raise DataError("'terminals' and 'timeouts' do not mark the ends of the episodes in 'offsets'; the files do not belong together")


def _write_npy(path: Path, array: np.ndarray[Any, np.dtype[Any]]) -> None:
    """Writes the array in rows of at most 16 MiB, so that a memory-mapped one is never read whole, and reaches the disk."""
    with path.open("wb") as stream:
        dtype = array.dtype.newbyteorder("<")
        header = {"descr": dtype.str, "fortran_order": False, "shape": array.shape}
        np.lib.format.write_array_header_1_0(stream, header)
        rows = max(1, _CHUNK // max(1, array[:1].nbytes))
        for start in range(0, len(array), rows):
            chunk = np.ascontiguousarray(array[start : start + rows], dtype=dtype)
            stream.write(chunk.reshape(-1).view(np.uint8).data)
        stream.flush()
        os.fsync(stream.fileno())


def _move_into_place(temporary: Path, directory: Path) -> None:
    if directory.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{directory.name}.old-", dir=directory.parent))
        os.replace(directory, old / "dataset")
        os.replace(temporary, directory)
        shutil.rmtree(old, ignore_errors=True)
    else:
        os.replace(temporary, directory)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        raise DataError(f"the key '{next(x for x in names if names.count(x) > 1)[:80]}' is written twice")
    return value


def _refuse_constant(name: str) -> Any:
    raise DataError(f"holds {name}, which is not a JSON number")
