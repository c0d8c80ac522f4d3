"""Columns that repeat: coordinates and variables that lack dimensions of the table, over the rows of a frame."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from gpuzarr.device.columns import (
    CellBuffer,
    Places,
    axis_map,
    constant,
    expand,
    expand_indices,
    flat_picks,
    positions,
    series_of,
)
from gpuzarr.device.frame_memory import FrameMemory
from gpuzarr.device.loading import FullLoad
from gpuzarr.plan.axis import Picks, count
from gpuzarr.plan.model import Frame, Piece, ScanPlan
from gpuzarr.predicate import F, Node, T, codes_on
from gpuzarr.table.coordinates import Coordinates
from gpuzarr.table.model import Column

__all__ = ["CoordinateColumns"]


class CoordinateColumns:
    """Makes repeated columns, and hands out the same buffer again where a frame needs the same rows.

    Frames along a leading dimension show the same latitudes and longitudes: their columns are made once and shared.

    Parameters
    ----------
    cache_bytes
        Bytes of columns kept for the next frames.
    memory
        Where new columns lie.
    """

    def __init__(
        self, plan: ScanPlan, coordinates: Coordinates, *, cache_bytes: int, memory: FrameMemory | None = None
    ) -> None:
        self.plan = plan
        self.memory = memory
        self.coordinates = coordinates
        self.dims = {d.name: i for i, d in enumerate(plan.table.dims)}
        self._cache: OrderedDict[Any, pl.Series] = OrderedDict()
        self._cache_bytes = cache_bytes
        self._cached = 0
        self._passing: list[Any] = []  # keys of columns that show positions of the leading dimension
        self._leading: Any = None
        self._numbers = pl.Series("row", np.empty(0, np.int64))
        self._lock = threading.Lock()

    def row_numbers(self, rows: int) -> pl.Series:
        """0 … rows-1 as Int64."""
        numbers = self._numbers
        if len(numbers) < rows:
            values = np.arange(rows, dtype=np.int64)
            numbers = pl.Series("row", pa.Array.from_buffers(pa.int64(), rows, [None, pa.py_buffer(values)]))
            self._numbers = numbers
        return numbers.head(rows)

    # -- whole columns -------------------------------------------------------------------------------------------

    def _axes(self, column: Column) -> tuple[int, ...]:
        """Positions of the column's dimensions in the table, ascending."""
        return axis_map(column, self.dims)[1]

    def _source(self, column: Column) -> tuple[tuple[int, ...], tuple[int, ...]]:
        axes = self._axes(column)
        return axes, tuple(self.plan.table.dims[d].size for d in axes)

    def _cells(self, column: Column, piece: Piece) -> CellBuffer:
        """Values of a coordinate over the piece's selection of its own dimensions, N-d."""
        axes, sizes = self._source(column)
        picks = tuple(piece.picks[d] for d in axes)
        if column.role == "index":  # of any length: only what is selected is made
            return CellBuffer(flat_picks(picks, sizes), None)
        values, valid = self.coordinates.numpy(column.name)
        return CellBuffer(
            _pick(values.reshape(sizes), picks), None if valid is None else _pick(valid.reshape(sizes), picks)
        )

    def whole(self, column: Column, frame: Frame) -> pl.Series:
        """A coordinate over all rows of a frame."""
        axes, sizes = self._source(column)

        def make() -> pl.Series:
            if column.decoding is not None and not column.decoding.is_fixed_width:
                numbers = [flat_picks(tuple(p.picks[d] for d in axes), sizes) for p in frame.pieces]
                return (
                    self.coordinates.values(column.name).gather(expand_indices(numbers, axes, frame)).alias(column.name)
                )
            cells = [self._cells(column, piece) for piece in frame.pieces]
            return self._expanded(column, cells, axes, frame)

        return self._shared(column, axes, frame, make)

    def whole_load(self, column: Column, load: FullLoad, frame: Frame) -> pl.Series:
        """A loaded column over all rows of a frame."""
        if load.flat is not None:
            return series_of(column, load.flat.values, load.flat.valid)
        axes = load.source.axes
        return self._shared(column, axes, frame, lambda: self._expanded(column, load.windows, axes, frame))

    def _expanded(self, column: Column, cells: list[CellBuffer], axes: tuple[int, ...], frame: Frame) -> pl.Series:
        nullable = any(c.valid is not None for c in cells)
        out = CellBuffer.empty(frame.rows, cells[0].values.dtype, nullable, self.memory)
        for piece, source in zip(frame.pieces, cells, strict=True):
            expand(source, axes, piece, out)
        return series_of(column, out.values, out.valid)

    def _shared(self, column: Column, axes: tuple[int, ...], frame: Frame, make: Any) -> pl.Series:
        identity = column.array.path if column.array is not None else column.name
        key = (identity, tuple((p.shape, *(_pick_key(p.picks[d]) for d in axes)) for p in frame.pieces))
        # Frames move on along the leading dimension: what shows its positions serves the neighbours only.
        passing = None if 0 not in axes else tuple(_pick_key(p.picks[0]) for p in frame.pieces)
        with self._lock:
            if passing is not None and passing != self._leading:
                self._leading = passing
                for old in self._passing:
                    self._forget(old)
                self._passing.clear()
            found = self._cache.get(key)
            if found is not None:
                self._cache.move_to_end(key)
                return found
        series: pl.Series = make()
        size = int(series.estimated_size())
        with self._lock:
            if key in self._cache:
                return self._cache[key]
            if size <= self._cache_bytes and (passing is None or passing == self._leading):
                self._cache[key] = series
                self._cached += size
                if passing is not None:
                    self._passing.append(key)
                while self._cached > self._cache_bytes:
                    self._forget(next(iter(self._cache)))
        return series

    def _forget(self, key: Any) -> None:
        series = self._cache.pop(key, None)
        if series is not None:
            self._cached -= int(series.estimated_size())

    # -- one value, single rows, Boolean leaves ------------------------------------------------------------------

    def scalar(self, column: Column, load: FullLoad | None, frame: Frame) -> pl.Expr | None:
        """The column as a constant, if it has the same cell in every row of the frame."""
        if column.role == "struct" or (load is not None and load.flat is not None):
            return None
        if load is None and column.role != "index" and not self.coordinates.holds(column):
            return None
        axes, sizes = self._source(column)
        picks = {tuple(_pick_key(p.picks[d]) for d in axes) for p in frame.pieces}
        first = tuple(frame.pieces[0].picks[d] for d in axes)
        if len(picks) > 1 or any(count(p) != 1 for p in first):
            return None
        if load is not None:
            cell = load.windows[0]
            valid = None if cell.valid is None else cell.valid.reshape(-1)
            return constant(series_of(column, cell.values.reshape(-1), valid))
        number = int(flat_picks(first, sizes).reshape(-1)[0])
        if column.role == "index":
            return constant(pl.Series(column.name, [number], pl.Int64))
        return constant(self.coordinates.values(column.name).slice(number, 1).alias(column.name))

    def at_rows(self, column: Column, rows: np.ndarray, frame: Frame, places: Places | None = None) -> pl.Series:
        """A coordinate at some rows of a frame, ``rows`` ascending; ``places`` are their `positions`, if at hand."""
        axes, sizes = self._source(column)
        numbers = np.empty(len(rows), np.int64)
        for _, at, absolute in positions(rows, frame) if places is None else places:
            number = np.zeros(at.stop - at.start, np.int64)
            for d, size in zip(axes, sizes, strict=True):
                number = number * size + absolute[d]
            numbers[at] = number
        if column.role == "index":
            return series_of(column, numbers, None)
        if column.decoding is not None and not column.decoding.is_fixed_width:
            return self.coordinates.values(column.name).gather(numbers).alias(column.name)
        values, valid = self.coordinates.numpy(column.name)
        return series_of(
            column, values.reshape(-1).take(numbers), None if valid is None else valid.reshape(-1).take(numbers)
        )

    def leaf(self, name: str, node: Node, frame: Frame) -> pl.Series:
        """Outcome of a coordinate-only part of the predicate in every row: Boolean, null where unknown."""
        axes = tuple(self.dims[d] for d in node.dims)
        out = CellBuffer.empty(frame.rows, np.dtype(np.uint8), nullable=False)
        for piece in frame.pieces:
            codes = codes_on(node, {d: piece.picks[self.dims[d]] for d in node.dims})
            expand(CellBuffer(np.asarray(codes), None), axes, piece, out)
        true = np.packbits(out.values == T, bitorder="little")
        known = out.values <= (T | F)
        validity = None if known.all() else pa.py_buffer(np.packbits(known, bitorder="little"))
        return pl.Series(name, pa.Array.from_buffers(pa.bool_(), frame.rows, [validity, pa.py_buffer(true)]))


def _pick(values: np.ndarray, picks: tuple[Picks, ...]) -> np.ndarray:
    at: Any = (*(p if isinstance(p, slice) else slice(None) for p in picks), ...)
    cells: np.ndarray = values[at]
    for axis, pick in enumerate(picks):
        if not isinstance(pick, slice):
            cells = cells.take(pick, axis=axis)
    return cells


def _pick_key(pick: Picks) -> Any:
    return (pick.start, pick.stop) if isinstance(pick, slice) else pick.tobytes()
