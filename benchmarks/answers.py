"""Answers as digests that do not depend on row order, column order or the library that made the frame.

A digest holds the number of rows, a wrapping sum of hashes of the keys (exact), and for every value column its count of
missing values and its sum, weighted and not. The weights are a hash of the row's keys, so a value in the wrong row changes
the weighted sum; sums are compared with a tolerance, because engines add in different orders.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.queries import Query

__all__ = ["Digest", "differences", "digest"]

Digest = dict[str, Any]
TOLERANCE = 2e-6  # relative to the sum of magnitudes; float32 rounding of a packed value is 6e-8
OF_MEANS = 5e-5  # each engine adds float32 in its own order and precision


def digest(frame: Any, query: Query) -> Digest:
    """The digest of an answer, a Polars or pandas frame."""
    columns = _columns(frame, (*query.keys, *query.values))
    keys = {name: _integers(columns[name]) for name in query.keys}
    values = {name: _floats(columns[name]) for name in query.values}
    rows = len(next(iter({**keys, **values}.values())))
    if query.shape == "head":
        return {"rows": rows, "cells": _cells(keys, values)}
    hashes = np.zeros(rows, np.uint64)
    with np.errstate(over="ignore"):
        for number, integers in enumerate(keys.values()):
            hashes = _mixed(hashes ^ (integers.view(np.uint64) + np.uint64(number * 0x9E3779B9)))
        weights = (hashes >> np.uint64(11)).astype(np.float64) * 2.0**-53
        found: Digest = {"rows": rows, "keys": f"{int(hashes.sum(dtype=np.uint64)):016x}", "values": {}}
    for name, floats in values.items():
        missing = np.isnan(floats)
        floats = np.where(missing, 0.0, floats)
        found["values"][name] = {
            "missing": int(missing.sum()),
            "sum": float(floats.sum()),
            "weighted": float(floats @ weights),
            "magnitude": float(np.abs(floats).sum()),
        }
    return found


def differences(found: Digest, expected: Digest, query: Query) -> list[str]:
    """What differs from the expected answer, in words; empty if they are the same."""
    if found["rows"] != expected["rows"]:
        return [f"{found['rows']} rows instead of {expected['rows']}"]
    if query.shape == "head":
        # Any rows are right, if each is a row of the table: `expected` holds the cells that were looked up.
        return []
    tolerance = OF_MEANS if query.shape in ("mean", "climatology", "anomaly") else TOLERANCE
    said = [] if found["keys"] == expected["keys"] else ["coordinates differ"]
    for name, values in expected["values"].items():
        other = found["values"][name]
        if other["missing"] != values["missing"]:
            said.append(f"{name}: {other['missing']} missing values instead of {values['missing']}")
        scale = max(values["magnitude"], 1e-30)
        said += [
            f"{name}: {what} {other[what]!r} instead of {values[what]!r}"
            for what in ("sum", "weighted")
            if not math.isclose(other[what], values[what], rel_tol=0, abs_tol=tolerance * scale)
        ]
    return said


def _cells(keys: dict[str, NDArray[np.int64]], values: dict[str, NDArray[np.float64]]) -> list[dict[str, Any]]:
    rows = len(next(iter(keys.values())))
    columns = {**keys, **values}
    return [{name: column[i].item() for name, column in columns.items()} for i in range(rows)]


def _columns(frame: Any, names: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    if type(frame).__module__.startswith("polars"):
        found = {}
        for name in names:
            series = frame[name]
            if series.dtype.is_temporal():
                # Microseconds hold every time here; engines differ in the unit.
                series = series.dt.cast_time_unit("us").to_physical()
            elif series.null_count():
                series = series.fill_null(float("nan")) if series.dtype.is_float() else series
            found[name] = series.to_numpy()
        return found
    absent = [name for name in names if name not in frame.columns]
    if absent:
        frame = frame.reset_index()
    return {name: _microseconds(frame[name].to_numpy()) for name in names}


def _microseconds(values: NDArray[Any]) -> NDArray[Any]:
    return values.astype("datetime64[us]").view(np.int64) if values.dtype.kind == "M" else values


def _integers(values: NDArray[Any]) -> NDArray[np.int64]:
    if values.dtype.kind == "f":  # coordinates are written with at most three decimals of a degree
        return np.rint(values.astype(np.float64) * 10_000).astype(np.int64)
    return np.ascontiguousarray(values.astype(np.int64))


def _floats(values: NDArray[Any]) -> NDArray[np.float64]:
    return values.astype(np.float64)


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
