"""Anonymous memory on pages of 2 MiB, where the system offers them (Linux, transparent huge pages on ``madvise`` or ``always``)."""

from __future__ import annotations

import contextlib
import mmap
from typing import Any

import numpy as np

__all__ = ["LARGE_PAGE", "PAGE", "Region"]

PAGE = mmap.PAGESIZE

LARGE_PAGE = 2**21

_ADVICE: Any = getattr(mmap, "MADV_HUGEPAGE", None)
_FORGET: Any = getattr(mmap, "MADV_DONTNEED", None)


class Region:
    """Bytes that take memory only where they are touched; given back when nothing refers to them any more.

    Parameters
    ----------
    nbytes
        Size.

    Attributes
    ----------
    bytes
        uint8, shape ``(nbytes,)``, aligned to a large page.
    """

    def __init__(self, nbytes: int) -> None:
        mapping = _anonymous(nbytes + LARGE_PAGE)
        whole = np.frombuffer(mapping, np.uint8)
        self._first = -whole.ctypes.data % LARGE_PAGE
        self._mapping = mapping
        self.bytes: np.ndarray = whole[self._first : self._first + nbytes]
        if _ADVICE is not None:
            with contextlib.suppress(OSError):  # a system without large pages has small ones
                mapping.madvise(_ADVICE, self._first, nbytes)

    def forget(self, start: int, nbytes: int) -> None:
        """Give the memory of some bytes back to the system; they are undefined from now on. In whole pages."""
        first = -(-start // PAGE) * PAGE
        last = (start + nbytes) // PAGE * PAGE
        if _FORGET is not None and last > first:
            with contextlib.suppress(OSError):
                self._mapping.madvise(_FORGET, self._first + first, last - first)


def _anonymous(nbytes: int) -> mmap.mmap:
    private: Any = getattr(mmap, "MAP_PRIVATE", None)  # shared memory, the default, has pages of other rules
    if private is None:
        return mmap.mmap(-1, nbytes)
    return mmap.mmap(-1, nbytes, flags=private | mmap.MAP_ANONYMOUS)
