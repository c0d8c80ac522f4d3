"""Codec chains: parsed and checked once, then decoded on the host or planned as streams for a device."""

from __future__ import annotations

from gpuzarr.codecs.chain import CodecChain
from gpuzarr.codecs.parse import parse_chain

__all__ = ["CodecChain", "parse_chain"]
