"""`ChunkReader`: fetches and decodes the chunks of one array."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from gpuzarr.codecs.canvas import Canvas
from gpuzarr.codecs.chain import CodecChain
from gpuzarr.codecs.steps import Bytes, as_bytes
from gpuzarr.errors import ChunkError, GpuzarrError, StoreError
from gpuzarr.metadata.model import ArrayMetadata
from gpuzarr.reader.fetch_plan import ChunkFetch, FetchPlanner
from gpuzarr.reader.groups import ChunkGroup, group_chunks
from gpuzarr.reader.kept import KeptChunks
from gpuzarr.reader.needs import BoxNeeds, NeedsMemory
from gpuzarr.reader.requests import ObjectRequests, Payload, request_count
from gpuzarr.reader.shard_index import IndexCache, ShardLocator
from gpuzarr.reader.together import Together
from gpuzarr.statistics import ScanStatistics
from gpuzarr.store.base import Buffer, ByteStore, ReadsInto

__all__ = ["ChunkReader", "foreign_error"]

Int64Array = npt.NDArray[np.int64]
Place = Callable[[int, "np.ndarray | None"], None]
OutFor = Callable[[int], "np.ndarray | None"]
StoredChunk = tuple[int, int, int]
"""Position in the caller's list, first byte in the object, last one + 1."""
Item = TypeVar("Item")
Receive = Callable[[str, ChunkFetch, list[Bytes]], None]

_TOGETHER_NBYTES = 1 << 20  # decoded in one call: enough to forget the call, and it stays in the cache
_WHOLE_SHARD_NBYTES = 64 << 20  # larger shards are read through their index, a batch of chunks at a time


