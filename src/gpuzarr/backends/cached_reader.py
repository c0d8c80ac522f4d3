"""A chunk reader that shares decoded chunks and shard indexes with other scans of the same backend."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuzarr.backends.byte_cache import ByteCache, Entry, Ticket
from gpuzarr.backends.device_chunks import DeviceChunks
from gpuzarr.backends.freshness import QueryView
from gpuzarr.codecs import CodecChain
from gpuzarr.codecs.sharding import ShardIndex
from gpuzarr.errors import Kind, StoreError
from gpuzarr.metadata.model import ArrayMetadata
from gpuzarr.reader import ChunkGroup, ChunkReader, Joined
from gpuzarr.reader.shard_index import IndexCache
from gpuzarr.statistics import ScanStatistics

__all__ = ["MAX_CACHED_CHUNK", "CachedChunkReader", "CachedIndexes", "array_token", "value_nbytes"]

Int64Array = npt.NDArray[np.int64]
Place = Callable[[int, "np.ndarray | None"], None]

MAX_CACHED_CHUNK = 1 << 26
"""Larger chunks are not kept: of these, the needed part alone is read where that pays."""

_ABSENT_NBYTES = 256


def array_token(array: ArrayMetadata) -> tuple[Any, ...]:
    """What decides about the decoded bytes of an array's chunks."""
    codecs = tuple((codec.name, repr(codec.configuration)) for codec in array.codecs)
    big = array.dtype.stored_big_endian
    return array.path, array.dtype.numpy.str, big, array.chunk_shape, array.order, codecs


def value_nbytes(values: np.ndarray) -> int:
    """Bytes of an array, with those of its strings."""
    if values.dtype != object:
        return values.nbytes + 64
    return values.nbytes + sum(len(v) + 49 for v in values.flat if isinstance(v, (str, bytes)))


