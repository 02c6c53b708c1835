"""Readers and writers of files, one module a format, each `read(path, **options) -> Dataset`; `read` here picks by what the path holds."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, cast

from stitchrl.core.errors import DataError
from stitchrl.data.dataset import Dataset

_BY_SUFFIX = {
    ".npz": "npz",
    ".hdf5": "d4rl_hdf5",
    ".h5": "d4rl_hdf5",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".csv.gz": "csv",
}
_OPTIONS_OF = {
    "schema": "tables (CSV, Parquet; on the command line --schema and --table.…)",
    "observation_keys": "logs of Minari",
    "episode_length": "NPZ and HDF5",
}
_BY_START = {b"PK\x03\x04": "npz", b"\x89HDF": "d4rl_hdf5", b"PAR1": "parquet"}


def read(path: str | Path, **options: Any) -> Dataset:
    """Returns the dataset at `path`: a saved dataset's or Minari's directory, or a file known by its suffix, else by its first bytes.

    Options are those of the format's own `read`. Raises DataError where nothing is there, or of no known kind.
    """
    path = Path(path)
    if path.is_dir():
        if (path / "dataset.json").is_file():
            if options:
                raise DataError(f"{path}: a saved dataset takes no options; found {', '.join(options)}")
            return Dataset.open(path)
        if (path / "data" / "metadata.json").is_file() or (path / "metadata.json").is_file():
            return _call("minari", "read", path, options)
        raise DataError(f"{path}: a directory with neither dataset.json (a saved dataset) nor data/metadata.json (Minari's)")
    if not path.exists():
        raise DataError(f"{path}: no such file or directory")
    return _call(_format(path, look=True), "read", path, options)


def check_known(path: Path) -> None:
    """Raises DataError where `write` knows no format of the path's suffix: told before the work that is to be written there."""
    if path.suffix:
        _format(path, look=False)


def write(dataset: Dataset, path: str | Path, **options: Any) -> None:
    """Writes the dataset in the format of the path's suffix; without a suffix, as a directory that opens memory-mapped.

    Minari's directories are written by `sources.minari.write`. Raises DataError.
    """
    path = Path(path)
    if not path.suffix:
        dataset.save(path, **options)
    else:
        _call(_format(path, look=False), "write", path, options, dataset)


def _format(path: Path, look: bool) -> str:
    name = path.name.lower()
    for suffix, format_name in _BY_SUFFIX.items():
        if name.endswith(suffix):
            return format_name
    if look:
        with path.open("rb") as stream:
            start = stream.read(4)
        if start in _BY_START:
            return _BY_START[start]
    raise DataError(f"{path}: of no known kind; expected {', '.join(_BY_SUFFIX)}, or a directory")


def _call(format_name: str, verb: str, path: Path, options: dict[str, Any], *before: Dataset) -> Dataset:
    module = importlib.import_module(f"{__name__}.{format_name}")
    function = getattr(module, verb)
    try:
        return cast(Dataset, function(*before, path, **options))
    except TypeError as error:
        if "unexpected keyword" in str(error):
            name = str(error).rsplit("argument ", 1)[-1]
            of = next((f"; {kinds} have it" for option, kinds in _OPTIONS_OF.items() if f"'{option}'" == name), "")
            raise DataError(
                f"{path.name}: got an unexpected keyword argument {name} for a log of its kind ({format_name}){of}; "
                f"see stitchrl.data.sources.{format_name}.{verb}"
            ) from None
        raise
