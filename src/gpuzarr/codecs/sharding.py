"""The ``sharding_indexed`` codec: the index of a shard, read and checked on the host.

A shard is inner chunks in any order and an index of (offset, length) pairs, uint64, C order over the grid of inner
chunks, at the start or the end; both 2^64-1 marks a chunk that is not stored (Zarr v3 sharding codec 1.0).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from gpuzarr.codecs.steps import Bytes
from gpuzarr.errors import ChunkError, Kind

if TYPE_CHECKING:
    from gpuzarr.codecs.chain import CodecChain

__all__ = ["MISSING", "ShardIndex", "ShardLayout"]

MISSING = np.uint64(2**64 - 1)


@dataclass(frozen=True, eq=False)
class ShardIndex:
    """Where the inner chunks of one shard lie.

    Parameters
    ----------
    offsets, lengths
        Bytes from the start of the shard, flat in C order of the inner grid; offset -1 where a chunk is not stored.
    """

    offsets: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]

    @property
    def nbytes(self) -> int:
        """Memory it takes."""
        return self.offsets.nbytes + self.lengths.nbytes


@dataclass(frozen=True)
class ShardLayout:
    """One level of sharding.

    Parameters
    ----------
    shard_shape, chunk_shape
        Elements of the shard and of its inner chunks, per dimension.
    index_chain
        Codecs of the index; its decoded form is uint64, the shape of the grid and 2.
    index_nbytes
        Stored bytes of the index, fixed by its codecs.
    index_location
        Where the index is.
    """

    shard_shape: tuple[int, ...]
    chunk_shape: tuple[int, ...]
    index_chain: CodecChain
    index_nbytes: int
    index_location: Literal["start", "end"]

    @property
    def grid_shape(self) -> tuple[int, ...]:
        """Inner chunks per dimension."""
        return tuple(s // c for s, c in zip(self.shard_shape, self.chunk_shape, strict=True))

    @property
    def chunk_count(self) -> int:
        """Inner chunks of a full shard."""
        count = 1
        for n in self.grid_shape:
            count *= n
        return count

    def read_index(
        self,
        data: Bytes,
        shard_nbytes: int | None,
        *,
        max_length: int | None = None,
        exact_length: int | None = None,
    ) -> ShardIndex:
        """Decode and check an index.

        Parameters
        ----------
        data
            Its stored bytes.
        shard_nbytes
            Bytes of the whole shard where they are known: every chunk must lie inside, outside of the index.
        max_length, exact_length
            Bounds on the stored bytes of an inner chunk where its codecs set any.

        Raises
        ------
        ChunkError
            SHARD_INDEX, CHUNK_CHECKSUM or CHUNK_TRUNCATED.
        """
        if len(data) != self.index_nbytes:
            raise ChunkError(
                f"sharding_indexed: the index has {self.index_nbytes} bytes, {len(data)} are there; "
                "the shard was cut short, write it again",
                kind=Kind.CHUNK_TRUNCATED,
            )
        entries = self.index_chain.decode(data).reshape(-1, 2)
        offsets, lengths = entries[:, 0], entries[:, 1]
        missing = (offsets == MISSING) & (lengths == MISSING)
        end = np.uint64(2**63 - 1) if shard_nbytes is None else np.uint64(shard_nbytes)
        low = np.uint64(0)
        if self.index_location == "start":
            low = np.uint64(self.index_nbytes)
        elif shard_nbytes is not None:
            end = np.uint64(max(shard_nbytes - self.index_nbytes, 0))
        # no sums before both are known to be below 2^63: an overflow would pass the comparison
        inside = (offsets >= low) & (offsets <= end)
        inside &= lengths <= end - np.where(inside, offsets, low)
        good = inside
        if max_length is not None:
            good = good & (lengths <= np.uint64(max_length))
        if exact_length is not None:
            good = good & (lengths == np.uint64(exact_length))
        bad = np.flatnonzero(~(good | missing))
        if bad.size:
            at = int(bad[0])
            raise self._damaged(
                at,
                f"has {int(lengths[at])} bytes, which its codecs cannot have written"
                if inside[at]
                else f"lies at {int(offsets[at])}+{int(lengths[at])}, outside of {int(low)}-{int(end)}",
            )
        index = ShardIndex(
            np.where(missing, np.int64(-1), offsets.view(np.int64)),
            np.where(missing, np.int64(0), lengths.view(np.int64)),
        )
        self._check_overlaps(index)
        return index

    def _check_overlaps(self, index: ShardIndex) -> None:
        """Chunks may share all of their bytes (a writer may store equal chunks once), but not a part of them."""
        order = np.lexsort((index.lengths, index.offsets))
        order = order[index.offsets[order] >= 0]
        starts, lengths = index.offsets[order], index.lengths[order]
        same = (starts[1:] == starts[:-1]) & (lengths[1:] == lengths[:-1])
        bad = np.flatnonzero((starts[1:] < starts[:-1] + lengths[:-1]) & ~same)
        if bad.size:
            raise self._damaged(int(order[bad[0] + 1]), "shares a part of its bytes with another")

    def _damaged(self, chunk: int, what: str) -> ChunkError:
        where = tuple(int(i) for i in np.unravel_index(chunk, self.grid_shape))
        return ChunkError(
            f"sharding_indexed: chunk {where} of the shard {what}; the index is damaged, write the shard again",
            kind=Kind.SHARD_INDEX,
        )
