"""`ChunkReader`: fetches and decodes the chunks of one array."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from gpuzarr.codecs.chain import CodecChain
from gpuzarr.codecs.steps import Bytes
from gpuzarr.errors import ChunkError
from gpuzarr.metadata.model import ArrayMetadata
from gpuzarr.reader.access import ArrayAccess, batches
from gpuzarr.reader.direct import DirectReads, OutFor, Place
from gpuzarr.reader.fetch_plan import ChunkFetch, FetchPlanner
from gpuzarr.reader.groups import ChunkGroup, group_chunks
from gpuzarr.reader.joined import Joined
from gpuzarr.reader.kept import KeptChunks
from gpuzarr.reader.requests import ObjectRequests, Payload, request_count
from gpuzarr.reader.shard_index import IndexCache, ShardLocator
from gpuzarr.statistics import ScanStatistics
from gpuzarr.store.base import ByteStore, ReadsInto

__all__ = ["ChunkReader"]

Int64Array = npt.NDArray[np.int64]
Receive = Callable[[str, ChunkFetch, list[Bytes]], None]

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
        self._indexes = indexes if indexes is not None else IndexCache()
        self._access = ArrayAccess(store, array, chain, statistics, self._indexes, verify)
        self._direct = DirectReads(self._access)
        self._store = store
        self._array = array
        self._chain = chain
        self._statistics = statistics
        self._requests = self._access.requests
        self._needs = self._access.needs
        in_place = chain.is_plain and not chain.is_sharded and isinstance(store, ReadsInto)
        self._into: ReadsInto | None = store if in_place else None  # type: ignore[assignment]
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
        joined: Joined | None = None,
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
        joined
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
                self._direct.plain(self._into, group.key, position, place, out_for, boxes)
            return
        if skip is None and (boxes is None or not self._needs.divides):
            boxes = None if self._chain.decodes_whole else boxes
            if not self._chain.is_sharded:
                for position in group.positions.tolist():
                    self._direct.object(group.key, position, place, out_for, boxes)
                return
            if self._takes_whole_shard(group, group.positions, boxes):
                self._direct.shard(group, indices, place, out_for, boxes, joined)
                return
            if joined is not None and self._chain.is_joinable:
                self._direct.some_of_shard(group, indices, joined)
                return

        def receive(key: str, fetch: ChunkFetch, pieces: list[Bytes]) -> None:
            self._decode(key, fetch, pieces, place, out_for)

        self.fetch(group, indices, receive, lambda position: place(position, None), boxes=boxes, skip=skip)

    @property
    def joins_objects(self) -> bool:
        """Whether chunks of several objects can be decoded in one call, see `read_joined`."""
        return self._direct.joins_objects

    def read_joined(self, groups: Sequence[ChunkGroup], joined: Joined) -> None:
        """Fetch the chunks of several groups and decode them in one call, where `joins_objects`; errors as of `read`.

        What it asks of the store, places and counts is what `read` does for one group after the other.
        """
        self._direct.objects_joined(groups, joined)

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
        with self._access.located():
            self._fetch(group, indices, receive, missing, boxes, skip, payload)

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
                self._access.report_missing(positions.tolist(), missing)
                return
        fetches = self._fetches(self._requests, self._indexes, group.key, positions, indices, boxes, whole)
        stored = {fetch.position for fetch in fetches or ()}
        self._access.report_missing([p for p in positions.tolist() if p not in stored], missing)
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
            elif batch[0].may_be_missing and self._store.size(group.key) is None:
                requests += 1
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
        if boxes is None or not self._needs.divides:
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
                self._access.report_missing([fetch.position for fetch in batch], missing)
                return
            at = 0
            for fetch in batch:
                n = 1 if fetch.ranges is None else len(fetch.ranges)
                receive(key, fetch, pieces[at : at + n])
                at += n

        def arrived(found: list[Bytes] | None) -> None:
            """Bytes of a payload, perhaps in another thread: the same checks."""
            with self._access.located():
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
            self._access.check_array()
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


def _fetch_batches(fetches: list[ChunkFetch] | None, most: int) -> Iterator[list[ChunkFetch]]:
    """The same for fetches, in the order of the object."""
    in_order = sorted(fetches or [], key=lambda fetch: fetch.span[0])
    return batches(in_order, lambda fetch: fetch.stored_nbytes, most)
