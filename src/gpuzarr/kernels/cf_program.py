"""From the decoding of a column to the template arguments and the steps of the gather kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuzarr.cf.calendars import REFORM_DAY
from gpuzarr.cf.decoding import Decoding
from gpuzarr.cf.times import TICK_NS, TimeCode, TimeUnit
from gpuzarr.kernels.descriptors import MAX_FILLS, CodeFlag, Decode, TimeDecode, TimeKind, TimePost

__all__ = ["C_TYPES", "INSTANCES", "ColumnProgram", "column_program", "column_program_plain", "value_bits"]

C_TYPES: dict[str, str] = {
    "i1": "int8_t",
    "u1": "uint8_t",
    "i2": "int16_t",
    "u2": "uint16_t",
    "i4": "int32_t",
    "u4": "uint32_t",
    "i8": "int64_t",
    "u8": "uint64_t",
    "f2": "float16",
    "f4": "float",
    "f8": "double",
    "b1": "bool",
}
"""C++ type by numpy's short name."""

_INTEGERS = ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8")

INSTANCES: tuple[tuple[str, str, str], ...] = (
    *((n, n, n) for n in ("u1", "u2", "u4", "u8")),  # what needs no decoding
    *((n, n, n) for n in ("f4", "f8")),
    ("u1", "u1", "b1"),
    *((n, "f4", "b1") for n in ("i1", "u1")),
    *((n, "f4", "f4") for n in ("i1", "u1", "i2", "u2", "f2")),
    *((n, "f8", "f8") for n in (*_INTEGERS, "f2", "f4")),
    *((n, "i8", "i8") for n in _INTEGERS),
    ("u8", "u8", "i8"),
    ("f4", "f4", "i8"),
    ("f4", "f8", "i8"),
    ("f8", "f8", "i8"),
)
"""(stored, computed, out) of the gather kernel. What is not here is decoded on the host."""

_MAX = 2**63 - 1
_TICKS = np.dtype(np.int64)
_DAY_US = 86_400_000_000


@dataclass(frozen=True, eq=False)
class ColumnProgram:
    """How the gather kernel decodes a column.

    Parameters
    ----------
    names
        Short names of the stored, computed and out types, one of `INSTANCES`.
    decode
        Bytes of a `Decode`.
    nullable
        Whether a stored value can become missing.
    is_time
        Whether values can be out of range: the launch needs a status.
    """

    names: tuple[str, str, str]
    decode: bytes
    nullable: bool
    is_time: bool = False

    @property
    def types(self) -> tuple[str, str, str]:
        """Template arguments."""
        stored, computed, out = self.names
        return C_TYPES[stored], C_TYPES[computed], C_TYPES[out]

    @property
    def stored(self) -> np.dtype[Any]:
        """Native type of the stored numbers."""
        return np.dtype(self.names[0])

    @property
    def out(self) -> np.dtype[Any]:
        """Type of the column in memory: bool takes one byte."""
        return np.dtype(self.names[2])


def column_program(decoding: Decoding) -> ColumnProgram | None:
    """The program of a column; None where the host has to decode it."""
    stored, computed, out = decoding.stored, decoding.computed, decoding.numpy
    if decoding.identity and out.kind in "iuf":
        return column_program_plain(out)
    if any(t.kind not in "biuf" for t in (stored, computed, out)) or len(decoding.fills) > MAX_FILLS:
        return None
    scaled = decoding.scale is not None or decoding.offset is not None
    if scaled and computed not in (np.dtype("f4"), np.dtype("f8"), np.dtype("i8")):
        return None
    if scaled and computed.kind == "i" and not isinstance(decoding.scale, int):
        return None
    decode = Decode()
    if decoding.time is not None:
        if not _time(decode.time, decoding.time, computed):
            return None
        if not scaled:
            computed = computed if computed == np.dtype("u8") else _TICKS if computed.kind in "iu" else np.dtype("f8")
    if computed == np.dtype("f2"):
        computed = np.dtype("f4")  # exact; nothing is computed in half precision
    names = _names(stored, computed, out)
    if names not in INSTANCES:
        return None
    _steps(decode, decoding, names)
    return ColumnProgram(names, bytes(decode), decoding.nullable, decoding.time is not None)


def column_program_plain(dtype: npt.DTypeLike) -> ColumnProgram:
    """The program of a column whose values are gathered as they are.

    Raises
    ------
    TypeError
        Values that are not 1, 2, 4 or 8 bytes wide.
    """
    kind = np.dtype(dtype)
    if kind.kind == "b":
        return ColumnProgram(("u1", "u1", "b1"), bytes(Decode()), nullable=False)
    name = f"u{kind.itemsize}"
    if kind.kind not in "iufMm" or name not in ("u1", "u2", "u4", "u8"):
        raise TypeError(f"no column in device memory has values of type {kind}")
    return ColumnProgram((name, name, name), bytes(Decode()), nullable=False)


