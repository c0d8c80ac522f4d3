"""Paths of nodes inside a store: normalised, and refused where a store could read them as something else."""

from __future__ import annotations

import re

from gpuzarr.errors import Kind, RequestError

__all__ = ["child_path", "normalise_path", "why_unsafe"]

_DOTS = re.compile(r"(?:\.|%2e){1,2}", re.IGNORECASE)
_FORBIDDEN = re.compile(r"[\\/\x00]|%2f|%5c|%00", re.IGNORECASE)
MAX_NAME_LENGTH = 1024


def why_unsafe(name: str) -> str | None:
    """Why a node must not have this name, None if it may.

    A store turns names into file paths and URLs, so neither may a name be a step upwards (also percent-encoded) nor
    hold a separator of either.
    """
    if not name:
        return "it is empty"
    if len(name) > MAX_NAME_LENGTH:
        return f"it is longer than {MAX_NAME_LENGTH} characters"
    if _DOTS.fullmatch(name):
        return "it is a relative step"
    if _FORBIDDEN.search(name):
        return "it holds a slash, a backslash or a NUL"
    try:
        name.encode()
    except UnicodeEncodeError:
        return "it is not valid Unicode"
    return None


def normalise_path(path: str) -> str:
    """A path from the store root without leading, trailing and double slashes; "" for the root.

    Raises
    ------
    RequestError
        KEY_UNSAFE if a part is no safe name, see `why_unsafe`.
    """
    if not isinstance(path, str):
        raise RequestError(f"the path of a node has to be a str, not {type(path).__name__}", kind=Kind.ARGUMENT)
    names = [name for name in path.split("/") if name]
    for name in names:
        reason = why_unsafe(name)
        if reason is not None:
            raise RequestError(f"the path {path[:200]!r} is refused: {name[:60]!r}: {reason}", kind=Kind.KEY_UNSAFE)
    return "/".join(names)


def child_path(path: str, name: str) -> str:
    """Path of a node or key below another."""
    return f"{path}/{name}" if path else name
