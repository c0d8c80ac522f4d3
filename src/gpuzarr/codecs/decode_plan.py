"""Carrying out a stream plan on host memory: checksums, one batch per algorithm, copies, filters.

The order is the device's: verify stored bytes, decode batch by batch with one look at the statuses of each, verify decoded
bytes, decode again on the host whatever failed, filter. What fails there too is an error that names the chunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gpuzarr.codecs import checksums as host_checksums
from gpuzarr.codecs.batch import MAX_STREAM_NBYTES, BatchDecoder, Status
from gpuzarr.codecs.stream_plan import StreamPlan
from gpuzarr.codecs.tables import Algorithm, ChecksumKind, ChecksumTable, StreamTable
from gpuzarr.codecs.unfilter import apply_filters
from gpuzarr.errors import ChunkError, Kind

__all__ = [
    "BatchTables",
    "DecodeReport",
    "batches",
    "decode_on_host",
    "decode_plan",
    "host_chunks",
    "realigned",
    "verify_stored",
]

Int64Array = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]

_HOST_CHECKSUMS = {
    ChecksumKind.CRC32C: "crc32c",
    ChecksumKind.CRC32: "crc32",
    ChecksumKind.ADLER32: "adler32",
    ChecksumKind.FLETCHER32: "fletcher32",
}


@dataclass(frozen=True, eq=False)
class BatchTables:
    """One batch for a `BatchDecoder`.

    Parameters
    ----------
    algorithm
        Of all its streams.
    streams
        Rows of the plan's stream table, the largest outputs first: they take longest.
    """

    algorithm: Algorithm
    streams: Int64Array


@dataclass(frozen=True, eq=False)
class DecodeReport:
    """What happened.

    Parameters
    ----------
    host
        Chunks that went through the host because the plan or the decoder says so, int64.
    retried
        Chunks that a batch failed to decode and the host decoded, int64.
    batch_nbytes
        Decoded bytes by algorithm, of streams that a batch decoded.
    """

    host: Int64Array
    retried: Int64Array
    batch_nbytes: dict[Algorithm, int]


def host_chunks(plan: StreamPlan, decoder: BatchDecoder) -> npt.NDArray[np.bool_]:
    """Which chunks go through the host: those of the plan, and those that need what the decoder does not have.

    So do streams with a checksum that neither the decoder nor a pass over its output can verify, and streams larger than
    a batch takes.
    """
    host = np.zeros(len(plan), np.bool_)
    for algorithm, most in MAX_STREAM_NBYTES.items():
        host[plan.streams.chunk[(plan.streams.algorithm == algorithm) & (plan.streams.dst_nbytes > most)]] = True
    known = [Algorithm.STORED, *decoder.algorithms]
    host[plan.streams.chunk[~np.isin(plan.streams.algorithm, known)]] = True
    verified = [*_HOST_CHECKSUMS, *decoder.verifies]
    host[plan.checksums.chunk[~np.isin(plan.checksums.kind, verified)]] = True
    return host


def batches(plan: StreamPlan, left_out: npt.NDArray[np.bool_]) -> Iterator[BatchTables]:
    """The batches of a plan without the chunks that are left out."""
    table = plan.streams
    rows = np.flatnonzero(~left_out[table.chunk] & (table.algorithm != Algorithm.STORED))
    for algorithm in np.unique(table.algorithm[rows]):
        those = rows[table.algorithm[rows] == algorithm]
        yield BatchTables(Algorithm(algorithm), those[np.argsort(-table.dst_nbytes[those], kind="stable")])


def verify_stored(plan: StreamPlan) -> None:
    """Verify the checksums over stored bytes.

    Raises
    ------
    ChunkError
        CHUNK_CHECKSUM for the first one that does not match.
    """
    table = plan.checksums.take(~plan.checksums.decoded)
    for row in range(len(table)):
        chunk = int(table.chunk[row])
        start = int(table.start[row])
        data = plan.chunks.buffers[int(plan.chunks.buffer[chunk])][start : start + int(table.nbytes[row])]
        found, expected = _checksum(table, row, data), int(table.expected[row])
        if found != expected:
            name = _HOST_CHECKSUMS[ChecksumKind(table.kind[row])]
            _refuse(
                plan,
                chunk,
                f"{name}: stored checksum {expected:08x}, the bytes have {found:08x}. The chunk is damaged.",
                Kind.CHUNK_CHECKSUM,
            )


def decode_plan(
    plan: StreamPlan, out: Bytes, decoder: BatchDecoder, *, on_host: npt.NDArray[np.bool_] | None = None
) -> DecodeReport:
    """Decode all chunks of a plan into the output arena.

    Parameters
    ----------
    plan
        What to do.
    out
        The output arena, ``plan.out_nbytes`` bytes of host memory. `StreamPlan.array` reads chunks out of it.
    decoder
        Decodes batches on host memory.
    on_host
        Per chunk whether it goes through the host whatever the plan says (few huge streams, say).

    Raises
    ------
    ChunkError
        The first chunk that the host cannot decode either.
    """
    if out.dtype != np.uint8 or out.ndim != 1 or not out.flags.c_contiguous or out.size < plan.out_nbytes:
        raise ValueError(f"the output arena must be {plan.out_nbytes} contiguous bytes")
    verify_stored(plan)
    host = host_chunks(plan, decoder)
    if on_host is not None:
        host |= on_host
    failed = np.zeros(len(plan), np.bool_)
    done: dict[Algorithm, int] = {}
    for batch in batches(plan, host):
        good = _run_batch(plan, batch, out, decoder)
        failed[plan.streams.chunk[batch.streams[~good]]] = True
        done[batch.algorithm] = int(plan.streams.dst_nbytes[batch.streams[good]].sum())
    _copy_stored(plan, out, host | failed)
    failed |= _damaged(plan, out, host | failed, decoder.verifies)
    for chunk in np.flatnonzero(host | failed):
        decode_on_host(plan, int(chunk), out)
    keep = ~(host | failed)
    apply_filters(plan.filters.take(keep[plan.filters.chunk]), out)
    return DecodeReport(np.flatnonzero(host), np.flatnonzero(failed), done)


def decode_on_host(plan: StreamPlan, chunk: int, out: Bytes) -> None:
    """Decode one chunk by its codecs to its final place; nothing for chunks without one.

    Raises
    ------
    ChunkError
        The chunk is damaged; with its location.
    """
    route = plan.route(chunk)
    if not route.has_arena:
        return
    start = int(plan.dst[chunk])
    try:
        route.decode_on_host(plan.chunks.data(chunk), out[start : start + int(plan.dst_nbytes[chunk])])
    except ChunkError as error:
        raise _located(plan, chunk, error) from error.__cause__
    except (ValueError, TypeError, IndexError, OverflowError, RuntimeError, OSError, EOFError) as error:
        found = ChunkError(f"{error}. The chunk is damaged.", kind=Kind.CHUNK_DECODE)
        raise _located(plan, chunk, found) from error


def _located(plan: StreamPlan, chunk: int, error: ChunkError) -> ChunkError:
    row = np.array([chunk])
    return plan.chunks.set_of(row, int(plan.chunks.buffer[chunk])).locate(error, 0)


def _refuse(plan: StreamPlan, chunk: int, what: str, kind: Kind) -> None:
    raise _located(plan, chunk, ChunkError(what, kind=kind))


def _run_batch(plan: StreamPlan, batch: BatchTables, out: Bytes, decoder: BatchDecoder) -> npt.NDArray[np.bool_]:
    """Decode one batch; which streams came out right."""
    table: StreamTable = plan.streams.take(batch.streams)
    need = decoder.required_alignments(batch.algorithm)
    base = np.array([buffer.ctypes.data for buffer in plan.chunks.buffers], np.uint64)
    inputs = base[plan.chunks.buffer[table.chunk]] + table.src.astype(np.uint64)
    inputs, moved = _aligned(plan, table, inputs, need.input)
    outputs = np.uint64(out.ctypes.data) + table.dst.astype(np.uint64)
    if need.output > 1 and (outputs % np.uint64(need.output)).any():
        raise ValueError(f"{decoder.name} asks for outputs aligned to {need.output} bytes")
    sizes, room = table.src_nbytes.astype(np.uint64), table.dst_nbytes.astype(np.uint64)
    actual, status = np.zeros(len(table), np.uint64), np.full(len(table), -1, np.int32)
    code, nbytes = decoder.temp_size(batch.algorithm, len(table), int(room.max()), int(room.sum()))
    if code != Status.SUCCESS:
        return np.zeros(len(table), np.bool_)
    scratch = np.empty(nbytes + need.temp, np.uint8)
    code = decoder.decompress(
        batch.algorithm,
        inputs.ctypes.data,
        sizes.ctypes.data,
        room.ctypes.data,
        actual.ctypes.data,
        len(table),
        -(-scratch.ctypes.data // need.temp) * need.temp,
        nbytes,
        outputs.ctypes.data,
        status.ctypes.data,
        0,
    )
    del moved  # the decoder has read it
    if code != Status.SUCCESS:
        return np.zeros(len(table), np.bool_)
    good: npt.NDArray[np.bool_] = (status == Status.SUCCESS) & (actual == room)
    return good


def realigned(
    addresses: npt.NDArray[np.uint64], nbytes: Int64Array, alignment: int
) -> tuple[Int64Array, Int64Array, int]:
    """Streams that must be copied to aligned memory before a batch.

    Parameters
    ----------
    addresses, nbytes
        Of the streams.
    alignment
        What the decoder requires of its inputs.

    Returns
    -------
    rows, places, nbytes
        The streams, where each goes in an aligned scratch buffer, and the size of that buffer.
    """
    rows = np.flatnonzero(addresses % np.uint64(alignment))
    padded = -(-nbytes[rows] // alignment) * alignment
    return rows, np.cumsum(padded) - padded, int(padded.sum())


def _aligned(
    plan: StreamPlan, table: StreamTable, inputs: npt.NDArray[np.uint64], alignment: int
) -> tuple[npt.NDArray[np.uint64], Bytes | None]:
    """Addresses of inputs that are aligned, and the copies of those that were not."""
    rows, places, nbytes = realigned(inputs, table.src_nbytes, alignment)
    if not rows.size:
        return inputs, None
    copies = np.empty(nbytes + alignment, np.uint8)
    lead = -copies.ctypes.data % alignment
    for row, place in zip(rows.tolist(), (places + lead).tolist(), strict=True):
        buffer = plan.chunks.buffers[int(plan.chunks.buffer[table.chunk[row]])]
        start, size = int(table.src[row]), int(table.src_nbytes[row])
        copies[place : place + size] = buffer[start : start + size]
    inputs = inputs.copy()
    inputs[rows] = (places + lead + copies.ctypes.data).astype(np.uint64)
    return inputs, copies


def _copy_stored(plan: StreamPlan, out: Bytes, left_out: npt.NDArray[np.bool_]) -> None:
    table = plan.streams
    rows = np.flatnonzero((table.algorithm == Algorithm.STORED) & ~left_out[table.chunk])
    buffers = plan.chunks.buffer[table.chunk[rows]].tolist()
    spans = zip(
        buffers, table.src[rows].tolist(), table.dst[rows].tolist(), table.dst_nbytes[rows].tolist(), strict=True
    )
    for buffer, src, dst, nbytes in spans:
        out[dst : dst + nbytes] = plan.chunks.buffers[buffer][src : src + nbytes]


def _damaged(
    plan: StreamPlan, out: Bytes, left_out: npt.NDArray[np.bool_], verified: frozenset[ChecksumKind]
) -> npt.NDArray[np.bool_]:
    """Chunks whose decoded bytes do not have the checksum that is stored with them."""
    failed = np.zeros(len(plan), np.bool_)
    table = plan.checksums
    rows = np.flatnonzero(table.decoded & ~left_out[table.chunk] & ~np.isin(table.kind, list(verified)))
    for row in rows.tolist():
        start = int(table.start[row])
        found = _checksum(table, row, out[start : start + int(table.nbytes[row])])
        failed[table.chunk[row]] |= found != int(table.expected[row])
    return failed


def _checksum(table: ChecksumTable, row: int, data: Bytes) -> int:
    name = _HOST_CHECKSUMS[ChecksumKind(table.kind[row])]
    return host_checksums.ALGORITHMS[name](data) & 0xFFFFFFFF
