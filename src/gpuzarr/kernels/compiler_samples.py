"""Awkward values of a type, and whether a program gives on them what Polars gives."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from gpuzarr.kernels.descriptors import Instruction
from gpuzarr.kernels.program import Domain, cell_type, numpy_type
from gpuzarr.kernels.twin_predicate import evaluate

__all__ = ["agrees_number", "agrees_outcome", "random_rows", "sample_values"]

_FLOATS = (
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    1.5,
    2.0,
    3.0,
    math.nan,
    math.inf,
    -math.inf,
    1e30,
    -1e30,
    1e-30,
    16777217.0,
    2.0**53,
    0.1,
)
_WHOLE = (0, 1, -1, 2, 3, 7, 100)


def sample_values(dtype: pl.DataType, near: Sequence[Any], *, many: bool) -> pl.Series:
    """Values of a type: extremes, neighbours of given constants, null; ``many`` adds random ones.

    Raises
    ------
    ValueError
        A type that is not among those of columns in device memory.
    """
    kind = cell_type(dtype)
    if kind is None:
        raise ValueError(f"no sample of type {dtype}")
    rng = np.random.default_rng(7)
    number: np.dtype[Any] = numpy_type(kind)
    numbers = [value for constant in near if (value := _as_number(constant, dtype)) is not None]
    if kind.domain == Domain.FLOAT:
        found = np.array(_float_values(numbers, number), number)
        if many:
            spread = [1.0, *(abs(v) for v in numbers if math.isfinite(v) and v)]
            random = np.concatenate([rng.normal(0, s, 100) for s in spread[:4]])
            with np.errstate(over="ignore"):
                found = np.concatenate([found, random.astype(number)])
    else:
        info = np.iinfo(number)
        whole = {info.min, info.min + 1, info.max, info.max - 1, info.max // 2, *_WHOLE, 2**31, 2**53, 2**53 + 1}
        for value in numbers:
            if math.isfinite(value):
                whole |= {math.floor(value) + d for d in (-1, 0, 1, 2)}
        if dtype.is_temporal():
            whole -= {info.min, info.min + 1}  # not among the values of a time
        found = np.array(sorted(v for v in whole if info.min <= v <= info.max), number)
        if many:
            found = np.concatenate([found, rng.integers(info.min, info.max, 60, number, endpoint=True)])
            found = np.concatenate([found, rng.integers(max(info.min, -200), min(info.max, 200), 60).astype(number)])
    series = pl.Series("x", found).cast(dtype) if dtype.is_temporal() else pl.Series("x", found, dtype=dtype)
    return pl.concat([series, pl.Series("x", [None], dtype=dtype)])


def random_rows(types: Mapping[str, pl.DataType], near: Sequence[Any], rows: int) -> pl.DataFrame:
    """Rows of such values, drawn at random but the same each time."""
    rng = np.random.default_rng(11)
    columns = []
    for name, dtype in types.items():
        if dtype == pl.Boolean:
            values = pl.Series(name, [True, False, None], dtype=pl.Boolean)
        else:
            values = sample_values(dtype, near, many=False)
        columns.append(values.gather(rng.integers(0, len(values), rows)).alias(name))
    return pl.DataFrame(columns)


def agrees_outcome(
    steps: Sequence[bytes], names: Sequence[str], codes: Collection[str], rows: pl.DataFrame, expression: pl.Expr
) -> bool:
    """Whether instructions give the outcomes of an expression."""
    expected = rows.select(expression.alias("x")).to_series()
    if expected.dtype != pl.Boolean:
        return False
    is_true, is_null, numbers = _evaluated(steps, names, codes, rows)
    if len(expected) != rows.height:
        expected = expected.new_from_index(0, rows.height) if len(expected) == 1 else expected
    null = expected.is_null().to_numpy()
    true = expected.fill_null(False).to_numpy()
    return not numbers and len(true) == len(is_true) and bool((is_true == true).all() and (is_null == null).all())


def agrees_number(
    steps: Sequence[bytes], names: Sequence[str], rows: pl.DataFrame, expression: pl.Expr, dtype: pl.DataType
) -> bool:
    """Whether instructions compute what an expression computes, bit for bit but for the kind of NaN."""
    expected = rows.select(expression.alias("x")).to_series()
    _, _, numbers = _evaluated(steps, names, (), rows)
    if expected.dtype != dtype or len(numbers) != 1 or len(expected) != rows.height:
        return False
    kind = cell_type(dtype)
    assert kind is not None
    cells, known = numbers[0]
    number = numpy_type(kind)
    with np.errstate(all="ignore"):
        found = _of_domain(cells, kind.domain).astype(number)
    wanted, valid = _numpy(expected, number)
    if not (known == valid).all():
        return False
    a, b = found[known], wanted[known]
    same = a.view(f"u{number.itemsize}") == b.view(f"u{number.itemsize}")
    if number.kind == "f":
        same |= np.isnan(a) & np.isnan(b)
    return bool(same.all())


def _evaluated(steps: Sequence[bytes], names: Sequence[str], codes: Collection[str], rows: pl.DataFrame) -> Any:
    def column(number: int, dtype: np.dtype[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
        series = rows[names[number]]
        values, valid = _numpy(series, dtype)
        if names[number] in codes:
            values = np.where(valid, np.where(values != 0, 1, 2), 4).astype(np.uint8)
            valid = np.ones_like(valid)
        return values, valid

    return evaluate([Instruction.from_buffer_copy(step) for step in steps], column, rows.height)


def _numpy(series: pl.Series, dtype: np.dtype[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """Values (zero where null) and validity."""
    valid = series.is_not_null().to_numpy()
    physical = series.cast(pl.UInt8) if series.dtype == pl.Boolean else series.to_physical()
    return physical.fill_null(0).to_numpy().astype(dtype), valid


def _of_domain(cells: npt.NDArray[Any], domain: Domain) -> npt.NDArray[Any]:
    return cells.view({Domain.SIGNED: "i8", Domain.UNSIGNED: "u8", Domain.FLOAT: "f8"}[domain])


def _float_values(near: Sequence[float], number: np.dtype[Any]) -> list[float]:
    values = list(_FLOATS)
    with np.errstate(all="ignore"):
        for value in near:
            centre = number.type(value)
            values += [float(centre), float(np.nextafter(centre, np.inf)), float(np.nextafter(centre, -np.inf))]
    return values


def _as_number(value: Any, dtype: pl.DataType) -> float | int | None:
    """A constant as a number that a column of this type could be compared with."""
    if isinstance(value, (dt.date, dt.timedelta)):
        if not dtype.is_temporal():
            return None
        try:
            found: int | None = pl.Series([value]).cast(dtype).to_physical().item()
        except pl.exceptions.PolarsError:
            return None
        return found
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value
