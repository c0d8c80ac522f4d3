"""Cold and warm page cache, where the system lets an ordinary user choose."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path

__all__ = ["drop", "read", "resident_share"]


def _files(path: Path) -> list[Path]:
    return [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]


def read(path: Path) -> None:
    """Read every file of a store, unless it is larger than half of the memory."""
    files = _files(path)
    if sum(file.stat().st_size for file in files) < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2:
        for file in files:
            with file.open("rb", buffering=0) as opened:
                while opened.read(2**22):
                    pass


def drop(path: Path) -> bool:
    """Ask the kernel to forget the pages of a store; whether it did (on a sample of its files)."""
    if not hasattr(os, "posix_fadvise"):
        return False
    files = _files(path)
    for file in files:
        handle = os.open(file, os.O_RDONLY)
        try:
            os.fsync(handle)  # dirty pages stay
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)
    sample = sorted(files, key=lambda p: -p.stat().st_size)[:8]
    return all((resident_share(file) or 0.0) < 0.05 for file in sample)


def resident_share(file: Path) -> float | None:
    """Share of a file's pages in memory; None where it cannot be told."""
    size = file.stat().st_size
    if size == 0:
        return 0.0
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), size, flags=mmap.MAP_PRIVATE) as view:
            pages = -(-size // mmap.PAGESIZE)
            vector = (ctypes.c_ubyte * pages)()
            address = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(view)))
            failed = libc.mincore(address, ctypes.c_size_t(size), vector)
            share = sum(v & 1 for v in vector) / pages
            del address
            return None if failed else share
    except (OSError, AttributeError, BufferError, ValueError):
        return None
