"""The bytes of a wave: chunks fetched by many threads into one arena, missing chunks noted."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from gpuzarr.codecs.steps import Bytes
from gpuzarr.device.file_reads import RangeReader
from gpuzarr.device.wave_arena import ArenaPayload, DeviceArena, HostArena
from gpuzarr.device.wave_source import WaveSource
from gpuzarr.errors import ChunkError, GpuzarrError, Kind
from gpuzarr.reader.fetch_plan import ChunkFetch
from gpuzarr.reader.groups import ChunkGroup
from gpuzarr.reader.kept import Keep
from gpuzarr.store.local import LocalByteStore

__all__ = ["MISSING", "ChunkRequest", "FetchedChunk", "Part", "Slot", "fetch"]


@dataclass(frozen=True, slots=True)
class Slot:
    """A chunk in device memory.

    Parameters
    ----------
    address
        Of its first element; 0 if it is not stored.
    memory
        What keeps it alive; None for a chunk that is not stored.
    block
        Elements per block of a chunk that is still byte-shuffled; 0 for elements one after the other.
    """

    address: int
    memory: object | None = None
    block: int = 0


MISSING = Slot(0)


@dataclass(eq=False)
class ChunkRequest:
    """Chunks of one stored object that a wave reads.

    Parameters
    ----------
    column
        The column.
    group, indices, boxes
        What `ChunkReader.fetch` takes.
    slots
        By position in ``indices``: where each chunk is announced.
    """

    column: WaveSource
    group: ChunkGroup
    indices: np.ndarray
    boxes: np.ndarray | None
    slots: list[Future[Slot]]

    @property
    def nbytes(self) -> int:
        """Decoded bytes."""
        return len(self.group.positions) * self.column.nbytes


@dataclass(frozen=True, slots=True)
class Part:
    """Stored bytes in the arena: of a whole chunk (``nbytes`` -1), or of some decoded bytes of it."""

    start: int
    nbytes: int
    offset: int
    stored_nbytes: int


@dataclass(eq=False, slots=True)
class FetchedChunk:
    """A stored chunk of a wave.

    Parameters
    ----------
    column, slot
        As in `ChunkRequest`.
    key, origin
        Stored object, and first byte of the chunk in it.
    needed
        (start, stop) of the decoded bytes that are needed.
    parts
        Its bytes in the arena; empty for a chunk that came decoded.
    decoded
        The chunk's bytes as they go to the device, where only the host could make them.
    keep
        Keeps the decoded chunk for later scans in a place; None where nobody does.
    """

    column: WaveSource
    slot: Future[Slot]
    key: str
    origin: int
    needed: tuple[int, int]
    parts: list[Part] = field(default_factory=list)
    decoded: Bytes | None = None
    keep: Keep | None = None


def fetch(
    request: ChunkRequest, arena: HostArena | DeviceArena, files: RangeReader, deliver: Callable[[FetchedChunk], None]
) -> None:
    """Fetch the chunks of a request into the arena; chunks that are not stored are announced at once.

    Files are read straight into the arena. What is still on its way then is delivered by ``arena.reads.finish()``.

    Raises
    ------
    GpuzarrError
        Reading failed, or a chunk is missing and that is an error.
    """
    column, source = request.column, request.column.source
    kept = source.reader.kept_on_device
    keep = None if kept is None else kept.reading(request.group.key)

    def receive(key: str, found: ChunkFetch, pieces: list[Bytes]) -> None:
        box = None if request.boxes is None else request.boxes[found.position]
        chunk = FetchedChunk(column, request.slots[found.position], key, found.span[0], _needed(column, box))
        if keep is not None:
            index = tuple(request.indices[found.position].tolist())
            chunk.keep = keep(index)
        try:
            parts = found.parts(pieces)
            if arena.device is not None:
                _check_sizes(column, parts)
            if _by_host(column, parts):
                chunk.decoded = _decoded(column, found, pieces)
            else:
                chunk.parts = [Part(start, nbytes, arena.put(data), len(data)) for start, nbytes, data in parts]
        except ChunkError as error:
            raise error.located(array=source.array.path, key=key, byte_range=_span(found, pieces)) from error
        deliver(chunk)

    def missing(position: int) -> None:
        source.fill(tuple(request.indices[position].tolist()))  # raises where that is what was asked for
        request.slots[position].set_result(MISSING)

    store = source.reader.store
    payload = None
    if isinstance(store, LocalByteStore):
        payload = ArenaPayload(store, arena, files, source.array.path)
    source.reader.fetch(request.group, request.indices, receive, missing, boxes=request.boxes, payload=payload)
    if kept is not None:
        kept.check()  # after reading: it may have met a change


def _check_sizes(column: WaveSource, parts: list[tuple[int, int, Bytes]]) -> None:
    """Refuse a chunk of another size before it is looked for in device memory; the words are those of a stream plan."""
    for _, nbytes, data in parts:
        expected = column.nbytes if nbytes < 0 else nbytes
        if len(data) != expected:
            cut_short = len(data) < expected
            raise ChunkError(
                f"The chunk has {len(data)} bytes, its array's document says {expected}. "
                + ("It was cut short." if cut_short else "It does not fit."),
                kind=Kind.CHUNK_TRUNCATED if cut_short else Kind.CHUNK_SIZE_MISMATCH,
            )


def _span(found: ChunkFetch, pieces: list[Bytes]) -> tuple[int, int]:
    start, stop = found.span
    return start, start + sum(map(len, pieces)) if stop is None else stop


def _needed(column: WaveSource, box: np.ndarray | None) -> tuple[int, int]:
    """Hull of the decoded bytes that hold a box."""
    if box is None or not len(box):
        return 0, column.nbytes
    strides = [axis.stride for axis in column.axes]
    first = sum(int(low) * s for (low, _), s in zip(box, strides, strict=True))
    last = sum((int(high) - 1) * s for (_, high), s in zip(box, strides, strict=True))
    size = column.layout.dtype.itemsize
    return first * size, (last + 1) * size


def _by_host(column: WaveSource, parts: list[tuple[int, int, Bytes]]) -> bool:
    """Parts that no stream plan takes: of chunks whose codecs need the whole, or cut through numbers to swap."""
    cut = [part for part in parts if part[1] >= 0]
    if not cut:
        return False
    swap = column.route.swap_itemsize
    return not column.route.is_divisible or bool(swap and any(a % swap or n % swap for a, n, _ in cut))


def _decoded(column: WaveSource, found: ChunkFetch, pieces: list[Bytes]) -> Bytes:
    """A chunk decoded by the reader, laid out as the device has it."""
    try:
        array, _ = found.decode(pieces, None)
    except GpuzarrError:
        raise
    except (ValueError, RuntimeError) as error:
        raise ChunkError(f"{error}. The chunk is damaged.", kind=Kind.CHUNK_DECODE) from error
    stored = np.ascontiguousarray(array.transpose(column.layout.axes))
    return stored.reshape(-1).view(np.uint8)
