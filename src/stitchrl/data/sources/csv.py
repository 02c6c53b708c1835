"""CSV logs, one row a step, plain or gzipped; columns are named by a TableSchema."""

from __future__ import annotations

import csv as standard_csv
import gzip
import io
import itertools
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from stitchrl.core.errors import DataError
from stitchrl.core.spec import Spec
from stitchrl.data.dataset import Dataset
from stitchrl.data.sources.categories import code_categories
from stitchrl.data.sources.frames import MAX_COLUMNS, put_frame
from stitchrl.data.sources.isolation import Sink
from stitchrl.data.sources.table_rows import rows_of
from stitchrl.data.sources.tables import TableSchema, build
from stitchrl.data.storage import replace_file

MAX_BYTES = 16 << 30
_LONGEST_HEADER = 1 << 20


def read(
    path: str | Path,
    *,
    schema: TableSchema | Mapping[str, Any] | str | Path | None = None,
    spec: Spec | None = None,
    metadata: Mapping[str, Any] | None = None,
    max_bytes: int = MAX_BYTES,
) -> Dataset:
    """Returns the dataset of a CSV file; without a schema its columns must have this library's own names.

    schema: a TableSchema, a mapping of its fields, or the path of a JSON or TOML file of them. Raises ConfigError for one that is wrong,
    DataError with file, row (the first below the header is 1) and column.
    """
    import polars as pl

    path = Path(path)
    source = _source(path, max_bytes)
    names = _names(source, path)
    resolved = _resolve(TableSchema.told_as(schema), names, path.name)
    frame = None
    for looked_at in (10_000, None):  # a column may look whole for long, and then not be
        try:
            if isinstance(source, io.BytesIO):
                source.seek(0)
            frame = pl.read_csv(source, columns=resolved.columns(), infer_schema_length=looked_at, low_memory=False)
            break
        except (pl.exceptions.PolarsError, OSError, UnicodeError) as error:
            if looked_at is None:
                text = " ".join(str(error).split())[:160]
                raise DataError(
                    f"{path.name}: not readable as CSV ({text}). Each row needs one cell for each of {len(names)} columns"
                ) from None
        except pl.exceptions.PanicException as error:
            raise DataError(f"{path.name}: damaged; the CSV reader gave up ({str(error)[:120]})") from None
    assert frame is not None
    frame = _without_blank_end(frame, source)
    if any(frame.null_count().row(0)):
        _check_cells(source, len(names), path.name)
    sink = Sink(None, max_bytes)
    for name, kind in frame.schema.items():  # "nan" and "inf" make a column text; they are numbers, for the examination to find
        if kind == pl.String and name not in resolved.text_columns():
            numbers = frame[name].cast(pl.Float64, strict=False)
            if numbers.null_count() == frame[name].null_count():
                frame = frame.with_columns(numbers)
    frame, coded = code_categories(frame, resolved, path.name)
    put_frame(frame, resolved.text_columns(), path.name, sink)
    return build(sink.columns(), resolved, path.name, spec, {**(metadata or {}), **coded, **resolved.unread(names)})


def write(dataset: Dataset, path: str | Path) -> None:
    """Writes episode, time, obs_0 …, action …, reward, terminal, timeout; a last row an episode holds its final observation."""
    path = Path(path)
    frame = frame_of(dataset, path.name)
    replace_file(path, lambda temporary: frame.write_csv(temporary))


def frame_of(dataset: Dataset, where: str) -> Any:
    """Returns the polars frame of a dataset's table, with its empty cells."""
    import polars as pl

    table, empty = rows_of(dataset, where)
    frame = pl.DataFrame(table)
    masks = {name: pl.Series(mask) for name, mask in empty.items()}
    return frame.with_columns([pl.when(~masks[name]).then(pl.col(name)).alias(name) for name in masks])


