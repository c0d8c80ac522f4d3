"""The stored bytes of many chunks in one buffer: unaligned reads at many places at once, errors that name the chunk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from gpuzarr.errors import ChunkError, Kind

__all__ = ["ChunkLabel", "ChunkSet"]

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ChunkLabel:
    """Where the bytes of a chunk come from, for errors.

    Parameters
    ----------
    array, key
        Path of the array and key of the stored object.
    offset
        First byte of the chunk inside of that object.
    """

    array: str | None = None
    key: str | None = None
    offset: int = 0


@dataclass(frozen=True, eq=False)
class ChunkSet:
    """Chunks of one buffer.

    Parameters
    ----------
    buffer
        One-dimensional contiguous uint8.
    start, nbytes
        Span of each chunk, int64.
    position
        Which chunk of the plan each one is, int64.
    labels
        Of all chunks of the plan; empty if nobody knows.
    stripped
        Bytes left out at the start of every chunk.
    """

    buffer: npt.NDArray[np.uint8]
    start: Int64Array
    nbytes: Int64Array
    position: Int64Array
    labels: Sequence[ChunkLabel] = field(default=(), repr=False)
    stripped: int = 0

    @classmethod
    def single(cls, data: Any) -> ChunkSet:
        """One chunk that is the whole buffer."""
        buffer = np.frombuffer(data, np.uint8)
        return cls(buffer, np.zeros(1, np.int64), np.array([buffer.size], np.int64), np.zeros(1, np.int64))

    def __len__(self) -> int:
        return len(self.start)

    def narrowed(self, head: int, tail: int) -> ChunkSet:
        """The same chunks without their first ``head`` and last ``tail`` bytes."""
        start, nbytes = self.start + head, self.nbytes - head - tail
        return ChunkSet(self.buffer, start, nbytes, self.position, self.labels, self.stripped + head)

    def data(self, row: int) -> npt.NDArray[np.uint8]:
        """Bytes of one chunk, a view."""
        start = int(self.start[row])
        return self.buffer[start : start + int(self.nbytes[row])]

    def read(self, at: Int64Array, dtype: str) -> npt.NDArray[Any]:
        """Read little-endian integers at any byte offsets of the buffer.

        Offsets whose bytes are not inside of the buffer read as something else inside of it: check spans apart.
        """
        kind = np.dtype(dtype)
        if self.buffer.size < kind.itemsize:
            return np.zeros(len(at), kind)
        last = self.buffer.size - kind.itemsize
        everywhere: npt.NDArray[Any] = np.ndarray((last + 1,), kind, self.buffer.data, strides=(1,))
        return everywhere[np.clip(at, 0, last)]

    def refuse(self, row: int, what: str, kind: Kind | None = None, span: tuple[int, int] | None = None) -> NoReturn:
        """Raise `ChunkError` for one chunk; ``span`` is counted from the start of the chunk."""
        raise self.locate(ChunkError(what, kind=kind, byte_range=span), row)

    def locate(self, error: ChunkError, row: int) -> ChunkError:
        """The error with the chunk's position, array, key and its byte range inside of the stored object."""
        position = int(self.position[row])
        label = self.labels[position] if position < len(self.labels) else ChunkLabel()
        origin = label.offset + self.stripped
        start, stop = error.byte_range or (0, int(self.nbytes[row]))
        located = ChunkError(
            error.message if label.key is not None else f"chunk {position} of the batch: {error.message}",
            kind=error.kind,
            array=label.array,
            key=label.key,
            byte_range=(origin + start, origin + stop),
        )
        located.__cause__ = error.__cause__
        return located

    def refuse_first(
        self,
        bad: npt.NDArray[np.bool_],
        rows: Int64Array,
        what: Callable[[int], str],
        kind: Kind | None = None,
        span: Callable[[int], tuple[int, int]] | None = None,
    ) -> None:
        """Raise for the first True of ``bad``, if any; ``rows`` says which chunk each entry belongs to."""
        found = np.flatnonzero(bad)
        if found.size:
            i = int(found[0])
            self.refuse(int(rows[i]), what(i), kind, None if span is None else span(i))
