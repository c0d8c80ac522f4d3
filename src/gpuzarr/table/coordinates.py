"""The values of coordinates, read when first asked for."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl

from gpuzarr.errors import DataError, GpuzarrError, Kind, RequestError, StoreError
from gpuzarr.metadata.model import ArrayMetadata
from gpuzarr.table.model import Column, Table
from gpuzarr.table.ordered import Ordered, OrderedValues

__all__ = ["MAX_AUXILIARY_CELLS", "MAX_COORDINATE_BYTES", "MAX_DIMENSION_CELLS", "Coordinates"]

MAX_AUXILIARY_CELLS = 2**22
"""Larger auxiliary coordinates are read chunk by chunk, like variables."""

MAX_DIMENSION_CELLS = 2**23
"""Longer coordinates of dimensions, and longer indices, are made chunk by chunk too."""

MAX_COORDINATE_BYTES = 2**28
"""Wider ones as well: fixed-width strings can take kilobytes each."""

Decoded = tuple[np.ndarray, np.ndarray | None]

Keep = Callable[[Column, Callable[[], Decoded]], Decoded]


class Coordinates:
    """Decoded values of the small coordinates of a table. Thread-safe; every array is read once, when first needed.

    Satisfies `gpuzarr.predicate.CoordinateProvider`. A pickled copy holds no values and reads them again.

    Parameters
    ----------
    table
        The table.
    read_raw
        Reads a whole array, undecoded, in its own shape; called from any thread, once per array. Masked cells become
        null. See `gpuzarr.table.whole.read_whole`.
    keep
        Gives decoded values that are kept elsewhere, or makes them with the function it is given; None to keep them here
        only. Not part of a pickled copy.
    """

    def __init__(self, table: Table, read_raw: Callable[[ArrayMetadata], np.ndarray], keep: Keep | None = None) -> None:
        self._keep = keep
        self._orders = OrderedValues()
        self._dims: dict[str, tuple[str, ...] | None] = {}
        self._table = table
        self._read_raw = read_raw
        self._cells: dict[str, _Once] = {name: _Once() for name in table.by_name}

    def emptied(self) -> Coordinates:
        """The same without values; what was found out about them stays, until they turn out to be others."""
        out = object.__new__(type(self))  # copy.copy would go through the pickle
        out.__dict__.update(self.__dict__, _cells={name: _Once() for name in self._table.by_name})
        return out

    @property
    def sizes(self) -> dict[str, int]:
        """Size of every dimension of the table, in row order."""
        return self._table.sizes

    @property
    def names(self) -> tuple[str, ...]:
        """Columns whose values are available here, in table order."""
        return tuple(c.name for c in self._table.columns if self.dims_of(c.name) is not None)

    @property
    def loaded(self) -> tuple[str, ...]:
        """Columns whose values were read."""
        return tuple(name for name, once in self._cells.items() if once.nbytes)

    @property
    def nbytes(self) -> int:
        """Bytes of the values that are kept."""
        return sum(once.nbytes for once in self._cells.values())

    def dims_of(self, column: str) -> tuple[str, ...] | None:
        """Dimensions, in table order, of a coordinate whose values are available here; else None.

        Available are coordinates of dimensions and indices of up to `MAX_DIMENSION_CELLS` elements, and auxiliary
        coordinates of up to `MAX_AUXILIARY_CELLS` cells, unless they take more than `MAX_COORDINATE_BYTES`.
        """
        if column in self._dims:
            return self._dims[column]
        found = self._table.by_name.get(column)
        if found is None:
            return None
        dims = self._dims[column] = self._held_dims(found)
        return dims

    def _held_dims(self, found: Column) -> tuple[str, ...] | None:
        if not found.is_coordinate:
            return None
        dims = self._order(found)
        limit = MAX_AUXILIARY_CELLS if found.role == "auxiliary" else MAX_DIMENSION_CELLS
        cells = math.prod(self._shape(dims))
        itemsize = 8 if found.array is None else found.array.dtype.itemsize
        return dims if cells <= limit and cells * itemsize <= MAX_COORDINATE_BYTES else None

    def holds(self, column: Column) -> bool:
        """Whether the values of this very column are available here: a field of a struct may share a coordinate's name."""
        return column.is_coordinate and self.dims_of(column.name) is not None

    def values(self, column: str) -> pl.Series:
        """Values as a Series of the column's dtype, in C order over `dims_of` the column.

        Raises
        ------
        RequestError
            The column is not available here, see `dims_of`.
        GpuzarrError
            Reading or decoding failed; the error names the array.
        """
        found = self._available(column)
        values, valid = self.numpy(column)
        if found.decoding is None:
            return pl.Series(column, values)
        flat = None if valid is None else np.ascontiguousarray(valid).reshape(-1)
        return found.decoding.to_series(column, np.ascontiguousarray(values).reshape(-1), flat)

    def numpy(self, column: str) -> Decoded:
        """Decoded values and their validity, read-only, in the shape of `dims_of` the column.

        Returns
        -------
        values : ndarray
            Of the decoding's numpy dtype (int64 for an index): ticks for times, objects for strings.
        valid : ndarray of bool or None
            None where every value is valid.

        Raises
        ------
        RequestError, GpuzarrError
            As `values`.
        """
        found = self._available(column)
        if found.role == "index":  # cheaper to make than to keep
            return np.arange(self.sizes[found.dims[0]], dtype=np.int64), None
        keep = self._keep
        if keep is not None:
            return self._cells[column].get(lambda: keep(found, lambda: self._decode(found)))
        return self._cells[column].get(lambda: self._decode(found))

    def ordered(self, column: str) -> Ordered | None:
        """Values of a coordinate along one dimension, prepared for searching; None if they are in no order.

        Raises
        ------
        RequestError, GpuzarrError
            As `values`.
        """
        found = self._available(column)
        if len(found.dims) != 1:
            return None
        if found.role == "index":
            return OrderedValues.counting(self.sizes[found.dims[0]])
        return self._orders.of(column, *self.numpy(column), found.dtype)

    def _available(self, column: str) -> Column:
        if self.dims_of(column) is None:
            have = ", ".join(map(repr, self.names)) or "none"
            message = f"{column!r} is no coordinate that is held in memory as a whole; those are {have}"
            raise RequestError(message, store=self._table.store)
        return self._table.by_name[column]

    def _order(self, column: Column) -> tuple[str, ...]:
        return tuple(name for name in self.sizes if name in column.dims)

    def _shape(self, dims: tuple[str, ...]) -> tuple[int, ...]:
        return tuple(self.sizes[name] for name in dims)

    def _decode(self, column: Column) -> Decoded:
        assert column.array is not None
        assert column.decoding is not None
        array, decoding = column.array, column.decoding
        try:
            raw = self._read_raw(array)
            if raw.shape != array.shape:
                message = f"its chunks gave values of shape {raw.shape}, not {array.shape}"
                raise DataError(message, kind=Kind.CHUNK_SIZE_MISMATCH)
            dims = self._order(column)
            raw = raw.transpose([column.dims.index(name) for name in dims])
            values = np.empty(raw.shape, decoding.numpy)
            missing = np.ma.getmask(raw)  # cells of chunks that are not stored, where that means null
            has_nulls = decoding.nullable or missing is not np.ma.nomask
            valid = np.ones(raw.shape, np.bool_) if has_nulls else None
            decoding.apply(np.ma.getdata(raw), values, valid if decoding.nullable else None)
            if valid is not None and missing is not np.ma.nomask:
                valid &= ~missing
        except GpuzarrError as error:
            raise error.located(store=self._table.store, array=array.path) from error.__cause__
        except Exception as error:
            message = f"reading this coordinate failed: {type(error).__name__}: {error}"
            raise StoreError(message, store=self._table.store, array=array.path) from error
        if valid is not None and valid.all():
            valid = None
        values.flags.writeable = False
        if valid is not None:
            valid.flags.writeable = False
        return values, valid

    def __getstate__(self) -> dict[str, Any]:
        return {"table": self._table, "read_raw": self._read_raw}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["table"], state["read_raw"])  # type: ignore[misc]

    def __repr__(self) -> str:
        return f"Coordinates({', '.join(self.names)}; {self.nbytes} bytes held)"


class _Once:
    """A value that is made by the first thread that asks; the others wait. A failure is not kept: the next one tries again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._value: Decoded | None = None

    @property
    def nbytes(self) -> int:
        if self._value is None:
            return 0
        return sum(_nbytes(part) for part in self._value if part is not None)

    def get(self, make: Callable[[], Decoded]) -> Decoded:
        value = self._value
        if value is None:
            with self._lock:
                value = self._value
                if value is None:
                    value = self._value = make()
        return value


def _nbytes(values: np.ndarray) -> int:
    if values.dtype != object:
        return values.nbytes
    return values.nbytes + sum(len(v) for v in values.flat if isinstance(v, (str, bytes)))
