"""The sorted flag of a coordinate whose values come in order over the whole scan.

That is the coordinate of the leading dimension, where rows come in the order of that dimension: always in C order, and in
tile order where tiles are one cell deep or as wide as the table. Filters and limits keep it. Polars keeps the flags of the frames of
a source where the last value of one and the first of the next are in order as well; 1.44 drops some, 1.35 all.
"""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from gpuzarr.plan.model import ScanPlan
from gpuzarr.table import Column, Coordinates, Table

__all__ = ["flagged", "leading_column", "order_of_leading"]


def flagged(plan: ScanPlan, coordinates: Coordinates, frames: Iterator[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """The frames of a scan, with the flag set where it is right."""
    found = order_of_leading(plan.table, coordinates, plan.projection)
    if found is None:
        yield from frames
        return
    name, descending = found

    def with_flag(frame: pl.DataFrame) -> pl.DataFrame:
        at = frame.get_column_index(name)
        return frame.replace_column(at, frame.to_series(at).set_sorted(descending=descending))

    close = getattr(frames, "close", None)
    try:
        for frame in frames:
            yield with_flag(frame)
    finally:  # a closed scan stops its work at once
        if close is not None:
            close()


def order_of_leading(table: Table, coordinates: Coordinates, projection: tuple[str, ...]) -> tuple[str, bool] | None:
    """Name of the coordinate that comes in order, and whether it descends; None if there is none among the columns.

    Times, numbers and indices are looked at. A coordinate with missing values or NaN is not taken for sorted.
    """
    column = leading_column(table)
    if column is None or column.name not in projection:
        return None
    if column.role == "index":
        return column.name, False
    found = None if coordinates.dims_of(column.name) is None else coordinates.ordered(column.name)
    return None if found is None else (column.name, not found.is_ascending)


def leading_column(table: Table) -> Column | None:
    """The coordinate or index of the leading dimension, if rows come in the order of that dimension."""
    if not table.dims or not (table.tile_shape[0] == 1 or all(n <= 1 for n in table.grid_shape[1:])):
        return None
    leading = (table.dims[0].name,)
    return next((c for c in table.columns if c.role in ("dimension", "index") and c.dims == leading), None)
