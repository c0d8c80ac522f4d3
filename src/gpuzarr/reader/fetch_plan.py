"""What to request of one object for the chunks that are wanted: decided from indexes and block tables, before payload.

Each chunk is read whole, or as the byte ranges of the needed rows (uncompressed), or as the needed inner blocks (Blosc).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from gpuzarr.codecs import blosc
from gpuzarr.codecs.bytes_blosc import block_runs, decode_blocks, is_divisible, predicted_blocksize
from gpuzarr.codecs.canvas import Canvas
from gpuzarr.codecs.chain import CodecChain
from gpuzarr.codecs.steps import Bytes
from gpuzarr.errors import ChunkError
from gpuzarr.reader.needs import BoxNeeds, NeedsMemory, expected_nbytes
from gpuzarr.reader.policy import ReadCosts
from gpuzarr.reader.requests import ObjectRequests, Range, request_count

__all__ = ["ChunkFetch", "FetchPlanner"]

Int64Array = npt.NDArray[np.int64]
Decode = Callable[[list[Bytes], "np.ndarray | None"], tuple[np.ndarray, int]]
Part = tuple[int, int, Bytes]
"""First decoded byte in the stored layout, decoded bytes (-1: the whole chunk), stored bytes."""


@dataclass
class ChunkFetch:
    """What is still to be read for one chunk, and how it becomes an array.

    Parameters
    ----------
    position
        Of the chunk in the caller's list.
    ranges
        To read of the object; None for the whole object.
    decode
        From their bytes, and a destination or None, to the chunk and the number of bytes that were decoded.
    may_be_missing
        Whether nothing was read of the object yet, so that it may turn out not to be there.
    span
        (start, stop) of the chunk in the object for messages; stop None where not known.
    cut
        From the bytes of the ranges to `parts`; None where they are the whole chunk.
    """

    position: int
    ranges: list[Range] | None
    decode: Decode
    may_be_missing: bool = False
    span: tuple[int, int | None] = (0, None)
    cut: Callable[[list[Bytes]], list[Part]] | None = None

    def parts(self, pieces: list[Bytes]) -> list[Part]:
        """Stored bytes that a batch decoder takes: the chunk, or what was read of it as chunks of their own."""
        return [(0, -1, pieces[0])] if self.cut is None else self.cut(pieces)

    @property
    def stored_nbytes(self) -> int:
        """Bytes to read; 0 where it is the whole object."""
        return sum(length for _, length in self.ranges or ())


@dataclass
class _Probe:
    """The first bytes of a Blosc container that is worth reading in parts."""

    position: int
    start: int
    length: int | None
    needs: BoxNeeds
    nbytes: int
    data: Bytes = field(default_factory=lambda: np.empty(0, np.uint8))


class FetchPlanner:
    """Plans the reading of chunks of one object.

    Parameters
    ----------
    chain
        Codecs of a chunk.
    requests
        How block tables are read.
    memory
        What boxes need, kept from object to object.
    """

    def __init__(self, chain: CodecChain, requests: ObjectRequests, memory: NeedsMemory) -> None:
        self._chain = chain
        self._requests = requests
        self._memory = memory
        self._costs: ReadCosts = requests.costs

    def plan(
        self, key: str, chunks: list[tuple[int, int, int | None]], boxes: Int64Array | None
    ) -> list[ChunkFetch] | None:
        """Fetches for the chunks that are stored; None if the object turns out not to be there.

        Parameters
        ----------
        key
            Of the object.
        chunks
            Position, start and length in the object of each; length None: it is the object.
        boxes
            Needed cells by position, see `gpuzarr.reader.ChunkReader.read`.
        """
        fetches: list[ChunkFetch] = []
        probes: list[_Probe] = []
        divides = self._memory.divides
        for position, start, length in chunks:
            needs = self._memory.of(boxes, position)
            if needs is None or not divides:
                fetches.append(self._whole(position, start, length, needs))
                continue
            if self._chain.is_plain:
                fetches.append(self._rows(position, start, length, needs))
                continue
            probe = self._probe(position, start, length, needs)
            if probe is None:
                fetches.append(self._whole(position, start, length, needs))
            else:
                probes.append(probe)
        if probes and not self._read_probes(key, probes):
            return None
        for probe in probes:
            try:
                fetches.append(self._blocks(key, probe))
            except ChunkError as error:
                raise self._requests.located(error, key, probe.start, probe.start + len(probe.data)) from error
        return fetches

    def at_hand(self, position: int, start: int, length: int, boxes: Int64Array | None) -> ChunkFetch:
        """The fetch of a chunk whose object is there already."""
        return self._whole(position, start, length, self._memory.of(boxes, position))

    def _whole(self, position: int, start: int, length: int | None, needs: BoxNeeds | None) -> ChunkFetch:
        chain, box = self._chain, None if needs is None else needs.box

        def decode(pieces: list[Bytes], out: np.ndarray | None) -> tuple[np.ndarray, int]:
            return chain.decode_counted(pieces[0], out, box)

        ranges = None if length is None else [(start, length)]
        span = (start, None if length is None else start + length)
        return ChunkFetch(position, ranges, decode, length is None, span)

    def _rows(self, position: int, start: int, length: int | None, needs: BoxNeeds) -> ChunkFetch:
        """The rows of an uncompressed chunk that a box needs, or the whole of it."""
        layout, rows = self._chain.layout, needs.rows
        assert layout is not None
        if rows is None:
            return self._whole(position, start, length, needs)

        def decode(pieces: list[Bytes], out: np.ndarray | None) -> tuple[np.ndarray, int]:
            canvas = Canvas(layout, out)
            for (at, n), piece in zip(rows, pieces, strict=True):
                canvas.data[at : at + n] = piece
            return canvas.finish([(at, at + n) for at, n in rows]), sum(n for _, n in rows)

        def cut(pieces: list[Bytes]) -> list[Part]:
            return [(at, n, piece) for (at, n), piece in zip(rows, pieces, strict=True)]

        ranges = rows if start == 0 else [(start + at, n) for at, n in rows]
        return ChunkFetch(position, ranges, decode, length is None, (start, start + layout.nbytes), cut)

    def _probe(self, position: int, start: int, length: int | None, needs: BoxNeeds) -> _Probe | None:
        """Where inner blocks of a Blosc container may be read alone: the bytes to look at first."""
        chain, layout = self._chain, self._chain.layout
        codec = chain.blosc_codec
        assert codec is not None
        assert layout is not None
        blocksize = predicted_blocksize(codec, layout.nbytes)
        table = blosc.HEADER_NBYTES + 4 * -(-layout.nbytes // blocksize)
        whole = length if length is not None else expected_nbytes(layout.nbytes)
        touched = len(needs.blocks(blocksize)) * blocksize
        needed = table + int(whole * min(1.0, touched / layout.nbytes))
        if table >= whole or not self._costs.pays(whole, needed, 2, 1):
            return None
        return _Probe(position, start, length, needs, table)

    def _read_probes(self, key: str, probes: list[_Probe]) -> bool:
        if probes[0].length is None:  # one chunk, which is the object
            data = self._requests.head(key, probes[0].nbytes)
            if data is None:
                return False
            probes[0].data = data
            if len(data) < probes[0].nbytes:
                probes[0].length = len(data)
            return True
        pieces = self._requests.ranges(key, [(p.start, min(p.nbytes, p.length or 0)) for p in probes])
        for probe, piece in zip(probes, pieces, strict=True):
            probe.data = piece
        return True

    def _blocks(self, key: str, probe: _Probe) -> ChunkFetch:
        layout = self._chain.layout
        assert layout is not None
        header = blosc.parse_header(probe.data, stored_nbytes=probe.length, expected_nbytes=layout.nbytes)
        table = blosc.HEADER_NBYTES + blosc.offsets_nbytes(header)
        if not is_divisible(header) or 2 * table > header.cbytes:
            return self._rest(probe, header)
        if table > len(probe.data):
            more = self._requests.ranges(key, [(probe.start + len(probe.data), table - len(probe.data))])
            probe.data = np.concatenate([probe.data, *more])
        head = len(probe.data)
        offsets = blosc.parse_offsets(header, probe.data[blosc.HEADER_NBYTES :])
        blocks = probe.needs.blocks(header.blocksize)
        spans = blosc.block_spans(header, offsets, blocks).tolist()
        ranges = _unread(spans, head)
        needed = sum(n for _, n in ranges)
        if not self._costs.pays(header.cbytes - head, needed, request_count(self._costs, ranges)):
            return self._rest(probe, header)

        def stored(pieces: list[Bytes]) -> list[Bytes]:
            if len(pieces) == len(spans) == 1 and spans[0][0] >= head:
                return pieces
            parts = [(0, probe.data), *((start, piece) for (start, _), piece in zip(ranges, pieces, strict=True))]
            return [_cut(parts, start, stop) for start, stop in spans]

        def decode(pieces: list[Bytes], out: np.ndarray | None) -> tuple[np.ndarray, int]:
            canvas = Canvas(layout, out)
            runs = decode_blocks(header, blocks, stored(pieces), canvas.data)
            return canvas.finish(runs), sum(stop - start for start, stop in runs)

        def cut(pieces: list[Bytes]) -> list[Part]:
            return [(start, stop - start, data) for start, stop, _, data in block_runs(header, blocks, stored(pieces))]

        moved = [(probe.start + start, length) for start, length in ranges]
        return ChunkFetch(probe.position, moved, decode, False, (probe.start, probe.start + header.cbytes), cut)

    def _rest(self, probe: _Probe, header: blosc.BloscHeader) -> ChunkFetch:
        """All that is not there yet: the blocks that are needed are most of the container."""
        chain, head = self._chain, len(probe.data)
        ranges = [(probe.start + head, header.cbytes - head)] if header.cbytes > head else []

        def whole(pieces: list[Bytes]) -> Bytes:
            return np.concatenate([probe.data[: header.cbytes], *pieces])

        def decode(pieces: list[Bytes], out: np.ndarray | None) -> tuple[np.ndarray, int]:
            return chain.decode_counted(whole(pieces), out, probe.needs.box)

        def cut(pieces: list[Bytes]) -> list[Part]:
            return [(0, -1, whole(pieces))]

        return ChunkFetch(probe.position, ranges, decode, False, (probe.start, probe.start + header.cbytes), cut)


def _unread(spans: list[list[int]], head: int) -> list[Range]:
    """Ranges of some blocks beyond the first ``head`` bytes, ascending, touching ones joined."""
    ranges: list[Range] = []
    for start, stop in sorted((max(start, head), stop) for start, stop in spans):
        if stop <= start:
            continue
        if ranges and start <= sum(ranges[-1]):
            first = ranges[-1][0]
            ranges[-1] = (first, max(sum(ranges[-1]), stop) - first)
        else:
            ranges.append((start, stop - start))
    return ranges


def _cut(parts: list[tuple[int, Bytes]], start: int, stop: int) -> Bytes:
    """The bytes [start, stop) of an object of which ascending parts are at hand."""
    found = [data[max(0, start - at) : stop - at] for at, data in parts if at < stop and at + len(data) > start]
    return found[0] if len(found) == 1 else np.concatenate(found) if found else np.empty(0, np.uint8)
