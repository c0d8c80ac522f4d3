"""What a box needs of a chunk, worked out once for all chunks of which the same cells are needed."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt

from gpuzarr.codecs.bytes_blosc import touched_blocks
from gpuzarr.codecs.chain import CodecChain
from gpuzarr.codecs.layout import Box, covers
from gpuzarr.reader.policy import ReadCosts
from gpuzarr.reader.requests import Range

__all__ = ["BoxNeeds", "NeedsMemory", "expected_nbytes"]

Int64Array = npt.NDArray[np.int64]

_MOST_BOXES = 64


def expected_nbytes(nbytes: int) -> int:
    """Stored bytes to expect of a Blosc chunk before anything of it is read: what shuffled floats often come to."""
    return nbytes // 2


class BoxNeeds:
    """The decoded bytes that hold a box of a chunk.

    What is computed late is computed from what never changes: threads that do it twice come to the same end.

    Parameters
    ----------
    chain
        Codecs of the chunk.
    costs
        Of its store.
    box
        (start, stop) per dimension of the chunk; not the whole of it.
    """

    def __init__(self, chain: CodecChain, costs: ReadCosts, box: Box) -> None:
        self.box = box
        self._chain = chain
        self._costs = costs
        self._blocks: dict[int, Int64Array] = {}

    @cached_property
    def runs(self) -> Int64Array:
        """Bytes of the chunk as it is stored before compression, see `StoredLayout.runs`."""
        assert self._chain.layout is not None
        return self._chain.layout.runs(self.box)

    @cached_property
    def rows(self) -> list[Range] | None:
        """Ranges of an uncompressed chunk, one a request; None where reading all of it costs less."""
        layout, costs = self._chain.layout, self._costs
        assert layout is not None
        runs = layout.runs(self.box, costs.gap)
        most = max(1, costs.cap // layout.dtype.itemsize) * layout.dtype.itemsize
        if len(runs) and runs[0, 1] - runs[0, 0] > most:  # all have one length
            ranges = [(at, min(most, stop - at)) for start, stop in runs.tolist() for at in range(start, stop, most)]
        else:
            ranges = [(start, stop - start) for start, stop in runs.tolist()]
        needed = sum(n for _, n in ranges)
        return ranges if costs.saves(layout.nbytes, needed, len(ranges)) else None

    def blocks(self, blocksize: int) -> Int64Array:
        """Ascending numbers of the blocks of this many decoded bytes that hold the box; read-only."""
        found = self._blocks.get(blocksize)
        if found is None:
            found = touched_blocks(blocksize, self.runs)
            found.flags.writeable = False
            if len(self._blocks) >= _MOST_BOXES:
                self._blocks = {}
            self._blocks[blocksize] = found
        return found


class NeedsMemory:
    """`BoxNeeds` of the boxes that were asked for last.

    Parameters
    ----------
    chain, costs
        As for `BoxNeeds`.
    """

    def __init__(self, chain: CodecChain, costs: ReadCosts) -> None:
        self._chain = chain
        self._costs = costs
        self._known: dict[bytes, BoxNeeds | None] = {}

    @cached_property
    def divides(self) -> bool:
        """Whether a part of a chunk is ever read alone, see `ReadCosts`: else the chunks are read whole, whatever is needed."""
        chain, costs = self._chain, self._costs
        if not chain.is_divisible or chain.chunk_nbytes <= costs.least_saved:
            return False
        if chain.blosc_codec is None or chain.is_sharded:
            return True
        return costs.pays(expected_nbytes(chain.chunk_nbytes), 0, 2, 1)

    def of(self, boxes: Int64Array | None, position: int) -> BoxNeeds | None:
        """What a chunk needs, boxes int64 ``(n, ndim, 2)``; None: all of it."""
        if boxes is None:
            return None
        key = boxes[position].tobytes()
        known = self._known
        if key in known:
            return known[key]
        box = tuple((int(start), int(stop)) for start, stop in boxes[position])
        needs = None if covers(box, self._chain.chunk_shape) else BoxNeeds(self._chain, self._costs, box)
        if len(known) >= _MOST_BOXES:
            self._known = known = {}
        known[key] = needs
        return needs
