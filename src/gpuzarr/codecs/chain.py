"""`CodecChain`: everything between the stored bytes of one chunk and its array."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal

import numpy as np

from gpuzarr.codecs import blosc
from gpuzarr.codecs.bytes_blosc import Blosc, decode_blocks, is_divisible, touched_blocks
from gpuzarr.codecs.canvas import Canvas
from gpuzarr.codecs.compressors import Gzip, Lz4, Zlib, Zstd
from gpuzarr.codecs.filters import FlatBytes, Transpose
from gpuzarr.codecs.layout import Box, StoredLayout, covers
from gpuzarr.codecs.sharding import ShardLayout
from gpuzarr.codecs.steps import VARIABLE_LIMIT, ArrayStep, Bytes, ByteStep, as_bytes, limit_for, size_mismatch
from gpuzarr.codecs.variable import VariableLength
from gpuzarr.errors import ChunkError, GpuzarrError, Kind, ResourceError
from gpuzarr.metadata.model import ArrayDType

__all__ = ["CodecChain", "FixedWidth", "WholeShard"]


@dataclass(frozen=True)
class FixedWidth:
    """The ``bytes`` codec: elements one after the other, in a byte order."""

    endian: Literal["little", "big"]
    name: str = "bytes"


@dataclass(frozen=True)
class WholeShard:
    """A shard that can only be read as a whole, because something is wrapped around it."""

    layout: ShardLayout
    inner: CodecChain
    fill_value: Any
    name: str = "sharding_indexed"


_WORTH_JOINING = 256 << 10  # of larger chunks, a call each costs nothing beside decoding
_WORTH_A_PART = 64 << 10  # smaller Blosc chunks are decoded faster than divided
_WORTH_A_START = 256 << 10  # two Zstandard blocks

Serializer = FixedWidth | VariableLength | WholeShard


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for n in shape:
        count *= n
    return count


@dataclass(frozen=True)
class CodecChain:
    """The codecs of one array, parsed and checked. Immutable and thread-safe.

    Parameters
    ----------
    dtype
        Of the array's elements.
    array_shape
        Elements of the array per dimension, as the chain sees them: of one chunk.
    array_steps, serializer, byte_steps
        In the order of writing: arrays to arrays, array to bytes, bytes to bytes.
    order
        Memory order of a v2 chunk.
    shards
        Levels of sharding around a chunk, outermost first; empty if not sharded.
    names
        The document's names, for `describe`.
    """

    dtype: ArrayDType
    chunk_shape: tuple[int, ...]
    array_steps: tuple[ArrayStep, ...]
    serializer: Serializer
    byte_steps: tuple[ByteStep, ...]
    order: Literal["C", "F"] = "C"
    shards: tuple[ShardLayout, ...] = ()

    @property
    def is_sharded(self) -> bool:
        """Whether a stored object holds several chunks behind an index."""
        return bool(self.shards)

    @property
    def is_fixed_width(self) -> bool:
        """Whether the bytes of a decoded chunk are known from metadata."""
        return not isinstance(self.serializer, VariableLength)

    @cached_property
    def chunk_nbytes(self) -> int:
        """Bytes of one full decoded chunk (8 per element for variable-length kinds)."""
        return _count(self.chunk_shape) * self.dtype.itemsize

    @cached_property
    def is_verified(self) -> bool:
        """Whether a checksum covers the data of a chunk."""
        inner = isinstance(self.serializer, WholeShard) and self.serializer.inner.is_verified
        return inner or any(step.is_verified for step in self.byte_steps)

    @cached_property
    def layout(self) -> StoredLayout | None:
        """How the elements of a chunk are stored before compression; None where filters change values or sizes."""
        if not isinstance(self.serializer, FixedWidth) or any(isinstance(step, FlatBytes) for step in self.byte_steps):
            return None
        axes = tuple(range(len(self.chunk_shape)))
        for step in self.array_steps:
            if not isinstance(step, Transpose):
                return None
            axes = tuple(axes[i] for i in step.order)
        if self.order == "F":
            axes = axes[::-1]
        large = [axis for axis in axes if self.chunk_shape[axis] > 1]
        if large == sorted(large):
            axes = tuple(range(len(axes)))  # dimensions of size 1 lie anywhere
        return StoredLayout(tuple(self.chunk_shape[i] for i in axes), self.stored_dtype, axes)

    @cached_property
    def is_plain(self) -> bool:
        """Whether the stored bytes are the elements, in any order: ranges of them can be read alone."""
        return not self.byte_steps and self.layout is not None

    @cached_property
    def identity(self) -> bool:
        """Whether the stored bytes are the decoded chunk: uncompressed, C order, native byte order."""
        layout = self.layout
        return not self.byte_steps and layout is not None and layout.is_c_order and layout.dtype.isnative

    @cached_property
    def blosc_codec(self) -> Blosc | None:
        """The Blosc codec next to the elements: inner blocks of its container can be decoded alone."""
        first = self.byte_steps[0] if self.byte_steps else None
        return first if isinstance(first, Blosc) and self.layout is not None else None

    @cached_property
    def is_divisible(self) -> bool:
        """Whether the stored bytes of a part of a chunk can be read and decoded alone."""
        return self.is_plain or (self.blosc_codec is not None and len(self.byte_steps) == 1)

    @cached_property
    def zstd_codec(self) -> Zstd | None:
        """The Zstandard codec next to the elements of a chunk of several blocks: it can be decoded up to any of them."""
        first = self.byte_steps[0] if self.byte_steps else None
        if not isinstance(first, Zstd) or self.layout is None or self.layout.nbytes < _WORTH_A_START:
            return None
        return first

    @cached_property
    def decodes_whole(self) -> bool:
        """Whether any cell takes decoding all of the chunk."""
        if self.is_plain or self.zstd_codec is not None:
            return False
        return self.blosc_codec is None or self.chunk_nbytes < _WORTH_A_PART

    @cached_property
    def is_joinable(self) -> bool:
        """Whether several small chunks can be decoded together, see `gpuzarr.codecs.joined`."""
        layout = self.layout
        return (
            layout is not None
            and layout.is_c_order
            and layout.dtype.isnative
            and len(self.byte_steps) == 1
            and isinstance(self.byte_steps[0], (Zstd, Blosc, Lz4, Gzip, Zlib))
            and 0 < self.chunk_nbytes < _WORTH_JOINING
        )

    @cached_property
    def joins_in_one_call(self) -> bool:
        """Whether that takes one call of the decoder, so that threads seldom wait for each other."""
        return self.is_joinable and isinstance(self.byte_steps[0], Zstd)

    @cached_property
    def _stages(self) -> tuple[tuple[tuple[int, ...], np.dtype[Any]], ...]:
        """Shape and dtype before each array step and after the last one, in the order of writing."""
        shape, dtype = self.chunk_shape, self.dtype.numpy
        stages = [(shape, dtype)]
        for step in self.array_steps:
            shape, dtype = step.encoded(shape, dtype)
            stages.append((shape, dtype))
        return tuple(stages)

    @cached_property
    def stored_dtype(self) -> np.dtype[Any]:
        """Dtype of the elements as the serializer writes them, in their byte order."""
        dtype = self._stages[-1][1]
        if isinstance(self.serializer, FixedWidth) and self.serializer.endian == "big":
            return dtype.newbyteorder(">")
        return dtype.newbyteorder("<") if isinstance(self.serializer, FixedWidth) else dtype

    @cached_property
    def _serialized_limit(self) -> int:
        """Most bytes that the serializer may have written for a chunk."""
        shape, dtype = self._stages[-1]
        nbytes = _count(shape) * dtype.itemsize
        if isinstance(self.serializer, FixedWidth):
            return nbytes
        if isinstance(self.serializer, WholeShard):
            layout = self.serializer.layout
            return limit_for(nbytes + 64 * layout.chunk_count + layout.index_nbytes)
        return VARIABLE_LIMIT

    @cached_property
    def _sizes(self) -> tuple[tuple[int | None, int], ...]:
        """Per byte step what comes out when it is undone: exact size or None, and a limit."""
        shape, dtype = self._stages[-1]
        size = _count(shape) * dtype.itemsize if isinstance(self.serializer, FixedWidth) else None
        limit = self._serialized_limit
        sizes: list[tuple[int | None, int]] = []
        for step in self.byte_steps:
            sizes.append((size, limit))
            size = step.encoded_size(size) if size is not None else None
            limit = size if size is not None else limit_for(limit)
        return tuple(sizes)

    @cached_property
    def fixed_stored_nbytes(self) -> int | None:
        """Stored bytes of every chunk where the codecs fix them; None where they depend on the data."""
        if not isinstance(self.serializer, FixedWidth):
            return None
        shape, dtype = self._stages[-1]
        size: int | None = _count(shape) * dtype.itemsize
        for step in self.byte_steps:
            size = step.encoded_size(size) if size is not None else None
        return size

    @cached_property
    def max_stored_nbytes(self) -> int:
        """Most stored bytes that a chunk of these codecs can sensibly have: a shard index that says more is damaged."""
        _, limit = self._sizes[-1] if self.byte_steps else (None, limit_for(self._serialized_limit))
        return limit_for(limit) + 64 * len(self.byte_steps)

    def describe(self) -> str:
        """The codecs in a word or two: ``"sharded(zstd)"``, ``"transpose+blosc"``, ``"uncompressed"``."""
        names = [step.name for step in self.array_steps]
        if isinstance(self.serializer, WholeShard):
            names.append(f"whole-shard({self.serializer.inner.describe()})")
        elif isinstance(self.serializer, VariableLength):
            names.append(self.serializer.name)
        names += [step.name for step in self.byte_steps]
        text = "+".join(names) or "uncompressed"
        for _ in self.shards:
            text = f"sharded({text})"
        return text

    def decode(self, data: Any, out: np.ndarray | None = None, *, box: Box | None = None) -> np.ndarray:
        """Decode one chunk.

        Parameters
        ----------
        data
            Its stored bytes.
        out
            C-contiguous array of ``chunk_shape`` and the native dtype to decode into.
        box
            (start, stop) per dimension of the cells that are needed: others may be left undefined.

        Returns
        -------
        ndarray
            ``out`` where it was given, else an array of ``chunk_shape``: maybe read-only, maybe a view of ``data``, of any
            strides; object dtype for variable-length kinds.

        Raises
        ------
        ChunkError
            The bytes are damaged, cut short, or do not fit the metadata. Without location.
        ResourceError
            There is no memory for the chunk.
        """
        return self.decode_counted(data, out, box)[0]

    def decode_counted(self, data: Any, out: np.ndarray | None, box: Box | None) -> tuple[np.ndarray, int]:
        """As `decode`, and the number of bytes that were decoded: fewer than the chunk's where a box saved work."""
        try:
            raw = as_bytes(data)
            if box is not None and self.layout is not None and not covers(box, self.chunk_shape):
                found = self._decode_box(raw, out, box, self.layout)
                if found is not None:
                    return found
            result = self._decode(raw, out)
        except GpuzarrError:
            raise
        except (ValueError, TypeError, IndexError, OverflowError, RuntimeError, OSError, EOFError) as error:
            raise ChunkError(f"{self.describe()}: {error}; the chunk is damaged", kind=Kind.CHUNK_DECODE) from error
        except MemoryError as error:
            raise ResourceError(
                f"no memory for a chunk of {self.chunk_nbytes} bytes; read smaller chunks or fewer at once"
            ) from error
        if out is None:
            return result, self.chunk_nbytes
        if result is not out:
            np.copyto(out, result)
        return out, self.chunk_nbytes

    def _decode(self, data: Bytes, out: np.ndarray | None) -> np.ndarray:
        shape, dtype = self._stages[-1]
        layout = self.layout
        if layout is not None:
            target = out if out is not None and layout.is_c_order and self.byte_steps else None
            place = None if target is None else as_bytes(target)
            raw = self._undo_bytes(data, place)
            if len(raw) != layout.nbytes:
                raise size_mismatch(self.describe(), layout.nbytes, len(raw))
            if target is not None and (raw is place or np.shares_memory(raw, target)):
                return target if layout.dtype.isnative else target.byteswap(inplace=True)
            return layout.view(raw.view(layout.dtype)).astype(dtype, copy=False)
        raw = self._undo_bytes(data, None)
        if isinstance(self.serializer, WholeShard):
            array = _decode_shard(self.serializer, raw, shape)
        elif isinstance(self.serializer, VariableLength):
            array = self.serializer.decode(raw, _count(shape)).reshape(shape, order=self.order)
        else:
            expected = _count(shape) * dtype.itemsize
            if len(raw) != expected:
                raise size_mismatch(self.describe(), expected, len(raw))
            array = raw.view(self.stored_dtype).reshape(shape, order=self.order).astype(dtype, copy=False)
        for step, (before, kind) in zip(reversed(self.array_steps), reversed(self._stages[:-1]), strict=True):
            array = step.decode(array, before, kind)
        return array

    def _decode_box(
        self, data: Bytes, out: np.ndarray | None, box: Box, layout: StoredLayout
    ) -> tuple[np.ndarray, int] | None:
        """Only the cells of a box, where that saves work; None where it does not."""
        needed = 0 if self.zstd_codec is None else layout.end(box)
        if 4 * needed > 3 * layout.nbytes:
            return None
        cells = tuple(slice(start, stop) for start, stop in box)
        if self.zstd_codec is not None:
            canvas = Canvas(layout, out)
            nbytes = self.zstd_codec.decode_start(self._undo_bytes(data, None, until=1), needed, canvas.data)
            return (self._into(out, canvas.finish([(0, nbytes)]), cells), nbytes) if nbytes else None
        if self.blosc_codec is not None and layout.nbytes >= _WORTH_A_PART:
            data = self._undo_bytes(data, None, until=1)
            header = blosc.parse_header(data, stored_nbytes=len(data), expected_nbytes=layout.nbytes)
            if is_divisible(header):
                blocks = _box_blocks(layout, box, header.blocksize)
                if 4 * len(blocks) <= 3 * header.nblocks:
                    array, nbytes = self._decode_some_blocks(header, blocks, data, out, layout)
                    return self._into(out, array, cells), nbytes
            if layout.is_c_order and len(self.byte_steps) == 1:
                return None  # straight into place
            raw = self.blosc_codec.decode(data, layout.nbytes, layout.nbytes, None)
        else:
            raw = self._undo_bytes(data, None)
        if len(raw) != layout.nbytes:
            raise size_mismatch(self.describe(), layout.nbytes, len(raw))
        array = layout.view(raw.view(layout.dtype))
        if out is None and not layout.dtype.isnative:
            out = np.empty(self.chunk_shape, self.dtype.numpy)
        return self._into(out, array, cells), layout.nbytes

    @staticmethod
    def _into(out: np.ndarray | None, array: np.ndarray, cells: tuple[slice, ...]) -> np.ndarray:
        if out is None:
            return array
        if not np.shares_memory(out, array):
            out[cells] = array[cells]
        return out

    @staticmethod
    def _decode_some_blocks(
        header: blosc.BloscHeader, blocks: np.ndarray, container: Bytes, out: np.ndarray | None, layout: StoredLayout
    ) -> tuple[np.ndarray, int]:
        """Decode blocks of a Blosc container at hand; the rest of the chunk stays undefined."""
        offsets = blosc.parse_offsets(header, container[blosc.HEADER_NBYTES :])
        spans = blosc.block_spans(header, offsets, blocks).tolist()
        canvas = Canvas(layout, out)
        runs = decode_blocks(header, blocks, [container[start:stop] for start, stop in spans], canvas.data)
        return canvas.finish(runs), sum(stop - start for start, stop in runs)

    def _undo_bytes(self, data: Bytes, out: Bytes | None, until: int = 0) -> Bytes:
        """Undo the byte steps from the last one to number ``until``; the result may be ``out`` or not."""
        for i in range(len(self.byte_steps) - 1, until - 1, -1):
            size, limit = self._sizes[i]
            data = self.byte_steps[i].decode(data, size, limit, out if i == 0 else None)
        return data


