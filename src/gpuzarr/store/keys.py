"""Which keys may be asked of a store: only such as name something below its root."""

from __future__ import annotations

import re
from urllib.parse import unquote

from gpuzarr.errors import Kind, StoreError

__all__ = ["check_key", "check_prefix", "join"]

_SEGMENT = r"(?!\.{1,2}(?:/|\Z))[^/\\\x00%]+"
_PLAIN = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})*")
_DRIVE = re.compile(r"[A-Za-z]:")


def check_key(key: str, store: str | None = None) -> str:
    """The key itself, if no store can take it for something outside its root.

    Refused are empty keys and segments, absolute paths, ``.`` and ``..``, backslashes, NUL, drive letters and any
    segment that becomes one of these by percent-decoding, however often it is applied (a URL joined by another library
    may decode it).

    Raises
    ------
    StoreError
        `Kind.KEY_UNSAFE`.
    """
    if _PLAIN.fullmatch(key) is not None:
        safe = True
    else:
        safe = "%" in key and all(_harmless(segment) for segment in key.split("/"))
    if safe and _DRIVE.match(key) is None and _encodable(key):
        return key
    raise StoreError(
        f"The key {key!r} is refused: it could lead outside the store's root. The metadata that names it is damaged or "
        f"hostile.",
        kind=Kind.KEY_UNSAFE,
        store=store,
    )


def check_prefix(prefix: str, store: str | None = None) -> str:
    """Like `check_key`, for a prefix: "" is the root, one slash at the end is taken off."""
    if prefix in ("", "/"):
        return ""
    return check_key(prefix.removesuffix("/"), store)


def join(prefix: str, name: str) -> str:
    """Key of ``name`` below ``prefix`` ("" = root)."""
    return f"{prefix}/{name}" if prefix else name


def _encodable(key: str) -> bool:
    return key.isascii() or not any("\ud800" <= character <= "\udfff" for character in key)


def _harmless(segment: str) -> bool:
    while True:
        if segment in ("", ".", "..") or any(character in segment for character in "/\\\x00"):
            return False
        decoded = unquote(segment, errors="replace")
        if decoded == segment:
            return True
        segment = decoded
