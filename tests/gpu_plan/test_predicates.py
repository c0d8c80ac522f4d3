"""Random filters through the plan of the GPU engine and back: the scan then gives exactly the rows that plain Polars keeps."""

from __future__ import annotations

import collections
import datetime as dt
import operator
import warnings
import zoneinfo
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import zarr
from expressions import ColumnSpec, random_predicate
from support_gpu_plans import plan, translate

import gpuzarr

OPERATORS = (operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne)
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


NS = 1_577_836_800_000_000_000  # 2020-01-01


@pytest.fixture(scope="module")
def fine(tmp_path_factory: pytest.TempPathFactory) -> pl.LazyFrame:
    """Times and differences that whole microseconds cannot tell apart, before and after 1970."""
    path = tmp_path_factory.mktemp("fine") / "fine.zarr"
    ticks = np.array([NS + n for n in (-1001, -1, 0, 1, 123, 456, 999, 1000)] + [-1001, -1, 0, 1], "i8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        group = zarr.create_group(path)
        for name, units in (("time", "nanoseconds since 1970-01-01"), ("later", "nanoseconds")):
            attributes = {"units": units} | ({"dtype": "timedelta64[ns]"} if name == "later" else {})
            array = group.create_array(
                name, shape=ticks.shape, chunks=(4,), dtype="i8", dimension_names=("row",), attributes=attributes
            )
            array[...] = ticks
    lf = gpuzarr.scan_zarr(path)
    assert lf.collect_schema()["time"] == pl.Datetime("ns")
    assert lf.select(pl.col("time").to_physical()).collect()["time"].to_list() == ticks.tolist()
    return lf


def ns(value: int) -> pl.Expr:
    return pl.lit(value, dtype=pl.Int64).cast(pl.Datetime("ns"))


def test_nanoseconds_of_literals_are_kept(fine: pl.LazyFrame) -> None:
    """Polars' traverser cuts them to microseconds; the optimizer makes some of its own (``<= date`` is ``<= date + 999 ns``)."""
    t, day, frame = pl.col("time"), dt.datetime(2020, 1, 1), fine.collect()
    exact = pl.Series([NS + 123, NS + 456, None]).cast(pl.Datetime("ns"))
    values = (NS, NS + 1, NS + 123, NS + 999, NS - 1, -1, -1001, 0, 5)
    for predicate in [
        *(op(t, ns(value)) for value in values for op in OPERATORS), *(op(t, day) for op in OPERATORS),
        t < np.datetime64("2020-01-01T00:00:00.000000123", "ns"), t.is_between(ns(NS - 1), ns(NS + 456)),
        t == pl.date(2020, 1, 1), (t < ns(NS + 123)) | (t == pl.datetime(2021, 1, 1)), ~(t < ns(NS + 123)),
        (t > ns(NS + 1)) & (t < ns(NS + 456)) & (t != ns(NS + 123)),
        t.is_in(exact), t.is_in(exact.implode()), t.is_in(pl.concat([exact] * 5).implode()), t.is_in([day, None]),
        t.dt.time() == pl.lit(1, dtype=pl.Int64).cast(pl.Time), t.dt.time() < dt.time(1),
        pl.col("later") < np.timedelta64(NS + 123, "ns"), pl.col("later") <= dt.timedelta(days=18262),
        t + pl.duration(nanoseconds=3) > ns(NS + 3), t.dt.truncate("1us") == day,
        t.dt.replace_time_zone("UTC") <= dt.datetime(2020, 1, 1, tzinfo=dt.UTC),
        t.dt.replace_time_zone("UTC").dt.convert_time_zone("Europe/Berlin")
        == ns(NS + 123).dt.replace_time_zone("UTC").dt.convert_time_zone("Europe/Berlin"),
        pl.when(pl.col("row") > 1).then(t).otherwise(ns(NS + 1)) == ns(NS + 1), t.fill_null(ns(NS + 1)) == ns(NS + 1),
    ]:  # fmt: skip
        _, (scan,) = plan(fine.filter(predicate))
        source = scan.options[0].io_source
        assert source.left == ()
        assert pl.concat([*source(None), frame.clear()]).equals(frame.filter(predicate)), str(predicate)
    left = (t > ns(NS)) & (pl.col("row").hash() != 0)
    _, (scan,) = plan(fine.filter(left))
    assert scan.options[0].io_source.left == ("hash",)
    assert pl.concat(list(scan.options[0].io_source(None))).equals(frame.filter(t > ns(NS)))


def test_extremes_and_repeated_hours(tmp_path: Path) -> None:
    """Integers that no float holds, floats beside them, and the hour that a clock shows twice."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        group = zarr.create_group(tmp_path / "extremes.zarr")
        for name, values, units in (
            ("time", np.arange(9), "hours since 2020-10-24T20:00:00"),
            ("u", np.array([0, 1, 2**63, 2**63 + 1, 2**64 - 1, 5, 6, 7, 8], "u8"), None),
            ("i", np.array([-(2**63), 2**63 - 1, 0, 1, -1, 5, 6, 7, 8], "i8"), None),
            ("f", np.array([0.1, 0.2, np.nan, np.inf, -np.inf, -0.0, 0, 1e-45, 3.4e38], "f4"), None),
        ):
            array = group.create_array(
                name, shape=(9,), chunks=(4,), dtype=values.dtype, dimension_names=("row",),
                attributes={"units": units} if units else {},
            )  # fmt: skip
            array[...] = values
    lf = gpuzarr.scan_zarr(tmp_path / "extremes.zarr")
    frame, zone = lf.collect(), zoneinfo.ZoneInfo("Europe/Berlin")
    u, i, f, t = pl.col("u"), pl.col("i"), pl.col("f"), pl.col("time")
    local = t.dt.replace_time_zone("UTC").dt.convert_time_zone("Europe/Berlin")
    first, second = (dt.datetime(2020, 10, 25, 2, tzinfo=zone, fold=fold) for fold in (0, 1))
    for predicate in [
        u == 2**63, u > 2**63, u >= pl.lit(2**64 - 1, dtype=pl.UInt64), u > -1, u == 2**70, u.is_in([2**64 - 1]), i == -(2**63),
        i < -(2**63) + 1, i > 2**63, f == 0.1, f == pl.lit(0.1, dtype=pl.Float32), f > 1e-46, f == -0.0, f > 3.5e38,
        f.is_in([0.1, float("nan")]), local == first, local == second, local > second, local <= first, t < dt.date(2020, 10, 25),
        t.cast(pl.Datetime("ms")) == dt.datetime(2020, 10, 24, 21), t.is_in(frame["time"].head(2)),
    ]:  # fmt: skip
        _, (scan,) = plan(lf.filter(predicate))
        assert scan.predicate is None
        assert pl.concat([*scan.options[0].io_source(None), frame.clear()]).equals(frame.filter(predicate)), str(
            predicate
        )


def test_literals_that_stay_unknown_send_the_query_to_a_cpu_engine(
    fine: pl.LazyFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gpuzarr.source import gpu_literals

    t = pl.col("time")
    for predicate in [
        t.is_in(pl.Series([NS + n for n in range(9)]).cast(pl.Datetime("ns"))),  # printed with an ellipsis
        (t > ns(NS + 1)) & (t.dt.to_string("%F %T") == "2020-01-01 00:00:00"),  # what looks like a literal and is none
        t.hash() != ns(NS + 1).hash(),  # left to the engine, whose literal is cut
        pl.col("later").is_in(pl.Series([NS + 1, 5]).cast(pl.Duration("ns"))),
        t.dt.cast_time_unit("us") < pl.lit(10**18, dtype=pl.Int64).cast(pl.Datetime("us")),  # no Python object for it
    ]:
        assert translate(fine.filter(predicate))[1].errors, str(predicate)
    two = pl.concat([fine.filter(t < ns(NS + 1)), fine.filter(t < ns(NS + 2))])
    assert translate(two)[1].errors
    text = t.dt.to_string("%F") != "12:00:00"  # it looks like a literal and is none: the filter is not recognised
    similar, meant = fine.filter(t > ns(NS + 1)), fine.filter((t > ns(NS + 456)) & text)
    assert translate(meant)[1].errors  # not with the literal of a query that a caller further away holds
    assert translate(pl.concat([similar, meant]))[1].errors  # nor with that of another filter of the same query
    assert not translate(similar)[1].errors
    monkeypatch.setattr(gpu_literals, "_queries_of_caller", list)
    assert translate(fine.filter(t <= dt.datetime(2020, 1, 1)))[1].errors
    assert not translate(fine.filter(t.dt.year() > 1980))[1].errors


def test_the_query_is_found_where_the_engine_translates(fine: pl.LazyFrame) -> None:
    """`collect` calls the engine from inside Polars; what the hook finds out is the same there."""
    from cudf_polars import callback

    seen: list[pl.DataFrame] = []

    def translated(visitor: Any, _: Any) -> None:
        root = callback.Translator(visitor, pl.GPUEngine(executor="in-memory")).translate_ir()
        seen.append(pl.concat([*root.options[0].io_source(None), fine.clear().collect()]))

    for predicate in (pl.col("time") <= dt.datetime(2020, 1, 1), pl.col("time") == ns(NS + 123)):
        want = fine.filter(predicate).collect()
        assert fine.filter(predicate).collect(post_opt_callback=translated).equals(want)
        assert seen.pop().equals(want)


def test_predicates_stay_beside_paths(tmp_path: Path) -> None:
    """Columns with names that are none of Polars' plain ones."""
    group = zarr.create_group(tmp_path / "odd.zarr")
    name = "temperature (2 m), °C"
    array = group.create_array(name, shape=(4,), chunks=(2,), dtype="f8", dimension_names=("x y",))
    array[...] = [1.0, 2.0, 3.0, 4.0]
    lf = gpuzarr.scan_zarr(tmp_path / "odd.zarr")
    (scan,) = plan(lf.filter(pl.col(name) > 2, pl.col("x y") < 3).select("x y"))[1]
    assert pl.concat(list(scan.options[0].io_source(["x y"])))["x y"].to_list() == [2]
