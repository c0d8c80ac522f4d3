"""Time axes against xarray, pandas and cftime."""

from __future__ import annotations

import warnings
from typing import Any

import cftime
import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support_cf import Group, column, encoded_fill

from gpuzarr.cf.calendars import CALENDARS, day_number, label_days
from gpuzarr.cf.units import DAY_NS, parse_units
from gpuzarr.errors import DataError, Kind, MetadataError

NAT = np.iinfo(np.int64).min
REPRESENTABLE = ["standard", "gregorian", "proleptic_gregorian", "noleap", "365_day", "julian", "Standard", None]
EPOCHS = [
    "1970-01-01",
    "1900-1-1 0:0:0",
    "2000-02-28 12:30:15.5",
    "1992-10-8 15:15:42.5 -06:00",
    "1950-01-01T00:00:00Z",
    "0001-01-01 00:00:00",
    "1-1-1",
    "1582-10-15",
    "1582-10-04 06:00",
    "1601-01-01",
    "2250-06-01",
    "-0100-03-01",
]
UNITS = {
    "days": 1,
    "day": 1,
    "hours": 24,
    "Minutes": 1440,
    "seconds": 86400,
    "milliseconds": 86_400_000,
    "h": 24,
    "d": 1,
}


def microseconds(date: cftime.datetime) -> int:
    """Ticks of the Datetime with the label of a cftime date."""
    year = date.year + (date.year < 0 and not date.has_year_zero)
    days = day_number(year, date.month, date.day, "gregorian")
    return (((days * 24 + date.hour) * 60 + date.minute) * 60 + date.second) * 1_000_000 + date.microsecond


@st.composite
def time_axes(draw: st.DrawFn) -> Group:
    dtype = np.dtype(draw(st.sampled_from(["i2", "i4", "i8", "u2", "u4", "u8", "f4", "f8", "f2"])))
    unit = draw(st.sampled_from(list(UNITS)))
    days = st.floats(-110_000, 160_000) | st.integers(-110_000, 900_000)
    cells = [draw(days) * UNITS[unit] for _ in range(draw(st.integers(1, 6)))]
    attributes: dict[str, Any] = {"units": f"{unit} since {draw(st.sampled_from(EPOCHS))}"}
    if (calendar := draw(st.sampled_from(REPRESENTABLE))) is not None:
        attributes["calendar"] = calendar
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            values = np.array(cells).astype(dtype)
        values = values[np.isfinite(values)]
        if draw(st.booleans()):
            values = np.append(values, np.asarray(np.nan, dtype))
    else:
        info = np.iinfo(dtype)
        values = np.clip(np.array([int(c) for c in cells], dtype=object), int(info.min), int(info.max)).astype(dtype)
    if draw(st.booleans()) and len(values):
        fill = values[0].item()
        if fill == fill:
            attributes["_FillValue"] = encoded_fill(fill, dtype)
    if draw(st.integers(0, 3)) == 0:
        attributes["scale_factor"] = draw(st.sampled_from([0.1, 2, 0.5]))
        attributes["add_offset"] = draw(st.sampled_from([10.0, -3]))
    elif dtype == np.int64 and draw(st.booleans()):
        values = np.append(values, NAT)
    return Group(3).add("x", values, **attributes)


def outside_nanoseconds(group: Group, lost: list[bool]) -> bool:
    """Whether a value lies outside datetime64[ns], from first principles."""
    array = group.arrays()["x"]
    reference = parse_units(array.attributes["units"], CALENDARS[array.attributes.get("calendar", "standard").lower()])
    scale, offset = array.attributes.get("scale_factor", 1), array.attributes.get("add_offset", 0)
    cells = [float(v) * scale + offset for v, gone in zip(group.raw["x"], lost, strict=True) if not gone]
    return any(abs(cell * reference.unit_ns + reference.epoch_ns) >= 2.0**63 for cell in cells)


def decoded_fill(group: Group) -> Any:
    fills = group.decoding("x").fills
    return fills[0] if fills else None


