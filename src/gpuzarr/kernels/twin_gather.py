"""The gather kernels with numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from gpuzarr.kernels.cf_program import C_TYPES
from gpuzarr.kernels.descriptors import (
    ChunkSource,
    CodeFlag,
    Decode,
    Entry32,
    Entry64,
    GatherArgs,
    GatherFlag,
    GatherPiece,
    GatherStatus,
    TimeDecode,
    TimeKind,
    TimePost,
)
from gpuzarr.kernels.launch import Launch
from gpuzarr.kernels.memory import bytes_at, table_at, values_at

__all__ = ["decode_values", "run_gather", "run_gather_rows"]

Values = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]

_NUMPY = {c_type: np.dtype(name) for name, c_type in C_TYPES.items()}
_NAT = np.int64(-(2**63))


def run_gather(launch: Launch, args: GatherArgs) -> None:
    """Twin of ``gather``."""
    out, valid, bad = [], [], False
    row = args.row_begin
    for piece in table_at(args.pieces, GatherPiece, args.piece_count):
        low, high = max(row, int(piece["first_row"])), min(args.row_end, int(piece["first_row"] + piece["rows"]))
        if low >= high:
            continue
        chunk, offset = _cells(launch, args, piece)
        part = slice(low - int(piece["first_row"]), high - int(piece["first_row"]))
        values, is_valid, is_bad = _read(launch, args, chunk[part], offset[part])
        out.append(values)
        valid.append(is_valid)
        bad |= is_bad
        row = high
    if out:
        _write(args, np.concatenate(out), np.concatenate(valid), bad)


def run_gather_rows(launch: Launch, args: GatherArgs) -> None:
    """Twin of ``gather_rows``."""
    rows = values_at(args.rows, np.int32, args.row_end)[args.row_begin :].astype(np.int64)
    pieces = table_at(args.pieces, GatherPiece, args.piece_count)
    number = np.searchsorted(pieces["first_row"], rows, side="right") - 1
    chunk, offset = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64)
    for i in np.unique(number).tolist():
        here = number == i
        all_chunks, all_offsets = _cells(launch, args, pieces[i])
        local = rows[here] - int(pieces["first_row"][i])
        chunk[here], offset[here] = all_chunks[local], all_offsets[local]
    values, valid, bad = _read(launch, args, chunk, offset)
    _write(args, values, valid, bad)


def _cells(launch: Launch, args: GatherArgs, piece: Any) -> tuple[Values, Values]:
    """Chunk and offset of every row of a piece."""
    structure = Entry64 if launch.types[3] == "int64_t" else Entry32
    dims = piece["dims"][: args.dims]
    shape = tuple(int(extent) for extent in dims["extent"])
    chunk, offset = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for axis, (extent, first) in enumerate(zip(shape, dims["entries"].tolist(), strict=True)):
        if first < 0:
            continue
        entries = table_at(args.entries, structure, first + extent)[first:]
        along = [-1 if d == axis else 1 for d in range(len(shape))]
        chunk += entries["chunk"].reshape(along)
        offset += entries["offset"].reshape(along)
    return chunk.reshape(-1), offset.reshape(-1)


def _read(launch: Launch, args: GatherArgs, chunk: Values, offset: Values) -> tuple[Values, Mask, bool]:
    stored, computed, out_type = (_NUMPY[name] for name in launch.types[:3])
    out, valid, bad = np.zeros(len(chunk), out_type), np.zeros(len(chunk), np.bool_), False
    numbers = np.unique(chunk)
    sources = table_at(args.chunks, ChunkSource, int(numbers[-1]) + 1 if len(numbers) else 0)
    for number in numbers.tolist():
        here = np.flatnonzero(chunk == number)
        source = sources[number]
        if not source["address"]:
            out[here] = np.frombuffer(args.fill_value.to_bytes(8, "little"), out_type, 1)[0]
            valid[here] = bool(args.fill_valid)
            continue
        raw = _elements(source, offset[here], stored)
        if args.flags & GatherFlag.SWAP:
            raw = raw.byteswap()
        good = np.ones(len(here), np.bool_)
        if source["mask"]:
            low = int(offset[here].min())
            mask = bytes_at(int(source["mask"]) + low, int(offset[here].max()) - low + 1)
            good &= mask[offset[here] - low] != 0
        values, is_bad = decode_values(raw, computed, out_type, good, args.decode)
        out[here], valid[here] = values, good
        bad |= is_bad
    return out, valid, bad


def _elements(source: Any, offset: Values, stored: np.dtype[Any]) -> Values:
    size, address = stored.itemsize, int(source["address"])
    found: Values
    if not source["block"]:
        low, high = int(offset.min()), int(offset.max()) + 1
        found = values_at(address + low * size, stored, high - low)[offset - low]
        return found
    block, total = int(source["block"]), int(source["total"])
    start = offset // block * block
    n = np.minimum(block, total - start)
    data = bytes_at(address, total * size)
    planes = start[:, None] * size + np.arange(size) * n[:, None] + (offset - start)[:, None]
    found = data[planes].reshape(-1).view(stored)
    return found


def _write(args: GatherArgs, values: Values, valid: Mask, bad: bool) -> None:
    begin, end = args.row_begin, args.row_end
    values_at(args.values, values.dtype, end)[begin:] = values
    if args.valid:
        first = begin // 8 * 8
        bits = np.zeros(end - first, np.uint8)
        bits[begin - first :] = valid
        packed = np.packbits(bits, bitorder="little")
        bytes_at(args.valid + first // 8, len(packed))[:] |= packed
    if args.null_count:
        values_at(args.null_count, np.uint64, 1)[:] += np.uint64(len(valid) - int(valid.sum()))
    if bad and args.status:
        values_at(args.status, np.uint32, 1)[:] |= np.uint32(GatherStatus.OUT_OF_RANGE)


def decode_values(
    raw: Values, computed: np.dtype[Any], out: np.dtype[Any], valid: Mask, decode: Decode
) -> tuple[Values, bool]:
    """Decode stored numbers; clears ``valid`` where one is missing. The second result: whether a value does not fit."""
    flags = CodeFlag(decode.flags)
    with np.errstate(all="ignore"):
        values = raw.astype(computed)
        compared = values if flags & CodeFlag.FILLS_COMPUTED else raw.astype("f4") if raw.dtype == "f2" else raw
        for i in range(decode.fill_count):
            valid &= compared != _field(decode.fills[i], compared.dtype)
        if flags & CodeFlag.NAN:
            valid &= raw == raw
        if flags & CodeFlag.SCALE:
            values = values * _field(decode.scale, computed)
        if flags & CodeFlag.OFFSET:
            values = values + _field(decode.offset, computed)
        if flags & CodeFlag.NAN_COMPUTED:
            valid &= values == values
        if decode.time.kind != TimeKind.NONE:
            return _ticks(values, decode.time, valid)
        return (values != 0 if out.kind == "b" else values.astype(out)), False


def _field(bits: int, dtype: np.dtype[Any]) -> Any:
    return np.frombuffer(int(bits).to_bytes(8, "little"), dtype, 1)[0]


def _ticks(values: Values, time: TimeDecode, valid: Mask) -> tuple[Values, bool]:
    if values.dtype.kind == "f":
        out, outside = _float_ticks(values.astype(np.float64), time, valid)
    else:
        out, outside = _integer_ticks(values, time, valid)
    outside |= out < time.early
    if time.post == TimePost.US_TO_NS:
        limit = (2**63 - 1) // 1000
        outside |= (out < -limit) | (out > limit)
        out = out * np.int64(1000)
    elif time.post == TimePost.US_TO_MS:
        out = out // 1000
    return out, bool((outside & valid).any())


def _integer_ticks(values: Values, time: TimeDecode, valid: Mask) -> tuple[Values, Mask]:
    bounds = [np.uint64(time.low), np.uint64(time.high)]
    wide = values.astype(np.int64)
    if values.dtype == np.uint64:
        outside = (values < bounds[0]) | (values > bounds[1])
    else:
        low, high = (int(bound.view(np.int64)) for bound in bounds)
        valid &= wide != _NAT
        outside = (wide < low) | (wide > high)
    offset = np.int64(time.offset)
    if time.kind == TimeKind.LINEAR:
        return wide * np.int64(time.factor) + offset, outside
    return wide // time.step + (wide % time.step + time.rest) // time.step + offset, outside


def _float_ticks(values: Values, time: TimeDecode, valid: Mask) -> tuple[Values, Mask]:
    valid &= values == values
    offset = np.int64(time.offset)
    limit = 2.0**63
    if time.kind == TimeKind.TRUNCATE:
        scaled = values * time.a
        outside = ~(np.abs(scaled + float(time.offset)) < limit) | ~(np.abs(scaled) < limit)
        out = _whole(scaled)
        most = 2**63 - 1
        outside |= out > most - time.offset if time.offset > 0 else out < -most - time.offset
        return out + offset, outside
    if time.kind == TimeKind.STEPS:
        unit = min(time.factor, 10**9)
        level = values * float(time.factor // unit)
        outside = ~(np.abs(level * float(unit)) < limit)
        units = np.full(len(values), unit, np.int64)
        while (going := (units > 1) & (level != np.trunc(level)) & ~outside).any():
            level[going] *= 1000.0
            units[going] //= 1000
        return _whole(level) * units, outside
    outside = ~(np.abs(values * time.a + _field(time.low, np.dtype("f8"))) < limit)
    if time.kind == TimeKind.ROUND:
        floor = np.floor(values)
        out = _whole(floor) * np.int64(time.factor) + _whole(np.rint((values - floor) * time.b))
    else:
        out = _whole(np.rint(values / time.b))
    return out + offset, outside


def _whole(values: Values) -> Values:
    """To int64; 0 where it does not fit."""
    return np.where(np.abs(values) < 2.0**63, values, 0.0).astype(np.int64)
