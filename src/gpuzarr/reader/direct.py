"""Short ways to whole objects, shards and rows: what `ChunkReader.fetch` would come to, without its plans."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from gpuzarr.codecs.canvas import Canvas
from gpuzarr.codecs.joined import decode_joined
from gpuzarr.codecs.steps import Bytes, as_bytes
from gpuzarr.errors import ChunkError, GpuzarrError
from gpuzarr.reader.access import ArrayAccess, batches, foreign_error
from gpuzarr.reader.groups import ChunkGroup
from gpuzarr.reader.joined import Joined
from gpuzarr.reader.needs import BoxNeeds
from gpuzarr.reader.shard_index import ShardLocator
from gpuzarr.store.base import Buffer, ReadsInto

__all__ = ["DirectReads", "OutFor", "Place"]

Int64Array = npt.NDArray[np.int64]
Place = Callable[[int, "np.ndarray | None"], None]
OutFor = Callable[[int], "np.ndarray | None"]
StoredChunk = tuple[int, int, int]
"""Position in the caller's list, first byte in the object, last one + 1."""

_JOINED_NBYTES = 1 << 20  # decoded in one call: enough to forget the call, and it stays in the cache


class DirectReads:
    """Reads what needs no plan. ``place``, ``out_for`` and ``boxes`` as of `gpuzarr.reader.ChunkReader.read`."""

    def __init__(self, access: ArrayAccess) -> None:
        self._access = access
        self._array = access.array
        self._store = access.store
        self._chain = access.chain
        self._statistics = access.statistics
        self._requests = access.requests
        self._needs = access.needs
        self._indexes = access.indexes

    @property
    def joins_objects(self) -> bool:
        """Whether chunks of several objects can be decoded in one call, see `objects_joined`."""
        return self._chain.is_joinable and not self._chain.is_sharded and not self._needs.divides

    def objects_joined(self, groups: Sequence[ChunkGroup], joined: Joined) -> None:
        """Chunks of several objects, see `ChunkReader.read_joined`."""
        most = max(1, _JOINED_NBYTES // self._chain.chunk_nbytes)
        with self._access.located():
            for first in range(0, len(groups), most):
                self._objects_joined(groups[first : first + most], joined)

    def _objects_joined(self, groups: Sequence[ChunkGroup], joined: Joined) -> None:
        found: list[tuple[str, int, Buffer]] = []
        absent: list[int] = []
        for group in groups:
            position = int(group.positions[0])
            data = self._get(group.key)
            if data is None:
                absent.append(position)
            else:
                found.append((group.key, position, data))
        if absent:
            self._statistics.add(requests=len(absent))
            self._access.report_missing(absent, lambda position: joined.place(position, None))
        if not found:
            return
        chunks = [bytes(data) for _, _, data in found]
        room = joined.room(len(chunks))
        nbytes = sum(map(len, chunks))
        if decode_joined(self._chain, chunks, room):
            self._statistics.add(requests=len(chunks), bytes_read=nbytes, **self._decoded(len(chunks)))
            for number, (_, position, _) in enumerate(found):
                joined.place(position, room[number])
        else:
            for number, (key, position, data) in enumerate(found):
                joined.place(position, self._decode_object(key, as_bytes(data), room[number], None))
        joined.done()

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

    def object(self, key: str, position: int, place: Place, out_for: OutFor | None, boxes: Int64Array | None) -> None:
        """One chunk that is an object, all of it: what `fetch` would come to, without its plans."""
        with self._access.located():
            data = self._store.get(key)
            if data is None:
                self._statistics.add(requests=1)
                self._access.report_missing([position], lambda p: place(p, None))
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
            self._access.check_array()
            raise self._requests.located(error, key, 0, len(stored)) from error
        unverified = 0 if chain.is_verified else nbytes
        partial = int(nbytes < chain.chunk_nbytes)
        count(requests=1, bytes_read=len(stored))
        count(chunks_read=1, chunks_partial=partial, bytes_decoded=nbytes, unverified_bytes=unverified)
        return array

    def plain(
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
        with self._access.located():
            canvas = Canvas(layout, None if out_for is None else out_for(position))
            if rows is None:
                size = store.get_into(key, canvas.data)
                if size is not None and size != layout.nbytes:
                    self.object(key, position, place, out_for, None)  # says what is wrong with it
                    return
                there, decoded = size is not None, layout.nbytes
                count(requests=1, bytes_read=decoded if there else 0)
            else:
                parts = [canvas.data[at : at + n] for at, n in rows]
                there, decoded = self._requests.ranges_into(store, key, rows, parts), sum(map(len, parts))
            if not there:
                self._access.report_missing([position], lambda p: place(p, None))
                return
            partial = int(decoded < layout.nbytes)
            count(chunks_read=1, chunks_partial=partial, bytes_decoded=decoded, unverified_bytes=decoded)
            place(position, canvas.finish([(0, decoded)] if rows is None else [(at, at + n) for at, n in rows]))

    def shard(
        self,
        group: ChunkGroup,
        indices: Int64Array,
        place: Place,
        out_for: OutFor | None,
        boxes: Int64Array | None,
        joined: Joined | None,
    ) -> None:
        """Chunks of a shard that is read whole: what `fetch` would come to, without its plans."""
        with self._access.located():
            whole = self._requests.whole(group.key)
            chunks = None if whole is None else self._stored_chunks(group, indices, whole, place)
            if whole is None or chunks is None:
                self._access.report_missing(group.positions.tolist(), lambda position: place(position, None))
                return
            data = memoryview(whole)
            pieces = [data[start:stop] for _, start, stop in chunks]
            if joined is None or not self._chain.is_joinable:
                self._decode_parts(group.key, chunks, pieces, place, out_for, boxes)
            else:
                self._decode_joined(group.key, chunks, pieces, joined)

    def some_of_shard(self, group: ChunkGroup, indices: Int64Array, joined: Joined) -> None:
        """Small chunks of a shard that is read in parts: what `fetch` would come to, without its plans."""
        key = group.key
        with self._access.located():
            chunks = self._stored_chunks(group, indices, None, joined.place)
            if chunks is None:
                self._access.report_missing(group.positions.tolist(), lambda position: joined.place(position, None))
                return
            for batch in batches(chunks, lambda chunk: chunk[2] - chunk[1], self._requests.costs.batch):
                pieces = self._requests.ranges(key, [(start, stop - start) for _, start, stop in batch])
                self._decode_joined(key, batch, [memoryview(piece) for piece in pieces], joined)

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
        self._access.report_missing(positions[~stored].tolist(), lambda position: place(position, None))
        order = np.flatnonzero(stored)[np.argsort(starts[stored], kind="stable")]
        stops = starts + lengths
        return list(zip(positions[order].tolist(), starts[order].tolist(), stops[order].tolist(), strict=True))

    def _decode_joined(self, key: str, chunks: list[StoredChunk], pieces: list[memoryview], joined: Joined) -> None:
        """Decode and place small chunks of an object, about `_JOINED_NBYTES` at a time."""
        most = max(1, _JOINED_NBYTES // self._chain.chunk_nbytes)
        for first in range(0, len(chunks), most):
            batch, stored = chunks[first : first + most], pieces[first : first + most]
            room = joined.room(len(batch))
            if decode_joined(self._chain, stored, room):
                self._statistics.add(**self._decoded(len(batch)))
                for number, (position, _, _) in enumerate(batch):
                    joined.place(position, room[number])
            else:
                self._decode_parts(key, batch, stored, joined.place, None, None)
            joined.done()

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
                    self._access.check_array()
                    raise self._requests.located(error, key, start, stop) from error
                done, decoded = done + 1, decoded + nbytes
                partial += nbytes < chain.chunk_nbytes
                place(position, array)
        finally:
            unverified = 0 if chain.is_verified else decoded
            self._statistics.add(
                chunks_read=done, chunks_partial=partial, bytes_decoded=decoded, unverified_bytes=unverified
            )