@given(group=time_axes())
def test_times_equal_xarray(group: Group) -> None:
    raw = group.raw["x"]
    try:
        expected = group.xarray()["x"].values
    except (ValueError, OverflowError, TypeError):  # cftime given nothing but NaN, or beyond its years
        return
    # cftime makes dates of NaN and NaT
    lost = [v != v or v == NAT or v == decoded_fill(group) for v in raw.tolist()]
    if expected.dtype.kind == "M":
        labels = expected.astype("M8[ns]").view(np.int64).tolist()
        slack = 0
        unit = "ns"
        if any(lost) and outside_nanoseconds(group, lost):
            # xarray does not see what does not fit beside a missing value, and wraps around
            with pytest.raises(DataError, match="value-out-of-range"):
                group.decode("x")
            return
    else:
        unit = "us"
        labels = [None if d is None or d != d else microseconds(d) for d in expected.tolist()]
        slack = raw.dtype.kind == "f" or "scale_factor" in group.arrays()["x"].attributes
    got = group.decode("x", time_unit=unit)
    ticks = got.to_physical().to_list()
    assert [t is None for t in ticks] == lost
    different = [(a, b) for a, b in zip(ticks, labels, strict=True) if a is not None and abs(a - b) > slack]
    assert not different


@pytest.mark.parametrize(
    "epoch",
    [
        "2000-1-1", "2000-01", "2000", "20000101", "20000101T12", "2000-01-01 12", "2000-01-01T12:30", "0001-1-1 00:00:00.0",
        "1992-10-8 15:15:42.5 -6:00", "2000-01-01T00:00:00Z", "2000-01-01 00:00:00 UTC", "2000-01-01 00:00 GMT",
        "2000-01-01 00:00:00 +0100", "2000-01-01 00:00:00+01", "2000-01-01 00:00:00 +1:00", "2000-01-01 00:00:00 -3",
        "-4713-01-01", "2000-01-01 12:30:15,5", "2000-01-01 12:30:15.123456789", "2000/01/01", "2000.01.01", "01-01-2000",
        "13-01-2000", "1 January 2000", "January 1, 2000", "2000-Jan-01", "01-JAN-2000 00:00:00", "2000-01-01  5:3:2",
    ],
)  # fmt: skip
def test_epochs_are_read_as_pandas_reads_them(epoch: str) -> None:
    stamp = pd.Timestamp(epoch)
    if stamp.tz is not None:
        stamp = stamp.tz_convert("UTC").tz_convert(None)
    day = stamp.to_numpy().astype("M8[D]")
    expected = int(day.astype(np.int64)) * DAY_NS + int((stamp.to_numpy() - day).astype("m8[ns]").astype(np.int64))
    reference = parse_units(f"days since {epoch}", "gregorian")
    assert (reference.unit_ns, reference.epoch_ns) == (DAY_NS, expected)


@pytest.mark.parametrize(
    ("units", "calendar"),
    [
        ("days since launch", "standard"),
        ("fortnights since 2000-01-01", "standard"),
        ("months since 2000-01-01", "standard"),
        ("days since 2000-13-01", "standard"),
        ("days since 1582-10-10", "standard"),
        ("days since 0000-01-01", "standard"),
        ("days since 2001-02-29", "standard"),
        ("days since 2000-02-29", "noleap"),
        ("days since 2000-01-01 24:00:00", "standard"),
        ("days since 2000-01-01", "lunar"),
        ("days since 2000-01-01", "360_day"),
        ("days since 2000-01-01", "all_leap"),
        ("days since 2000-01-01", "366_day"),
        ("dayssince", "standard"),
    ],
)
def test_a_time_axis_without_datetimes_stays_numeric_and_says_so_once(units: str, calendar: str) -> None:
    raw = np.array([1, 2, 3], "i4")
    group = Group().add("x", raw, units=units, calendar=calendar, _FillValue=3)
    with pytest.warns(UserWarning, match=r"array 'x' stays numeric") as caught:
        decoding = group.decoding("x")
    assert len(caught) == 1
    assert column(decoding, raw).to_list() == [1, 2, None]
    assert decoding.dtype.is_integer() or decoding.dtype.is_float()


