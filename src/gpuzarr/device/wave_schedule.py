"""Waves in flight: few at a time, within a byte budget, fetched by many threads, decoded by few; smaller when memory is short."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TypeVar

from gpuzarr.device.loading import Task
from gpuzarr.device.memory_pool import DirectMemory, DirectPool, PinnedPool
from gpuzarr.device.pool import FEWER_THREADS, WorkPool
from gpuzarr.device.runtime import Bytes, DeviceMemoryError, Runtime, Stream
from gpuzarr.device.wave_arena import DeviceArena, HostArena, device_arena_nbytes, fits_device_arena
from gpuzarr.device.wave_decode import DecodedWave, decode
from gpuzarr.device.wave_fetch import ChunkRequest, FetchedChunk, fetch
from gpuzarr.device.wave_kept import keep_copies
from gpuzarr.errors import Kind, ResourceError, ScanCancelled
from gpuzarr.statistics import ScanStatistics
from gpuzarr.store.local import LocalByteStore

__all__ = ["IN_FLIGHT", "MemoryGate", "Wave", "WaveScheduler", "waves"]

IN_FLIGHT = 3
"""Waves at a time: one is fetched, one copied and decoded, one gathered."""

TASK_NBYTES = 2**20
RETRIES = 3

T = TypeVar("T")


@dataclass(eq=False)
class Wave:
    """Chunks that are decoded together.

    Parameters
    ----------
    frame
        Number of the frame that asked for them first.
    requests
        What to fetch.
    """

    frame: int
    requests: list[ChunkRequest]
    arena: HostArena | DeviceArena | None = None
    chunks: list[FetchedChunk] = field(default_factory=list)
    left: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def cost(self) -> int:
        """Device memory that it takes while it is decoded, an estimate."""
        return sum(cost(request) for request in self.requests)


def cost(request: ChunkRequest) -> int:
    """Device memory of a request's chunks while they are decoded: stored, decoded, unshuffled, scratch."""
    compressor = request.column.route.compressor
    times = 2 if compressor is not None or request.column.route.swap_itemsize else 1
    if compressor in ("zstd", "blosc"):
        times += 3
    if compressor == "blosc" or request.column.route.shuffles:
        times += 1
    return times * request.nbytes


def is_direct(request: ChunkRequest) -> bool:
    """Whether the bytes of a request may go to device memory without passing through host memory."""
    store = request.column.source.reader.store
    return request.column.is_payload_free and isinstance(store, LocalByteStore) and fits_device_arena(store)


def waves(frame: int, requests: Iterable[ChunkRequest], most: int, *, apart: bool = False) -> list[Wave]:
    """Runs of requests that cost at most ``most`` bytes of device memory, one request at least.

    Parameters
    ----------
    apart
        Whether requests that may go to device memory directly, and those that may not, are in waves of their own.
    """
    out: list[Wave] = []
    used = 0
    direct = False
    for request in requests:
        size = cost(request)
        if not out or used + size > most or (apart and is_direct(request) != direct):
            out.append(Wave(frame, []))
            used = 0
            direct = is_direct(request)
        out[-1].requests.append(request)
        used += size
    return out