@lru_cache(maxsize=256)
def _box_blocks(layout: StoredLayout, box: Box, blocksize: int) -> np.ndarray:
    """Numbers of the blocks that hold a box, read-only: the same for all chunks of which the same cells are needed."""
    blocks = touched_blocks(blocksize, layout.runs(box))
    blocks.flags.writeable = False
    return blocks


def _decode_shard(shard: WholeShard, data: Bytes, shape: tuple[int, ...]) -> np.ndarray:
    layout = shard.layout
    if len(data) < layout.index_nbytes:
        raise ChunkError("sharding_indexed: shorter than the index of the shard", kind=Kind.CHUNK_TRUNCATED)
    at_end = layout.index_location == "end"
    stored = data[len(data) - layout.index_nbytes :] if at_end else data[: layout.index_nbytes]
    index = layout.read_index(stored, len(data))
    array = np.full(shape, shard.fill_value, shard.inner.dtype.numpy)
    for position in np.flatnonzero(index.offsets >= 0):
        grid = np.unravel_index(position, layout.grid_shape)
        where = tuple(slice(int(g) * c, (int(g) + 1) * c) for g, c in zip(grid, layout.chunk_shape, strict=True))
        start = int(index.offsets[position])
        array[where] = shard.inner.decode(data[start : start + int(index.lengths[position])])
    return array
