"""D4RL's HDF5 layout (Fu et al., 2020, arXiv:2004.07219): flat columns, with or without timeouts and next observations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from stitchrl.data.dataset import Dataset
from stitchrl.data.sources import arrays
from stitchrl.data.sources.hdf5_extraction import extract_flat
from stitchrl.data.sources.isolation import extract
from stitchrl.data.storage import replace_file

MAX_BYTES = 64 << 30


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
    if left_out and arrays.OWN_RECORD not in columns:
        dataset.metadata["columns_left_out"] = [*dataset.metadata.get("columns_left_out", []), *left_out]
    return dataset


def write(dataset: Dataset, path: str | Path, compression: Literal["gzip", "lzf"] | None = "gzip") -> None:
    """Writes D4RL's columns, with next_observations, so that D4RL's own readers see the same transitions; complete or not at all."""
    import h5py

    columns = arrays.columns_of(dataset, next_observations=True)

    def write_to(temporary: str) -> None:
        with h5py.File(temporary, "w") as file:
            for name, column in columns.items():
                file.create_dataset(name, data=column, compression=compression if len(column) else None)

    replace_file(Path(path), write_to)
