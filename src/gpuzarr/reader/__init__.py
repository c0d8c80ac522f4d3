"""From grid indices of chunks to their arrays: which bytes of which object, fetched and decoded."""

from __future__ import annotations

from gpuzarr.reader.access import foreign_error
from gpuzarr.reader.chunk_reader import ChunkReader
from gpuzarr.reader.groups import ChunkGroup
from gpuzarr.reader.joined import Joined

__all__ = ["ChunkGroup", "ChunkReader", "Joined", "foreign_error"]
