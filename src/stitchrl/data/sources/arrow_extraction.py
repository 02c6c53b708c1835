"""Minari's Arrow and Parquet storage, one directory an episode, as plain columns; no extension types, no dictionaries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from stitchrl.core.errors import DataError
from stitchrl.data.columns import Array
from stitchrl.data.sources.isolation import Sink

_MAX_EPISODES = 1_000_000
_MAX_RATIO, _RATIO_FREE = 1100, 64 << 20


def extract_episodes(path: Path, options: dict[str, Any], sink: Sink) -> dict[str, Any]:
    """Puts the episodes in <path>/<number>/ into the sink, one after the other; returns their lengths.

    options as in `hdf5_extraction.extract_episodes`, and `format`: arrow or parquet. All columns have T + 1 rows there; the last
    row of all but the observations is padding.
    """
    if options["total_episodes"] > _MAX_EPISODES:
        raise DataError(f"{options['total_episodes']:,} episodes; expected at most {_MAX_EPISODES:,}")
    names = ["actions", "rewards", "terminations", "truncations"]
    names += [f"observations/{x}" for x in options["observations"]] + [f"infos/{x}" for x in options["infos"]]
    lengths = []
    for index in range(options["total_episodes"]):
        table = _read_table(path / str(index), options["format"])
        steps = table.num_rows - 1
        if steps < 1:
            raise DataError(f"episode {index:,}: {table.num_rows} rows; expected T + 1, at least 2")
        lengths.append(steps)
        for name in names:
            column = _column(table, name.rstrip("/"), f"episode {index:,}")
            if name.startswith("infos/"):
                column = column[-steps:]  # reset's infos come first
            sink.add(name, column if name.startswith("observations/") else column[:steps])
    return {"lengths": lengths}


def _read_table(directory: Path, kind: str) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = sorted(directory.glob(f"*.{kind}")) if directory.is_dir() and not directory.is_symlink() else []
    if not files or any(file.is_symlink() for file in files):
        raise DataError(
            f"episode {directory.name}: no file *.{kind} in {directory.name}/ (links are not followed); the dataset is incomplete"
        )
    tables = []
    for file in files:
        where, size = f"{directory.name}/{file.name}", file.stat().st_size
        try:
            if kind == "arrow":
                with pa.memory_map(str(file)) as source:
                    table = pa.ipc.open_file(source).read_all()
            else:
                with pq.ParquetFile(file, thrift_string_size_limit=1 << 24, thrift_container_size_limit=1 << 20) as parquet:
                    declared = sum(parquet.metadata.row_group(i).total_byte_size for i in range(parquet.metadata.num_row_groups))
                    _check_size(where, size, max(declared, parquet.metadata.num_rows))
                    table = parquet.read()
            table.validate(full=True)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DataError(f"{where}: damaged, or no {kind} file ({' '.join(str(error).split())[:120]})") from None
        _check_size(where, size, table.nbytes)
        for field in table.schema:
            _check_type(field.type, where, 0)
        tables.append(table)
    return pa.concat_tables(tables).combine_chunks() if len(tables) > 1 else tables[0].combine_chunks()


def _check_size(where: str, size: int, declared: int) -> None:
    if declared > _RATIO_FREE and declared > _MAX_RATIO * size:
        raise DataError(f"{where}: {size:,} bytes that declare {declared:,}; refused as a decompression bomb")


def _check_type(kind: Any, where: str, depth: int) -> None:
    import pyarrow as pa

    if depth > 8:
        raise DataError(f"{where}: types nested more than 8 deep")
    if isinstance(kind, pa.BaseExtensionType):
        raise DataError(f"{where}: an extension type ({str(kind)[:60]}); expected plain numbers and lists of them")
    for index in range(kind.num_fields):
        _check_type(kind.field(index).type, where, depth + 1)


def _column(table: Any, name: str, where: str) -> Array:
    import pyarrow as pa

    first, *rest = name.split("/")
    if first not in table.column_names:
        raise DataError(f"{where}: no column '{first}'; found {', '.join(table.column_names[:8])}")
    column = table.column(first)
    array = column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)
    for part in rest:
        if not pa.types.is_struct(array.type) or array.type.get_field_index(part) < 0:
            raise DataError(f"{where}: no '{name}'; found {str(array.type)[:120]}")
        array = array.field(part)
    width = None
    if pa.types.is_fixed_size_list(array.type):
        width, array = array.type.list_size, array.flatten()
    if array.null_count or not (pa.types.is_integer(array.type) or pa.types.is_floating(array.type) or pa.types.is_boolean(array.type)):
        raise DataError(
            f"{where}: '{name}' holds {str(array.type)[:60]} with {array.null_count} empty cells; expected numbers in every row"
        )
    values = np.asarray(array.to_numpy(zero_copy_only=False))
    return values if width is None else values.reshape(-1, width)
