"""Errors of a scan as its caller sees them: of this package, with the store that was scanned."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from gpuzarr.errors import GpuzarrError, ResourceError

__all__ = ["scan_errors"]


@contextlib.contextmanager
def scan_errors(store: str, what: str, *, remedy: str = "select less") -> Iterator[None]:
    """Errors inside name the store; memory that ran out is a `ResourceError`.

    Parameters
    ----------
    what
        During which memory ran out: ``"a frame was read"``.
    remedy
        What helps then.
    """
    try:
        yield
    except GpuzarrError as error:  # a `ResourceError` is a `MemoryError` as well
        if error.store is not None:
            raise
        raise error.located(store=store) from error
    except MemoryError as error:
        raise ResourceError(f"Memory ran out while {what}; {remedy}. {error}", store=store) from error
