"""Host memory by address, for the numpy twins."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuzarr.kernels.descriptors import dtype_of

__all__ = ["bytes_at", "table_at", "values_at"]


def bytes_at(address: int, nbytes: int) -> npt.NDArray[np.uint8]:
    """A writable view of bytes."""
    if nbytes <= 0:
        return np.zeros(0, np.uint8)
    return np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))


def values_at(address: int, dtype: npt.DTypeLike, count: int) -> npt.NDArray[Any]:
    """A writable view of values, at any alignment."""
    kind = np.dtype(dtype)
    return bytes_at(address, kind.itemsize * count).view(kind)


def table_at(address: int, structure: type[ctypes.Structure], count: int) -> npt.NDArray[Any]:
    """A view of a table of structures."""
    return values_at(address, dtype_of(structure), count)