class ChunkReader:
    """Reads chunks of one array. Blocking; called from many threads.

    Parameters
    ----------
    store
        Where the objects are.
    array
        The array's document.
    chain
        Its codecs.
    statistics
        Counts requests, bytes and chunks.
    indexes
        Where shard indexes are kept; None for a cache of this reader's own.
    verify
        Called where chunks are missing or cannot be decoded: raises if the array was deleted or written anew.
    """

    def __init__(
        self,
        store: ByteStore,
        array: ArrayMetadata,
        chain: CodecChain,
        statistics: ScanStatistics,
        *,
        indexes: IndexCache | None = None,
        verify: Callable[[], None] | None = None,
    ) -> None:
        self._verify = verify
        self._store = store
        self._array = array
        self._chain = chain
        self._statistics = statistics
        self._requests = ObjectRequests(store, array.path, statistics)
        self._needs = NeedsMemory(chain, self._requests.costs)
        in_place = chain.is_plain and not chain.is_sharded and isinstance(store, ReadsInto)
        self._into: ReadsInto | None = store if in_place else None  # type: ignore[assignment]
        self._indexes = indexes if indexes is not None else IndexCache()
        self._billed_indexes = IndexCache()

    @property
    def kept_on_device(self) -> KeptChunks | None:
        """Chunks that a device may keep; None where nothing outlives a scan, or a chunk is too large to be kept."""
        return None

    @property
    def decodes_into(self) -> bool:
        """Whether a destination that is offered saves memory: not where the bytes that were read are the chunk."""
        return self._into is not None or not self._chain.is_plain

    @property
    def store(self) -> ByteStore:
        """Where the objects are."""
        return self._store

    def groups(self, indices: Int64Array) -> list[ChunkGroup]:
        """Group inner-chunk grid indices, int64 ``(n, ndim)``, by the object that stores them."""
        return group_chunks(self._array, self._chain, indices)

    def read(
        self,
        group: ChunkGroup,
        indices: Int64Array,
        place: Place,
        *,
        out_for: OutFor | None = None,
        boxes: Int64Array | None = None,
        skip: Callable[[int], bool] | None = None,
        together: Together | None = None,
    ) -> None:
        """Fetch and decode the chunks of one group.

        Parameters
        ----------
        group
            One of `groups`.
        indices
            What `groups` was given.
        place
            Called with each position and its decoded chunk, None where the chunk is not stored. The chunk may be read-only
            and of any strides.
        out_for
            Offers a C-contiguous destination for a whole chunk by position, or None.
        boxes
            Needed cells per chunk, int64 ``(n, ndim, 2)`` of (start, stop) in the chunk: others may stay undefined.
        skip
            Asked before anything is fetched; a skipped chunk is neither fetched nor placed.
        together
            Receives chunks in place of ``place`` and ``out_for`` where several are decoded in one call.

        Raises
        ------
        ChunkError
            Damaged bytes, with array, key and byte range.
        StoreError
            Reading failed.
        """
        if skip is None and self._into is not None:
            for position in group.positions.tolist():
                self._read_plain(self._into, group.key, position, place, out_for, boxes)
            return
        if skip is None and (boxes is None or not self._chain.is_divisible):
            boxes = None if self._chain.decodes_whole else boxes
            if not self._chain.is_sharded:
                for position in group.positions.tolist():
                    self._read_object(group.key, position, place, out_for, boxes)
                return
            if self._takes_whole_shard(group, group.positions, boxes):
                self._read_shard(group, indices, place, out_for, boxes, together)
                return
            if together is not None and self._chain.is_joinable:
                self._read_some_of_shard(group, indices, together)
                return

        def receive(key: str, fetch: ChunkFetch, pieces: list[Bytes]) -> None:
            self._decode(key, fetch, pieces, place, out_for)

        self.fetch(group, indices, receive, lambda position: place(position, None), boxes=boxes, skip=skip)

    @property
    def joins_objects(self) -> bool:
        """Whether chunks of several objects can be decoded in one call, see `read_together`."""
        return self._chain.is_joinable and not self._chain.is_sharded

    def read_together(self, groups: Sequence[ChunkGroup], together: Together) -> None:
        """Fetch the chunks of several groups and decode them in one call, where `joins_objects`; errors as of `read`.

        What it asks of the store, places and counts is what `read` does for one group after the other.
        """
        found: list[tuple[str, int, Buffer]] = []
        absent: list[int] = []
        with self._located():
            for group in groups:
                position = int(group.positions[0])
                data = self._get(group.key)
                if data is None:
                    absent.append(position)
                else:
                    found.append((group.key, position, data))
            if absent:
                self._statistics.add(requests=len(absent))
                self._report_missing(absent, lambda position: together.place(position, None))
            if not found:
                return
            chunks = [bytes(data) for _, _, data in found]
            room = together.room(len(chunks))
            nbytes = sum(map(len, chunks))
            if self._chain.decode_joined(chunks, room):
                self._statistics.add(requests=len(chunks), bytes_read=nbytes, **self._decoded(len(chunks)))
                for number, (_, position, _) in enumerate(found):
                    together.place(position, room[number])
            else:
                for number, (key, position, data) in enumerate(found):
                    array = self._decode_object(key, as_bytes(data), room[number], None)
                    together.place(position, array)
            together.done()

    def _get(self, key: str) -> Buffer | None:
        """An object; an error of a driver says which it was."""
        try:
            return self._store.get(key)
        except (GpuzarrError, MemoryError):
            raise
        except Exception as error:
            raise foreign_error(error, self._array.path, key) from error

    def _decoded(self, chunks: int) -> dict[str, int]:
        """What to count for whole chunks."""
        nbytes = chunks * self._chain.chunk_nbytes
        unverified = 0 if self._chain.is_verified else nbytes
        return {"chunks_read": chunks, "bytes_decoded": nbytes, "unverified_bytes": unverified}

    def _read_object(
        self, key: str, position: int, place: Place, out_for: OutFor | None, boxes: Int64Array | None
    ) -> None:
        """One chunk that is an object, all of it: what `fetch` would come to, without its plans."""
        with self._located():
            data = self._store.get(key)
            if data is None:
                self._statistics.add(requests=1)
                self._report_missing([position], lambda p: place(p, None))
                return
            needs = self._needs.of(boxes, position)
            place(
                position,
                self._decode_object(key, as_bytes(data), None if out_for is None else out_for(position), needs),
            )

    def _decode_object(self, key: str, stored: Bytes, out: np.ndarray | None, needs: BoxNeeds | None) -> np.ndarray:
        """The chunk that is an object."""
        chain, count = self._chain, self._statistics.add
        try:
            array, nbytes = chain.decode_counted(stored, out, None if needs is None else needs.box)
        except ChunkError as error:
            count(requests=1, bytes_read=len(stored))
            self._check_array()
            raise self._requests.located(error, key, 0, len(stored)) from error
        unverified = 0 if chain.is_verified else nbytes
        partial = int(nbytes < chain.chunk_nbytes)
        count(requests=1, bytes_read=len(stored))
        count(chunks_read=1, chunks_partial=partial, bytes_decoded=nbytes, unverified_bytes=unverified)
        return array

    def _read_plain(
        self,
        store: ReadsInto,
        key: str,
        position: int,
        place: Place,
        out_for: OutFor | None,
        boxes: Int64Array | None,
    ) -> None:
        """An uncompressed chunk that is an object, or the rows of it that a box needs, read to where they are wanted."""
        layout, count = self._chain.layout, self._statistics.add
        assert layout is not None
        large = layout.nbytes > self._requests.costs.least_saved
        needs = self._needs.of(boxes, position) if large else None
        rows = None if needs is None else needs.rows
        with self._located():
            canvas = Canvas(layout, None if out_for is None else out_for(position))
            if rows is None:
                size = store.get_into(key, canvas.data)
                if size is not None and size != layout.nbytes:
                    self._read_object(key, position, place, out_for, None)  # says what is wrong with it
                    return
                there, decoded = size is not None, layout.nbytes
                count(requests=1, bytes_read=decoded if there else 0)
            else:
                parts = [canvas.data[at : at + n] for at, n in rows]
                there, decoded = self._requests.ranges_into(store, key, rows, parts), sum(map(len, parts))
            if not there:
                self._report_missing([position], lambda p: place(p, None))
                return
            partial = int(decoded < layout.nbytes)
            count(chunks_read=1, chunks_partial=partial, bytes_decoded=decoded, unverified_bytes=decoded)
            place(position, canvas.finish([(0, decoded)] if rows is None else [(at, at + n) for at, n in rows]))

    def _read_shard(
        self,
        group: ChunkGroup,
        indices: Int64Array,
        place: Place,
        out_for: OutFor | None,
        boxes: Int64Array | None,
        together: Together | None,
    ) -> None:
        """Chunks of a shard that is read whole: what `fetch` would come to, without its plans."""
        with self._located():
            whole = self._requests.whole(group.key)
            chunks = None if whole is None else self._stored_chunks(group, indices, whole, place)
            if whole is None or chunks is None:
                self._report_missing(group.positions.tolist(), lambda position: place(position, None))
                return
            data = memoryview(whole)
            pieces = [data[start:stop] for _, start, stop in chunks]
            if together is None or not self._chain.is_joinable:
                self._decode_parts(group.key, chunks, pieces, place, out_for, boxes)
            else:
                self._decode_together(group.key, chunks, pieces, together)

    def _read_some_of_shard(self, group: ChunkGroup, indices: Int64Array, together: Together) -> None:
        """Small chunks of a shard that is read in parts: what `fetch` would come to, without its plans."""
        key = group.key
        with self._located():
            chunks = self._stored_chunks(group, indices, None, together.place)
            if chunks is None:
                self._report_missing(group.positions.tolist(), lambda position: together.place(position, None))
                return
            for batch in _batches(chunks, lambda chunk: chunk[2] - chunk[1], self._requests.costs.batch):
                pieces = self._requests.ranges(key, [(start, stop - start) for _, start, stop in batch])
                self._decode_together(key, batch, [memoryview(piece) for piece in pieces], together)

    def _stored_chunks(
        self, group: ChunkGroup, indices: Int64Array, whole: Bytes | None, place: Place
    ) -> list[StoredChunk] | None:
        """Chunks of a shard in the order of their bytes; those that are not stored are placed; None if there is no shard."""
        positions = group.positions
        spans = ShardLocator(self._chain, self._requests, self._indexes).spans(group.key, indices[positions], whole)
        if spans is None:
            return None
        starts, lengths = spans
        stored = starts >= 0
        self._report_missing(positions[~stored].tolist(), lambda position: place(position, None))
        order = np.flatnonzero(stored)[np.argsort(starts[stored], kind="stable")]
        stops = starts + lengths
        return list(zip(positions[order].tolist(), starts[order].tolist(), stops[order].tolist(), strict=True))

    def _decode_together(
        self, key: str, chunks: list[StoredChunk], pieces: list[memoryview], together: Together
    ) -> None:
        """Decode and place small chunks of an object, about `_TOGETHER_NBYTES` at a time."""
        most = max(1, _TOGETHER_NBYTES // self._chain.chunk_nbytes)
        for first in range(0, len(chunks), most):
            batch, stored = chunks[first : first + most], pieces[first : first + most]
            room = together.room(len(batch))
            if self._chain.decode_joined(stored, room):
                self._statistics.add(**self._decoded(len(batch)))
                for number, (position, _, _) in enumerate(batch):
                    together.place(position, room[number])
            else:
                self._decode_parts(key, batch, stored, together.place, None, None)
            together.done()

    def _decode_parts(
        self,
        key: str,
        chunks: list[StoredChunk],
        pieces: list[memoryview],
        place: Place,
        out_for: OutFor | None,
        boxes: Int64Array | None,
    ) -> None:
        """Decode and place chunks of an object one by one."""
        chain = self._chain
        done = partial = decoded = 0
        try:
            for (position, start, stop), piece in zip(chunks, pieces, strict=True):
                out = None if out_for is None else out_for(position)
                needs = self._needs.of(boxes, position)
                try:
                    array, nbytes = chain.decode_counted(piece, out, None if needs is None else needs.box)
                except ChunkError as error:
                    self._check_array()
                    raise self._requests.located(error, key, start, stop) from error
                done, decoded = done + 1, decoded + nbytes
                partial += nbytes < chain.chunk_nbytes
                place(position, array)
        finally:
            unverified = 0 if chain.is_verified else decoded
            self._statistics.add(
                chunks_read=done, chunks_partial=partial, bytes_decoded=decoded, unverified_bytes=unverified
            )

    def fetch(
        self,
        group: ChunkGroup,
        indices: Int64Array,
        receive: Receive,
        missing: Callable[[int], None],
        *,
        boxes: Int64Array | None = None,
        skip: Callable[[int], bool] | None = None,
        payload: Payload | None = None,
    ) -> None:
        """Fetch the chunks of one group without decoding them; requests are those of `read`.

        Parameters
        ----------
        group, indices, boxes, skip
            As for `read`.
        receive
            Called for each stored chunk with key, `ChunkFetch` and the bytes of its ranges (of the object, if it has none).
        missing
            Called with the position of each chunk that is not stored.
        payload
            Reads the chunks, perhaps after this returned; indexes and block tables are read here and now.
        """
        with self._located():
            self._fetch(group, indices, receive, missing, boxes, skip, payload)

    @contextlib.contextmanager
    def _located(self) -> Iterator[None]:
        """Errors inside name array and store: a store does not know of arrays."""
        try:
            yield
        except GpuzarrError as error:
            if error.array is not None and error.store is not None:
                raise
            raise error.located(array=self._array.path, store=self._store.label) from error

    def _fetch(
        self,
        group: ChunkGroup,
        indices: Int64Array,
        receive: Receive,
        missing: Callable[[int], None],
        boxes: Int64Array | None,
        skip: Callable[[int], bool] | None,
        payload: Payload | None,
    ) -> None:
        positions = group.positions if skip is None else np.array([p for p in group.positions if not skip(int(p))], int)
        if not len(positions):
            return
        whole: Bytes | None = None
        at_hand = payload is None or payload.in_host_memory
        if at_hand and self._takes_whole_shard(group, positions, boxes):
            read = self._requests.store.get if payload is None else payload.whole
            whole = self._requests.got_whole(read(group.key))
            if whole is None:
                self._report_missing(positions.tolist(), missing)
                return
        fetches = self._fetches(self._requests, self._indexes, group.key, positions, indices, boxes, whole)
        stored = {fetch.position for fetch in fetches or ()}
        self._report_missing([p for p in positions.tolist() if p not in stored], missing)
        for batch in _fetch_batches(fetches, self._requests.costs.batch):
            self._read_batch(group.key, batch, whole, receive, missing, payload)

    def stored_bytes(
        self, group: ChunkGroup, indices: Int64Array, boxes: Int64Array | None = None
    ) -> tuple[int, int, bool]:
        """What `read` will request of the store for a group, without reading payload.

        Reads shard indexes and Blosc block tables where they decide, and asks for sizes of objects; counts none of that in
        the statistics. An index that was counted for one group is not counted again.

        Returns
        -------
        requests, bytes, exact
            Requests as the store sends them by default, bytes asked for, whether both are exact.
        """
        counted = ScanStatistics()
        asked = ObjectRequests(self._store, self._array.path, counted)
        if self._takes_whole_shard(group, group.positions, boxes):
            return 1, self._store.size(group.key) or 0, True
        fetches = self._fetches(asked, self._billed_indexes, group.key, group.positions, indices, boxes, None)
        requests, nbytes = counted.requests, counted.bytes_read
        for batch in _fetch_batches(fetches, asked.costs.batch):
            if batch[0].ranges is None:
                size = self._store.size(group.key)
                requests, nbytes = requests + 1, nbytes + (size or 0)
            else:
                ranges = [r for fetch in batch for r in fetch.ranges or ()]
                requests += request_count(asked.costs, ranges)
                nbytes += sum(length for _, length in ranges)
        return requests, nbytes, True

    def _takes_whole_shard(self, group: ChunkGroup, positions: Int64Array, boxes: Int64Array | None) -> bool:
        """Whether a shard is read in one request, without its index first: most of its chunks are wanted."""
        chain, array = self._chain, self._array
        if not chain.is_sharded:
            return False
        inside = [
            min(-(-(n - o * s) // c), s // c)
            for n, o, s, c in zip(array.shape, group.object_index, array.chunk_shape, chain.chunk_shape, strict=True)
        ]
        count = math.prod(inside)
        if 4 * len(positions) < 3 * count or count * chain.chunk_nbytes > _WHOLE_SHARD_NBYTES:
            return False
        if boxes is None or not chain.is_divisible or chain.chunk_nbytes <= self._requests.costs.least_saved:
            return True
        cells = np.prod(boxes[positions, :, 1] - boxes[positions, :, 0], axis=1).sum()
        return bool(2 * cells >= len(positions) * math.prod(chain.chunk_shape))

    def _fetches(
        self,
        requests: ObjectRequests,
        cache: IndexCache,
        key: str,
        positions: Int64Array,
        indices: Int64Array,
        boxes: Int64Array | None,
        whole: Bytes | None,
    ) -> list[ChunkFetch] | None:
        """What to fetch for the chunks that are stored; None if there is no object."""
        planner = FetchPlanner(self._chain, requests, self._needs)
        if not self._chain.is_sharded:
            return planner.plan(key, [(int(positions[0]), 0, None)], boxes)
        spans = ShardLocator(self._chain, requests, cache).spans(key, indices[positions], whole)
        if spans is None:
            return None
        chunks = [
            (p, s, n) for p, s, n in zip(positions.tolist(), *map(np.ndarray.tolist, spans), strict=True) if s >= 0
        ]
        if whole is not None:
            return [planner.at_hand(position, start, length, boxes) for position, start, length in chunks]
        return planner.plan(key, chunks, boxes)

    def _check_array(self) -> None:
        if self._verify is not None:
            self._verify()

    def _report_missing(self, positions: list[int], missing: Callable[[int], None]) -> None:
        if positions:
            self._check_array()
            self._statistics.add(chunks_missing=len(positions))
        for position in positions:
            missing(position)

    def _read_batch(
        self,
        key: str,
        batch: list[ChunkFetch],
        whole: Bytes | None,
        receive: Receive,
        missing: Callable[[int], None],
        payload: Payload | None,
    ) -> None:
        requests = self._requests
        ranges = None if batch[0].ranges is None else [r for fetch in batch for r in fetch.ranges or ()]

        def hand_out(pieces: list[Bytes] | None) -> None:
            if pieces is None:
                self._report_missing([fetch.position for fetch in batch], missing)
                return
            at = 0
            for fetch in batch:
                n = 1 if fetch.ranges is None else len(fetch.ranges)
                receive(key, fetch, pieces[at : at + n])
                at += n

        def arrived(found: list[Bytes] | None) -> None:
            """Bytes of a payload, perhaps in another thread: the same checks."""
            with self._located():
                if ranges is None:
                    data = requests.got_whole(None if found is None else found[0])
                    hand_out(None if data is None else [data])
                    return
                pieces = requests.got_ranges(key, ranges, found)
                if pieces is None and not batch[0].may_be_missing:
                    raise requests.disappeared(key)
                hand_out(pieces)

        if whole is not None:
            hand_out([whole[start : start + length] for start, length in ranges or ()])
        elif ranges is not None and not ranges:
            hand_out([])
        elif payload is not None:
            payload.later(key, ranges, arrived)
        elif ranges is None:
            data = requests.whole(key)
            hand_out(None if data is None else [data])
        elif batch[0].may_be_missing:
            hand_out(requests.ranges_if_there(key, ranges))
        else:
            hand_out(requests.ranges(key, ranges))

    def _decode(self, key: str, fetch: ChunkFetch, pieces: list[Bytes], place: Place, out_for: OutFor | None) -> None:
        out = out_for(fetch.position) if out_for is not None else None
        try:
            array, nbytes = fetch.decode(pieces, out)
        except ChunkError as error:
            self._check_array()
            start, stop = fetch.span
            stop = start + sum(map(len, pieces)) if stop is None else stop
            raise self._requests.located(error, key, start, stop) from error
        self._statistics.add(
            chunks_read=1,
            chunks_partial=int(nbytes < self._chain.chunk_nbytes),
            bytes_decoded=nbytes,
            unverified_bytes=0 if self._chain.is_verified else nbytes,
        )
        place(fetch.position, array)


def foreign_error(error: Exception, array: str, key: str) -> StoreError:
    """The error for one that a store driver or a codec library raised: where it happened must not be lost."""
    message = f"Reading this object failed: {type(error).__name__}: {error}"
    return StoreError(message, array=array, key=key)


def _batches(items: Iterable[Item], nbytes_of: Callable[[Item], int], most: int) -> Iterator[list[Item]]:
    """Runs of items of at most ``most`` bytes together, at least one each."""
    batch: list[Item] = []
    nbytes = 0
    for item in items:
        more = nbytes_of(item)
        if batch and nbytes + more > most:
            yield batch
            batch, nbytes = [], 0
        batch.append(item)
        nbytes += more
    if batch:
        yield batch


def _fetch_batches(fetches: list[ChunkFetch] | None, most: int) -> Iterator[list[ChunkFetch]]:
    """The same for fetches, in the order of the object."""
    in_order = sorted(fetches or [], key=lambda fetch: fetch.span[0])
    return _batches(in_order, lambda fetch: fetch.stored_nbytes, most)
