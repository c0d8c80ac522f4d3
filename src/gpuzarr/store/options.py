"""What a store may be told: limits, retries and coalescing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gpuzarr.errors import RequestError

__all__ = ["StoreOptions"]


@dataclass(frozen=True)
class StoreOptions:
    """How reads are made; every number is a limit.

    Attributes
    ----------
    max_concurrency
        Requests that one remote store has in flight at most, over all threads.
    retries
        Attempts after the first one, for failures that may pass (429, 5xx, timeouts, resets, short bodies).
    retry_timeout
        Seconds from the start of a read after which no further attempt is started. A read so ends after at most
        ``retry_timeout + request_timeout`` seconds.
    backoff
        Seconds before the second attempt; the wait doubles with each further one, up to 10 s, and is shortened at random
        by up to half.
    request_timeout
        Seconds that one request may take, its body included.
    connect_timeout
        Seconds that making a connection may take.
    coalesce_gap
        Two ranges of one object with at most this many unneeded bytes between them are read as one. None: 32 KiB
        locally (a system call costs less than copying more), 1 MiB remotely (a round trip costs more).
    coalesce_max
        Coalescing stops at this many bytes per request.
    follow_symlinks
        Whether keys of a local store may lead outside its root through symbolic links.
    detect_changes
        Whether an object whose version (ETag, time, size) differs between two ranged reads is an error.
    pickle_secrets
        Whether a pickled store carries credentials; otherwise it takes them from its own environment when unpickled.
    backend
        Library for URLs: ``"auto"`` takes obstore where it is installed and knows the scheme, else fsspec.
    """

    max_concurrency: int = 64
    retries: int = 6
    retry_timeout: float = 120.0
    backoff: float = 0.1
    request_timeout: float = 60.0
    connect_timeout: float = 10.0
    coalesce_gap: int | None = None
    coalesce_max: int = 16 << 20
    follow_symlinks: bool = False
    detect_changes: bool = True
    pickle_secrets: bool = False
    backend: Literal["auto", "obstore", "fsspec"] = "auto"

    def __post_init__(self) -> None:
        if self.max_concurrency < 1:
            raise RequestError(f"max_concurrency must be at least 1, not {self.max_concurrency}.")
        if self.retries < 0:
            raise RequestError(f"retries must be at least 0, not {self.retries}.")
        for name in ("retry_timeout", "backoff", "request_timeout", "connect_timeout"):
            value = getattr(self, name)
            if not 0 < value < 1e6:  # also refuses NaN
                raise RequestError(f"{name} must be a positive number of seconds, not {value}.")
        if self.coalesce_gap is not None and self.coalesce_gap < 0:
            raise RequestError(f"coalesce_gap must be at least 0 bytes, not {self.coalesce_gap}.")
        if self.coalesce_max < 1:
            raise RequestError(f"coalesce_max must be at least 1 byte, not {self.coalesce_max}.")
        if self.backend not in ("auto", "obstore", "fsspec"):
            raise RequestError(f"backend must be 'auto', 'obstore' or 'fsspec', not {self.backend!r}.")
