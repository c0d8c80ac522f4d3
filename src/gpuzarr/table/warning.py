"""One warning for what a table leaves out."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from gpuzarr.notices import GpuzarrWarning, level_of_caller
from gpuzarr.redact import redact

__all__ = ["GpuzarrWarning", "warn_left_out"]

_SHOWN = 20


def warn_left_out(reasons: Mapping[str, Exception], *, store: str) -> None:
    """Warn once that arrays are left out, naming each with its reason; nothing happens if there are none.

    Parameters
    ----------
    reasons
        Why, by path of the array.
    """
    if not reasons:
        return
    lines = [
        f"{path or '/'!r}: {str(getattr(error, 'message', error)).rstrip('.')}"
        for path, error in sorted(reasons.items())
    ]
    if len(lines) > _SHOWN:
        lines[_SHOWN:] = [f"and {len(lines) - _SHOWN} more"]
    message = f"left out of the table, in store {store!r}: {'; '.join(lines)}"
    warnings.warn(redact(message), GpuzarrWarning, stacklevel=level_of_caller())
