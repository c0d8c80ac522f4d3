"""The stream plan: the decoding of many chunks, of one array or of many, as flat tables.

Built from the stored bytes and checked against them completely before a decoder runs: every source span lies inside of
its buffer, every destination span inside of its chunk's place in the output arena, whose size the metadata fix. How a plan
is carried out: `gpuzarr.codecs.decode_plan`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuzarr.codecs.chain import CodecChain
from gpuzarr.codecs.chunk_set import ChunkLabel, ChunkSet
from gpuzarr.codecs.compressor_streams import COMPRESSORS, stored_streams
from gpuzarr.codecs.route import Route, route_for
from gpuzarr.codecs.tables import (
    Algorithm,
    ChecksumTable,
    FilterKind,
    FilterTable,
    HostReason,
    Streams,
    StreamTable,
)
from gpuzarr.errors import Kind

__all__ = ["ChunkLabel", "StoredChunks", "StreamPlan", "plan_streams"]

Int64Array = npt.NDArray[np.int64]
Buffer = npt.NDArray[np.uint8]

CHECKSUM_NBYTES = 4
SHUFFLE_STAGE, SWAP_STAGE = 1, 255  # stage 0: the filters of the blocks inside of a container


@dataclass(frozen=True, eq=False)
class StoredChunks:
    """Where the stored bytes of the chunks are.

    Parameters
    ----------
    buffers
        One-dimensional contiguous uint8 arrays. Planning is fastest if there is one for all.
    chain, buffer
        Per chunk the index of its codec chain and of its buffer, int64.
    start, nbytes
        Per chunk its span of the buffer, int64.
    labels
        Per chunk where it comes from, for errors; or empty.
    part_nbytes
        Per chunk the decoded bytes where the stored ones are a part of it only (a container of some Blosc blocks, a range
        of an uncompressed chunk), -1 for a whole chunk, int64; None where all are whole. Its place in the output arena
        has that size then. Only for chains whose codecs are the compressor alone.
    """

    buffers: Sequence[Buffer]
    chain: Int64Array
    buffer: Int64Array
    start: Int64Array
    nbytes: Int64Array
    labels: Sequence[ChunkLabel] = ()
    part_nbytes: Int64Array | None = None

    def __len__(self) -> int:
        return len(self.chain)

    @classmethod
    def of_bytes(cls, data: Sequence[Any], chain: npt.ArrayLike = 0, labels: Sequence[ChunkLabel] = ()) -> StoredChunks:
        """Chunks given one by one, copied into one buffer."""
        pieces = [np.frombuffer(piece, np.uint8) for piece in data]
        nbytes = np.array([piece.size for piece in pieces], np.int64)
        buffer = np.concatenate([*pieces, np.zeros(0, np.uint8)])
        chains = np.broadcast_to(np.asarray(chain, np.int64), nbytes.shape)
        return cls((buffer,), chains, np.zeros_like(nbytes), np.cumsum(nbytes) - nbytes, nbytes, labels)

    def set_of(self, rows: Int64Array, buffer: int) -> ChunkSet:
        """Some chunks of one buffer."""
        return ChunkSet(self.buffers[buffer], self.start[rows], self.nbytes[rows], rows, self.labels)

    def data(self, chunk: int) -> Buffer:
        """Stored bytes of one chunk, a view."""
        start = int(self.start[chunk])
        return self.buffers[int(self.buffer[chunk])][start : start + int(self.nbytes[chunk])]


@dataclass(frozen=True, eq=False)
class StreamPlan:
    """Tables for a set of chunks.

    Parameters
    ----------
    chunks
        The stored bytes.
    routes
        Per codec chain.
    dst, dst_nbytes
        Per chunk its place in the output arena, int64; no bytes for chunks that their chain alone can decode.
    out_nbytes
        Bytes of the output arena.
    streams
        What to decode, in the order of the chunks. A chunk that goes through the host has one row, `Algorithm.HOST`, over
        all of its stored bytes.
    filters
        What to do to the decoded bytes afterwards; none for chunks that go through the host.
    checksums
        What to verify, of stored bytes before and of decoded bytes after the decoding (before the filters); none for
        chunks that go through the host.
    """

    chunks: StoredChunks
    routes: tuple[Route, ...]
    dst: Int64Array
    dst_nbytes: Int64Array
    out_nbytes: int
    streams: StreamTable
    filters: FilterTable
    checksums: ChecksumTable

    def __len__(self) -> int:
        return len(self.chunks)

    def route(self, chunk: int) -> Route:
        """Route of one chunk."""
        return self.routes[int(self.chunks.chain[chunk])]

    def array(self, chunk: int, out: Buffer) -> npt.NDArray[Any]:
        """A whole chunk's array out of a decoded output arena: a view where nothing but the layout remains to be undone.

        Raises
        ------
        ChunkError
            A codec that the plan leaves to the host finds damage.
        """
        route = self.route(chunk)
        if not route.has_arena:
            return route.remainder.decode(self.chunks.data(chunk))
        start = int(self.dst[chunk])
        return route.remainder.decode(out[start : start + int(self.dst_nbytes[chunk])])


def plan_streams(
    chains: Sequence[CodecChain], chunks: StoredChunks, *, needed: Int64Array | None = None, alignment: int = 16
) -> StreamPlan:
    """Plan the decoding of chunks.

    Parameters
    ----------
    chains
        Codec chains, as `StoredChunks.chain` counts them.
    chunks
        The stored bytes.
    needed
        int64 ``(n, 2)``: (start, stop) of the bytes of each chunk, as they are in the output arena, that are needed.
        Streams that give none of them may be left out, their destination is then undefined.
    alignment
        Bytes that the places of chunks in the output arena are multiples of.

    Raises
    ------
    ChunkError
        The first chunk that is found damaged, cut short or of another size.
    """
    routes = tuple(route_for(chain) for chain in chains)
    nbytes = _decoded_nbytes(routes, chunks)
    padded = -(-nbytes // alignment) * alignment
    dst = np.cumsum(padded) - padded
    _check_spans(chunks)
    parts = list(_groups(routes, chunks, nbytes, needed))
    streams, filters, checksums = _joined(parts, dst)
    plan = StreamPlan(chunks, routes, dst, nbytes, int(padded.sum()), streams, filters, checksums)
    _check_plan(plan)
    return plan


def _decoded_nbytes(routes: tuple[Route, ...], chunks: StoredChunks) -> Int64Array:
    nbytes = np.array([route.nbytes for route in routes], np.int64)[chunks.chain]
    if chunks.part_nbytes is None:
        return nbytes
    divisible = np.array([route.is_divisible for route in routes], np.bool_)[chunks.chain]
    if ((chunks.part_nbytes >= 0) & (~divisible | (chunks.part_nbytes > nbytes))).any():
        raise ValueError("parts of chunks whose codecs need the whole, or larger than the whole")
    return np.where(chunks.part_nbytes >= 0, chunks.part_nbytes, nbytes)


def _check_spans(chunks: StoredChunks) -> None:
    sizes = np.array([buffer.size for buffer in chunks.buffers], np.int64)[chunks.buffer]
    bad = (chunks.start < 0) | (chunks.nbytes < 0) | (chunks.start > sizes - chunks.nbytes)
    if bad.any():
        row = np.flatnonzero(bad)[:1]
        chunks.set_of(row, int(chunks.buffer[row[0]])).refuse(
            0, "The bytes of the chunk are not all there. It was cut short.", Kind.CHUNK_TRUNCATED
        )


def _groups(
    routes: tuple[Route, ...], chunks: StoredChunks, nbytes: Int64Array, needed: Int64Array | None
) -> Iterator[tuple[Int64Array, Streams]]:
    """Chunks whose routes have one signature and whose bytes are in one buffer, planned together."""
    signatures: dict[Any, int] = {}
    of_chain = np.array([signatures.setdefault(route.signature, len(signatures)) for route in routes], np.int64)
    firsts = [routes[int(np.flatnonzero(of_chain == i)[0])] for i in range(len(signatures))]
    group = of_chain[chunks.chain] * len(chunks.buffers) + chunks.buffer
    order = np.argsort(group, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
        if rows.size:
            buffer = int(chunks.buffer[rows[0]])
            route = firsts[int(of_chain[chunks.chain[rows[0]]])]
            part = None if needed is None else _clipped(needed[rows], nbytes[rows])
            yield rows, _plan_group(route, chunks.set_of(rows, buffer), nbytes[rows], part)


def _clipped(needed: Int64Array, nbytes: Int64Array) -> Int64Array:
    start = np.clip(needed[:, 0], 0, nbytes)
    return np.stack([start, np.clip(needed[:, 1], start, nbytes)], axis=1)


def _plan_group(route: Route, chunks: ChunkSet, nbytes: Int64Array, needed: Int64Array | None) -> Streams:
    if route.reason != HostReason.NONE:
        return _on_host(chunks, nbytes, np.full(len(chunks), route.reason, np.uint8))
    whole = chunks
    sums = []
    for kind, at_start in route.checks:
        chunks.refuse_first(
            chunks.nbytes < CHECKSUM_NBYTES,
            np.arange(len(chunks)),
            lambda _: "The chunk is shorter than its checksum. It was cut short.",
            Kind.CHUNK_TRUNCATED,
        )
        at = chunks.start if at_start else chunks.start + chunks.nbytes - CHECKSUM_NBYTES
        chunks = chunks.narrowed(CHECKSUM_NBYTES, 0) if at_start else chunks.narrowed(0, CHECKSUM_NBYTES)
        sums.append(
            ChecksumTable.make(
                np.arange(len(chunks)),
                kind=kind,
                decoded=False,
                start=chunks.start,
                nbytes=chunks.nbytes,
                expected=chunks.read(at, "<u4"),
            )
        )
    planner = stored_streams if route.compressor is None else COMPRESSORS[route.compressor]
    result = planner(chunks, nbytes, None if route.shuffles else needed)
    filters = [result.filters]
    rows = np.flatnonzero(result.host == HostReason.NONE)
    for i, itemsize in enumerate(route.shuffles):
        filters.append(_filter(rows, SHUFFLE_STAGE + i, FilterKind.BYTE_UNSHUFFLE, nbytes, itemsize))
    if route.swap_itemsize:
        filters.append(_filter(rows, SWAP_STAGE, FilterKind.BYTE_SWAP, nbytes, route.swap_itemsize))
    outer = ChecksumTable.concatenate([ChecksumTable.empty(), *sums])
    outer = outer.take(result.host[outer.chunk] == HostReason.NONE)
    on_host = _on_host(whole, nbytes, result.host)
    return Streams(
        StreamTable.concatenate([result.streams, on_host.streams]),
        FilterTable.concatenate(filters),
        ChecksumTable.concatenate([result.checksums, outer]),
        result.host,
    )


def _on_host(chunks: ChunkSet, nbytes: Int64Array, reasons: npt.NDArray[np.uint8]) -> Streams:
    rows = np.flatnonzero(reasons != HostReason.NONE)
    streams = StreamTable.make(
        rows,
        algorithm=Algorithm.HOST,
        reason=reasons[rows],
        src=chunks.start[rows],
        src_nbytes=chunks.nbytes[rows],
        dst=0,
        dst_nbytes=nbytes[rows],
    )
    return Streams(streams, FilterTable.empty(), ChecksumTable.empty(), reasons)


def _filter(rows: Int64Array, stage: int, kind: FilterKind, nbytes: Int64Array, itemsize: int) -> FilterTable:
    return FilterTable.make(rows, stage=stage, kind=kind, dst=0, dst_nbytes=nbytes[rows], itemsize=itemsize)


def _joined(parts: list[tuple[Int64Array, Streams]], dst: Int64Array) -> tuple[StreamTable, FilterTable, ChecksumTable]:
    """One set of tables: chunks counted in the plan, destinations in the output arena, streams in order of chunks."""
    streams, filters, checksums = [StreamTable.empty()], [FilterTable.empty()], [ChecksumTable.empty()]
    before = 0
    for rows, part in parts:
        chunk = rows[part.streams.chunk]
        streams.append(replace(part.streams, chunk=chunk, dst=part.streams.dst + dst[chunk]))
        chunk = rows[part.filters.chunk]
        filters.append(replace(part.filters, chunk=chunk, dst=part.filters.dst + dst[chunk]))
        chunk, decoded = rows[part.checksums.chunk], part.checksums.decoded
        start = part.checksums.start + np.where(decoded, dst[chunk], 0)
        stream = np.where(decoded, part.checksums.stream + before, -1)
        checksums.append(replace(part.checksums, chunk=chunk, start=start, stream=stream))
        before += len(part.streams)
    joined = StreamTable.concatenate(streams)
    order = np.argsort(joined.chunk, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    sums = ChecksumTable.concatenate(checksums)
    if len(place):
        sums = replace(sums, stream=np.where(sums.decoded, place[sums.stream], -1))
    return joined.take(order), FilterTable.concatenate(filters), sums


def _check_plan(plan: StreamPlan) -> None:
    """The last line: whatever the planners did, no span leaves its buffer or its chunk's place."""
    sizes = np.array([buffer.size for buffer in plan.chunks.buffers], np.int64)[plan.chunks.buffer]
    table, sums = plan.streams, plan.checksums
    low, high = plan.dst, plan.dst + plan.dst_nbytes
    chunk = table.chunk
    inside = (table.src >= 0) & (table.src_nbytes >= 0) & (table.src <= sizes[chunk] - table.src_nbytes)
    inside &= (table.dst >= low[chunk]) & (table.dst_nbytes >= 0) & (table.dst <= high[chunk] - table.dst_nbytes)
    blocks = plan.filters
    filtered = (blocks.dst >= low[blocks.chunk]) & (blocks.dst + blocks.dst_nbytes <= high[blocks.chunk])
    begin = np.where(sums.decoded, low[sums.chunk], 0)
    end = np.where(sums.decoded, high[sums.chunk], sizes[sums.chunk])
    summed = (sums.start >= begin) & (sums.nbytes >= 0) & (sums.start <= end - sums.nbytes)
    for good, chunks in ((inside, chunk), (filtered, blocks.chunk), (summed, sums.chunk)):
        if not good.all():
            row = chunks[~good][:1]
            plan.chunks.set_of(row, int(plan.chunks.buffer[row[0]])).refuse(
                0, "A span of the chunk lies outside of it. The chunk is damaged.", Kind.CHUNK_DECODE
            )
