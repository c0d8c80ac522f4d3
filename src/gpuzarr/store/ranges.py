"""Coalescing of byte ranges: fewer requests for a few unneeded bytes. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from gpuzarr.errors import RequestError
from gpuzarr.store.base import Buffer

__all__ = ["Span", "check_range", "coalesce", "cut", "span_count"]


@dataclass(frozen=True)
class Span:
    """One request that serves several ranges.

    Attributes
    ----------
    start, length
        Bytes to request.
    members
        Positions of the ranges served, in the list that was coalesced.
    """

    start: int
    length: int
    members: tuple[int, ...]


_END = 1 << 63


def check_range(start: int, length: int) -> None:
    """Refuse a range that no object can have, before anything is allocated for it."""
    if start < 0 or length < 0 or start + length > _END:
        raise RequestError(
            f"A byte range must have start >= 0, length >= 0 and end below 2^63, not ({start}, {length})."
        )


def coalesce(ranges: Sequence[tuple[int, int]], gap: int, cap: int) -> list[Span]:
    """Spans that cover all ranges, in order of their start.

    Parameters
    ----------
    ranges
        ``(start, length)`` in bytes, in any order; they may overlap or be equal. Empty ranges are in no span.
    gap
        Ranges with at most this many bytes between them share a span; 0 joins only those that touch.
    cap
        A span is not extended beyond this many bytes; a single range may be longer.
    """
    order = []
    for position, (start, length) in enumerate(ranges):
        if start < 0 or length < 0 or start + length > _END:
            check_range(start, length)
        if length:
            order.append(position)
    order.sort(key=ranges.__getitem__)
    spans: list[Span] = []
    members: list[int] = []
    first = last = 0
    for position in order:
        start, length = ranges[position]
        stop = start + length
        if members and start - last <= gap and (stop <= last or stop - first <= cap):
            last = max(last, stop)
            members.append(position)
            continue
        if members:
            spans.append(Span(first, last - first, tuple(members)))
        first, last, members = start, stop, [position]
    if members:
        spans.append(Span(first, last - first, tuple(members)))
    return spans


def span_count(ranges: Iterable[tuple[int, int]], gap: int, cap: int) -> int:
    """How many spans `coalesce` makes of ranges that an object can have."""
    count = first = last = 0
    for start, length in sorted(ranges):
        if length:
            stop = start + length
            if count and start - last <= gap and (stop <= last or stop - first <= cap):
                last = max(last, stop)
            else:
                first, last, count = start, stop, count + 1
    return count


def cut(ranges: Sequence[tuple[int, int]], spans: Sequence[Span], data: Sequence[Buffer]) -> list[Buffer]:
    """The bytes of each range, as views into the bytes of the spans (shorter where the object ends before)."""
    pieces: list[Buffer] = [b""] * len(ranges)
    for span, buffer in zip(spans, data, strict=True):
        if len(span.members) == 1:
            pieces[span.members[0]] = buffer
            continue
        view = buffer if isinstance(buffer, np.ndarray) else memoryview(buffer)
        for position in span.members:
            start, length = ranges[position]
            pieces[position] = view[start - span.start : start - span.start + length]
    return pieces
