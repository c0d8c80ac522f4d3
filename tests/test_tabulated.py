"""Filters on packed variables are asked of stored integers: the same rows as when they are asked of decoded values."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import polars as pl
import pytest
import zarr
from polars.testing import assert_frame_equal

import gpuzarr
from gpuzarr.device import host, tabulated

PACKINGS: list[dict[str, Any]] = [
    {},
    {"scale_factor": 0.5, "add_offset": -3.25},
    {"scale_factor": -0.1},
    {"add_offset": 7},
    {"_FillValue": 5, "scale_factor": 0.25},
    {"missing_value": [5, 6], "_FillValue": 7},
    {"_Unsigned": "true"},
    {"_Unsigned": "false", "scale_factor": 0.01, "_FillValue": 3},
]

FILTERS = [
    pl.col("v") > 3,
    pl.col("v") <= -1.5,
    pl.col("v").is_between(2, 9),
    (pl.col("v") < 2) | (pl.col("v") > 10),
    pl.col("v").is_null(),
    pl.col("v").is_not_null(),
    pl.col("v").cast(pl.Float64).is_in([1.0, 4.0, 5.0, 6.0]),
    pl.col("v").cast(pl.Int64, strict=False) % 2 == 0,
    pl.col("v") != pl.col("v"),
    pl.col("v") == pl.col("v"),
    ~(pl.col("v") > 0),
]


def write(path: Path, dtype: str, packing: dict[str, Any], rng: np.random.Generator, *, coordinate: bool) -> str:
    limits = np.iinfo(dtype)
    values = rng.integers(max(limits.min, -12), 13 if limits.min < 0 else 40, (40, 30)).astype(dtype)
    values[0, :2] = limits.min, limits.max
    group = zarr.open_group(path, mode="w", zarr_format=3)
    v = group.create_array(
        "v", shape=values.shape, dtype=dtype, chunks=(16, 7), fill_value=4, dimension_names=("y", "x")
    )
    v[...] = values
    v[16:32, 7:14] = 4  # not stored: the fill value
    v.attrs.update(packing)
    other = group.create_array("w", shape=values.shape, dtype="f4", chunks=(16, 7), dimension_names=("y", "x"))
    other[...] = rng.random(values.shape)
    if coordinate:
        y = group.create_array("y", shape=(40,), dtype="f8", dimension_names=("y",))
        y[...] = np.arange(40)
    return str(path)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16"])
def test_rows_are_those_of_decoded_values(dtype, tmp_path):
    rng = np.random.default_rng(8)
    used = 0
    asked = tabulated.TabulatedFilter.mask

    def counted(self: tabulated.TabulatedFilter, stored: np.ndarray) -> np.ndarray:
        nonlocal used
        used += 1
        return asked(self, stored)

    for number, packing in enumerate(PACKINGS):
        lf = gpuzarr.scan_zarr(write(tmp_path / str(number), dtype, packing, rng, coordinate=number % 2 == 0))
        everything = lf.collect()
        for keep in FILTERS:
            for columns in (["y", "x", "v", "w"], ["w"], ["v"], ["x"]):
                for gather_below in (0.0, 2.0):
                    with (
                        mock.patch.object(tabulated, "ROWS_PER_VALUE", 0),
                        mock.patch.object(host, "GATHER_BELOW", gather_below),
                        mock.patch.object(tabulated.TabulatedFilter, "mask", counted),
                    ):
                        found = lf.filter(keep).select(columns).collect()
                    assert_frame_equal(found, everything.filter(keep).select(columns))
    assert used > 200


def test_where_it_does_not_pay_or_cannot_be_known(tmp_path):
    lf = gpuzarr.scan_zarr(
        write(tmp_path / "a", "int16", {"scale_factor": 0.5}, np.random.default_rng(1), coordinate=True)
    )
    everything = lf.collect()

    def never(self: Any, stored: np.ndarray) -> np.ndarray:
        raise AssertionError

    many_runs = pl.col("v").cast(pl.Int64) % 2 == 0
    with mock.patch.object(tabulated.TabulatedFilter, "mask", never):
        assert lf.filter(pl.col("v") > 3).collect().height == everything.filter(pl.col("v") > 3).height  # few rows
        with mock.patch.object(tabulated, "ROWS_PER_VALUE", 0):
            for keep in (
                many_runs,
                (pl.col("v") > 3) & (pl.col("w") > 0.5),
                (pl.col("v") > 3) | (pl.col("y") > 20),
                pl.col("v").cast(pl.Int8, strict=True) > 3,  # raises for values that may be in no row
            ):
                try:
                    expected = everything.filter(keep)
                except pl.exceptions.PolarsError:
                    with pytest.raises(pl.exceptions.PolarsError):
                        lf.filter(keep).collect()
                else:
                    assert_frame_equal(lf.filter(keep).collect(), expected)
            null = gpuzarr.scan_zarr(str(tmp_path / "a"), on_missing="null")
            assert_frame_equal(null.filter(pl.col("v") == 2).collect(), null.collect().filter(pl.col("v") == 2))


def test_a_struct_of_one_variable_of_its_own_name_is_no_packed_variable(tmp_path):
    path = write(tmp_path / "a", "int8", {}, np.random.default_rng(1), coordinate=True)
    inner = (
        zarr.open_group(path, mode="a")
        .create_group("s")
        .create_array("s", shape=(40, 30), dtype="i1", chunks=(16, 7), dimension_names=("y", "x"))
    )
    inner[...] = np.random.default_rng(2).integers(0, 9, (40, 30))
    inner.attrs["_FillValue"] = 5
    lf = gpuzarr.scan_zarr(path, groups="struct")
    everything = lf.collect()
    with mock.patch.object(tabulated, "ROWS_PER_VALUE", 0):
        for keep in (pl.col("s").is_null(), pl.col("s").is_not_null(), pl.col("s").struct.field("s").is_null()):
            assert_frame_equal(lf.filter(keep).collect(), everything.filter(keep))


def test_polars_may_panic_for_values_that_are_in_no_row(tmp_path):
    path = write(tmp_path / "a", "int16", {}, np.random.default_rng(1), coordinate=True)
    zarr.open_group(path, mode="a")["v"][...] = 0
    lf = gpuzarr.scan_zarr(path)
    times = (pl.col("v").cast(pl.Int64, strict=False) * 10**14).cast(pl.Datetime("ms"), strict=False)
    keep = times.dt.to_string("iso") >= "1970"
    every = pl.DataFrame({"v": np.arange(-(2**15), 2**15).astype("i2")})
    with pytest.raises(pl.exceptions.PanicException):
        every.select(keep)
    with mock.patch.object(tabulated, "ROWS_PER_VALUE", 0):
        assert_frame_equal(lf.filter(keep).collect(), lf.collect())