@pytest.mark.parametrize("calendar", ["noleap", "julian", "standard", "proleptic_gregorian"])
def test_calendars_equal_cftime(calendar: str) -> None:
    days = np.arange(-800_000, 200_000, 37, dtype=np.int64)
    units = "days since 1970-01-01"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # years before the common era
        dates = cftime.num2date(days, units, calendar, only_use_cftime_datetimes=True)
    raw = np.array([d for d, date in zip(days, dates, strict=True) if (date.month, date.day) != (2, 29)])
    expected = [microseconds(date) for date in dates if (date.month, date.day) != (2, 29)]
    got = Group().add("x", raw, units=units, calendar=calendar).decode("x", time_unit="us")
    assert got.to_physical().to_list() == expected


def test_every_julian_day_has_its_label_or_is_refused() -> None:
    days = np.arange(-200_000, 200_000, dtype=np.int64)
    labels, impossible = label_days(days, "julian")
    assert impossible is not None
    assert impossible.sum() > 0
    assert (np.diff(labels[~impossible]) == 1).all() or np.diff(labels).min() >= 0
    raw = np.array([day_number(1900, 2, 29, "julian")])
    group = Group().add("x", raw, units="days since 1970-01-01", calendar="proleptic_gregorian")
    assert group.decode("x").len() == 1
    julian = Group().add("x", np.array([59]), units="days since 1900-01-01", calendar="julian")
    with pytest.raises(DataError, match="29 February of the Julian calendar") as caught:
        julian.decode("x")
    assert caught.value.kind is Kind.VALUE_OUT_OF_RANGE


@given(
    dtype=st.sampled_from(["i2", "i4", "i8", "u2", "f4", "f8"]),
    unit=st.sampled_from(["days", "hours", "seconds", "milliseconds", "nanoseconds"]),
    declared=st.sampled_from(["timedelta64[ns]", "timedelta64[s]", "timedelta64[us]", None, "float64"]),
    cells=st.lists(st.integers(-90_000, 90_000) | st.floats(-9e4, 9e4), min_size=1, max_size=5),
    fill=st.booleans(),
    nat=st.booleans(),
)
def test_timedeltas_equal_xarray(
    dtype: str, unit: str, declared: str | None, cells: list[float], fill: bool, nat: bool
) -> None:
    values = np.clip(cells, 0, 30_000).astype(dtype) if dtype in ("i2", "u2") else np.array(cells).astype(dtype)
    if nat and dtype in ("i8", "f4", "f8"):
        values = np.append(values, np.asarray(NAT if dtype == "i8" else np.nan, dtype))
    attributes: dict[str, Any] = {"units": unit}
    if declared is not None:
        attributes["dtype"] = declared
    if fill and values[0] == values[0]:
        attributes["_FillValue"] = encoded_fill(values[0].item(), values.dtype)
    group = Group().add("x", values, **attributes)
    got, expected = group.decode("x"), group.xarray()["x"].values
    if expected.dtype.kind == "m":
        assert got.dtype == pl.Duration("ns")
        ticks = got.to_physical().fill_null(NAT).to_numpy()
        whole = expected.astype("m8[ns]").view(np.int64)
        # xarray multiplies by 1000 in the type of the file, as often as the finest cell of the array needs
        is_float = values.dtype.kind == "f"
        slack = 4 * np.spacing(np.abs(whole).astype(values.dtype)).astype("f8") if is_float else 0
        assert ((ticks == whole) | ((whole != NAT) & (np.abs(ticks - whole) <= slack))).all()
    else:
        assert got.dtype.is_numeric()


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("unit", ["ns", "us", "ms", "s", "m", "h", "D", "W", "10s", "ps"])
@pytest.mark.parametrize("time_unit", ["ns", "us", "ms"])
def test_numpy_datetimes_change_their_unit(zarr_format: int, unit: str, time_unit: str) -> None:
    for kind in "Mm":
        raw = np.array([0, 1, -1, 1234, -9876, NAT], np.int64).view(f"{kind}8[{unit}]")
        decoding = Group(zarr_format).add("x", raw).decoding("x", time_unit=time_unit, decode_cf=False)
        got = column(decoding, raw)
        assert got.dtype == (pl.Datetime(time_unit) if kind == "M" else pl.Duration(time_unit))
        assert (
            got.to_physical().fill_null(NAT).to_list() == raw.astype(f"{kind}8[{time_unit}]").astype(np.int64).tolist()
        )


