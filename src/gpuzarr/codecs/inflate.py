"""The DEFLATE decoder of the host: ISA-L where it is installed, which is about twice as fast as zlib, else zlib."""

from __future__ import annotations

import importlib
import zlib
from types import ModuleType
from typing import Any

_library: ModuleType
try:
    _library = importlib.import_module("isal.isal_zlib")
except ImportError:  # no wheel for this platform
    _library = zlib

__all__ = ["INFLATE_ERRORS", "INFLATE_LIBRARY", "Inflate", "is_checksum_error"]

INFLATE_ERRORS: tuple[type[Exception], ...] = (zlib.error, _library.error)
INFLATE_LIBRARY: str = _library.__name__


class Inflate:
    """One gzip member or zlib stream, in the call shape of `bz2.BZ2Decompressor`; checksums and lengths are checked.

    Parameters
    ----------
    wbits
        31: gzip (RFC 1952); 15: zlib (RFC 1950).
    """

    def __init__(self, wbits: int) -> None:
        self._inner: Any = _library.decompressobj(wbits)

    @property
    def eof(self) -> bool:
        """Whether the end of the stream was reached."""
        return bool(self._inner.eof)

    @property
    def unused_data(self) -> bytes:
        """Input after the end of the stream."""
        data: bytes = self._inner.unused_data
        return data

    @property
    def needs_input(self) -> bool:
        """Whether all input was taken in."""
        return not self._inner.unconsumed_tail

    def decompress(self, data: Any, max_length: int) -> bytes:
        """Up to ``max_length`` decoded bytes."""
        held = self._inner.unconsumed_tail
        decoded: bytes = self._inner.decompress(held or data, max_length)
        return decoded


def is_checksum_error(error: Exception) -> bool:
    """Whether a decoder complains of a checksum or length that does not match what was decoded."""
    text = str(error)
    return any(part in text for part in ("incorrect data check", "incorrect length check", "Incorrect checksum"))
