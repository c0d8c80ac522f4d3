"""Kernels on the device: sources of the package, compiled by NVRTC through CuPy when they are first used.

The only module of this package that imports CuPy, inside of its functions. Not yet run on a GPU.
"""

from __future__ import annotations

import ctypes
import re
import threading
from collections.abc import Iterator
from functools import cache
from importlib import resources
from typing import Any

from gpuzarr.kernels.cf_program import C_TYPES, INSTANCES
from gpuzarr.kernels.launch import Launch

__all__ = ["OPTIONS", "SOURCES", "instances", "run", "source", "symbols"]

OPTIONS = ("-std=c++17", "--fmad=false")
"""Multiply and add are not contracted, so that host and device agree bit for bit."""

SOURCES: dict[str, str] = {
    "copy": "copy.cu",
    "byte_unshuffle": "filters.cu",
    "bit_unshuffle": "filters.cu",
    "byte_swap": "filters.cu",
    "gather": "gather.cu",
    "gather_rows": "gather.cu",
    "predicate": "predicate.cu",
    "mask_counts": "compact.cu",
    "scan_counts": "compact.cu",
    "survivors": "compact.cu",
    "take": "compact.cu",
    "checksum_items": "checksum.cu",
    "checksum_spans": "checksum.cu",
    "check_status": "status.cu",
}
"""File of every kernel."""

_TEMPLATES: dict[str, tuple[tuple[str, ...], ...]] = {
    "byte_unshuffle": tuple((n,) for n in ("0", "2", "4", "8", "16")),
    "bit_unshuffle": tuple((n,) for n in ("0", "1", "2", "4", "8")),
    "byte_swap": tuple((n,) for n in ("0", "2", "4", "8")),
    "take": tuple((n,) for n in ("1", "2", "4", "8")),
    "checksum_items": tuple((n,) for n in "0123"),
    "checksum_spans": tuple((n,) for n in "01234"),
}

_INCLUDE = re.compile(r'^#include "(\w+\.cuh)"\n', re.MULTILINE)

_functions: dict[tuple[int, str], Any] = {}
_lock = threading.Lock()


@cache
def source(file: str) -> str:
    """Text of a source file with the package's own includes put in."""
    text = (resources.files("gpuzarr.kernels") / file).read_text(encoding="utf-8")

    def include(match: re.Match[str]) -> str:
        line = text.count("\n", 0, match.end()) + 1
        return f'#line 1 "{match[1]}"\n{source(match[1])}#line {line} "{file}"\n'

    return _INCLUDE.sub(include, text)


def instances(kernel: str) -> Iterator[tuple[str, ...]]:
    """Template arguments with which a kernel is launched; one empty tuple for one without.

    Chunks of 2^31 elements or more are rare: of the 64-bit gathers those that do not convert stand for all.
    """
    if kernel in ("gather", "gather_rows"):
        for names in INSTANCES:
            types = tuple(C_TYPES[name] for name in names)
            yield (*types, "int32_t")
            if len(set(names)) == 1:
                yield (*types, "int64_t")
    else:
        yield from _TEMPLATES.get(kernel, ((),))


def symbols(file: str) -> list[str]:
    """Name expressions of every instance in a file."""
    return [
        f"{kernel}<{', '.join(types)}>" if types else kernel
        for kernel, name in SOURCES.items()
        if name == file
        for types in instances(kernel)
    ]


def run(launch: Launch, stream: Any) -> None:
    """Launch on the current device.

    Parameters
    ----------
    stream
        A CuPy stream of the current device; the launch returns before the work is done.
    """
    if launch.blocks <= 0:
        return
    from cupy.cuda import driver

    function = _function(launch.kernel, launch.symbol)
    pointers = (ctypes.c_void_p * 1)(ctypes.addressof(launch.args))  # the arguments are copied by the call
    driver.launchKernel(
        function.ptr,
        launch.blocks,
        1,
        1,
        launch.threads,
        1,
        1,
        0,
        stream.ptr,
        ctypes.addressof(pointers),
        0,
    )


def _function(kernel: str, symbol: str) -> Any:
    """The compiled function on the current device. Compiled once per device; CuPy keeps the binary on disk."""
    import cupy

    key = (int(cupy.cuda.Device().id), symbol)
    found = _functions.get(key)
    if found is not None:
        return found
    with _lock:
        if key not in _functions:
            module = cupy.RawModule(code=source(SOURCES[kernel]), options=OPTIONS, name_expressions=(symbol,))
            _functions[key] = module.get_function(symbol).kernel
        return _functions[key]
