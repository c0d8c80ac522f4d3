"""What a backend may be told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from gpuzarr.backends.aliases import checked_aliases, default_aliases
from gpuzarr.errors import RequestError

__all__ = ["BackendOptions"]

_BYTES = ("coord_cache_bytes", "var_cache_bytes", "index_cache_bytes", "device_cache_bytes")
_ENTRIES = ("coord_cache_max_entries", "var_cache_max_entries")


@dataclass(frozen=True, kw_only=True)
class BackendOptions:
    """Sizes and rules of a backend's caches. Every cache has a budget of its own, so none crowds out another.

    Parameters
    ----------
    coord_cache_max_entries, var_cache_max_entries
        Coordinates and chunks kept at most; 0 for any number. The limits in bytes hold as well.
    assume_sorted
        Accepted and not needed: which indices of a coordinate a filter keeps is looked up in its values, sorted or not.
    coord_cache_bytes, var_cache_bytes, index_cache_bytes
        Bytes kept at most of decoded coordinates, decoded chunks of variables, and shard indexes. 0 keeps nothing.
    device_cache_bytes
        Bytes of device memory kept at most of decoded chunks, for scans with ``device="cuda"``. They are given up when a
        scan finds no device memory. 0 keeps nothing.
    max_age
        Seconds for which what was read is believed without asking the store whether it changed; None: until the caches
        are cleared. Local files are looked up at every use, whatever this says, and an Icechunk snapshot never changes.
    max_scans
        Asynchronous scans that run at once; others wait.
    codec_aliases
        Other names of codecs in Zarr v3 documents, see `gpuzarr.configure_zarr_codecs`. None: what was configured there.
    """

    coord_cache_max_entries: int = 256
    var_cache_max_entries: int = 4096
    assume_sorted: Literal["none", "all"] | list[str] | tuple[str, ...] | None = None
    coord_cache_bytes: int = 1 << 28
    var_cache_bytes: int = 1 << 29
    index_cache_bytes: int = 1 << 26
    device_cache_bytes: int = 1 << 30
    max_age: float | None = 60.0
    max_scans: int = 16
    codec_aliases: Mapping[str, str] | None = field(default=None)

    def __post_init__(self) -> None:
        for name in (*_BYTES, *_ENTRIES):
            value = getattr(self, name)
            if not _is_int(value) or value < 0:
                raise RequestError(f"{name} must be a non-negative int, not {value!r}.")
        if not _is_int(self.max_scans) or self.max_scans < 1:
            raise RequestError(f"max_scans must be a positive int, not {self.max_scans!r}.")
        age = self.max_age
        if age is not None and not _is_seconds(age):
            raise RequestError(f"max_age must be a number of seconds or None, not {age!r}.")
        sorted_ = self.assume_sorted
        if isinstance(sorted_, list | tuple):
            known = all(isinstance(name, str) for name in sorted_)
        else:
            known = sorted_ in (None, "none", "all")
        if not known:
            raise RequestError(f"assume_sorted must be None, 'none', 'all' or names, not {sorted_!r}.")
        aliases = default_aliases() if self.codec_aliases is None else self.codec_aliases
        object.__setattr__(self, "codec_aliases", checked_aliases(aliases))


def _is_seconds(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
