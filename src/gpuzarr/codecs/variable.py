"""Variable-length strings and bytes: numcodecs' vlen layout, also the v3 ``vlen-utf8`` and ``vlen-bytes`` codecs.

uint32 count, then per element uint32 length and that many bytes, all little-endian.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numcodecs import VLenBytes, VLenUTF8

from gpuzarr.codecs.steps import Bytes, size_mismatch, truncated
from gpuzarr.errors import ChunkError, Kind

__all__ = ["VariableLength"]


@dataclass(frozen=True)
class VariableLength:
    """``vlen-utf8`` or ``vlen-bytes``."""

    kind: Literal["string", "bytes"]

    @property
    def name(self) -> str:
        """The field's name."""
        return "vlen-utf8" if self.kind == "string" else "vlen-bytes"

    def decode(self, data: Bytes, count: int) -> np.ndarray:
        """An object array of ``count`` ``str`` or ``bytes``; raises `ChunkError` where the data do not hold them."""
        if len(data) < 4:
            raise truncated(self.name)
        found = int.from_bytes(data[:4].tobytes(), "little")
        if found != count:
            raise size_mismatch(self.name, f"{count} values, not", f"{found} values")
        if len(data) < 4 + 4 * count:
            raise truncated(self.name)
        codec = VLenUTF8() if self.kind == "string" else VLenBytes()
        try:
            values: np.ndarray = codec.decode(data) if count else np.empty(0, object)
        except UnicodeDecodeError as error:
            raise ChunkError(f"{self.name}: a value is not UTF-8: {error.reason}", kind=Kind.CHUNK_DECODE) from error
        except (ValueError, SystemError) as error:  # numcodecs: a length beyond the end, or negative
            raise truncated(self.name, "a value reaches beyond the end") from error
        # numcodecs ignores what follows the last value
        used = 4 + 4 * count + sum(map(len, values))
        if used != len(data) and self.kind == "string":
            used = 4 + 4 * count + sum(len(value.encode()) for value in values)
        if used != len(data):
            raise size_mismatch(self.name, used, len(data))
        return values
