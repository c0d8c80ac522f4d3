"""Decoding the chunks of a wave: one copy of the arena, one batch per algorithm, one look at the statuses, then the filters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from gpuzarr.codecs.batch import Status
from gpuzarr.codecs.chunk_set import ChunkLabel
from gpuzarr.codecs.decode_plan import batches, decode_on_host, realigned, verify_stored
from gpuzarr.codecs.stream_plan import StoredChunks, StreamPlan, plan_streams
from gpuzarr.codecs.tables import Algorithm, ChecksumKind
from gpuzarr.device.memory_pool import DirectMemory, Lease, PinnedPool
from gpuzarr.device.runtime import Bytes, DeviceBuffer, Runtime, Stream
from gpuzarr.device.wave_fetch import FetchedChunk, Slot
from gpuzarr.device.wave_filters import Layout, Queued, launcher, shuffled_blocks, undo_filters
from gpuzarr.device.wave_routes import FAILED, count_reasons, host_entries
from gpuzarr.device.wave_tables import PackedTables, TablePack
from gpuzarr.kernels import launch as launches
from gpuzarr.kernels import tables as kernel_tables

__all__ = ["ChunkMemory", "DecodedWave", "decode"]

Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
ALIGNMENT = 16


@dataclass(eq=False)
class ChunkMemory:
    """Device memory that holds chunks; keeps the stream that frees it behind its readers."""

    buffer: DeviceBuffer | DirectMemory
    stream: Stream


@dataclass(frozen=True, eq=False)
class _Source:
    """The stored bytes in device memory: where they begin, and whether they are there already."""

    memory: ChunkMemory
    address: int
    is_filled: bool


@dataclass(eq=False)
class DecodedWave:
    """Chunks in device memory, in the order given, once the stream is done.

    Attributes
    ----------
    slots
        Where they are.
    streams, on_host, retried
        Streams that batches decoded; chunks that the host decoded because the plan says so, or because a batch failed.
    reasons
        Of chunks that the host decoded, by array and reason.
    in_place
        Chunks that stay shuffled: the gather kernel reads them so.
    nbytes
        Decoded bytes.
    stored, stored_address
        The stored bytes, of which some chunks are gathered as they are, and where they begin.
    """

    slots: list[Slot]
    streams: int = 0
    on_host: int = 0
    retried: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    in_place: int = 0
    nbytes: int = 0
    stored: ChunkMemory | None = None
    stored_address: int = 0
    leases: list[Lease] = field(default_factory=list)
    tables: list[PackedTables] = field(default_factory=list)

    def release(self) -> None:
        """Give back what the stream has done with."""
        for lease in self.leases:
            lease.release()
        for table in self.tables:
            table.release()
        self.leases.clear()
        self.tables.clear()


def decode(
    chunks: Sequence[FetchedChunk],
    arena: Bytes,
    runtime: Runtime,
    pool: PinnedPool,
    stream: Stream,
    run_all: Callable[[list[Callable[[], None]]], None],
    direct: DirectMemory | None = None,
) -> DecodedWave:
    """Decode fetched chunks into device memory.

    Parameters
    ----------
    chunks
        Of one wave.
    arena
        Their stored bytes, page-locked; must stay until the stream is done.
    direct
        Device memory that holds the stored bytes already, where they are: then nobody looks at ``arena``, which only
        stands for it.
    run_all
        Runs functions, at once if it can, and waits for all of them.

    Raises
    ------
    ChunkError
        The first chunk that the host cannot decode either.
    DeviceMemoryError
        There is too little memory for all of them; nothing is kept.
    """
    arena, first = _hull(chunks, arena)
    plan, layout = _plan(chunks, arena, first)
    verify_stored(plan)
    why = host_entries(plan, runtime)
    host = why > 0
    as_stored = _as_stored(plan, layout) & ~host
    plan, layout = _without(plan, layout, as_stored)
    wave = DecodedWave([], nbytes=layout.nbytes)
    try:
        out = runtime.allocate(max(layout.nbytes, 1), stream)
        memory = ChunkMemory(out, stream)
        failed = np.zeros(len(plan), np.bool_)
        if not host.all():
            source = _source(arena, first, direct, runtime, stream)
            failed = _run_batches(plan, source, arena, host, as_stored, out, runtime, pool, stream, wave)
        _decode_on_host(plan, layout, host | failed, out, runtime, pool, stream, wave, run_all)
        _upload_decoded(chunks, layout, out, runtime, pool, stream, wave)
        keep = ~(host | failed)
        sizes = np.array([chunk.column.shuffled_itemsize for chunk in chunks], np.int64)
        blocks = shuffled_blocks(plan, layout, sizes)
        blocks[layout.owner[~keep]] = 0
        final = undo_filters(plan, layout, keep & (blocks == 0)[layout.owner], out, runtime, pool, stream, wave.tables)
        wave.on_host = int(host.sum()) + sum(chunk.decoded is not None for chunk in chunks)
        wave.retried = int(failed.sum())
        why[failed] = FAILED
        if why.any():
            wave.reasons = count_reasons([label.array or "" for label in plan.chunks.labels], why)
        other = None if final is None else ChunkMemory(final[0], stream)
        moved = np.zeros(len(chunks), np.bool_) if final is None else final[1]
        for start, is_moved, block in zip(layout.start.tolist(), moved.tolist(), blocks.tolist(), strict=True):
            where = other if is_moved and other is not None else memory
            wave.slots.append(Slot(where.buffer.address + start, where, block))
        wave.in_place = int((blocks > 0).sum())
        if wave.stored is not None:
            for entry in np.flatnonzero(as_stored).tolist():
                offset = int(plan.chunks.start[entry])
                wave.slots[int(layout.owner[entry])] = Slot(wave.stored_address + offset, wave.stored)
    except BaseException:
        stream.synchronize()
        wave.release()
        raise
    return wave


def _hull(chunks: Sequence[FetchedChunk], arena: Bytes) -> tuple[Bytes, int]:
    """The part of the arena that holds the chunks, and where it begins."""
    spans = [(part.offset, part.offset + part.stored_nbytes) for chunk in chunks for part in chunk.parts]
    if not spans:
        return arena[:0], 0
    first = min(start for start, _ in spans)
    return arena[first : max(stop for _, stop in spans)], first


def _plan(chunks: Sequence[FetchedChunk], arena: Bytes, first: int) -> tuple[StreamPlan, Layout]:
    chains = list({id(chunk.column): chunk.column.source.chain for chunk in chunks if chunk.parts}.values())
    number = {id(chain): i for i, chain in enumerate(chains)}
    rows: list[tuple[int, int, int, int, int, int, int, int]] = []
    labels: list[ChunkLabel] = []
    for owner, chunk in enumerate(chunks):
        for part in chunk.parts:
            low, high = chunk.needed if part.nbytes < 0 else (0, part.nbytes)
            chain = number[id(chunk.column.source.chain)]
            rows.append((owner, part.start, chain, part.offset - first, part.stored_nbytes, part.nbytes, low, high))
            labels.append(ChunkLabel(chunk.column.source.array.path, chunk.key, chunk.origin))
    table = np.array(rows, np.int64).reshape(len(rows), 8)
    columns = np.ascontiguousarray(table.T)
    owners, start, chain_of, offset, stored, part_nbytes, low, high = (columns[i] for i in range(8))
    sizes = np.array([chunk.column.nbytes for chunk in chunks], np.int64)
    padded = -(-sizes // ALIGNMENT) * ALIGNMENT
    begin = np.cumsum(padded) - padded
    whole = None if (part_nbytes < 0).all() else part_nbytes
    stored_chunks = StoredChunks((arena,), chain_of, np.zeros_like(chain_of), offset, stored, labels, whole)
    plan = plan_streams(chains, stored_chunks, needed=np.stack([low, high], axis=1), alignment=ALIGNMENT)
    layout = Layout(owners, begin[owners] + start, begin, int(padded.sum()))
    return _placed(plan, layout), layout


def _placed(plan: StreamPlan, layout: Layout) -> StreamPlan:
    """The plan with its entries where their chunks are."""
    move = layout.dst - plan.dst
    sums = plan.checksums
    start = sums.start + np.where(sums.decoded, move[sums.chunk], 0)
    return replace(
        plan,
        dst=layout.dst,
        out_nbytes=layout.nbytes,
        streams=replace(plan.streams, dst=plan.streams.dst + move[plan.streams.chunk]),
        filters=replace(plan.filters, dst=plan.filters.dst + move[plan.filters.chunk]),
        checksums=replace(sums, start=start),
    )


def _as_stored(plan: StreamPlan, layout: Layout) -> BoolArray:
    """Entries that are whole chunks whose stored bytes are the decoded ones: they are gathered where they are."""
    table = plan.streams
    streams = np.bincount(table.chunk, minlength=len(plan))
    parts = np.bincount(layout.owner, minlength=len(layout.start))
    found: BoolArray = (streams == 1) & (parts[layout.owner] == 1) & (plan.chunks.nbytes == plan.dst_nbytes)
    same = (table.algorithm == Algorithm.STORED) & (table.dst_nbytes == plan.dst_nbytes[table.chunk])
    same &= table.src == plan.chunks.start[table.chunk]
    found[table.chunk[~same]] = False
    found[plan.filters.chunk] = False
    found[plan.checksums.chunk[plan.checksums.decoded]] = False
    found &= plan.dst == layout.start[layout.owner]
    return found


def _without(plan: StreamPlan, layout: Layout, left_out: BoolArray) -> tuple[StreamPlan, Layout]:
    """The plan and its layout without room for the chunks of some entries."""
    if not left_out.any():
        return plan, layout
    sizes = np.diff(layout.start, append=layout.nbytes)
    sizes[layout.owner[left_out]] = 0
    begin = np.cumsum(sizes) - sizes
    moved = Layout(layout.owner, layout.dst + (begin - layout.start)[layout.owner], begin, int(sizes.sum()))
    return _placed(plan, moved), moved


def _source(arena: Bytes, first: int, direct: DirectMemory | None, runtime: Runtime, stream: Stream) -> _Source:
    """Device memory for the stored bytes."""
    if direct is None:
        buffer = runtime.allocate(max(len(arena), 1), stream)
        return _Source(ChunkMemory(buffer, stream), buffer.address, is_filled=False)
    direct.used_in(stream)
    return _Source(ChunkMemory(direct, stream), direct.address + first, is_filled=True)


def _run_batches(
    plan: StreamPlan,
    source: _Source,
    arena: Bytes,
    host: BoolArray,
    as_stored: BoolArray,
    out: DeviceBuffer,
    runtime: Runtime,
    pool: PinnedPool,
    stream: Stream,
    wave: DecodedWave,
) -> BoolArray:
    """Copy the arena, run one batch per algorithm and the stored copies; which entries failed."""
    table, decoder = plan.streams, runtime.decoder
    if as_stored.any():
        wave.stored, wave.stored_address = source.memory, source.address
    runs = list(batches(plan, host))
    pack = TablePack()
    queue: list[Queued] = []
    stored = np.flatnonzero((table.algorithm == Algorithm.STORED) & ~(host | as_stored)[table.chunk])
    if stored.size:
        items = kernel_tables.copy_items(
            source.address + table.src[stored], out.address + table.dst[stored], table.dst_nbytes[stored]
        )
        at = pack.add(items)
        queue.append(launcher(runtime, stream, partial(launches.copy, count=len(items)), at))
    results: list[tuple[Int64Array, int, int]] = []
    scratch_nbytes = 0
    buffers: list[DeviceBuffer] = []
    refused = np.zeros(len(plan), np.bool_)
    jobs = []
    for batch in runs:
        rows = batch.streams
        room = table.dst_nbytes[rows]
        code, nbytes = decoder.temp_size(batch.algorithm, len(rows), int(room.max()), int(room.sum()))
        if code != Status.SUCCESS:
            refused[table.chunk[rows]] = True
            continue
        scratch_nbytes = max(scratch_nbytes, nbytes)
        jobs.append((batch, nbytes))
    scratch = runtime.allocate(scratch_nbytes, stream) if scratch_nbytes else None
    for batch, nbytes in jobs:
        rows = batch.streams
        need = decoder.required_alignments(batch.algorithm)
        inputs = (source.address + table.src[rows]).astype(np.uint64)
        moved, places, moved_nbytes = realigned(inputs, table.src_nbytes[rows], need.input)
        if moved.size:
            aligned = runtime.allocate(moved_nbytes, stream)
            buffers.append(aligned)
            targets = aligned.address + places
            items = kernel_tables.copy_items(inputs[moved].astype(np.int64), targets, table.src_nbytes[rows][moved])
            first, count = pack.add(items), len(items)
            queue.append(launcher(runtime, stream, partial(launches.copy, count=count), first))
            inputs = inputs.copy()
            inputs[moved] = targets.astype(np.uint64)
        outputs = (out.address + table.dst[rows]).astype(np.uint64)
        numbers = [
            pack.add(column)
            for column in (inputs, table.src_nbytes[rows].astype(np.uint64), table.dst_nbytes[rows].astype(np.uint64))
        ]
        actual, pointers = pack.reserve(8 * len(rows)), pack.add(outputs)
        status, summary = pack.add(np.full(len(rows), -1, np.int32)), pack.reserve(8)
        failures = pack.reserve(len(rows))
        results.append((rows, failures, len(rows)))

        def run(
            t: PackedTables,
            algorithm: Algorithm = batch.algorithm,
            n: tuple[int, ...] = (*numbers, actual, pointers, status, summary, failures),
            count: int = len(rows),
            temp: int = nbytes,
        ) -> None:
            code = runtime.decompress(
                algorithm, t[n[0]], t[n[1]], t[n[2]], t[n[3]], count, scratch.address if scratch and temp else 0, temp,
                t[n[4]], t[n[5]], stream=stream,
            )  # fmt: skip
            if code != Status.SUCCESS:
                raise RuntimeError(f"{decoder.name} refused a batch of {count} {algorithm.name} streams: {code}")
            check = launches.check_status(
                statuses=t[n[5]], actual=t[n[3]], expected=t[n[2]], count=count, summary=t[n[6]], failures=t[n[7]]
            )
            runtime.launch(check, stream)

        queue.append(run)
        wave.streams += len(rows)
    results += _checksums(plan, host, out, runtime, pack, queue, stream)
    packed = pack.upload(runtime, pool, stream)
    wave.tables.append(packed)
    if not source.is_filled:
        with runtime.stage("copy"):
            runtime.upload(source.address, arena, stream)
    for work in queue:
        work(packed)
    failed = refused
    total = sum(count for _, _, count in results)
    if total:
        lease = pool.lend(total)
        wave.leases.append(lease)
        found = lease.data[:total]
        begin = 0
        for _, number, count in results:
            runtime.download(found[begin : begin + count], packed[number], stream)
            begin += count
        stream.synchronize()
        begin = 0
        for rows, _, count in results:
            failed[table.chunk[rows[found[begin : begin + count] != 0]]] = True
            begin += count
    return failed


def _checksums(
    plan: StreamPlan,
    host: BoolArray,
    out: DeviceBuffer,
    runtime: Runtime,
    pack: TablePack,
    queue: list[Queued],
    stream: Stream,
) -> list[tuple[Int64Array, int, int]]:
    """Queue the verification of decoded bytes; results as (streams that they cover, table of failures, number)."""
    sums = plan.checksums
    rows = np.flatnonzero(sums.decoded & ~host[sums.chunk] & ~np.isin(sums.kind, list(runtime.decoder.verifies)))
    results = []
    for kind in np.unique(sums.kind[rows]).tolist():
        these = rows[sums.kind[rows] == kind]
        items, spans = kernel_tables.checksum_items(
            out.address + sums.start[these], sums.nbytes[these], sums.expected[these]
        )
        numbers = [pack.add(items), pack.reserve(8 * len(items)), pack.add(spans), pack.reserve(4 * len(spans))]
        failures, summary = pack.reserve(len(spans)), pack.reserve(8)
        results.append((sums.stream[these], failures, len(these)))

        def run(
            t: PackedTables,
            kind: int = kind,
            n: tuple[int, ...] = (*numbers, failures, summary),
            counts: tuple[int, int] = (len(items), len(spans)),
        ) -> None:
            for launch in launches.checksums(
                ChecksumKind(kind), items=t[n[0]], item_count=counts[0], partials=t[n[1]], spans=t[n[2]], span_count=counts[1],
                found=t[n[3]], failures=t[n[4]], summary=t[n[5]],
            ):  # fmt: skip
                runtime.launch(launch, stream)

        queue.append(run)
    return results


def _decode_on_host(
    plan: StreamPlan,
    layout: Layout,
    which: BoolArray,
    out: DeviceBuffer,
    runtime: Runtime,
    pool: PinnedPool,
    stream: Stream,
    wave: DecodedWave,
    run_all: Callable[[list[Callable[[], None]]], None],
) -> None:
    """Decode entries by their codecs and copy them to their places."""
    rows = np.flatnonzero(which)
    if not rows.size:
        return
    padded = -(-plan.dst_nbytes[rows] // ALIGNMENT) * ALIGNMENT
    places = np.cumsum(padded) - padded
    dst = plan.dst.copy()
    dst[rows] = places
    lease = pool.lend(int(padded.sum()))
    wave.leases.append(lease)
    staged = replace(plan, dst=dst)
    run_all([lambda row=row: decode_on_host(staged, row, lease.data) for row in rows.tolist()])  # type: ignore[misc]
    for row, place in zip(rows.tolist(), places.tolist(), strict=True):
        data = lease.data[place : place + int(plan.dst_nbytes[row])]
        runtime.upload(out.address + int(layout.dst[row]), data, stream)


def _upload_decoded(
    chunks: Sequence[FetchedChunk],
    layout: Layout,
    out: DeviceBuffer,
    runtime: Runtime,
    pool: PinnedPool,
    stream: Stream,
    wave: DecodedWave,
) -> None:
    """Copy the chunks that came decoded."""
    for chunk, start in zip(chunks, layout.start.tolist(), strict=True):
        if chunk.decoded is not None:
            lease = pool.lend(len(chunk.decoded))
            wave.leases.append(lease)
            lease.data[: len(chunk.decoded)] = chunk.decoded
            runtime.upload(out.address + start, lease.data[: len(chunk.decoded)], stream)
