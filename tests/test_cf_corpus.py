"""Every array that xarray opens in the corpus of real stores, decoded from the values that zarr-python reads."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import polars as pl
import xarray as xr
import zarr
from support_cf import column
from support_stores import FolderStore
from test_cf_times import NAT, microseconds

from gpuzarr.cf import decoding_for, with_inherited_attributes
from gpuzarr.errors import DataError
from gpuzarr.metadata import open_node
from gpuzarr.metadata.model import GroupMetadata
from gpuzarr.table.characters import with_joined_characters

MOST_CELLS = 2**21


def test_every_array_of_the_corpus_equals_xarray(corpus: Path) -> None:
    compared = 0
    for entry in json.loads((corpus / "manifest.json").read_text())["entries"]:
        for group, facts in entry["facts"]["groups"].items():
            if facts.get("tables"):
                compared += compare(corpus / entry["path"], "" if group == "." else group)
    assert compared > 200


def compare(store: Path, path: str) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dataset = xr.open_zarr(store, group=path or None, chunks=None)
            stored = zarr.open_group(store, path=path, mode="r")
        except Exception:
            return 0
    node = open_node(FolderStore(store), path)
    assert isinstance(node, GroupMetadata)
    arrays = with_inherited_attributes(with_joined_characters(node.arrays))
    compared = 0
    for name in dataset.variables:
        array, oracle = arrays[name], dataset[name]
        if array.shape != oracle.shape or oracle.size > MOST_CELLS:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = oracle.values.reshape(-1)
            raw = np.asarray(stored[name][...])
        raw = raw.astype(object) if raw.dtype.kind == "T" else raw.astype(raw.dtype.newbyteorder("="))
        if raw.shape != oracle.shape:
            raw = np.ascontiguousarray(raw).view(f"S{raw.shape[-1]}")[..., 0]
        check(f"{store.name}/{path}/{name}", array, raw, expected)
        compared += 1
    return compared


def check(where: str, array: object, raw: np.ndarray, expected: np.ndarray) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # 360_day stays numeric
        options = {"decode_cf": True, "nan_to_null": False}
        decoding = decoding_for(array, time_unit="ns", **options)
        try:
            got = column(decoding, raw)
        except DataError:  # out of the range of nanoseconds
            got = column(decoding_for(array, time_unit="us", **options), raw)
    if expected.dtype.kind == "M":
        assert (
            got.to_physical().fill_null(NAT).to_list()
            == expected.astype(f"M8[{got.dtype.time_unit}]").view(np.int64).tolist()
        ), where
    elif isinstance(got.dtype, pl.Datetime):
        assert got.dt.cast_time_unit("us").to_physical().to_list() == [microseconds(date) for date in expected], where
    elif got.dtype in (pl.String, pl.Binary):
        assert got.to_list() == [v if isinstance(v, str | bytes) else None for v in expected.tolist()], where
    elif expected.dtype.kind == "O":  # dates of 360_day
        assert got.dtype.is_numeric(), where
    else:
        assert got.drop_nulls().to_numpy().dtype == expected.dtype or expected.dtype == np.float16, where
        floats = got.cast(pl.Float64).fill_null(np.nan).to_numpy()
        np.testing.assert_array_equal(floats, expected.astype(np.float64), err_msg=where)


def test_the_corpus_test_is_not_empty(corpus: Path) -> None:
    assert compare(corpus / "stores" / "air_v2_lz4_shuffle.zarr", "") == 4
