"""Random filters through the plan of the GPU engine and back: the scan then gives exactly the rows that plain Polars keeps."""

from __future__ import annotations

import collections
import warnings
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import zarr
from expressions import ColumnSpec, random_predicate
from support_gpu_plans import plan, translate

import gpuzarr

ROWS = 150
QUERIES = 700


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> pl.LazyFrame:
    """A table of one dimension with a column of every type that predicates are drawn for; nulls, NaN, infinities."""
    path = tmp_path_factory.mktemp("predicates") / "wide.zarr"
    rng = np.random.default_rng(7)
    lat = rng.choice([np.nan, np.inf, -np.inf, -0.0, 0.0, 1.5, 2.5, -3, 40], ROWS)
    velocity = rng.normal(size=ROWS).astype("f4")
    velocity[rng.random(ROWS) < 0.1] = -999
    data = {
        "time": (rng.integers(0, 10**6, ROWS), {"units": "minutes since 2000-01-01"}),
        "k": (rng.integers(-5, 9, ROWS).astype("i4"), {}),
        "lat": (lat, {}),
        "flag": (rng.random(ROWS) < 0.5, {}),
        "u": (rng.integers(0, 9, ROWS).astype("u2"), {}),
        "v": (velocity, {"_FillValue": -999.0}),
        "word": (np.array(["", "a", "b", "ab", "bca", "äß", "Z", "1"])[rng.integers(0, 8, ROWS)], {}),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        group = zarr.create_group(path)
        for name, (values, attributes) in data.items():
            dtype = str if values.dtype.kind == "U" else values.dtype
            array = group.create_array(
                name, shape=(ROWS,), chunks=(17,), dtype=dtype, dimension_names=("row",), attributes=attributes
            )
            array[...] = values
    return gpuzarr.scan_zarr(path)


@pytest.mark.filterwarnings("ignore::polars.exceptions.PolarsInefficientMapWarning")
def test_random_filters_survive(wide: pl.LazyFrame) -> None:
    from cudf_polars.dsl import ir

    frame = wide.collect()
    specs = [ColumnSpec(name, frame[name], name in ("time", "k", "lat")) for name in frame.columns if name != "row"]
    counts: collections.Counter[str] = collections.Counter()
    for seed in range(QUERIES):
        predicate = random_predicate(
            np.random.default_rng(seed), specs, depth=seed % 4, python_functions=seed % 20 == 0
        )
        try:
            want = frame.filter(predicate)
        except pl.exceptions.PolarsError:
            counts["refused by Polars"] += 1
            continue
        root, translator = translate(wide.filter(predicate))
        if translator.errors:
            counts["not for the engine"] += 1
            continue
        if not isinstance(root, ir.PythonScan):  # (a part of) the filter is not pushed, or the result is known
            counts["partly pushed"] += 1
            continue
        source = root.options[0].io_source
        assert root.predicate is None
        assert source.left == (), f"{seed}: {predicate}"
        got = frame.filter(source.predicate)
        if seed % 10 == 0:  # the scan is tested with random filters elsewhere
            got = pl.concat([*source(root.options[1]), frame.clear()])
        assert got.equals(want), f"{seed}: {predicate}\n{source.predicate}"
        counts["survived"] += 1
    assert counts["survived"] >= 600, counts


def test_functions_survive(wide: pl.LazyFrame) -> None:
    """Every function that is converted, at least once, with options that matter."""
    k, lat, v, t, w = pl.col("k"), pl.col("lat"), pl.col("v"), pl.col("time"), pl.col("word")
    predicates = [
        v.sin() > v.cos(), v.exp().log1p() > 1, v.abs().log(2) > 0, v.sign() * v.cbrt() > v.ceil(), v.tan() > v.arctan(),
        v.round(1, mode="half_away_from_zero") != v.round(1), v.round_sig_figs(2) == v, lat.degrees() > lat.radians(),
        k.pow(2) > 9, (-k) > 2, k.clip(lower_bound=1) > 3, k.clip(upper_bound=1) < 0, ~k > 2, k.not_() > 2,
        pl.sum_horizontal("k", "v", ignore_nulls=False) > 1, pl.mean_horizontal("k", "v") > 1, pl.min_horizontal("k", "u") > 1,
        lat.is_between(0, float("nan"), closed="left"), v.is_in([0.5, None], nulls_equal=True), ~v.is_in([0.5, None]),
        k.is_in([1, 2, 3]), k.cast(pl.Int8, wrap_numerical=True) > 3, k.cast(pl.UInt8, strict=False).is_null(),
        t.dt.truncate("1w") > t.dt.round("1d"), t.dt.offset_by("-1mo").dt.month_end().dt.day() == 28, t.dt.is_leap_year(),
        t.dt.cast_time_unit("ms").dt.timestamp("us") % 7 == 1, t.dt.to_string("%j") > "200", t.dt.quarter() == t.dt.week() % 4,
        (t - t.dt.month_start()).dt.total_hours() > 300, (t - t.dt.month_start()).dt.total_days(fractional=True) > 3.5,
        t.dt.date() > t.dt.date().dt.month_start(), t.dt.iso_year() == 2001, t.dt.ordinal_day() > 100, t.dt.century() == 21,
        w.str.len_bytes() > w.str.len_chars(), w.str.to_uppercase().str.starts_with("A"), w.str.ends_with("b"),
        w.str.contains("a|Z"), w.str.contains("a|Z", literal=True), w.str.slice(1) == "b", w.str.head(1) == w.str.tail(1),
        w.str.strip_chars("a") == "b", w.str.strip_prefix("a") == "b", w.str.strip_suffix("a") == "bc", w.str.reverse() == "acb",
        w.str.extract("(a)(b)?", 2).is_null(), pl.concat_str("word", "k", separator="-") > "b", w + "x" == "ax",
        pl.coalesce(v, lat) > 0, pl.struct("k", a="u").struct.field("a") > 3, pl.when(k > 1).then(v).otherwise(lat) > 0,
        pl.all_horizontal(k > 1, v > 0) | pl.any_horizontal(k < 0, lat > 1), v.fill_null(3) > 2, lat.is_finite() ^ (k > 0),
        k.eq_missing(3), v.ne_missing(None), t.to_physical() % 7 > 3, k // 2 == 1, (k % 3) * 2 / 3 > 1, k - v < lat,
    ]  # fmt: skip
    frame = wide.collect()
    not_pushed = 0
    for predicate in predicates:
        root, _ = translate(wide.filter(predicate))
        source = root.options[0].io_source if hasattr(root, "options") else None
        if source is None:  # kept above the scan
            not_pushed += 1
            continue
        assert source.left == (), f"{predicate}: {source.left}"
        assert pl.concat([*source(None), frame.clear()]).equals(frame.filter(predicate)), str(predicate)
    assert not_pushed <= 5


def test_every_kind_of_literal(wide: pl.LazyFrame) -> None:
    import datetime as dt

    time = wide.select("time").collect()["time"][3]
    for predicate in [
        pl.col("time") == time,
        pl.col("time") == pl.lit(time).dt.cast_time_unit("ms"),
        pl.col("time").is_in([time, None]),
        pl.col("time").is_in(pl.Series([time]).dt.cast_time_unit("ns").implode()),
        pl.col("time") - time == dt.timedelta(0),
        pl.col("time") - time > dt.timedelta(days=1, microseconds=1),
        pl.col("time").dt.date() == time.date(),
        pl.col("flag") == pl.lit(True),
        pl.col("word").is_in(["a", "äß"]),
        pl.col("u") > pl.lit(3, dtype=pl.UInt8),
        pl.col("lat") == float("inf"),
        pl.col("lat") == float("nan"),
    ]:
        (scan,) = plan(wide.filter(predicate))[1]
        want = wide.filter(predicate).collect()
        assert pl.concat([*scan.options[0].io_source(None), want.clear()]).equals(want), str(predicate)


def test_predicates_stay_beside_paths(tmp_path: Path) -> None:
    """Columns with names that are none of Polars' plain ones."""
    group = zarr.create_group(tmp_path / "odd.zarr")
    name = "temperature (2 m), °C"
    array = group.create_array(name, shape=(4,), chunks=(2,), dtype="f8", dimension_names=("x y",))
    array[...] = [1.0, 2.0, 3.0, 4.0]
    lf = gpuzarr.scan_zarr(tmp_path / "odd.zarr")
    (scan,) = plan(lf.filter(pl.col(name) > 2, pl.col("x y") < 3).select("x y"))[1]
    assert pl.concat(list(scan.options[0].io_source(["x y"])))["x y"].to_list() == [2]
