"""Columns whose values only name things: numbered, or spread into one column of 0 and 1 for each value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from stitchrl.core.errors import DataError
from stitchrl.data.columns import Array
from stitchrl.data.sources.tables import TableSchema

if TYPE_CHECKING:
    import polars as pl

MOST = 1000  # values of one column; more are no categories but identifiers


def code_categories(frame: pl.DataFrame, schema: TableSchema, where: str) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Returns the frame with the categories of a resolved schema coded, and {"categories": {column: its values in order}} for the metadata.

    An action's column becomes whole numbers from 0, an observation's lists of 0 and 1; empty cells stay empty. Values that the schema
    does not tell are those of the column, sorted. Raises DataError with row (from 1) and column.
    """
    import polars as pl

    coded: dict[str, list[str]] = {}
    for name, told in schema.category_values().items():
        series = frame[name]
        if isinstance(series.dtype, pl.List | pl.Array | pl.Struct):
            raise DataError(f"{where}: column '{name[:80]}' holds {str(series.dtype)[:60]}; expected one value in each row for a category")
        distinct = series.drop_nulls().unique().sort().cast(pl.String).to_list() if told is None else told
        if len(distinct) > MOST:
            raise DataError(
                f"{where}: column '{name[:80]}' has {len(distinct):,} different values; expected at most {MOST:,} for a category"
            )
        if len(set(distinct)) < len(distinct):
            raise DataError(f"{where}: the schema tells a value of the category '{name[:80]}' twice; expected each once")
        codes = _codes(series.cast(pl.String), distinct, f"{where}: column '{name[:80]}'")
        if name in schema.actions:
            new = pl.Series(name, np.maximum(codes, 0))
        else:
            new = pl.Series(name, (codes[:, None] == np.arange(len(distinct))).astype(np.uint8))
        empty = pl.Series(codes < 0)
        frame = frame.with_columns(pl.when(~empty).then(new).alias(name) if empty.any() else new)
        coded[name] = distinct
    return frame, {"categories": coded} if coded else {}


def _codes(values: pl.Series, distinct: list[str], where: str) -> Array:
    """int64 `[N]`: the place of each value in `distinct`, -1 where the cell is empty."""
    place: dict[str | None, int] = {value: number for number, value in enumerate(distinct)} | {None: -1}
    listed = values.to_list()
    codes = np.fromiter((place.get(value, -2) for value in listed), np.int64, len(listed))
    if (codes == -2).any():
        row = int(np.argmax(codes == -2))
        raise DataError(f"{where}, row {row + 1:,}: {str(listed[row])[:40]!r} is not among the {len(distinct)} values of this category")
    return codes
