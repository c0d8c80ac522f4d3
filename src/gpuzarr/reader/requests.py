"""Requests of one array's objects: counted, checked for their length, with located errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from gpuzarr.codecs.steps import Bytes, as_bytes
from gpuzarr.errors import ChunkError, GpuzarrError, Kind
from gpuzarr.reader.policy import ReadCosts, costs_of
from gpuzarr.statistics import ScanStatistics
from gpuzarr.store.base import Buffer, ByteStore, ReadsInto
from gpuzarr.store.ranges import span_count

__all__ = ["ObjectRequests", "Payload", "Range", "request_count"]

Range = tuple[int, int]
"""(start, length) in an object."""


class Payload(Protocol):
    """Reads chunks in place of the store's own calls: the same requests, into memory of its own, several at a time.

    What is requested, what a missing object means and how long an answer must be stays with the reader.

    Attributes
    ----------
    in_host_memory
        Whether the bytes can be looked at; else only their length is of use.
    """

    @property
    def in_host_memory(self) -> bool: ...

    def whole(self, key: str) -> Bytes | None:
        """The object, now; None if there is none."""
        ...

    def later(self, key: str, ranges: Sequence[Range] | None, then: Callable[[list[Bytes] | None], None]) -> None:
        """Read ranges of an object (None: all of it), now or later, and call ``then`` with the bytes of each, as
        `ByteStore.get_ranges` gives them.
        """
        ...


def request_count(costs: ReadCosts, ranges: Sequence[Range]) -> int:
    """Requests that a store makes of some ranges."""
    return 1 if len(ranges) == 1 and ranges[0][1] > 0 else span_count(ranges, costs.gap, costs.cap)


class ObjectRequests:
    """What an array's reader asks of its store.

    Parameters
    ----------
    store
        The store.
    array
        Path of the array, for messages.
    statistics
        Counts requests and the bytes asked for; None to leave them uncounted.
    """

    def __init__(self, store: ByteStore, array: str, statistics: ScanStatistics | None) -> None:
        self.store = store
        self.array = array
        self.costs = costs_of(is_local=store.is_local, options=getattr(store, "options", None))
        self._statistics = statistics

    def whole(self, key: str) -> Bytes | None:
        """The object, None if there is none."""
        return self.got_whole(self.store.get(key))

    def got_whole(self, data: Buffer | None) -> Bytes | None:
        """The same for an object that was read already: counted."""
        self._count(1, 0 if data is None else len(data))
        return None if data is None else as_bytes(data)

    def head(self, key: str, length: int) -> Bytes | None:
        """Its first bytes, fewer if it is shorter."""
        data = self.store.get_range(key, 0, length)
        self._count(1, 0 if data is None else len(data))
        return None if data is None else as_bytes(data)

    def tail(self, key: str, length: int) -> Bytes | None:
        """Its last bytes, fewer if it is shorter."""
        data = self.store.get_suffix(key, length)
        self._count(1, 0 if data is None else len(data))
        return None if data is None else as_bytes(data)

    def ranges(self, key: str, ranges: Sequence[Range]) -> list[Bytes]:
        """Ranges of an object that is known to be there, each complete; see `ranges_if_there`."""
        pieces = self.ranges_if_there(key, ranges)
        if pieces is None:
            raise self.disappeared(key)
        return pieces

    def disappeared(self, key: str) -> ChunkError:
        """The error for an object that was there a moment ago."""
        return ChunkError(
            "the object disappeared while parts of it were read; read again",
            kind=Kind.CHUNK_TRUNCATED,
            array=self.array,
            key=key,
            store=self.store.label,
        )

    def ranges_if_there(self, key: str, ranges: Sequence[Range]) -> list[Bytes] | None:
        """Ranges of an object, each complete; None if there is no object.

        Raises
        ------
        ChunkError
            CHUNK_TRUNCATED where the object ends before.
        """
        if not ranges:
            return []
        return self.got_ranges(key, ranges, self.store.get_ranges(key, ranges))

    def got_ranges(self, key: str, ranges: Sequence[Range], pieces: Sequence[Buffer] | None) -> list[Bytes] | None:
        """The same for ranges that were read already: counted, and checked for their length."""
        if pieces is None:
            self._count(1, 0)
            return None
        self._count(request_count(self.costs, ranges), sum(map(len, pieces)))
        for (start, length), piece in zip(ranges, pieces, strict=True):
            if len(piece) != length:
                raise self._cut_short(key, start, length, len(piece))
        return [as_bytes(piece) for piece in pieces]

    def ranges_into(self, store: ReadsInto, key: str, ranges: Sequence[Range], out: Sequence[Bytes]) -> bool:
        """Read ranges of an object that are further apart than a gap, each complete; whether there is an object.

        Raises
        ------
        ChunkError
            As `ranges_if_there`.
        """
        size = store.get_ranges_into(key, ranges, out)
        if size is None:
            self._count(1, 0)
            return False
        self._count(len(ranges), sum(max(0, min(length, size - start)) for start, length in ranges))
        if size < sum(ranges[-1]):
            start, length = next(r for r in ranges if sum(r) > size)
            raise self._cut_short(key, start, length, max(0, size - start))
        return True

    def _cut_short(self, key: str, start: int, length: int, found: int) -> ChunkError:
        return ChunkError(
            f"the object ends at byte {start + found}, {length} bytes from {start} are needed; "
            "it was cut short, write it again",
            kind=Kind.CHUNK_TRUNCATED,
            array=self.array,
            key=key,
            byte_range=(start, start + length),
            store=self.store.label,
        )

    def size(self, key: str) -> int | None:
        """Size of the object where the store tells it without a round trip."""
        return self.store.size(key) if self.store.is_local else None

    def located(self, error: ChunkError, key: str, start: int, stop: int) -> GpuzarrError:
        """The error with array, key, store and the bytes of the object that were being read."""
        error.byte_range = None  # a decoder's own counts from somewhere inside of the chunk
        return error.located(array=self.array, key=key, byte_range=(start, stop), store=self.store.label)

    def _count(self, requests: int, nbytes: int) -> None:
        if self._statistics is not None:
            self._statistics.add(requests=requests, bytes_read=nbytes)
