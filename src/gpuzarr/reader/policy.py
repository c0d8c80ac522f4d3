"""When reading a part of an object costs less than reading all of it. Pure functions of metadata and constants.

The bill (`ChunkReader.stored_bytes`) and the read take the same decisions because nothing here is measured.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from gpuzarr.store.options import StoreOptions

__all__ = ["LOCAL", "REMOTE", "ReadCosts", "costs_of"]


@dataclass(frozen=True)
class ReadCosts:
    """Costs of a store, in bytes that could have been read meanwhile.

    Parameters
    ----------
    request
        One more request beside others.
    round_trip
        Waiting for an answer before the next request can be made.
    least_saved
        Smaller savings are not worth it.
    gap, cap
        Ranges up to ``gap`` bytes apart are asked for as one, of at most ``cap`` bytes: what stores do as well.
    batch
        Most stored bytes of one object that are held at once, where its parts can be read one after the other.
    """

    request: int
    round_trip: int
    least_saved: int
    gap: int
    cap: int = 16 << 20
    batch: int = 64 << 20

    def saves(self, whole: int, parts: int, requests: int, round_trips: int = 0) -> bool:
        """Whether ``parts`` bytes in ``requests`` requests cost less than ``whole`` bytes in one."""
        cost = parts + max(requests - 1, 0) * self.request + round_trips * self.round_trip
        return cost + self.least_saved <= whole

    def pays(self, whole: int, parts: int, requests: int, round_trips: int = 0) -> bool:
        """The same where parts take more work than the whole once they are there: they must be less than half of it."""
        return 2 * parts <= whole and self.saves(whole, parts, requests, round_trips)


LOCAL = ReadCosts(request=16 << 10, round_trip=16 << 10, least_saved=64 << 10, gap=32 << 10)
"""A system call and its Python, at the speed of the page cache."""

REMOTE = ReadCosts(request=64 << 10, round_trip=1 << 20, least_saved=256 << 10, gap=1 << 20)
"""20 ms at 50 MB/s: one of many connections to an object store."""


def costs_of(*, is_local: bool, options: StoreOptions | None = None) -> ReadCosts:
    """The costs of a kind of store, with what its options say of coalescing."""
    costs = LOCAL if is_local else REMOTE
    if options is None:
        return costs
    gap = costs.gap if options.coalesce_gap is None else options.coalesce_gap
    return replace(costs, gap=gap, cap=options.coalesce_max)
