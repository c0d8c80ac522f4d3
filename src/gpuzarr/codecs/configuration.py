"""Typed, checked access to the configuration of one codec as a document gives it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from gpuzarr.errors import Kind, MetadataError

__all__ = ["Configuration", "numeric_dtype"]

_MAX_INT = 2**63 - 1
NUMERIC_KINDS = "biufcmM"


class Configuration:
    """Configuration of one codec: every getter checks the type and raises `MetadataError` naming codec and array.

    Parameters
    ----------
    codec
        Name of the codec as the document spells it.
    values
        Its configuration.
    array
        Path of the array, for messages.
    """

    def __init__(self, codec: str, values: Mapping[str, Any], array: str) -> None:
        self.codec = codec
        self.array = array
        self._values = dict(values)
        self._seen: set[str] = {"id"}

    def invalid(self, what: str) -> MetadataError:
        """Error that says what is wrong with this codec's configuration."""
        return MetadataError(
            f"codec {self.codec!r}: {what}; correct the array's document",
            kind=Kind.METADATA_INVALID,
            array=self.array,
        )

    def unsupported(self, what: str) -> MetadataError:
        """Error for something legal that is not readable here."""
        return MetadataError(
            f"codec {self.codec!r}: {what} is not supported; leave the array out with variables=[...] or rewrite it",
            kind=Kind.METADATA_UNSUPPORTED,
            array=self.array,
        )

    def has(self, name: str) -> bool:
        """Whether the document gives a value that is not null."""
        self._seen.add(name)
        return self._values.get(name) is not None

    def any(self, name: str, default: Any = None) -> Any:
        """The value unchecked; ``default`` where absent or null."""
        self._seen.add(name)
        value = self._values.get(name)
        return default if value is None else value

    def integer(self, name: str, default: int | None = None, *, low: int = -_MAX_INT, high: int = _MAX_INT) -> int:
        """An integer in ``[low, high]``; required where ``default`` is None."""
        value = self.any(name, default)
        if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
            value = int(value)  # some writers emit 1.0
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.invalid(f"{name!r} must be an integer from {low} to {high}, found {value!r}")
        return value

    def number(self, name: str, default: float | None = None) -> int | float:
        """A finite or infinite number; required where ``default`` is None."""
        value = self.any(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.invalid(f"{name!r} must be a number, found {value!r}")
        return value

    def choice(self, name: str, allowed: Collection[str], default: str | None = None) -> str:
        """One of ``allowed``; required where ``default`` is None."""
        value = self.any(name, default)
        if not isinstance(value, str) or value not in allowed:
            raise self.invalid(f"{name!r} must be one of {sorted(allowed)}, found {value!r}")
        return value

    def shape(self, name: str, ndim: int) -> tuple[int, ...]:
        """``ndim`` positive integers."""
        value = self.any(name)
        if not isinstance(value, list | tuple) or len(value) != ndim:
            raise self.invalid(f"{name!r} must be a list of {ndim} integers, found {value!r}")
        for n in value:
            if isinstance(n, bool) or not isinstance(n, int) or not 0 < n < 2**63:
                raise self.invalid(f"{name!r} must hold positive integers, found {value!r}")
        return tuple(value)

    def dtype(self, name: str, default: np.dtype[Any] | None = None) -> np.dtype[Any]:
        """A fixed-width numeric, boolean or time dtype in numpy's spelling; required where ``default`` is None."""
        value = self.any(name)
        if value is None:
            if default is None:
                raise self.invalid(f"{name!r} is missing")
            return default
        return numeric_dtype(self, name, value)

    def finish(self) -> None:
        """Refuse keys that nobody asked for: they may change how bytes are read."""
        extra = sorted(set(map(str, self._values)) - self._seen)
        if extra:
            raise MetadataError(
                f"codec {self.codec!r}: unknown configuration {extra}; a newer gpuzarr may read it",
                kind=Kind.METADATA_UNSUPPORTED,
                array=self.array,
            )


def numeric_dtype(configuration: Configuration, name: str, value: object) -> np.dtype[Any]:
    """Numpy dtype from a document's string; no objects, strings or structures."""
    if not isinstance(value, str) or len(value) > 32 or "," in value:
        raise configuration.invalid(f"{name!r} must be a numpy dtype, found {value!r}")
    try:
        dtype = np.dtype(value)
    except (TypeError, ValueError, SyntaxError) as error:
        raise configuration.invalid(f"{name!r} must be a numpy dtype, found {value!r}") from error
    if dtype.kind not in NUMERIC_KINDS or dtype.itemsize not in (1, 2, 4, 8, 16):
        raise configuration.unsupported(f"{name!r} = {value!r}")
    return dtype
