"""Numbers of a time axis to integer ticks of a Datetime or Duration, as xarray computes them, with nothing wrapped silently."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gpuzarr.cf.calendars import REFORM_DAY, Calendar, label_days
from gpuzarr.errors import DataError, Kind

__all__ = ["NAT", "TICK_NS", "TimeCode", "TimeUnit"]

TimeUnit = Literal["ns", "us", "ms"]

TICK_NS: dict[TimeUnit, int] = {"ns": 1, "us": 1_000, "ms": 1_000_000}
NAT = -(2**63)
_MAX = 2**63 - 1
_DAY_US = 86_400_000_000


@dataclass(frozen=True, slots=True)
class TimeCode:
    """How numbers become ticks since 1970-01-01 (Datetime) or ticks (Duration).

    Parameters
    ----------
    numerator, denominator
        Nanoseconds per number; one of the two is 1, or their quotient a whole number of ticks.
    epoch_ns
        Nanoseconds from 1970-01-01 to the epoch in the calendar's own day count; 0 for a Duration.
    calendar
        ``gregorian`` where the count is already that of Datetime; otherwise the label of each date is looked up in the calendar.
    time_unit
        Ticks of the column.
    rule
        How floats are brought to whole ticks. ``truncate``: one multiplication to nanoseconds, cut toward zero (xarray's datetimes).
        ``steps``: multiplied by 1000 until no fraction is left, then exact (xarray's timedeltas). ``round``: to the nearest
        microsecond, days and fraction apart (cftime, and every unit coarser than nanoseconds).
    """

    numerator: int
    denominator: int
    epoch_ns: int
    calendar: Calendar
    time_unit: TimeUnit
    rule: Literal["truncate", "steps", "round"]

    def convert(self, raw: NDArray[Any], out: NDArray[np.int64], valid: NDArray[np.bool_]) -> None:
        """Write ticks to `out` and clear `valid` where `raw` is NaT or NaN.

        Parameters
        ----------
        raw
            Integers or floats of any width.
        valid
            On entry the cells that are not missing: only they are checked.

        Raises
        ------
        DataError
            A valid cell does not fit the time unit.
        """
        direct = self.calendar == "gregorian" and (raw.dtype.kind != "f" or self.rule != "round")
        base: TimeUnit = self.time_unit if direct else "us"
        if raw.dtype.kind == "f":
            self._floats(raw.astype(np.float64, copy=False), out, valid)
        else:
            self._integers(raw, out, valid, base)
        if self.calendar != "gregorian":
            self._relabel(out, valid)
        if base == "us" and self.time_unit == "ns":
            limit = _MAX // 1000
            self._check((out < -limit) | (out > limit), valid)
            np.multiply(out, 1000, out=out)
        elif base == "us" and self.time_unit == "ms":
            np.floor_divide(out, 1000, out=out)

    def _integers(self, raw: NDArray[Any], out: NDArray[np.int64], valid: NDArray[np.bool_], base: TimeUnit) -> None:
        numerator, divisor = self.numerator, self.denominator * TICK_NS[base]
        if numerator % divisor == 0:
            factor, offset = numerator // divisor, self.epoch_ns // TICK_NS[base]
            self._bound(raw, valid, -((_MAX + offset) // factor), (_MAX - offset) // factor)
            # modular arithmetic: the result is right if it fits, whatever the product is
            np.multiply(raw, np.int64(_wrapped(factor)), out=out, dtype=np.int64, casting="unsafe")
            if offset:
                np.add(out, np.int64(_wrapped(offset)), out=out)
            return
        # a unit finer than a tick: the floor, with the epoch split so that no sum leaves int64
        step = divisor // numerator
        whole, rest = divmod(self.epoch_ns * self.denominator // numerator, step)
        self._bound(raw, valid, (1 - _MAX - whole) * step, (_MAX - 1 - whole) * step)
        wide = raw.astype(np.int64)
        np.floor_divide(wide, step, out=out)
        out += (wide % step + rest) // step + np.int64(_wrapped(whole))

    def _bound(self, raw: NDArray[Any], valid: NDArray[np.bool_], low: int, high: int) -> None:
        """Check raw integers against the range that can be represented; int64's minimum is NaT."""
        low = max(low, NAT + 1)
        kinds = np.iinfo(raw.dtype)
        if kinds.min >= low and kinds.max <= high:
            return
        smallest, largest = int(raw.min()), int(raw.max())
        if smallest >= low and largest <= high:
            return
        if smallest == NAT:
            valid &= raw != NAT
        self._check((raw < low) | (raw > high), valid)

    def _floats(self, raw: NDArray[np.float64], out: NDArray[np.int64], valid: NDArray[np.bool_]) -> None:
        valid &= raw == raw
        with np.errstate(invalid="ignore", over="ignore"):
            if self.rule == "truncate":
                self._truncate(raw, out, valid)
            elif self.rule == "steps":
                self._steps(raw, out, valid)
            else:
                self._round(raw, out, valid)

    def _truncate(self, raw: NDArray[np.float64], out: NDArray[np.int64], valid: NDArray[np.bool_]) -> None:
        scaled = raw * float(self.numerator)
        self._check(~(np.abs(scaled + float(self.epoch_ns)) < 2.0**63), valid)
        far = ~(np.abs(scaled) < 2.0**63) & valid
        out[...] = scaled.astype(np.int64)
        self._check(_sum_overflows(out, self.epoch_ns) & ~far, valid)
        np.add(out, np.int64(self.epoch_ns), out=out)
        if far.any():  # the date fits, its distance from the epoch does not: xarray hands these to cftime
            distant = np.empty(int(far.sum()), dtype=np.int64)
            everywhere = np.ones(distant.shape, dtype=np.bool_)
            self._round(raw[far], distant, everywhere)
            limit = _MAX // 1000
            self._check((distant < -limit) | (distant > limit), everywhere)
            out[far] = distant * 1000

    def _round(self, raw: NDArray[np.float64], out: NDArray[np.int64], valid: NDArray[np.bool_]) -> None:
        """To the nearest microsecond; whole units and fractions apart, so that distant epochs cost no precision."""
        offset = self.epoch_ns // 1000
        self._check(~(np.abs(raw * (self.numerator / 1000) + float(offset)) < 2.0**63), valid)
        if self.numerator % 1000 == 0:
            factor = self.numerator // 1000
            whole = np.floor(raw)
            np.multiply(whole.astype(np.int64), np.int64(factor), out=out)
            out += np.rint((raw - whole) * factor).astype(np.int64)
        else:
            out[...] = np.rint(raw / (1000 / self.numerator)).astype(np.int64)
        np.add(out, np.int64(_wrapped(offset)), out=out)

    def _steps(self, raw: NDArray[np.float64], out: NDArray[np.int64], valid: NDArray[np.bool_]) -> None:
        """Timedeltas: xarray looks for the coarsest of s, ms, us, ns without a fraction; here per cell, so that no neighbour matters."""
        unit = min(self.numerator, 1_000_000_000)
        level = raw * float(self.numerator // unit)
        self._check(~(np.abs(level * float(unit)) < 2.0**63), valid)
        pending = np.ones(raw.shape, dtype=np.bool_)
        while True:
            settled = pending & ((level == np.trunc(level)) | (unit == 1))
            np.copyto(out, level.astype(np.int64) * unit, where=settled)
            pending &= ~settled
            if unit == 1 or not pending.any():
                return
            level *= 1000.0
            unit //= 1000

    def _relabel(self, out: NDArray[np.int64], valid: NDArray[np.bool_]) -> None:
        """From the day count of the calendar to the Datetime of the same label; `out` in microseconds."""
        where: Any = Ellipsis
        if self.calendar == "mixed":
            early = out < REFORM_DAY * _DAY_US
            if not early.any():
                return
            where = early
        days, rest = np.divmod(out[where], _DAY_US)
        labels, impossible = label_days(days, "noleap" if self.calendar == "noleap" else "julian")
        if impossible is not None and (impossible & valid[where]).any():
            message = (
                "a 29 February of the Julian calendar has no Datetime; "
                "pass decode_cf=False to get the numbers as they are stored"
            )
            raise DataError(message, kind=Kind.VALUE_OUT_OF_RANGE)
        out[where] = labels * _DAY_US + rest

    def _check(self, bad: NDArray[np.bool_], valid: NDArray[np.bool_]) -> None:
        bad &= valid
        if bad.any():
            coarser = {"ns": 'time_unit="us"', "us": 'time_unit="ms"', "ms": "decode_cf=False"}[self.time_unit]
            message = f"{int(bad.sum())} times do not fit 64-bit {self.time_unit}; pass {coarser}"
            raise DataError(message, kind=Kind.VALUE_OUT_OF_RANGE)


def _sum_overflows(ticks: NDArray[np.int64], offset: int) -> NDArray[np.bool_]:
    return ticks > _MAX - offset if offset > 0 else ticks < -_MAX - offset


def _wrapped(number: int) -> int:
    """`number` modulo 2**64, as a signed integer."""
    return (number + 2**63) % 2**64 - 2**63
