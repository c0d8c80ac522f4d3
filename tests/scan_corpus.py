"""Adapter that the checks of the corpus of real stores load: its tables and arrays through scans."""

from __future__ import annotations

import polars as pl

import gpuzarr


def table(path: str, group: str, dims: list[str], data_vars: list[str]) -> pl.LazyFrame:
    return gpuzarr.scan_zarr(path, group=None if group == "." else group, variables=data_vars, order="C")


def array(path: str, name: str) -> pl.Series:
    parent, _, last = name.rpartition("/")
    variables = None if name == "." else [last]
    lf = gpuzarr.scan_zarr(path, group=parent or None, variables=variables, decode_cf=False, order="C")
    column = lf.collect_schema().names()[-1] if name == "." else last
    return lf.select(column).collect().to_series()