def test_values_of_a_dimension_choose_its_unit() -> None:
    units = "days since 1970-01-01"
    for raw, wanted in (
        (np.array([0, 100_000]), "ns"),
        (np.array([0, 110_000]), "us"),
        (np.array([0.5, 1e5]), "ns"),
        (np.array([0.5, -1.1e5]), "us"),
        (np.array([0, NAT]), "ns"),
        (np.array([], "i8"), "ns"),
    ):
        group = Group().add("x", raw, units=units)
        decoding = group.decoding("x", values=raw)
        assert decoding.dtype == pl.Datetime(wanted)
        expected = (raw.astype("M8[D]") if raw.dtype.kind == "i" else (raw * 86400).astype("M8[s]")).astype("M8[us]")
        assert column(decoding, raw).cast(pl.Datetime("us")).to_list() == expected.tolist()
        assert group.decoding("x", values=raw, time_unit="ms").dtype == pl.Datetime("ms")
    masked = np.array([-(2**40), 1])
    group = Group().add("x", masked, units=units, _FillValue=-(2**40))
    assert group.decoding("x", values=masked).dtype == pl.Datetime("ns")
    assert group.decode("x").null_count() == 1


@pytest.mark.parametrize(
    ("raw", "units"),
    [
        (np.array([1, 2**40]), "hours since 2000-01-01"),
        (np.array([1, -(2**40)]), "hours since 2000-01-01"),
        (np.array([2**63], "u8"), "nanoseconds since 1970-01-01"),
        (np.array([1.0, 1e30]), "seconds since 1970-01-01"),
        (np.array([np.inf]), "days since 1970-01-01"),
        (np.array([1]), "days since 0001-01-01"),
        (np.array([1], "u1"), "days since 5000-01-01"),
        (np.array([NAT + 1]), "nanoseconds since 1969-12-31"),
    ],
)
def test_what_does_not_fit_is_an_error_that_says_what_to_pass(raw: np.ndarray, units: str) -> None:
    group = Group().add("x", raw, units=units)
    with pytest.raises(DataError, match=r'time_unit="us".*array \'x\'') as caught:
        group.decode("x")
    assert caught.value.kind is Kind.VALUE_OUT_OF_RANGE


def test_units_finer_than_a_tick_are_cut_to_the_tick_before() -> None:
    raw = np.array([0, 1, -1, 999, 1000, -1000, -1001, 2**62], np.int64)
    group = Group().add("x", raw, units="nanoseconds since 2000-01-01 00:00:00.000000999")
    epoch = 946_684_800_000_000_000 + 999
    for time_unit, tick in (("us", 1_000), ("ms", 1_000_000)):
        expected = [(int(v) + epoch) // tick for v in raw]
        assert group.decode("x", time_unit=time_unit).to_physical().to_list() == expected


def test_metre_is_no_duration_and_generic_datetimes_have_no_column() -> None:
    assert Group().add("x", np.array([1.0]), units="m").decode("x").dtype == pl.Float64
    assert Group().add("x", np.array([1.0]), units="days").decode("x").dtype == pl.Float64
    with pytest.raises(MetadataError, match="array 'x'") as caught:
        Group(2).add("x", np.array([1]).view("M8[Y]")).decoding("x")
    assert caught.value.kind is Kind.METADATA_UNSUPPORTED


def test_bounds_inherit_the_time_units() -> None:
    for own in ({}, {"units": "hours since 2001-01-01"}):
        group = (
            Group()
            .add("time", np.arange(3), ("time",), units="days since 2000-01-01", calendar="noleap", bounds="tb")
            .add("tb", np.arange(6).reshape(3, 2), ("time", "nv"), **own)
        )
        expected = [microseconds(d) for d in group.xarray()["tb"].values.reshape(-1)]
        assert group.decode("tb", time_unit="us").to_physical().to_list() == expected
