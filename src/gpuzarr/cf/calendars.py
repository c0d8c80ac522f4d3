"""Day counts of the CF calendars whose dates have a label in the proleptic Gregorian calendar of Datetime.

Every count is in days since 1970-01-01. ``noleap`` counts its own days; ``julian`` and ``mixed`` (CF's ``standard``: Julian before
1582-10-15, Gregorian from then on) count real days. Formulas after E. G. Richards, Explanatory Supplement to the Astronomical Almanac (2013), 15.11.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["CALENDARS", "NUMERIC_CALENDARS", "REFORM_DAY", "Calendar", "day_number", "label_days"]

Calendar = Literal["gregorian", "mixed", "julian", "noleap"]

CALENDARS: dict[str, Calendar] = {
    "standard": "mixed",
    "gregorian": "mixed",
    "proleptic_gregorian": "gregorian",
    "julian": "julian",
    "noleap": "noleap",
    "365_day": "noleap",
}
"""CF names (lower case) of the calendars whose dates become Datetime."""

NUMERIC_CALENDARS = ("360_day", "all_leap", "366_day")
"""CF names of calendars with dates that Datetime cannot hold."""

UNIX_JULIAN_DAY = 2_440_588  # Julian day number of 1970-01-01
REFORM_DAY = 2_299_161 - UNIX_JULIAN_DAY  # 1582-10-15, the first Gregorian day

_MONTH_LENGTHS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_FEBRUARY_29 = 31 + 28  # day of the year, from 0


def day_number(year: int, month: int, day: int, calendar: Calendar) -> int:
    """Days since 1970-01-01 of a date of `calendar`.

    Raises
    ------
    ValueError
        The calendar has no such date.
    """
    if not 1 <= month <= 12 or day < 1:
        raise ValueError("no such date")
    if calendar == "mixed":
        calendar = "gregorian" if (year, month, day) >= (1582, 10, 15) else "julian"
        if calendar == "julian" and (year, month, day) > (1582, 10, 4):
            raise ValueError("the days from 1582-10-05 to 1582-10-14 do not exist in the standard calendar")
    if calendar == "julian" and year < 0:
        year += 1  # as cftime: no year zero in calendars that follow history
    elif calendar == "julian" and year == 0:
        raise ValueError("the calendar has no year zero")
    leap = year % 4 == 0 and (calendar == "julian" or year % 100 != 0 or year % 400 == 0) and calendar != "noleap"
    if day > _MONTH_LENGTHS[month - 1] + (leap and month == 2):
        raise ValueError("no such date")
    if calendar == "noleap":
        return (year - 1970) * 365 + sum(_MONTH_LENGTHS[: month - 1]) + day - 1
    before_march = (14 - month) // 12
    y, m = year + 4800 - before_march, month + 12 * before_march - 3
    days = day + (153 * m + 2) // 5 + 365 * y + y // 4
    return days - UNIX_JULIAN_DAY - (32083 if calendar == "julian" else 32045 + y // 100 - y // 400)


def label_days(days: NDArray[np.int64], calendar: Calendar) -> tuple[NDArray[np.int64], NDArray[np.bool_] | None]:
    """Days since 1970-01-01 in the proleptic Gregorian calendar of the dates with the same label.

    Parameters
    ----------
    days
        Day counts of `calendar`, which is ``noleap`` or ``julian``.

    Returns
    -------
    labels
        int64, same shape.
    impossible
        Where there is no such label: 29 February of Julian leap years that are no Gregorian ones. None if there are none.
    """
    if calendar == "noleap":
        year, day_of_year = np.divmod(days, 365)
        first = year.astype("M8[Y]").astype("M8[D]").astype(np.int64)
        leap_day = _is_gregorian_leap(year + 1970) & (day_of_year >= _FEBRUARY_29)
        return first + day_of_year + leap_day, None
    e = 4 * (days + (UNIX_JULIAN_DAY + 1401)) + 3
    h = 5 * (e % 1461 // 4) + 2
    day = h % 153 // 5
    month = (h // 153 + 2) % 12
    year = e // 1461 - 4716 + (13 - month) // 12
    impossible = (month == 1) & (day == 28) & ~_is_gregorian_leap(year)
    months = (year - 1970) * 12 + month
    labels = months.astype("M8[M]").astype("M8[D]").astype(np.int64) + day
    return labels, impossible if impossible.any() else None


def _is_gregorian_leap(year: NDArray[np.int64]) -> NDArray[np.bool_]:
    leap: NDArray[np.bool_] = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    return leap
