"""Polars frames as NumPy columns: text only where it names things, empty cells told apart, lists of one length as rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from stitchrl.core.errors import DataError
from stitchrl.data.columns import Array
from stitchrl.data.sources.isolation import Sink
from stitchrl.data.sources.tables import EMPTY

if TYPE_CHECKING:
    import polars as pl

MAX_COLUMNS = 10_000


def put_frame(frame: pl.DataFrame, text: Sequence[str], where: str, sink: Sink) -> None:
    """Puts each column of a frame into the sink, and a bool column EMPTY + name where cells are empty. Raises DataError."""
    for series in frame.get_columns():
        if series.null_count():
            sink.add(EMPTY + series.name, series.is_null().to_numpy())
        sink.add(series.name, _numbers(series, series.name in text, f"{where}: column '{series.name[:80]}'"))


def _numbers(series: pl.Series, text: bool, where: str) -> Array:
    import polars as pl

    kind = series.dtype
    if isinstance(kind, pl.List | pl.Array):
        return _lists(series, where)
    if kind in (pl.String, pl.Categorical, pl.Enum):
        if not text:
            raise _not_numbers(series, where)
        codes = {value: code for code, value in enumerate(series.unique(maintain_order=True).to_list())}
        return np.fromiter((codes[x] for x in series.to_list()), dtype=np.int64, count=len(series))
    if kind.is_temporal():
        return series.to_physical().cast(pl.Int64).fill_null(0).to_numpy()
    if kind == pl.Null:
        return np.zeros(len(series), dtype=np.float32)
    if kind == pl.Boolean:
        return series.fill_null(False).to_numpy()
    if not kind.is_numeric():
        raise DataError(f"{where} holds {kind}; expected numbers. Encode it first")
    if kind.is_decimal():
        series = series.cast(pl.Float64)
    return np.asarray(series.fill_null(0).to_numpy())


def _lists(series: pl.Series, where: str) -> Array:
    import polars as pl

    if isinstance(series.dtype, pl.Array):
        series = series.arr.to_list()
    inner = series.dtype.inner if isinstance(series.dtype, pl.List) else None
    if inner is None or not (inner.is_numeric() or inner == pl.Boolean):
        raise DataError(f"{where} holds {str(series.dtype)[:80]}; expected numbers, or lists of them of one length")
    lengths = series.list.len()
    width = lengths.drop_nulls().first()
    if not isinstance(width, int) or not width:
        raise DataError(f"{where} holds empty lists; expected numbers in each row")
    ragged = (lengths != width).fill_null(False)
    if ragged.any():
        row = int(np.flatnonzero(ragged.to_numpy())[0])
        raise DataError(f"{where}, row {row + 1:,}: a list of {lengths[row]} numbers; expected {width}, as in the first row")
    values = series.drop_nulls().explode()
    if values.null_count():
        raise DataError(f"{where}: {values.null_count():,} empty places within its lists; expected numbers")
    full = np.zeros((len(series), width), values.to_numpy()[:0].dtype)
    full[series.is_not_null().to_numpy()] = values.to_numpy().reshape(-1, width)
    return full


def _not_numbers(series: pl.Series, where: str) -> DataError:
    import polars as pl

    values = series.cast(pl.String)
    wrong = values.is_not_null() & values.cast(pl.Float64, strict=False).is_null()
    if not wrong.any():
        return DataError(f"{where} holds numbers written as text; expected numbers. Store the column as numbers")
    row = int(np.flatnonzero(wrong.to_numpy())[0])
    return DataError(f"{where}, row {row + 1:,}: the text {str(values[row])[:40]!r}; expected a number. Encode the column as numbers first")
