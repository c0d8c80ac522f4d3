"""Several stores as one, each below a name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gpuzarr.store import Buffer, ByteStore, Listing, for_scan
from gpuzarr.store.limited import get_at_most

__all__ = ["MountedStore"]


class MountedStore:
    """A `ByteStore` in which the keys of each store begin with its name.

    Parameters
    ----------
    stores
        By name; names hold no slash.
    """

    def __init__(self, stores: Mapping[str, ByteStore]) -> None:
        self._stores = dict(stores)

    @property
    def label(self) -> str:
        """Names and labels of the stores."""
        return ", ".join(f"{name}: {store.label}" for name, store in self._stores.items())

    @property
    def is_local(self) -> bool:
        """Whether all of them are."""
        return all(store.is_local for store in self._stores.values())

    def __repr__(self) -> str:
        return f"MountedStore({self.label})"

    def for_scan(self) -> MountedStore:
        """The stores as one scan should see them."""
        return MountedStore({name: for_scan(store) for name, store in self._stores.items()})

    def get(self, key: str) -> Buffer | None:
        """See `ByteStore.get`."""
        store, rest = self._find(key)
        return None if store is None else store.get(rest)

    def get_at_most(self, key: str, most: int) -> Buffer | None:
        """See `gpuzarr.store.limited.get_at_most`."""
        store, rest = self._find(key)
        return None if store is None else get_at_most(store, rest, most)

    def get_range(self, key: str, start: int, length: int) -> Buffer | None:
        """See `ByteStore.get_range`."""
        store, rest = self._find(key)
        return None if store is None else store.get_range(rest, start, length)

    def get_suffix(self, key: str, length: int) -> Buffer | None:
        """See `ByteStore.get_suffix`."""
        store, rest = self._find(key)
        return None if store is None else store.get_suffix(rest, length)

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[Buffer] | None:
        """See `ByteStore.get_ranges`."""
        store, rest = self._find(key)
        return None if store is None else store.get_ranges(rest, ranges)

    def size(self, key: str) -> int | None:
        """See `ByteStore.size`."""
        store, rest = self._find(key)
        return None if store is None else store.size(rest)

    def list_dir(self, prefix: str) -> Listing:
        """See `ByteStore.list_dir`."""
        if not prefix:
            return (), tuple(sorted(self._stores))
        store, rest = self._find(prefix)
        return ((), ()) if store is None else store.list_dir(rest)

    def close(self) -> None:
        """Close all of them."""
        for store in self._stores.values():
            store.close()

    def _find(self, key: str) -> tuple[ByteStore | None, str]:
        name, _, rest = key.partition("/")
        return self._stores.get(name), rest
