"""The error tree, grouped by what a handler would do.

::

    GpuzarrError
    ├── RequestError(ValueError)          fix the call: arguments, names, ambiguous tables
    │   ├── NotFoundError(FileNotFoundError)   the store, group or array is not there
    │   └── PlanLimitError                a guard (max_bytes, max_rows …) refused the scan
    ├── DataError(ValueError)             the stored data are damaged or not readable here
    │   ├── MetadataError                 a document is malformed, hostile or unsupported
    │   └── ChunkError                    the bytes of a chunk or shard are damaged
    ├── StoreError(OSError)               reading failed: denied, timed out, changed; maybe retry later
    ├── EnvironmentLacksError(RuntimeError)    a library, driver or device is missing here
    └── ResourceError(MemoryError)        memory of host or device is exhausted
    └── ScanCancelled(RuntimeError)       the scan was closed while it was running

Every error has a stable ``kind`` (append-only), and names array, chunk key and byte range where there are any. The
one-line message holds all of it, because Polars 1.x keeps only class name and message of an exception raised while a
source is iterated.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Any

from gpuzarr.redact import redact

__all__ = [
    "ChunkError",
    "DataError",
    "EnvironmentLacksError",
    "GpuzarrError",
    "Kind",
    "MetadataError",
    "NotFoundError",
    "PlanLimitError",
    "RequestError",
    "ResourceError",
    "ScanCancelled",
    "StoreError",
]


class Kind(StrEnum):
    """Stable identifiers of what went wrong. Append only."""

    CHUNK_TRUNCATED = "chunk-truncated"
    CHUNK_SIZE_MISMATCH = "chunk-size-mismatch"
    CHUNK_CHECKSUM = "chunk-checksum"
    CHUNK_DECODE = "chunk-decode"
    CHUNK_LIMIT = "chunk-limit"
    CHUNK_MISSING = "chunk-missing"
    SHARD_INDEX = "shard-index"
    STORE_FAILED = "store-failed"
    STORE_DENIED = "store-denied"
    STORE_TIMEOUT = "store-timeout"
    STORE_CHANGED = "store-changed"
    KEY_UNSAFE = "key-unsafe"
    METADATA_INVALID = "metadata-invalid"
    METADATA_UNSUPPORTED = "metadata-unsupported"
    METADATA_LIMIT = "metadata-limit"
    CODEC_REFUSED = "codec-refused"
    VALUE_OUT_OF_RANGE = "value-out-of-range"
    NOT_FOUND = "not-found"
    ARGUMENT = "argument"
    TABLE_AMBIGUOUS = "table-ambiguous"
    PLAN_LIMIT = "plan-limit"
    MEMORY_BUDGET = "memory-budget"
    DEVICE_OOM = "device-oom"
    BACKEND_UNAVAILABLE = "backend-unavailable"
    FORKED = "forked"
    CANCELLED = "cancelled"


_WORD = re.compile(r"[a-z][a-z-]*(?= (?!must |holds ))")  # what must be something is an argument
_LOWER_CASE_NAMES = frozenset(
    {"blosc", "cupy", "fsspec", "gpuzarr", "gzip", "nvcomp", "numcodecs", "obstore", "xarray", "zarr", "zlib", "zstd"}
)


def _sentences(message: str) -> str:
    """A message as sentences: most are put together from parts, some of which stand inside of others too."""
    message = message.strip()
    first = _WORD.match(message)
    if first is not None and first[0] not in _LOWER_CASE_NAMES:
        message = message[0].upper() + message[1:]
    return message if not message or message[-1] in ".!?…" else f"{message}."


class GpuzarrError(Exception):
    """Base of every error that gpuzarr raises on purpose.

    Parameters
    ----------
    message
        What went wrong and what to do next, one sentence each. Secrets in it are redacted; it begins with a capital,
        unless with a name as it is written in code, and ends with a full stop, however it was put together.
    kind
        Stable identifier.
    store, array, key
        Location (URL or path), path of the array inside the store, key of the chunk or document.
    byte_range
        ``(start, stop)`` in bytes inside the object ``key``.
    """

    default_kind: Kind = Kind.ARGUMENT

    def __init__(
        self,
        message: str,
        *,
        kind: Kind | None = None,
        store: str | None = None,
        array: str | None = None,
        key: str | None = None,
        byte_range: tuple[int, int] | None = None,
    ) -> None:
        self.message = _sentences(redact(message))
        self.kind = kind if kind is not None else self.default_kind
        self.store = None if store is None else redact(store)
        self.array = array
        self.key = None if key is None else redact(key)
        self.byte_range = byte_range
        super().__init__(self._line())

    def _line(self) -> str:
        places = []
        if self.array is not None:
            places.append(f"array {self.array or '/'!r}")
        if self.key is not None:
            places.append(f"key {self.key!r}")
        if self.byte_range is not None:
            places.append(f"bytes {self.byte_range[0]}-{self.byte_range[1]}")
        if self.store is not None:
            places.append(f"store {self.store!r}")
        where = f" ({', '.join(places)})" if places else ""
        return f"[{self.kind.value}] {self.message}{where}"

    def located(
        self,
        *,
        store: str | None = None,
        array: str | None = None,
        key: str | None = None,
        byte_range: tuple[int, int] | None = None,
    ) -> GpuzarrError:
        """The same error with places filled in that were unknown where it arose; known ones are kept."""
        error = type(self)(
            self.message,
            kind=self.kind,
            store=self.store if self.store is not None else store,
            array=self.array if self.array is not None else array,
            key=self.key if self.key is not None else key,
            byte_range=self.byte_range if self.byte_range is not None else byte_range,
        )
        error.__cause__ = self.__cause__
        return error

    def __reduce__(self) -> tuple[Any, ...]:
        fields = {
            "kind": self.kind,
            "store": self.store,
            "array": self.array,
            "key": self.key,
            "byte_range": self.byte_range,
        }
        return _rebuild, (type(self), self.message, fields)


def _rebuild(cls: type[GpuzarrError], message: str, fields: dict[str, Any]) -> GpuzarrError:
    return cls(message, **fields)


class RequestError(GpuzarrError, ValueError):
    """The call asks for something that does not exist or is ambiguous: fix the call."""


class NotFoundError(RequestError, FileNotFoundError):
    """The store, group, array or variable is not there."""

    default_kind = Kind.NOT_FOUND

    def __str__(self) -> str:  # FileNotFoundError would print errno and strerror
        return str(self.args[0])


class PlanLimitError(RequestError):
    """A guard (``max_bytes``, ``max_rows``, ``max_chunks_to_read``) refused the scan before it read anything."""

    default_kind = Kind.PLAN_LIMIT


class DataError(GpuzarrError, ValueError):
    """What is stored is damaged, or cannot be represented here."""

    default_kind = Kind.METADATA_INVALID


class MetadataError(DataError):
    """A metadata document is malformed, exceeds a limit, or asks for something unsupported."""


class ChunkError(DataError):
    """The bytes of a chunk or shard are damaged, cut short or not what the metadata says."""

    default_kind = Kind.CHUNK_DECODE


class StoreError(GpuzarrError, OSError):
    """Reading from the store failed; the data may be fine."""

    default_kind = Kind.STORE_FAILED

    def __str__(self) -> str:  # OSError would print errno and strerror
        return str(self.args[0])


class EnvironmentLacksError(GpuzarrError, RuntimeError):
    """A library, driver or device that the call needs is missing on this machine."""

    default_kind = Kind.BACKEND_UNAVAILABLE


class ResourceError(GpuzarrError, MemoryError):
    """Memory of the host or the device is exhausted."""

    default_kind = Kind.MEMORY_BUDGET


class ScanCancelled(GpuzarrError, RuntimeError):
    """The scan was closed or interrupted while it was running."""

    default_kind = Kind.CANCELLED
