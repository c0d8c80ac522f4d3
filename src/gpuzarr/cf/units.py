"""CF time units: ``"hours since 1950-01-01 00:00:00 +1:00"`` to a unit and an epoch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from gpuzarr.cf.calendars import Calendar, day_number

__all__ = ["DAY_NS", "DURATION_UNITS", "Reference", "is_date_units", "parse_units"]

DAY_NS = 86_400_000_000_000

DURATION_UNITS = {
    "days": DAY_NS,
    "hours": DAY_NS // 24,
    "minutes": 60_000_000_000,
    "seconds": 1_000_000_000,
    "milliseconds": 1_000_000,
    "microseconds": 1_000,
    "nanoseconds": 1,
}
"""Nanoseconds of the units that xarray knows; exactly these name a timedelta."""

_ABBREVIATIONS = {
    "days": ("d",),
    "hours": ("hr", "hrs", "h"),
    "minutes": ("min", "mins"),
    "seconds": ("sec", "secs", "s"),
    "milliseconds": ("millisec", "millisecs", "msec", "msecs", "ms"),
    "microseconds": ("microsec", "microsecs"),
}  # as cftime has them

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")

_TIME = (
    r"(?:(?:[Tt]|\s+)(?P<hour>\d{1,2})(?::?(?P<minute>\d{1,2})(?::?(?P<second>\d{1,2})(?:[.,](?P<fraction>\d*))?)?)?"
    r"(?:\s*(?P<sign>[+-])(?P<zone_hour>\d{1,2})(?::?(?P<zone_minute>\d{2}))?)?)?\s*(?:Z|UTC|GMT)?$"
)
_DATES = (
    r"(?P<year>[+-]?\d{4,6})(?:[-/.](?P<month>\d{1,2})(?:[-/.](?P<day>\d{1,2}))?)?",
    r"(?P<year>\d{4})(?P<month>\d{2})(?P<day>\d{2})",
    r"(?P<month>\d{1,2})[-/.](?P<day>\d{1,2})[-/.](?P<year>\d{4})",
    r"(?P<year>\d{4})[- ](?P<name>[A-Za-z]{3,9})[- ](?P<day>\d{1,2})",
    r"(?P<day>\d{1,2})[- ](?P<name>[A-Za-z]{3,9})[- ](?P<year>\d{4})",
    r"(?P<name>[A-Za-z]{3,9}) (?P<day>\d{1,2}),? (?P<year>\d{4})",
)
_PATTERNS = tuple(re.compile(date + _TIME) for date in (_DATES[1], *_DATES[:1], *_DATES[2:]))


@dataclass(frozen=True, slots=True)
class Reference:
    """What the numbers of a time variable count.

    Parameters
    ----------
    unit_ns
        Nanoseconds per unit.
    epoch_ns
        Nanoseconds from 1970-01-01 to the epoch, in the day count of the calendar.
    abbreviated
        Whether the unit's name is one that only cftime knows: xarray then computes in whole microseconds.
    """

    unit_ns: int
    epoch_ns: int
    abbreviated: bool


def is_date_units(units: object) -> bool:
    """Whether a ``units`` attribute names a time axis (``UNIT since EPOCH``), as xarray tells it."""
    return isinstance(units, str) and re.match(r"(.+) since (.+)", units) is not None


@lru_cache(maxsize=256)
def parse_units(units: str, calendar: Calendar) -> Reference:
    """Unit and epoch of ``UNIT since EPOCH``; zones are honoured, years of fewer than four digits are padded.

    Raises
    ------
    ValueError
        Unit or epoch are not understood, or `calendar` has no such date.
    """
    matched = re.match(r"(.+) since (.+)", units)
    if matched is None:
        raise ValueError("it is not of the form 'UNIT since EPOCH'")
    unit, epoch = (part.strip() for part in matched.groups())
    unit_ns, abbreviated = _unit(unit.lower(), calendar)
    return Reference(unit_ns, _epoch(epoch, calendar), abbreviated)


def _unit(unit: str, calendar: Calendar) -> tuple[int, bool]:
    plural = unit if unit.endswith("s") else f"{unit}s"
    if plural in DURATION_UNITS:
        return DURATION_UNITS[plural], False
    for name, abbreviations in _ABBREVIATIONS.items():
        if unit in abbreviations:
            return DURATION_UNITS[name], True
    if calendar == "noleap" and plural == "common_years":
        return 365 * DAY_NS, True
    raise ValueError(f"the unit {unit[:40]!r} is unknown")


def _epoch(text: str, calendar: Calendar) -> int:
    if re.search(r"\d{4}", text) is None and (short := re.match(r"(\d+)(.*)", text)) is not None:
        text = f"{short[1].zfill(4)}{short[2]}"
    for pattern in _PATTERNS:
        if (matched := pattern.match(text)) is not None:
            break
    else:
        raise ValueError(f"the epoch {text[:40]!r} is not understood")
    part = {name: value for name, value in matched.groupdict().items() if value is not None}
    year, day = int(part["year"]), int(part.get("day", 1))
    month = _MONTHS.index(name[:3].lower()) + 1 if (name := part.get("name")) else int(part.get("month", 1))
    if pattern is _PATTERNS[2] and month > 12:
        month, day = day, month  # as dateutil: month first, unless it cannot be one
    hour, minute, second = (int(part.get(name, 0)) for name in ("hour", "minute", "second"))
    if hour > 23 or minute > 59 or second > 59:
        raise ValueError(f"the epoch {text!r} has no valid time of day")
    zone = int(part.get("zone_hour", 0)) * 60 + int(part.get("zone_minute", 0))
    minutes = hour * 60 + minute - (zone if part.get("sign") == "+" else -zone)
    fraction = int(part.get("fraction", "").ljust(9, "0")[:9])
    return day_number(year, month, day, calendar) * DAY_NS + (minutes * 60 + second) * 1_000_000_000 + fraction
