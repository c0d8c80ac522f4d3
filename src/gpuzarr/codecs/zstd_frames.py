"""Zstandard frames, found without decoding them (RFC 8878, section 3.1).

A batch decoder takes one frame per stream and checks little, so every chunk is walked block by block first: many chunks
in lockstep with numpy, the last few one by one. Skippable frames are passed over.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuzarr.codecs.chunk_set import ChunkSet
from gpuzarr.errors import Kind

__all__ = ["UNKNOWN", "FrameTable", "walk_frames"]

Int64Array = npt.NDArray[np.int64]

MAGIC = 0xFD2FB528
SKIPPABLE, SKIPPABLE_MASK = 0x184D2A50, 0xFFFFFFF0
UNKNOWN = -1
FRAMES_LIMIT = 4096  # more frames than that in one chunk go to the host: the walk must not cost more than the decoder
BLOCKS_LIMIT = 1 << 17  # of one frame, likewise: 16 GiB in blocks of the usual size
FEW = 128  # chunks; fewer are walked one by one
HUGE = 2**62  # larger content sizes are lies

_DICTIONARY_BYTES = np.array([0, 1, 2, 4], np.int64)
_SIZE_BYTES = np.array([0, 2, 4, 8], np.int64)


@dataclass(frozen=True, eq=False)
class FrameTable:
    """Data frames, those of one span in their order.

    Parameters
    ----------
    row
        Span that the frame belongs to.
    start, nbytes
        Of the frame in the buffer.
    content_nbytes
        Decoded bytes, `UNKNOWN` where the writer left it out.
    has_checksum, has_dictionary
        Whether it ends with the low 32 bits of an XXH64; whether it needs a dictionary.
    odd
        Per span (not per frame): holds more frames or blocks than anybody should write; its frames are incomplete.
    """

    row: Int64Array
    start: Int64Array
    nbytes: Int64Array
    content_nbytes: Int64Array
    has_checksum: npt.NDArray[np.bool_]
    has_dictionary: npt.NDArray[np.bool_]
    odd: npt.NDArray[np.bool_]


def walk_frames(chunks: ChunkSet, start: Int64Array, nbytes: Int64Array, rows: Int64Array | None = None) -> FrameTable:
    """Find the frames of spans.

    Parameters
    ----------
    chunks
        The buffer, and the chunks for errors.
    start, nbytes
        Spans inside of the buffer.
    rows
        Which chunk each span belongs to; the i-th span is the i-th chunk by default.

    Raises
    ------
    ChunkError
        A span that is not a sequence of complete frames, with its byte range.
    """
    return _Walk(chunks, start, nbytes, np.arange(len(start)) if rows is None else rows).run()


class _Walk:
    """State of a walk: ``at`` is the next byte of each span."""

    def __init__(self, chunks: ChunkSet, start: Int64Array, nbytes: Int64Array, rows: Int64Array) -> None:
        self._chunks = chunks
        self._rows = rows
        self._at = start.astype(np.int64)
        self._stop = start + nbytes
        self._odd = np.zeros(len(start), np.bool_)
        self._found: list[tuple[npt.NDArray[Any], ...]] = []

    def run(self) -> FrameTable:
        empty = np.flatnonzero(self._at >= self._stop)
        self._refuse(np.ones(len(empty), np.bool_), empty, "no frame in an empty stream")
        spans = np.flatnonzero(self._at < self._stop)
        rounds = 0
        while spans.size:
            magic = self._read(spans, self._at[spans], "<u4", 4)
            skippable = magic & SKIPPABLE_MASK == SKIPPABLE
            self._refuse(~skippable & (magic != MAGIC), spans, "bytes that are not a zstd frame", Kind.CHUNK_DECODE)
            skip = spans[skippable]
            if skip.size:
                self._at[skip] += 8 + self._read(skip, self._at[skip] + 4, "<u4", 4).astype(np.int64)
            self._frames(spans[~skippable])
            self._refuse(self._at[spans] > self._stop[spans], spans, "a frame ends early")
            spans = spans[self._at[spans] < self._stop[spans]]
            rounds += 1
            if rounds >= FRAMES_LIMIT:
                self._odd[spans] = True
                break
        return self._table()

    def _frames(self, spans: Int64Array) -> None:
        if not spans.size:
            return
        first = self._at[spans]
        descriptor = self._read(spans, first + 4, "u1", 1)
        single = descriptor >> 5 & 1
        dictionary = _DICTIONARY_BYTES[descriptor & 3]
        width = _SIZE_BYTES[descriptor >> 6]
        width = np.where(width == 0, single.astype(np.int64), width)
        field = first + 6 - single + dictionary
        self._refuse(field + width + 3 > self._stop[spans], spans, "a frame header ends early")
        content = np.full(len(spans), UNKNOWN, np.int64)
        for size, dtype in ((1, "u1"), (2, "<u2"), (4, "<u4"), (8, "<u8")):
            these = np.flatnonzero(width == size)
            stored = self._chunks.read(field[these], dtype).astype(np.uint64)
            content[these] = np.minimum(stored, np.uint64(HUGE)).astype(np.int64) + (256 if size == 2 else 0)
        self._at[spans] = field + width
        self._blocks(spans)
        checksum = descriptor >> 2 & 1 == 1
        self._at[spans] += 4 * checksum
        self._refuse(descriptor & 8 != 0, spans, "a frame header with reserved bits", Kind.CHUNK_DECODE)
        self._found.append((spans, first, self._at[spans] - first, content, checksum, descriptor & 3 != 0))

    def _blocks(self, spans: Int64Array) -> None:
        """Advance ``at`` past the last block of a frame."""
        while spans.size > FEW:
            at = self._at[spans]
            header = self._read(spans, at, "u1", 3).astype(np.int64)
            header |= self._chunks.read(at + 1, "<u2").astype(np.int64) << 8
            kind = header >> 1 & 3
            self._refuse(kind == 3, spans, "a reserved block type", Kind.CHUNK_DECODE)
            self._at[spans] = at + 3 + np.where(kind == 1, 1, header >> 3)
            spans = spans[header & 1 == 0]
        for span in spans:
            self._blocks_of(int(span))

    def _blocks_of(self, span: int) -> None:
        at, stop = int(self._at[span]), int(self._stop[span])
        data = memoryview(self._chunks.buffer)
        last, count = False, 0
        while not last:
            count += 1
            if count > BLOCKS_LIMIT:
                self._odd[span], at = True, stop
                break
            if at + 3 > stop:
                self._refuse(np.ones(1, np.bool_), np.array([span]), "a frame ends early")
            header = data[at] | data[at + 1] << 8 | data[at + 2] << 16
            kind = header >> 1 & 3
            if kind == 3:
                self._refuse(np.ones(1, np.bool_), np.array([span]), "a reserved block type", Kind.CHUNK_DECODE)
            at += 4 if kind == 1 else 3 + (header >> 3)
            last = bool(header & 1)
        self._at[span] = at

    def _read(self, spans: Int64Array, at: Int64Array, dtype: str, needed: int) -> npt.NDArray[Any]:
        self._refuse(at + needed > self._stop[spans], spans, "a frame ends early")
        return self._chunks.read(at, dtype)

    def _refuse(
        self, bad: npt.NDArray[np.bool_], spans: Int64Array, what: str, kind: Kind = Kind.CHUNK_TRUNCATED
    ) -> None:
        def span_of(i: int) -> tuple[int, int]:
            row = int(self._rows[spans[i]])
            origin = int(self._chunks.start[row])
            stop = int(self._stop[spans[i]]) - origin
            return min(int(self._at[spans[i]]) - origin, stop), stop

        self._chunks.refuse_first(
            bad, self._rows[spans], lambda _: f"zstd: {what}; the chunk is damaged", kind, span_of
        )

    def _table(self) -> FrameTable:
        if not self._found:
            none = np.zeros(0, np.int64)
            flags = np.zeros(0, np.bool_)
            return FrameTable(none, none, none, none, flags, flags, self._odd)
        row, first, nbytes, content, checksum, dictionary = (
            np.concatenate(column) for column in zip(*self._found, strict=True)
        )
        order = np.lexsort((first, row)) if len(self._found) > 1 else slice(None)
        row, first, nbytes, content = row[order], first[order], nbytes[order], content[order]
        return FrameTable(row, first, nbytes, content, checksum[order], dictionary[order], self._odd)
