"""Bounded retries with jittered backoff, and what counts as worth one."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from typing import TypeVar

from gpuzarr.errors import Kind, StoreError
from gpuzarr.redact import public_cause
from gpuzarr.store.options import StoreOptions

__all__ = ["Failure", "classify", "run"]

T = TypeVar("T")

_LONGEST_DELAY = 10.0

# object_store writes "status 503 Service Unavailable" or "status code: 503", fsspec "503, message=..." or "HTTP 503"
_STATUS = re.compile(
    r"\b(?:status(?:\s+code)?:?|HTTP(?:/[\d.]+)?|HttpError:?)[\s(]*([1-5]\d\d)\b|^([45]\d\d)[,:]", re.IGNORECASE
)
_TIMEOUT = re.compile(
    r"\btimed out\b|\boperation timeout\b|kind: Timeout\b|\bno answer within\b|source: TimedOut\b", re.IGNORECASE
)
# libraries whose errors, other than those told apart here, come from the network
_NETWORK = frozenset({"adlfs", "aiobotocore", "aiohttp", "azure", "botocore", "gcsfs", "google", "http", "httpx", "obstore", "requests", "urllib3"})  # fmt: skip
_FINAL = frozenset(
    {"NotSupportedError", "UnknownConfigurationKeyError", "InvalidPathError", "InvalidURL", "NonHttpUrlClientError"}
)
_PERMANENT = re.compile(
    r"certificate|invalid dns|unsupported url|relative url|builder error|not allowed|unknown scheme|invalid url",
    re.IGNORECASE,
)


class Failure(Exception):
    """A failed attempt: the error to raise in the end, and whether another attempt may help."""

    def __init__(self, error: StoreError, *, transient: bool) -> None:
        super().__init__(error.message)
        self.error = error
        self.transient = transient


def classify(error: BaseException, *, store: str, key: str | None) -> Failure:
    """What a foreign exception of a store library means.

    Permission and client errors (4xx other than 408, 425 and 429) are final, and so are errors of unknown kinds;
    everything that a network may cause is transient.
    """
    full = str(error)
    text = _first_line(full) or type(error).__name__
    status = _status(text)
    name = type(error).__name__
    if (
        isinstance(error, PermissionError)
        or name in ("PermissionDeniedError", "UnauthenticatedError")
        or status in (401, 403)
    ):
        hint = "Check the credentials; a public store may need storage_options={'skip_signature': True}."
        return _failure(f"Access was denied: {text}. {hint}", Kind.STORE_DENIED, store, key, transient=False)
    if isinstance(error, TimeoutError) or name == "TimeoutError" or status in (408, 504) or _TIMEOUT.search(full):
        return _failure(f"The store did not answer in time: {text}.", Kind.STORE_TIMEOUT, store, key, transient=True)
    if status is not None:
        transient = status in (425, 429) or (status >= 500 and status not in (501, 505))
        hint = ""
        if 300 <= status < 400:
            hint = " The bucket may be in another region: name it with storage_options={'region': ...}."
        return _failure(
            f"The store answered {status}: {text}.{hint}", Kind.STORE_FAILED, store, key, transient=transient
        )
    transient = isinstance(error, (OSError, EOFError)) or type(error).__module__.partition(".")[0] in _NETWORK
    transient = transient and name not in _FINAL and _PERMANENT.search(text) is None
    return _failure(f"Reading failed: {name}: {text}.", Kind.STORE_FAILED, store, key, transient=transient)


def run(
    attempt: Callable[[], T],
    options: StoreOptions,
    *,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
    jitter: Callable[[], float] = random.random,
) -> T:
    """Result of ``attempt``, repeated while it raises a transient `Failure` and the limits allow.

    Delays double from ``options.backoff`` to 10 s, each shortened at random by up to half, so that many readers do not
    come back together. After ``options.retries`` further attempts, or where the next one would start later than
    ``options.retry_timeout``, the last error is raised.
    """
    begin = clock()
    tries = 0
    while True:
        tries += 1
        try:
            return attempt()
        except Failure as failure:
            error, transient, cause = failure.error, failure.transient, failure.__cause__
        delay = min(_LONGEST_DELAY, options.backoff * 2.0 ** min(tries - 1, 30)) * (1.0 - 0.5 * jitter())
        spent = clock() - begin
        if not transient or tries > options.retries or spent + delay > options.retry_timeout:
            raise _final(error, tries, spent) from public_cause(cause)
        sleep(delay)


def _final(error: StoreError, tries: int, spent: float) -> StoreError:
    if tries == 1:
        return error
    return StoreError(
        f"{error.message} Gave up after {tries} attempts in {spent:.1f} s.",
        kind=error.kind,
        store=error.store,
        key=error.key,
        byte_range=error.byte_range,
    )


def _failure(message: str, kind: Kind, store: str, key: str | None, *, transient: bool) -> Failure:
    return Failure(StoreError(message, kind=kind, store=store, key=key), transient=transient)


def _first_line(text: str) -> str:
    line = text.strip().split("\n", 1)[0].rstrip(" .")
    return line if len(line) <= 400 else line[:400] + "…"


def _status(text: str) -> int | None:
    found = _STATUS.search(text)
    return None if found is None else int(found.group(1) or found.group(2))