def value_bits(value: Any, dtype: npt.DTypeLike) -> int:
    """The bits of one value, as `GatherArgs.fill_value` takes them."""
    raw = np.array([value]).astype(dtype).tobytes()
    return int.from_bytes(raw, "little")


def _names(stored: np.dtype[Any], computed: np.dtype[Any], out: np.dtype[Any]) -> tuple[str, str, str]:
    if out.kind == "b" and computed == stored and stored.itemsize == 1:
        return "u1", "u1", "b1"  # signs do not matter
    return tuple(t.kind + str(t.itemsize) for t in (stored, computed, out))  # type: ignore[return-value]


def _steps(decode: Decode, decoding: Decoding, names: tuple[str, str, str]) -> None:
    stored, computed, _ = names
    flags = CodeFlag(0)
    if decoding.fills_computed:
        flags |= CodeFlag.FILLS_COMPUTED
    if decoding.nan:
        flags |= CodeFlag.NAN
    if decoding.nan_computed:
        flags |= CodeFlag.NAN_COMPUTED
    if decoding.scale is not None:
        flags |= CodeFlag.SCALE
        decode.scale = value_bits(decoding.scale, computed)
    if decoding.offset is not None:
        flags |= CodeFlag.OFFSET
        decode.offset = value_bits(decoding.offset, computed)
    compared = computed if decoding.fills_computed else "f4" if stored == "f2" else stored
    source = decoding.computed if decoding.fills_computed else decoding.stored
    for i, fill in enumerate(decoding.fills):
        exact = np.array([fill]).astype(source)  # as the host compares: the value in the type of the cells
        decode.fills[i] = value_bits(exact.view(compared)[0] if source.itemsize == 1 else exact[0], compared)
    decode.fill_count = len(decoding.fills)
    decode.flags = int(flags)


def _time(time: TimeDecode, code: TimeCode, computed: np.dtype[Any]) -> bool:
    """Fill in the steps of a time; False where the host has to do it."""
    if code.calendar not in ("gregorian", "mixed"):
        return False
    time.early = -(2**63)
    base: TimeUnit = code.time_unit
    if code.calendar == "mixed" or (computed.kind == "f" and code.rule == "round"):
        base = "us"
        time.post = {"ns": TimePost.US_TO_NS, "us": TimePost.NONE, "ms": TimePost.US_TO_MS}[code.time_unit]
    if code.calendar == "mixed":  # by label before the reform: rare, so the host does the whole column then
        time.early = REFORM_DAY * _DAY_US
    if computed.kind == "f":
        if code.denominator != 1 or (code.calendar == "mixed" and code.rule != "round"):
            return False
        time.a = float(code.numerator)
        if code.rule == "truncate":
            time.kind, time.offset = TimeKind.TRUNCATE, code.epoch_ns
            return True
        if code.rule == "steps":
            time.kind, time.factor = TimeKind.STEPS, code.numerator
            return True
        return _rounded(time, code)
    divisor = code.denominator * TICK_NS[base]
    if code.numerator % divisor == 0:
        factor, offset = code.numerator // divisor, code.epoch_ns // TICK_NS[base]
        time.kind, time.factor, time.offset = TimeKind.LINEAR, _wrapped(factor), _wrapped(offset)
        _bounds(time, computed, -((_MAX + offset) // factor), (_MAX - offset) // factor)
        return True
    if divisor % code.numerator:
        return False
    step = divisor // code.numerator
    if step > _MAX // 2:
        return False
    whole, rest = divmod(code.epoch_ns * code.denominator // code.numerator, step)
    time.kind, time.step, time.rest, time.offset = TimeKind.FLOOR, step, rest, _wrapped(whole)
    _bounds(time, computed, (1 - _MAX - whole) * step, (_MAX - 1 - whole) * step)
    return True


def _rounded(time: TimeDecode, code: TimeCode) -> bool:
    """To whole microseconds."""
    offset = code.epoch_ns // 1000
    time.offset, time.low = _wrapped(offset), value_bits(float(offset), "f8")
    time.a = code.numerator / 1000
    if code.numerator % 1000 == 0:
        time.kind, time.factor, time.b = TimeKind.ROUND, code.numerator // 1000, float(code.numerator // 1000)
    else:
        time.kind, time.b = TimeKind.ROUND_FINE, 1000 / code.numerator
    return True


def _bounds(time: TimeDecode, computed: np.dtype[Any], low: int, high: int) -> None:
    """Bounds of the raw integers: in uint64 where they are unsigned, else in int64, of which the minimum is NaT."""
    least, most = (0, 2**64 - 1) if computed == np.dtype("u8") else (1 - 2**63, _MAX)
    if low > most or high < least:
        low, high = 1, 0  # nothing fits
    time.low, time.high = max(low, least) % 2**64, min(high, most) % 2**64


def _wrapped(number: int) -> int:
    """``number`` modulo 2**64, as a signed integer."""
    return (number + 2**63) % 2**64 - 2**63