class MemoryGate:
    """Lets work that ran out of device memory wait until other work has given some back.

    Parameters
    ----------
    make_room
        Gives up what is kept for later scans; whether there was anything.
    """

    def __init__(self, make_room: Callable[[], bool] = lambda: False) -> None:
        self.make_room = make_room
        self._changed = threading.Condition()
        self._depth = threading.local()
        self._working = self._epoch = 0
        self.closed = False
        self.shortages = 0

    def released(self) -> None:
        """Some memory has been given back."""
        with self._changed:
            self._epoch += 1
            self._changed.notify_all()

    def close(self) -> None:
        """Nobody waits any longer."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """While a thread does what ends in memory being given back."""
        depth: int = getattr(self._depth, "value", 0)
        self._depth.value = depth + 1
        with self._changed:
            self._working += 1
        try:
            yield
        finally:
            self._depth.value = depth
            with self._changed:
                self._working -= 1
                self._changed.notify_all()

    def run(self, work: Callable[[], T], what: str) -> T:
        """Result of ``work``; it is repeated after it ran out of memory, when others have given some back.

        Raises
        ------
        ResourceError
            DEVICE_OOM: nobody else works any more, and it is still not enough.
        """
        alone = 0
        with self.working():
            while True:
                epoch = self._epoch
                try:
                    return work()
                except DeviceMemoryError as shortage:
                    needed, free = shortage.needed, shortage.free
                if self.make_room():
                    continue
                alone = 0 if self._wait(epoch) else alone + 1
                if alone >= RETRIES:
                    raise ResourceError(
                        f"Device memory is exhausted: {what} needs {needed} bytes, {max(free, 0)} are free. "
                        "Lower memory_budget so that fewer frames are in flight, or select fewer columns.",
                        kind=Kind.DEVICE_OOM,
                    )

    def _wait(self, epoch: int) -> bool:
        """Wait until memory was given back since ``epoch``, or nobody else works; whether it was."""
        depth: int = self._depth.value
        with self._changed:
            self.shortages += 1
            self._working -= depth
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._epoch != epoch or self._working == 0 or self.closed)
            self._working += depth
            if self.closed:
                raise ScanCancelled("The scan was closed.")
            return self._epoch != epoch


class WaveScheduler:
    """Runs waves.

    Parameters
    ----------
    fetchers
        Threads that fetch, and decode what is left to the host.
    budget
        Device memory of all waves in flight, an estimate; one wave is always allowed.
    arrived
        Called after the chunks of a wave have been announced.
    guard
        Makes a step that ends the scan where it raises.
    direct
        Device memory for files; None where files cannot be read into device memory.
    """

    def __init__(
        self,
        runtime: Runtime,
        pinned: PinnedPool,
        fetchers: WorkPool,
        gate: MemoryGate,
        statistics: ScanStatistics,
        *,
        budget: int,
        in_flight: int,
        arrived: Callable[[], None],
        guard: Callable[[Task], Task],
        direct: DirectPool | None = None,
    ) -> None:
        self.runtime = runtime
        self.gate = gate
        self.budget = budget
        self.in_flight = in_flight
        self.workers = WorkPool(in_flight)
        self.direct = direct if not runtime.files.not_direct else None
        self._pinned = pinned
        self._fetchers = fetchers
        self._statistics = statistics
        self._arrived = arrived
        self._guard = guard
        self._waiting: list[tuple[int, int, Wave]] = []
        self._order = itertools.count()
        self._streams: list[Stream] = []
        self._active: dict[int, int] = {}
        self._lock = threading.Lock()
        self.count = self.batched_streams = self.host_chunks = self.retried_chunks = self.halved = 0

    def submit(self, new: list[Wave]) -> None:
        """Run waves, those of earlier frames first."""
        with self._lock:
            for wave in new:
                heapq.heappush(self._waiting, (wave.frame, next(self._order), wave))
        self._pump()

    def _pump(self) -> None:
        while True:
            with self._lock:
                if not self._waiting or len(self._active) >= self.in_flight:
                    return
                wave = self._waiting[0][2]
                size = wave.cost
                if self._active and sum(self._active.values()) + size > self.budget:
                    return
                heapq.heappop(self._waiting)
                self._active[id(wave)] = size
                self.count += 1
            self._guard(lambda wave=wave: self._fetch(wave))()  # type: ignore[misc]

    def _fetch(self, wave: Wave) -> None:
        wave.arena = self._arena(wave)
        runs: list[list[ChunkRequest]] = []
        size = TASK_NBYTES
        for request in wave.requests:
            if size >= TASK_NBYTES:
                runs.append([])
                size = 0
            runs[-1].append(request)
            size += request.nbytes
        wave.left = len(runs)
        for run in runs:
            self._fetchers.submit(wave.frame, self._guard(lambda run=run: self._fetch_run(wave, run)))  # type: ignore[misc]

    def _arena(self, wave: Wave) -> HostArena | DeviceArena:
        nbytes = sum(request.nbytes for request in wave.requests)
        chunks = sum(len(request.group.positions) for request in wave.requests)
        if self.direct is not None and is_direct(wave.requests[0]):
            self.runtime.activate()
            try:
                return DeviceArena(self.direct.lend(device_arena_nbytes(nbytes, chunks)))
            except DeviceMemoryError:  # through host memory then: waves of it can be halved
                pass
        return HostArena(self._pinned, nbytes + 64 * chunks)

    def _fetch_run(self, wave: Wave, run: list[ChunkRequest]) -> None:
        assert wave.arena is not None
        self.runtime.activate()  # kvikio asks the driver what kind of memory it is given
        with self.runtime.stage("fetch"):
            for request in run:
                fetch(request, wave.arena, self.runtime.files, wave.chunks.append)
        with wave.lock:
            wave.left -= 1
            if wave.left:
                return
        self.workers.submit(wave.frame, self._guard(lambda: self._decode(wave)))

    def _decode(self, wave: Wave) -> None:
        self.runtime.activate()
        assert wave.arena is not None
        try:
            with self.gate.working():
                with self.runtime.stage("fetch"):
                    wave.arena.reads.finish()
                arena, direct = wave.arena.seal(), wave.arena.device
                self._statistics.add(waves_direct=int(direct is not None), bytes_copied=wave.arena.copied)
                wave.chunks.sort(key=lambda chunk: chunk.parts[0].offset if chunk.parts else -1)
                if wave.chunks:
                    self._decode_some(wave.chunks, arena, direct)
                self._arrived()
        finally:
            wave.arena.release()
            wave.chunks.clear()
            with self._lock:
                self._active.pop(id(wave), None)
            self.gate.released()
        self._pump()

    def _decode_some(self, chunks: list[FetchedChunk], arena: Bytes, direct: DirectMemory | None) -> None:
        """Decode chunks together; in halves where memory is short."""
        if len(chunks) > 1:
            try:
                self._decode_once(chunks, arena, direct)
                return
            except DeviceMemoryError:
                if self.gate.make_room():
                    self._decode_some(chunks, arena, direct)
                    return
                self.halved += 1
            middle = len(chunks) // 2
            self._decode_some(chunks[:middle], arena, direct)
            self._arrived()  # what can be gathered makes room
            self._decode_some(chunks[middle:], arena, direct)
            return
        self.gate.run(lambda: self._decode_once(chunks, arena, direct), "one chunk")

    def _decode_once(self, chunks: list[FetchedChunk], arena: Bytes, direct: DirectMemory | None) -> None:
        stream = self._borrow()
        try:
            with self.runtime.stage("decode"):
                wave = decode(chunks, arena, self.runtime, self._pinned, stream, self._run_all, direct)
                copies = keep_copies(chunks, wave.slots, self.runtime, self._pinned, stream)
                stream.synchronize()
            wave.release()
            copies.release()
        finally:
            self._give(stream)
        self._count(chunks, wave)
        for position, (chunk, slot) in enumerate(zip(chunks, wave.slots, strict=True)):
            kept = copies.slots.get(position)
            if kept is not None and chunk.keep is not None:
                chunk.keep(id(self.runtime), kept, chunk.column.nbytes)
            if not chunk.slot.done():
                chunk.slot.set_result(slot if kept is None else kept)

    def _count(self, chunks: list[FetchedChunk], wave: DecodedWave) -> None:
        for chunk in chunks:
            source = chunk.column.source
            part = [p.nbytes for p in chunk.parts if p.nbytes >= 0]
            nbytes = sum(part) if part else chunk.column.nbytes
            self._statistics.add(
                chunks_read=1,
                chunks_partial=int(nbytes < source.chain.chunk_nbytes),
                bytes_decoded=nbytes,
                unverified_bytes=0 if source.chain.is_verified else nbytes,
            )
        self._statistics.add(
            waves=1,
            streams_batched=wave.streams,
            chunks_in_place=wave.in_place,
            chunks_on_host=wave.on_host,
            chunks_retried=wave.retried,
        )
        self._statistics.note_counts(wave.reasons)
        with self._lock:
            self.batched_streams += wave.streams
            self.host_chunks += wave.on_host
            self.retried_chunks += wave.retried

    def _borrow(self) -> Stream:
        with self._lock:
            if self._streams:
                return self._streams.pop()
        return self.runtime.stream()

    def _give(self, stream: Stream) -> None:
        with self._lock:
            self._streams.append(stream)

    def _run_all(self, tasks: list[Callable[[], None]]) -> None:
        """Run tasks on the fetching threads and wait for them."""
        if len(tasks) == 1:
            tasks[0]()
            return
        futures: list[Future[None]] = [Future() for _ in tasks]

        def run(task: Callable[[], None], future: Future[None]) -> None:
            try:
                task()
                future.set_result(None)
            except BaseException as error:
                future.set_exception(error)

        for task, future in zip(tasks, futures, strict=True):
            self._fetchers.submit(-1, lambda task=task, future=future: run(task, future))  # type: ignore[misc]
        for future in futures:
            while True:
                try:
                    future.result(timeout=0.5)
                    break
                except TimeoutError:
                    if self._fetchers.closed:
                        raise ScanCancelled("The scan was closed.") from None

    def close(self) -> None:
        """Stop: nothing new starts."""
        with self._lock:
            self._waiting.clear()
        self.gate.close()
        self.workers.close()
        if self.workers.refused:
            self._statistics.note(FEWER_THREADS)
