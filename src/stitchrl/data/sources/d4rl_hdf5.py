"""D4RL's HDF5 layout (Fu et al., 2020, arXiv:2004.07219): flat columns, with or without timeouts and next observations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from stitchrl.data.dataset import Dataset
from stitchrl.data.sources import arrays
from stitchrl.data.sources.hdf5_extraction import extract_flat
from stitchrl.data.sources.isolation import extract
from stitchrl.data.storage import replace_file

MAX_BYTES = 64 << 30
_CHUNK_BYTES = 1 << 18  # of rows that are compressed together
_PIECE_BYTES = 1 << 22  # of rows in memory at a time


def read(
    path: str | Path,
    *,
    infos: Sequence[str] | Literal["all"] | None = None,
    isolated: bool = True,
    max_bytes: int = MAX_BYTES,
    **options: Any,
) -> Dataset:
    """Returns the dataset of a flat HDF5 file. Options: those of `arrays.read`.

    isolated: read in a process of its own (0.3 s more), so that a damaged file cannot crash this one; its columns are then
    memory-mapped from unlinked temporary files. Raises DataError for links, outside storage, unknown filters, damage.
    """
    path = Path(path)
    chosen = infos if infos is None or infos == "all" else list(infos)
    columns, notes = extract(extract_flat, path, {"infos": chosen}, isolated, max_bytes)
    dataset = arrays.read(columns, where=path.name, infos=infos, **options)
    left_out = [name for name in notes["left_out"] if not name.startswith("metadata/")]
    if arrays.OWN_RECORD not in columns:
        arrays.leave_out(dataset.metadata, left_out)
    return dataset


def write(dataset: Dataset, path: str | Path, compression: Literal["gzip", "lzf"] | None = "gzip") -> None:
    """Writes D4RL's columns, with next_observations, so that D4RL's own readers see the same transitions; complete or not at all.

    Observations are read and written piece by piece: stacked frames take no memory to speak of.
    """
    import h5py

    columns = arrays.columns_of(dataset, finals=False)
    seen = columns.pop("observations")
    row_bytes = max(1, seen.dtype.itemsize * math.prod(seen.shape[1:]))
    chunk = min(len(seen), max(1, _CHUNK_BYTES // row_bytes))
    rows = chunk * max(1, _PIECE_BYTES // (chunk * row_bytes))  # whole chunks, each compressed once

    def write_to(temporary: str) -> None:
        with h5py.File(temporary, "w") as file:
            for name, column in columns.items():
                file.create_dataset(name, data=column, compression=compression if len(column) else None)
            chunks = (chunk, *seen.shape[1:]) if compression else None
            for name, read_rows in (("observations", seen.__getitem__), ("next_observations", dataset.next_observations)):
                made = file.create_dataset(name, seen.shape, seen.dtype, chunks=chunks, compression=compression)
                for start in range(0, len(seen), rows):
                    made[start : start + rows] = read_rows(slice(start, start + rows))

    replace_file(Path(path), write_to)
