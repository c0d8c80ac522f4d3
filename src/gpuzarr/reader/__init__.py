"""From grid indices of chunks to their arrays: which bytes of which object, fetched and decoded."""

from __future__ import annotations

from gpuzarr.reader.chunk_reader import ChunkReader
from gpuzarr.reader.groups import ChunkGroup

__all__ = ["ChunkGroup", "ChunkReader"]