def _without_blank_end(frame: Any, source: Path | io.BytesIO) -> Any:
    """Returns a frame without the rows of empty cells that blank lines at the file's end became."""
    with _stream(source) as stream:
        stream.seek(max(0, stream.seek(0, io.SEEK_END) - (1 << 16)))
        blank = sum(1 for _ in itertools.takewhile(lambda line: not line.strip(), reversed(stream.read().split(b"\n")[:-1])))
    last = frame.height
    while blank and last and all(cell is None for cell in frame.row(last - 1)):
        last, blank = last - 1, blank - 1
    return frame.head(last)


def _source(path: Path, max_bytes: int) -> Path | io.BytesIO:
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            zipped = stream.read(2) == b"\x1f\x8b"
        if not zipped:
            if size > max_bytes:
                raise DataError(f"{path.name}: {size:,} bytes; expected at most {max_bytes:,}. Raise max_bytes, or convert to Parquet")
            return path
        limit = min(max_bytes, max(256 << 20, 200 * size))
        plain = io.BytesIO()
        with gzip.open(path) as unzipped:
            while piece := unzipped.read(4 << 20):
                plain.write(piece)
                if plain.tell() > limit:
                    raise DataError(f"{path.name}: {size:,} bytes that unpack to over {limit:,}; refused as a decompression bomb")
        return plain
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None


def _stream(source: Path | io.BytesIO) -> IO[bytes]:
    """Returns the source's bytes from their beginning, in a stream of its own."""
    return io.BytesIO(source.getvalue()) if isinstance(source, io.BytesIO) else source.open("rb")


def _names(source: Path | io.BytesIO, path: Path) -> list[str]:
    import polars as pl

    with _stream(source) as stream:
        start = stream.readline(_LONGEST_HEADER + 1)
    if len(start) > _LONGEST_HEADER or not start.strip():
        raise DataError(
            f"{path.name}: its first line is {'empty' if not start.strip() else 'over 1 MiB long'}; expected the names of columns"
        )
    try:
        names = pl.read_csv(io.BytesIO(start), n_rows=0).columns
    except (pl.exceptions.PolarsError, UnicodeError) as error:
        raise DataError(f"{path.name}: its first line is not the names of columns ({str(error)[:120]})") from None
    if len(names) > MAX_COLUMNS:
        raise DataError(f"{path.name}: {len(names):,} columns; expected at most {MAX_COLUMNS:,}")
    twice = next((x for x in names if re.search(r"_duplicated_\d+$", x)), None)
    if twice is not None:
        raise DataError(f"{path.name}: the column '{twice.rsplit('_duplicated_', 1)[0]}' appears twice. Rename one")
    return names


def _check_cells(source: Path | io.BytesIO, width: int, where: str) -> None:
    """Raises DataError where a row has fewer cells than the table has columns: cells that are left out are not empty cells."""
    with _stream(source) as stream:
        row = 0  # the header
        while lines := stream.readlines(16 << 20):
            data = b"".join(lines)
            if b'"' in data:  # commas within quotes do not count
                cells = np.array([len(x) or width for x in standard_csv.reader(io.StringIO(data.decode("utf-8", "replace")))])
            else:
                places = np.frombuffer(data if data.endswith(b"\n") else data + b"\n", np.uint8)
                ends = np.flatnonzero(places == ord("\n"))
                before = np.cumsum(places == ord(","))[ends]
                cells = np.diff(before, prepend=0) + 1
                lengths = np.diff(ends, prepend=-1)
                blank = (lengths == 1) | ((lengths == 2) & (places[ends - 1] == ord("\r")))
                cells[blank] = width  # polars takes them for rows of empty cells, or for none
            wrong = np.flatnonzero(cells != width)
            if len(wrong):
                raise DataError(f"{where}: row {row + int(wrong[0]):,} has {cells[wrong[0]]} cells; expected {width}, one for each column")
            row += len(cells)


def _resolve(schema: TableSchema | None, names: list[str], where: str) -> TableSchema:
    try:
        return (schema or TableSchema.of_columns(names)).resolve(names)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
