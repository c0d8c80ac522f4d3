"""The stages of a whole scan, each alone: the slowest one bounds the scan, which overlaps them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu.common import Bench
from benchmarks.gpu.stores import layout, slab
from gpuzarr.api import open_dataset
from gpuzarr.device.loading import full_requests
from gpuzarr.device.memory_pool import DirectPool, PinnedPool
from gpuzarr.device.shared_chunks import SharedChunks
from gpuzarr.device.wave import WaveDevice
from gpuzarr.device.wave_arena import HostArena
from gpuzarr.device.wave_decode import decode
from gpuzarr.device.wave_fetch import FetchedChunk, Slot, fetch
from gpuzarr.device.wave_job import chunk_requests
from gpuzarr.device.wave_load import WaveLoad
from gpuzarr.device.wave_schedule import Wave, waves
from gpuzarr.options import ScanOptions
from gpuzarr.plan.model import Frame
from gpuzarr.statistics import ScanStatistics

KEPT = 4
"""Waves that are kept for the stages after fetching, each decoded bytes of a third of the budget."""


@dataclass
class _Needed:
    """What a frame takes from which chunk, as a load is told."""

    chunks: list[tuple[int, tuple[int, ...], Future[Slot]]] = field(default_factory=list)

    def needs(self, unit: int, index: tuple[int, ...], slot: Future[Slot]) -> None:
        """See `WaveLoad.needs`."""
        self.chunks.append((unit, index, slot))


class Stages:
    """One scan of a whole array, taken apart.

    Parameters
    ----------
    path
        The store; all of its array is read.
    """

    def __init__(self, bench: Bench, path: Path, pool: PinnedPool) -> None:
        self.bench, self.pool, self.runtime = bench, pool, bench.runtime
        dataset = open_dataset(path, options=ScanOptions())
        plan = dataset.plan(["t"])
        self.device = WaveDevice(
            plan, dataset.coordinates, dataset.reader(ScanStatistics()), dataset.options, ScanStatistics(), self.runtime,
            workers=dataset.workers, budget=1 << 22 if bench.host else 8 << 30, pinned=pool,
        )  # fmt: skip
        self.threads = dataset.workers
        (self.column,) = self.device.columns.values()
        self.frames: list[tuple[Frame, _Needed]] = []
        requests, shared = [], SharedChunks()
        for frame in dataset.large_frames(plan):
            needed = _Needed()
            found = full_requests(self.column.source, frame, shared)
            requests += chunk_requests(self.column, found, needed, lambda place: place[0])  # type: ignore[arg-type]
            self.frames.append((frame, needed))
        self.waves = waves(0, requests, self.device.wave_nbytes)
        self.nbytes = sum(request.nbytes for request in requests)

    def fetch_wave(self, wave: Wave, threads: ThreadPoolExecutor) -> tuple[HostArena, list[FetchedChunk]]:
        """One wave into page-locked memory."""
        chunks: list[FetchedChunk] = []
        arena = HostArena(self.pool, sum(request.nbytes + 64 * len(request.indices) for request in wave.requests))
        list(threads.map(lambda request: fetch(request, arena, self.runtime.files, chunks.append), wave.requests))
        arena.reads.finish()
        chunks.sort(key=lambda chunk: chunk.parts[0].offset)
        return arena, chunks

    def fetch_all(self) -> int:
        """All waves, one after the other; number of chunks."""
        count = 0
        with ThreadPoolExecutor(self.threads) as threads:
            for wave in self.waves:
                arena, chunks = self.fetch_wave(wave, threads)
                count += len(chunks)
                arena.release()
        return count

    def close(self) -> None:
        """End the scan that never ran."""
        self.device.close()


def measure_stages(bench: Bench, codec: str, path: Path, pool: PinnedPool, end_to_end: str) -> None:
    """Fetch, copy, decode, and gather alone; then how much of the slowest one's rate the whole scan reaches."""
    stages = Stages(bench, path, pool)
    runtime, stream = stages.runtime, stages.runtime.stream()
    rates: dict[str, float] = {}

    def note(stage: str, nbytes: int, work: Callable[[], Any], check: Callable[[], bool], **more: Any) -> None:
        entry = bench.measure(f"{codec}: {stage} alone", nbytes, work, check, codec=codec, stage=stage, **more)
        rates[stage] = entry["gb_per_s"]

    try:
        total = sum(len(request.group.positions) for wave in stages.waves for request in wave.requests)
        counts: list[int] = []
        note("fetch", stages.nbytes, lambda: counts.append(stages.fetch_all()), lambda: counts[-1] == total)
        with ThreadPoolExecutor(stages.threads) as threads:
            kept = [stages.fetch_wave(wave, threads) for wave in stages.waves[:KEPT]]
        some = sum(chunk.column.nbytes for _, chunks in kept for chunk in chunks)
        stored = sum(arena.used for arena, _ in kept)
        _copy_and_decode(kept, stages, stream, note, some, stored)
        for arena, _ in kept:
            arena.release()
        if len(kept) == len(stages.waves):
            _gather(stages, pool, note)
    finally:
        stages.close()
    whole = bench.found("scans", end_to_end)
    slowest = min(rates, key=lambda stage: rates[stage])
    if whole is not None:
        whole["slowest_stage"] = slowest
        whole["share_of_slowest_stage"] = whole["gb_per_s"] / rates[slowest]
    runtime.activate()