class CachedChunkReader(ChunkReader):
    """Reads chunks of one array, from the cache where they are.

    Chunks are handed out read-only, whole, and shared with other scans. A chunk that is too large for the cache is read
    as if there were none.

    Parameters
    ----------
    view
        The store as the query sees it.
    array, chain, statistics, indexes, verify
        As for `ChunkReader`.
    chunks, on_device
        Decoded chunks of the backend, in host memory and in device memory.
    """

    def __init__(
        self,
        view: QueryView,
        array: ArrayMetadata,
        chain: CodecChain,
        statistics: ScanStatistics,
        *,
        chunks: ByteCache,
        indexes: IndexCache | None,
        token: tuple[Any, ...],
        on_device: ByteCache | None = None,
        verify: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(view.store, array, chain, statistics, indexes=indexes, verify=verify)
        self._view = view
        self._chunks = chunks
        self._token = token
        self._on_device = on_device
        self.is_cached = chain.chunk_nbytes <= min(MAX_CACHED_CHUNK, chunks.max_bytes // 4)

    def missing(self, indices: Int64Array) -> int:
        """How many of these chunks were not in the cache a moment ago."""
        if not self.is_cached:
            return len(indices)
        return sum(self._chunks.peek((self._token, tuple(index))) is None for index in indices.tolist())

    @property
    def kept_on_device(self) -> DeviceChunks | None:
        """See `ChunkReader.kept_on_device`."""
        cache, nbytes = self._on_device, self._chain.chunk_nbytes
        if cache is None or not 0 < nbytes <= min(MAX_CACHED_CHUNK, cache.max_bytes // 4):
            return None
        return DeviceChunks(self._view, cache, self._token)

    @property
    def joins_objects(self) -> bool:
        """See `ChunkReader.joins_objects`."""
        return not self.is_cached and super().joins_objects

    def read(
        self,
        group: ChunkGroup,
        indices: Int64Array,
        place: Place,
        *,
        out_for: Callable[[int], np.ndarray | None] | None = None,
        boxes: Int64Array | None = None,
        skip: Callable[[int], bool] | None = None,
        joined: Joined | None = None,
    ) -> None:
        """See `ChunkReader.read`."""
        if not self.is_cached:
            super().read(group, indices, place, out_for=out_for, boxes=boxes, skip=skip, joined=joined)
            return
        wanted = [p for p in group.positions.tolist() if skip is None or not skip(p)]
        while wanted:  # once, unless another scan failed to read what this one waited for
            wanted = self._read_some(group, indices, wanted, place)
        self._view.check()

    def stored_bytes(
        self, group: ChunkGroup, indices: Int64Array, boxes: Int64Array | None = None
    ) -> tuple[int, int, bool]:
        """See `ChunkReader.stored_bytes`: without the chunks that are in the cache."""
        if not self.is_cached:
            return super().stored_bytes(group, indices, boxes)
        entries = ((p, self._chunks.peek(self._key(indices, p))) for p in group.positions.tolist())
        left = [p for p, entry in entries if entry is None or not self._view.freshness.is_current(entry)]
        if not left:
            return 0, 0, True
        return super().stored_bytes(replace(group, positions=np.array(left, np.int64)), indices, None)

    def _key(self, indices: Int64Array, position: int) -> tuple[Any, ...]:
        return self._token, tuple(indices[position].tolist())

    def _read_some(self, group: ChunkGroup, indices: Int64Array, wanted: list[int], place: Place) -> list[int]:
        """Place the chunks that are here or can be read; returns those that another scan failed to read."""
        mine: dict[int, Ticket] = {}
        waits: list[tuple[int, Future[Entry]]] = []
        failed: list[int] = []
        cached = 0
        try:
            for position in wanted:
                key = self._key(indices, position)
                kept = self._chunks.peek(key)
                if kept is not None and not self._view.may_use(kept):
                    self._chunks.drop(key, kept)
                found = self._chunks.claim(key)
                if isinstance(found, Entry):
                    cached += 1
                    place(position, found.value)
                elif isinstance(found, Ticket):
                    mine[position] = found
                else:
                    waits.append((position, found))
            if mine:
                self._load(group, indices, mine, place)
        except BaseException as error:
            for ticket in mine.values():
                self._chunks.abandon(ticket, error)
            if isinstance(error, StoreError) and error.kind is Kind.STORE_CHANGED:
                self._view.freshness.changed()
            raise
        finally:
            if cached:
                self._statistics.add(chunks_cached=cached)
        for position, future in waits:
            if future.exception() is None:
                place(position, future.result().value)
                self._statistics.add(chunks_cached=1)
            else:
                failed.append(position)
        return failed

    def _load(self, group: ChunkGroup, indices: Int64Array, mine: dict[int, Ticket], place: Place) -> None:
        began = time.monotonic()
        before = self._view.version_before(group.key)

        def keep(position: int, raw: np.ndarray | None) -> None:
            if raw is not None:
                raw = _owned(raw)
                raw.flags.writeable = False
            is_there = raw is not None or self._chain.is_sharded
            version = self._view.version_after(group.key, before, is_there=is_there)
            self._view.freshness.note(group.key, version, began)
            nbytes = _ABSENT_NBYTES if raw is None else value_nbytes(raw)
            self._chunks.settle(mine.pop(position), Entry(raw, nbytes, ((group.key, version),), began))
            place(position, raw)

        part = replace(group, positions=np.array(sorted(mine), np.int64))
        super().read(part, indices, keep)


def _owned(raw: np.ndarray) -> np.ndarray:
    """The chunk, copied if it is a view into something much larger that it would keep alive."""
    root: Any = raw
    while isinstance(root, np.ndarray) and root.base is not None:
        root = root.base
    if isinstance(root, memoryview | bytes | bytearray):
        held = memoryview(root).nbytes
    else:
        held = getattr(root, "nbytes", 0)
    return raw.copy() if held > raw.nbytes + raw.nbytes // 4 + 4096 else raw


class CachedIndexes(IndexCache):
    """Shard indexes of a backend, as one query may use them.

    An index that was read before fixes the version that the ranges read now must belong to.

    Parameters
    ----------
    view
        The store as the query sees it.
    cache
        Indexes of the backend.
    gates
        Shared by all queries: an index is read once, by whoever comes first.
    """

    def __init__(self, view: QueryView, cache: ByteCache, gates: IndexCache) -> None:
        super().__init__()
        self._view = view
        self._cache = cache
        self._shared_gates = gates

    def get(self, key: str, level: int, start: int) -> ShardIndex | None:
        """The index, None if it is not kept or out of date."""
        at = (key, level, start)
        entry = self._cache.peek(at)
        if entry is None:
            return None
        if not self._view.may_use(entry) or not self._view.expects(key, entry.objects[0][1]):
            self._cache.drop(at, entry)
            return None
        found = self._cache.claim(at)
        if isinstance(found, Entry):
            return found.value  # type: ignore[no-any-return]
        if isinstance(found, Ticket):  # evicted just now
            self._cache.abandon(found, LookupError())
        return None

    def put(self, key: str, level: int, start: int, index: ShardIndex) -> None:
        """Keep an index."""
        version = None
        if self._view.freshness.kind in ("free", "asked"):
            version = self._view.version_after(key, self._view.store.seen_version(key))  # type: ignore[attr-defined]
        self._cache.put((key, level, start), Entry(index, index.nbytes, ((key, version),), time.monotonic()))

    @contextmanager
    def gate(self, key: str) -> Iterator[None]:
        """Held while indexes of an object may be read."""
        with self._shared_gates.gate(key):
            yield
