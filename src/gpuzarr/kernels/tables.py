"""Tables that kernels read: spans cut into items of similar work, and many tables packed into one buffer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuzarr.codecs.tables import FilterKind
from gpuzarr.kernels.descriptors import ChecksumItem, ChecksumSpan, CopyItem, FilterItem, dtype_of

__all__ = ["ITEM_NBYTES", "TableBuffer", "checksum_items", "copy_items", "filter_items"]

ITEM_NBYTES = 1 << 16
"""Bytes of work of one block of threads: small enough that thousands of blocks share a launch evenly."""

ALIGNMENT = 16
Spans = npt.ArrayLike
Table = npt.NDArray[Any]


@dataclass
class TableBuffer:
    """Tables one after the other, so that one copy brings all of them to the device.

    ``add`` gives the offset of a table; when all are added, allocate `nbytes` (16-byte aligned) on the device, `write` into
    pinned memory, copy, and add the offsets to the device address.
    """

    nbytes: int = 0
    _tables: list[tuple[int, Table]] = field(default_factory=list)

    def add(self, table: Table) -> int:
        """Take a table in; its offset."""
        offset = self.nbytes
        self._tables.append((offset, table))
        self.nbytes = -(-(offset + table.nbytes) // ALIGNMENT) * ALIGNMENT
        return offset

    def reserve(self, nbytes: int) -> int:
        """Room for results that begin as zeros (counters, summaries); its offset."""
        return self.add(np.zeros(nbytes, np.uint8))

    def write(self, out: npt.NDArray[np.uint8]) -> None:
        """Write all tables to ``out``, at least `nbytes` bytes."""
        for offset, table in self._tables:
            out[offset : offset + table.nbytes] = np.ascontiguousarray(table).reshape(-1).view(np.uint8)


def copy_items(src: Spans, dst: Spans, nbytes: Spans) -> Table:
    """`CopyItem` table of copies, given by addresses and sizes; long ones are cut, empty ones left out."""
    starts, ends, sizes = (np.atleast_1d(np.asarray(a, np.uint64)) for a in (src, dst, nbytes))
    row, first, size = _cut(sizes, ITEM_NBYTES)
    items = np.zeros(len(row), dtype_of(CopyItem))
    items["src"], items["dst"], items["nbytes"] = starts[row] + first, ends[row] + first, size
    return items


def filter_items(kind: FilterKind, itemsize: int, src: Spans, dst: Spans, nbytes: Spans) -> Table:
    """`FilterItem` table of blocks of one kind of filter and one item size.

    Parameters
    ----------
    src, dst
        Addresses where the blocks begin; equal for a swap in place.
    nbytes
        Of the blocks; what does not make an element is copied. A bit unshuffle takes blocks whose elements are a multiple
        of 8, as `FilterTable` has them.
    """
    starts, ends, sizes = (np.atleast_1d(np.asarray(a, np.uint64)) for a in (src, dst, nbytes))
    elements = sizes // np.uint64(itemsize)
    tail = sizes - elements * np.uint64(itemsize)
    if kind == FilterKind.BIT_UNSHUFFLE and (elements % np.uint64(8)).any():
        raise ValueError("blocks of a bit unshuffle must have a multiple of 8 elements")
    row, first, count = _cut(elements, max(ITEM_NBYTES // itemsize // 64 * 64, 64))
    last = np.flatnonzero(np.diff(row, append=-1))  # the item that ends a block copies its tail
    items = np.zeros(len(row), dtype_of(FilterItem))
    items["src"], items["dst"], items["elements"] = starts[row], ends[row], elements[row]
    items["first"], items["count"] = first, count
    items["tail"][last] = tail[row[last]]
    return items


def checksum_items(src: Spans, nbytes: Spans, expected: Spans) -> tuple[Table, Table]:
    """`ChecksumItem` and `ChecksumSpan` tables of spans, given by addresses and sizes."""
    starts, sizes = (np.atleast_1d(np.asarray(a, np.uint64)) for a in (src, nbytes))
    row, first, size = _cut(sizes, ITEM_NBYTES)
    items = np.zeros(len(row), dtype_of(ChecksumItem))
    items["src"], items["nbytes"] = starts[row] + first, size
    spans = np.zeros(len(starts), dtype_of(ChecksumSpan))
    count = np.bincount(row, minlength=len(starts))
    spans["src"], spans["nbytes"], spans["expected"] = starts, sizes, expected
    spans["items"], spans["first_item"] = count, np.cumsum(count) - count
    return items, spans


def _cut(sizes: npt.NDArray[np.uint64], most: int) -> tuple[npt.NDArray[np.int64], Table, Table]:
    """Pieces of at most ``most``: (row, start inside of it, size) of each."""
    whole = sizes.astype(np.int64)
    count = -(-whole // most)
    row = np.repeat(np.arange(len(whole)), count)
    first = (np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)) * most
    return row, first.astype(np.uint64), np.minimum(most, whole[row] - first).astype(np.uint64)
