"""Host memory for kernel tests, and each kernel run both as compiled C++ and as its numpy twin."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from kernel_host.build import HostKernels, compiler, host_kernels

from gpuzarr.kernels import twins
from gpuzarr.kernels.launch import Launch

needs_compiler = pytest.mark.skipif(compiler() is None, reason="needs g++")


@pytest.fixture(scope="session", name="kernels")
def kernels_fixture() -> HostKernels:
    return host_kernels()


def aligned(nbytes: int, offset: int = 0) -> np.ndarray:
    """Zeros that begin ``offset`` after a multiple of 16 and end where the allocation ends, for sanitizers."""
    memory = np.zeros(nbytes + offset, np.uint8)
    assert memory.ctypes.data % 16 == 0
    return memory[offset:]


def address(array: np.ndarray | None) -> int:
    return 0 if array is None else array.ctypes.data


def run_both(
    kernels: HostKernels,
    outputs: Sequence[np.ndarray],
    make: Callable[[], Sequence[Launch]],
    *,
    threads: int | None = None,
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Run launches with the twins and as C++, from the same initial outputs.

    Returns
    -------
    twin, native
        Copies of the outputs after each.
    """
    initial = [array.copy() for array in outputs]
    found: list[list[np.ndarray]] = []
    for run in (twins.run, lambda launch: kernels.run(launch, threads=threads)):
        for array, start in zip(outputs, initial, strict=True):
            array[...] = start
        for launch in make():
            run(copy.copy(launch))
        found.append([array.copy() for array in outputs])
    return found[0], found[1]


def assert_same(twin: Sequence[np.ndarray], native: Sequence[np.ndarray]) -> None:
    for a, b in zip(twin, native, strict=True):
        np.testing.assert_array_equal(as_bits(a), as_bits(b))


def as_bits(array: np.ndarray) -> np.ndarray:
    """Bytes, with every NaN the same."""
    if array.dtype.kind == "f":
        array = np.where(np.isnan(array), array.dtype.type(np.nan), array)
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def table(array: Any) -> np.ndarray:
    """A 16-byte aligned copy of a table."""
    raw = np.ascontiguousarray(array)
    out = aligned(raw.nbytes)
    out[:] = raw.reshape(-1).view(np.uint8)
    return out
