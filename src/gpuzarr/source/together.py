"""Reading small coordinates side by side, where each by itself would be a round trip."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from gpuzarr.errors import GpuzarrError
from gpuzarr.metadata.model import ArrayMetadata, GroupMetadata

__all__ = ["read_together", "small_coordinates"]

_MOST = 32
_THREADS = 16
_SMALL_NBYTES = 1 << 20


def small_coordinates(node: ArrayMetadata | GroupMetadata) -> tuple[ArrayMetadata, ...]:
    """The coordinates of dimensions in a group that are cheap to read before anybody asks for them."""
    arrays = node.arrays.values() if isinstance(node, GroupMetadata) else ()
    return tuple([array for array in arrays if _is_small(array)][:_MOST])


def _is_small(array: ArrayMetadata) -> bool:
    names = array.dimension_names
    return (
        array.ndim == 1
        and names is not None
        and names[0] == array.name
        and array.dtype.numpy != np.dtype(object)
        and array.shape[0] * array.dtype.itemsize <= _SMALL_NBYTES
    )


def read_together(arrays: Iterable[ArrayMetadata], read: Callable[[ArrayMetadata], Any]) -> None:
    """Read arrays in threads: one round trip together. One that fails does so again when it is needed."""

    def attempt(array: ArrayMetadata) -> None:
        try:
            read(array)
        except GpuzarrError:
            return

    arrays = list(arrays)
    if arrays:
        with ThreadPoolExecutor(min(_THREADS, len(arrays)), thread_name_prefix="gpuzarr-coordinate") as pool:
            list(pool.map(attempt, arrays))
