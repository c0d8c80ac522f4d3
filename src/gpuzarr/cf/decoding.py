"""From the raw values of an array to the values and validity of a column."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from gpuzarr.cf import series
from gpuzarr.cf.blocks import blocks, flattened
from gpuzarr.cf.times import TimeCode, TimeUnit
from gpuzarr.errors import DataError, Kind

__all__ = ["Decoding", "TimeUnit"]

_FEW_FILLS = 8  # one pass each; more are looked up


@dataclass(frozen=True)
class Decoding:
    """How the raw values of one array become the values of a column. Made by `decoding_for`.

    For numbers the steps are, in this order: reinterpret as `stored`; missing where equal to one of `fills`, or NaN if `nan`;
    convert to `computed`; times `scale`; plus `offset`; then ticks (`time`), truth (`truth`) or a conversion to `numpy`.

    Parameters
    ----------
    dtype
        Type of the column.
    numpy
        Type of the values in memory: int64 ticks for Datetime and Duration, complex for Struct{real, imag}, object for String and Binary.
    nullable
        Whether a value can be missing.
    identity
        Whether raw bytes are column bytes and nothing is missing.
    raw
        Native type of the decoded chunks.
    stored
        Type of the numbers after ``_Unsigned``; otherwise `raw`.
    fills
        Missing values, in `stored`, or in `computed` if `fills_computed`: 64-bit integers are compared after the conversion to float, as xarray does.
    nan, nan_computed
        Whether NaN is missing as stored, and as computed (before `numpy`).
    computed
        Type in which `scale` and `offset` are applied, each rounded once.
    text
        Encoding of bytes that are text (``_Encoding``).
    path
        Path of the array, for messages; no part of equality.
    """

    dtype: pl.DataType
    numpy: np.dtype[Any]
    nullable: bool
    identity: bool
    raw: np.dtype[Any]
    stored: np.dtype[Any]
    computed: np.dtype[Any]
    fills: tuple[Any, ...] = ()
    fills_computed: bool = False
    nan: bool = False
    nan_computed: bool = False
    scale: float | None = None
    offset: float | None = None
    time: TimeCode | None = None
    truth: bool = False
    text: str | None = None
    path: str = field(default="", compare=False)

    @property
    def is_fixed_width(self) -> bool:
        """Whether every value takes the same bytes in one buffer: not for String, Binary and Struct."""
        return self.numpy.kind not in "Oc"

    @property
    def arrow_type(self) -> pa.DataType:
        """Arrow type of the column."""
        return series.arrow_type(self.dtype)

    def apply(self, raw: NDArray[Any], out: NDArray[Any], valid: NDArray[np.bool_] | None) -> None:
        """Decode raw values.

        Parameters
        ----------
        raw
            Values of a decoded chunk or a part of one, any strides.
        out
            Destination of type `numpy` and the shape of `raw`, any strides.
        valid
            Destination of the validity, same shape as `out`; may be None if nobody asks. What `out` holds where it is False is undefined.

        Raises
        ------
        DataError
            ``VALUE_OUT_OF_RANGE``: a time that is not missing does not fit the time unit.
        """
        if self.identity:
            np.copyto(out, raw)
            if valid is not None:
                valid[...] = True
            return
        if out.size == 0:
            return
        if not self.nullable and valid is not None:
            valid[...] = True
            valid = None
        try:
            if self.numpy.kind == "O":
                self._objects(raw, out, valid)
                return
            raw = raw.view(self.stored) if raw.dtype != self.stored else raw
            if valid is None:
                raw, out = flattened((raw, out))
            else:
                raw, out, valid = flattened((raw, out, valid))
            with np.errstate(all="ignore"):  # overflow is infinity, as in xarray; missing cells may hold anything
                for index in blocks(out.shape):
                    self._numbers(raw[index], out[index], None if valid is None else valid[index])
        except DataError as error:
            raise error.located(array=self.path) from error

    def scalar(self, raw: Any) -> tuple[Any, bool]:
        """Decode one raw value, such as a fill value.

        Parameters
        ----------
        raw
            As `ArrayMetadata.fill_value` has it; None counts as zero or empty.

        Returns
        -------
        value
            numpy scalar of type `numpy`, ``str`` or ``bytes``.
        valid
            False if the value is missing.
        """
        cell = np.zeros(1, dtype=self.raw)
        if self.raw.kind == "O":
            cell[...] = raw if raw is not None else "" if isinstance(self.dtype, pl.String) else b""
        elif raw is not None and self.raw.kind in "Mm" and not isinstance(raw, (np.datetime64, np.timedelta64)):
            cell.view(np.int64)[...] = raw
        elif raw is not None:
            cell[...] = raw
        out, valid = np.zeros(1, dtype=self.numpy), np.ones(1, dtype=np.bool_)
        self.apply(cell, out, valid)
        return out[0], bool(valid[0])

    def to_series(self, name: str, values: NDArray[Any], valid: NDArray[np.bool_] | None) -> pl.Series:
        """Column of decoded values.

        Parameters
        ----------
        values
            1-D, C-contiguous, of type `numpy`. Fixed-width values are handed over without a copy and must not change afterwards.
        valid
            As `apply` wrote it; None where every value is valid.
        """
        return series.to_series(name, values, valid, self.dtype)

    def _numbers(self, raw: NDArray[Any], out: NDArray[Any], valid: NDArray[np.bool_] | None) -> None:
        """One piece: `valid` is None only if nobody asks for it or nothing can be missing."""
        scaled = self.scale is not None or self.offset is not None
        if (scaled or self.time is not None) and not out.flags.c_contiguous:
            packed = np.empty(out.shape, dtype=out.dtype)  # several passes are cheaper beside each other
            self._numbers(raw, packed, valid)
            np.copyto(out, packed)
            return
        if self.time is not None and valid is None:
            valid = np.empty(out.shape, dtype=np.bool_)
        fresh = True
        if valid is not None and not self.fills_computed:
            fresh = self._mark(raw, self.fills, self.nan, valid, fresh)
        if not scaled and self.computed == self.stored:
            values = raw
        else:
            values = out if out.dtype == self.computed else np.empty(out.shape, dtype=self.computed)
            np.copyto(values, raw, casting="unsafe")
        if valid is not None and self.fills_computed:
            fresh = self._mark(values, self.fills, False, valid, fresh)
        if self.scale is not None:
            np.multiply(values, self.scale, out=values)
        if self.offset is not None:
            np.add(values, self.offset, out=values)
        if valid is not None:
            fresh = self._mark(values, (), self.nan_computed, valid, fresh)
            if fresh:
                valid[...] = True
        if self.time is not None:
            assert valid is not None
            self.time.convert(values, out, valid)
        elif self.truth:
            np.not_equal(values, 0, out=out)
        elif values is not out:
            np.copyto(out, values, casting="unsafe")

    def _mark(
        self, values: NDArray[Any], fills: tuple[Any, ...], nan: bool, valid: NDArray[np.bool_], fresh: bool
    ) -> bool:
        """Clear `valid` at missing values; `fresh` says that it holds nothing yet, the return value whether that is still so."""
        if len(fills) > _FEW_FILLS:
            valid[...] = np.isin(values, np.array(fills, dtype=values.dtype), invert=True)
            fills, fresh = (), False
        tests: list[tuple[np.ufunc, Any]] = [(np.not_equal, values.dtype.type(fill)) for fill in fills]
        if nan:
            tests.append((np.equal, values))
        for test, other in tests:
            if fresh:
                test(values, other, out=valid)
                fresh = False
            else:
                np.logical_and(valid, test(values, other), out=valid)
        return fresh

    def _objects(self, raw: NDArray[Any], out: NDArray[Any], valid: NDArray[np.bool_] | None) -> None:
        out[...] = raw
        if self.text is not None:
            try:
                for index, value in np.ndenumerate(out):
                    out[index] = value.decode(self.text)
            except (UnicodeError, LookupError) as error:  # the latter for codecs from bytes to bytes
                message = f"a value is not text in {self.text!r}; pass decode_cf=False to get its bytes"
                raise DataError(message, kind=Kind.CHUNK_DECODE, array=self.path) from error
        if valid is not None:
            valid[...] = True
            for fill in self.fills:
                np.logical_and(valid, (out != fill).astype(np.bool_), out=valid)