def _copy_and_decode(
    kept: list[tuple[HostArena, list[FetchedChunk]]], stages: Stages, stream: Any, note: Any, some: int, stored: int
) -> None:
    """Copy to the device; decode what has been copied. Rates count decoded bytes, to be compared with each other."""
    runtime, pool = stages.runtime, stages.pool
    direct = DirectPool(runtime)
    memories = [direct.lend(max(1, arena.used)) for arena, _ in kept]

    def copy() -> None:
        for (arena, _), memory in zip(kept, memories, strict=True):
            runtime.upload(memory.address, arena.seal(), stream)
        stream.synchronize()

    def is_copied() -> bool:
        arena, memory = kept[-1][0], memories[-1]
        back = runtime.pinned(max(1, arena.used)).data[: arena.used]
        runtime.download(back, memory.address, stream)
        stream.synchronize()
        return bool((back == arena.seal()).all())

    note("copy", some, copy, is_copied, stored=stored)
    counted: list[tuple[int, int]] = []

    def decode_all() -> None:
        chunks_done = on_host = 0
        for (arena, chunks), memory in zip(kept, memories, strict=True):
            wave = decode(chunks, arena.seal(), runtime, pool, stream, _run_all, memory)
            stream.synchronize()
            wave.release()
            chunks_done += len(wave.slots)
            on_host += wave.on_host + wave.retried
        counted[:] = [(chunks_done, on_host)]

    note("decode", some, decode_all, lambda: counted[0] == (sum(len(chunks) for _, chunks in kept), 0))


def _run_all(tasks: list[Callable[[], None]]) -> None:
    for task in tasks:
        task()


def _gather(stages: Stages, pool: PinnedPool, note: Any) -> None:
    """All chunks decoded and kept; then gathered again and again."""
    runtime, stream = stages.runtime, stages.runtime.stream()
    with ThreadPoolExecutor(stages.threads) as threads:
        for wave in stages.waves:
            arena, chunks = stages.fetch_wave(wave, threads)
            done = decode(chunks, arena.seal(), runtime, pool, stream, _run_all)
            stream.synchronize()
            done.release()
            arena.release()
            for chunk, slot in zip(chunks, done.slots, strict=True):
                chunk.slot.set_result(slot)

    loads: list[WaveLoad] = []

    def gather() -> None:
        loads.clear()
        for frame, needed in stages.frames:
            units: Any = [(piece, None) for piece in frame.pieces]
            load = WaveLoad(stages.column, units, frame.rows, None, stream, runtime, pool, lambda _: None)
            for chunk in needed.chunks:
                load.needs(*chunk)
            load.start()
            load.gather()
            stream.synchronize()
            load.release()
            if not loads:
                loads.append(load)  # it is compared

    def is_gathered() -> bool:
        shape, chunk = layout(stages.bench)
        rows = min(loads[0].total, shape[1] * shape[2])
        first = runtime.pinned(4 * rows).data[: 4 * rows]
        runtime.download(first, loads[0].buffers.values.address, stream)
        stream.synchronize()
        return bool((first.view("f4") == slab(0, (chunk[0], *shape[1:])).reshape(-1)[:rows]).all())

    note("gather", stages.nbytes, gather, is_gathered)
