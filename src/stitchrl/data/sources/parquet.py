"""Parquet logs, one row a step; columns are named by a TableSchema, and may hold lists of one length."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stitchrl.core.errors import DataError
from stitchrl.core.spec import Spec
from stitchrl.data.dataset import Dataset
from stitchrl.data.sources.categories import code_categories
from stitchrl.data.sources.csv import frame_of
from stitchrl.data.sources.frames import MAX_COLUMNS, put_frame
from stitchrl.data.sources.isolation import Sink, extract
from stitchrl.data.sources.tables import TableSchema, build
from stitchrl.data.storage import replace_file

MAX_BYTES = 64 << 30
_LONGEST_FOOTER = 16 << 20
_MAX_RATIO, _RATIO_FREE = 1100, 256 << 20


def read(
    path: str | Path,
    *,
    schema: TableSchema | Mapping[str, Any] | str | Path | None = None,
    spec: Spec | None = None,
    metadata: Mapping[str, Any] | None = None,
    isolated: bool = True,
    max_bytes: int = MAX_BYTES,
) -> Dataset:
    """Returns the dataset of a Parquet file; without a schema its columns must have this library's own names.

    schema: a TableSchema, a mapping of its fields, or the path of a JSON or TOML file of them. isolated: read in a process of its own, so
    that a damaged file cannot crash this one. Raises ConfigError for a wrong schema, DataError with file, row and column.
    """
    path, schema = Path(path), TableSchema.told_as(schema)
    _check_footer(path)
    options = {"schema": None if schema is None else asdict(schema)}
    columns, notes = extract(extract_table, path, options, isolated, max_bytes)
    resolved = (schema or TableSchema.of_columns(notes["names"])).resolve(notes["names"])
    return build(columns, resolved, path.name, spec, {**(metadata or {}), **notes["coded"], **resolved.unread(notes["names"])})


def write(dataset: Dataset, path: str | Path) -> None:
    """Writes episode, time, obs_0 …, action …, reward, terminal, timeout; a last row an episode holds its final observation."""
    path = Path(path)
    frame = frame_of(dataset, path.name)
    replace_file(path, lambda temporary: frame.write_parquet(temporary))


def extract_table(path: Path, options: dict[str, Any], sink: Sink) -> dict[str, Any]:
    """Puts the columns that the schema in `options` needs into the sink; returns the names of all columns."""
    import polars as pl

    size = _check_footer(path)
    try:
        lazy = pl.scan_parquet(path)
        kinds = lazy.collect_schema()
        names = list(kinds)
        if len(names) > MAX_COLUMNS:
            raise DataError(f"{path.name}: {len(names):,} columns; expected at most {MAX_COLUMNS:,}")
        schema = TableSchema.of_columns(names) if options["schema"] is None else TableSchema.from_mapping(options["schema"])
        needed = schema.resolve(names)
        rows = int(lazy.select(pl.len()).collect().item())
        declared = rows * 4 * len(needed.columns())
        if declared > _RATIO_FREE and declared > _MAX_RATIO * size:
            raise DataError(f"{size:,} bytes that declare {rows:,} rows; refused as a decompression bomb")
        for name in needed.columns():
            if type(kinds[name]).__name__ in ("Extension", "BaseExtension", "Object", "Struct"):
                raise DataError(f"column '{name[:80]}' holds {str(kinds[name])[:60]}; expected numbers")
        frame, coded = code_categories(lazy.select(needed.columns()).collect(), needed, path.name)
        put_frame(frame, needed.text_columns(), path.name, sink)
        return {"names": names, "coded": coded}
    except DataError as error:
        raise DataError(f"{path.name}: {error}" if path.name not in str(error) else str(error)) from None
    except pl.exceptions.PanicException as error:
        raise DataError(f"{path.name}: damaged; the Parquet reader gave up ({' '.join(str(error).split())[:120]})") from None


def _check_footer(path: Path) -> int:
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            start = stream.read(4)
            stream.seek(max(0, size - 8))
            end = stream.read()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    if start != b"PAR1" or end[-4:] != b"PAR1" or size < 12:
        raise DataError(f"{path.name}: not a complete Parquet file (it begins with {start!r}); it is cut or of another kind")
    footer = int.from_bytes(end[:4], "little")
    if footer > min(_LONGEST_FOOTER, size - 12):
        raise DataError(f"{path.name}: its footer claims {footer:,} bytes; expected at most {min(_LONGEST_FOOTER, size - 12):,}")
    return size
