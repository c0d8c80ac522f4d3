"""Stores by a pattern, in local folders and in whatever store can list."""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpuzarr.errors import NotFoundError, RequestError
from gpuzarr.redact import redact
from gpuzarr.store import ByteStore, open_store

__all__ = ["is_pattern", "matching"]

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]+)://")
_MAGIC = re.compile(r"[*?\[]")


def is_pattern(text: str) -> bool:
    """Whether a path or URL stands for several. A question mark in a URL begins its query; a name that exists is no pattern."""
    if _URL.match(text):
        return "*" in text or "[" in text
    return _MAGIC.search(text) is not None and not os.path.lexists(text)


def matching(pattern: str, storage_options: Mapping[str, Any] | None) -> list[str]:
    """Paths or URLs that a pattern stands for, sorted.

    Parameters
    ----------
    pattern
        With ``*``, ``?`` and ``[...]`` inside parts of the path; ``**`` for any folders, locally.
    storage_options
        For URLs.

    Raises
    ------
    NotFoundError
        Nothing matches.
    StoreError
        The store cannot list.
    """
    url = _URL.match(pattern)
    if url is None or url[1].lower() == "file":
        local = pattern if url is None else pattern[url.end() :]
        found = sorted(p for p in glob.glob(str(Path(local).expanduser()), recursive=True) if _is_store(p))  # noqa: PTH207
    else:
        found = _remote(pattern, storage_options)
    if not found:
        raise NotFoundError(f"No store matches {redact(pattern)!r}.")
    return found


def _is_store(path: str) -> bool:
    return Path(path).is_dir() or path.endswith(".zip")


def _remote(pattern: str, storage_options: Mapping[str, Any] | None) -> list[str]:
    parts = pattern.rstrip("/").split("/")
    first = next(i for i, part in enumerate(parts) if "*" in part or "[" in part)
    if first < 3:
        raise RequestError(f"The pattern {redact(pattern)!r} must name its server or bucket.")
    if "**" in pattern:
        raise RequestError("'**' is for local patterns; give one '*' for each folder.")
    base = "/".join(parts[:first])
    opened = open_store(base, storage_options=storage_options)
    try:
        names = _below(opened.store, "", parts[first:])
    finally:
        opened.close()
    return sorted(f"{base}/{name}" for name in names)


def _below(store: ByteStore, prefix: str, parts: list[str]) -> list[str]:
    part, rest = parts[0], parts[1:]
    if _MAGIC.search(part) is None:
        at = f"{prefix}/{part}" if prefix else part
        return _below(store, at, rest) if rest else [at]
    _, names = store.list_dir(prefix)
    found = [f"{prefix}/{n}" if prefix else n for n in names if fnmatch.fnmatchcase(n, part)]
    return [name for at in found for name in _below(store, at, rest)] if rest else found
