"""nvCOMP's batched C API through ctypes, as a `gpuzarr.codecs.batch.BatchDecoder` on device memory.

Signatures, structures and numbers are those of the headers of nvCOMP 5.3 and 6.0 (``include/nvcomp/*.h``); 6.0 renamed the
call that gives scratch sizes. What nvCOMP does with corrupt input is undefined except for LZ4 on the CUDA backend, so
streams are checked as far as possible beforehand and statuses afterwards. ``nvidia.nvcomp`` is not imported: the order in which it and
CuPy are imported matters. Not yet run on a GPU: without one the library answers everything but the decoding itself.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import Any

from gpuzarr.codecs.batch import ALIGNMENTS, Alignments, Status
from gpuzarr.codecs.tables import Algorithm, ChecksumKind
from gpuzarr.errors import EnvironmentLacksError

__all__ = ["CRC_SPECS", "Backend", "NvcompDecoder", "load_nvcomp"]

_int, _size, _pointer, _u32 = ctypes.c_int, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_uint32
_VERSIONS = (6, 5)
"""Major versions whose calls are known, newest first."""


class Backend(IntEnum):
    """What decodes."""

    DEFAULT = 0  # the decompression engine of the GPU where it has one and the memory allows
    HARDWARE = 1
    CUDA = 2


class _LZ4Options(ctypes.Structure):
    _fields_ = (
        ("backend", _int),
        ("sort", _int),
        ("data_type", _int),
        ("bitshuffle", _int),
        ("reserved", ctypes.c_char * 48),
    )


class _ZstdOptions(ctypes.Structure):
    _fields_ = (("backend", _int), ("reserved", ctypes.c_char * 60))


class _SortedOptions(ctypes.Structure):  # Deflate, Snappy
    _fields_ = (("backend", _int), ("sort", _int), ("reserved", ctypes.c_char * 56))


class _GzipOptions(ctypes.Structure):
    _fields_ = (("backend", _int), ("algorithm", _int), ("sort", _int), ("reserved", ctypes.c_char * 52))


class _Alignments(ctypes.Structure):
    _fields_ = (("input", _size), ("output", _size), ("temp", _size))


class _Properties(ctypes.Structure):
    _fields_ = (("version", _u32), ("cudart_version", _u32))


class CrcSpec(ctypes.Structure):
    """A CRC: polynomial, start, reflection of input and output, final exclusive or."""

    _fields_ = (
        ("poly", _u32),
        ("init", _u32),
        ("reflect_in", ctypes.c_bool),
        ("reflect_out", ctypes.c_bool),
        ("xor_out", _u32),
        ("reserved", ctypes.c_char * 16),
    )


class CrcKernel(ctypes.Structure):
    """How a CRC is computed; filled in by the library for the device and the sizes at hand."""

    _fields_ = (
        ("kind", _int),
        ("bytes_per_read", ctypes.c_int32),
        ("blocks_per_message", ctypes.c_int32),
        ("reserved", ctypes.c_char * 20),
    )


class CrcOptions(ctypes.Structure):
    """Options of a batch of CRCs, passed by value."""

    _fields_ = (("spec", CrcSpec), ("kernel", CrcKernel), ("reserved", ctypes.c_char * 64))


CRC_SPECS: dict[ChecksumKind, CrcSpec] = {
    ChecksumKind.CRC32: CrcSpec(0x04C11DB7, 0xFFFFFFFF, True, True, 0xFFFFFFFF),
    ChecksumKind.CRC32C: CrcSpec(0x1EDC6F41, 0xFFFFFFFF, True, True, 0xFFFFFFFF),
}
"""The checksums that the library computes."""

_NAMES: dict[Algorithm, tuple[str, type[ctypes.Structure]]] = {
    Algorithm.LZ4: ("LZ4", _LZ4Options),
    Algorithm.ZSTD: ("Zstd", _ZstdOptions),
    Algorithm.DEFLATE: ("Deflate", _SortedOptions),
    Algorithm.GZIP: ("Gzip", _GzipOptions),
    Algorithm.SNAPPY: ("Snappy", _SortedOptions),
}


@dataclass(frozen=True)
class _Calls:
    """The calls of one algorithm, with their options."""

    options: ctypes.Structure
    alignments: ctypes._NamedFuncPointer
    temp_size: ctypes._NamedFuncPointer
    temp_size_has_stream: bool
    decompress: ctypes._NamedFuncPointer

    @classmethod
    def bind(cls, library: ctypes.CDLL, algorithm: Algorithm, backend: Backend) -> _Calls:
        name, options = _NAMES[algorithm]

        def function(suffix: str, *types: Any) -> ctypes._NamedFuncPointer:
            found: ctypes._NamedFuncPointer = getattr(library, f"nvcompBatched{name}Decompress{suffix}")
            found.argtypes, found.restype = list(types), _int
            return found

        renamed = hasattr(library, f"nvcompBatched{name}DecompressGetTempSize")
        scratch = [_size, _size, options, ctypes.POINTER(_size), _size, *([_pointer] if renamed else [])]
        return cls(
            options(backend=int(backend)),
            function("GetRequiredAlignments", options, ctypes.POINTER(_Alignments)),
            function("GetTempSize" if renamed else "GetTempSizeAsync", *scratch),
            renamed,
            function(
                "Async",
                _pointer,
                _pointer,
                _pointer,
                _pointer,
                _size,
                _pointer,
                _size,
                _pointer,
                options,
                _pointer,
                _pointer,
            ),
        )


@dataclass(frozen=True)
class NvcompDecoder:
    """`gpuzarr.codecs.batch.BatchDecoder` on the memory of the current device. Stateless: any thread, any stream.

    Parameters
    ----------
    library
        From `load_nvcomp`.
    backend
        `Backend.CUDA` says of corrupt LZ4 streams that they are corrupt; the others do not.
    """

    library: ctypes.CDLL = field(repr=False)
    backend: Backend = Backend.CUDA
    algorithms: frozenset[Algorithm] = frozenset(_NAMES)
    verifies: frozenset[ChecksumKind] = frozenset()

    @property
    def name(self) -> str:
        """Library and version."""
        major, minor, patch = self.version
        return f"nvCOMP {major}.{minor}.{patch}"

    @property
    def version(self) -> tuple[int, int, int]:
        """Version of the library."""
        return _version(self.library)

    def required_alignments(self, algorithm: Algorithm) -> Alignments:
        """See `BatchDecoder.required_alignments`; never less than what is known to be required."""
        calls = self._calls(algorithm)
        need = _Alignments()
        code = calls.alignments(calls.options, ctypes.byref(need))
        known = ALIGNMENTS[algorithm]
        if code != Status.SUCCESS:
            return known
        return Alignments(max(need.input, known.input), max(need.output, known.output), max(need.temp, known.temp))

    def temp_size(
        self, algorithm: Algorithm, streams: int, max_stream_nbytes: int, total_nbytes: int, stream: int = 0
    ) -> tuple[int, int]:
        """See `BatchDecoder.temp_size`."""
        calls = self._calls(algorithm)
        nbytes = _size()
        extra = (stream or None,) if calls.temp_size_has_stream else ()
        code = calls.temp_size(streams, max_stream_nbytes, calls.options, ctypes.byref(nbytes), total_nbytes, *extra)
        return int(code), int(nbytes.value)

    def decompress(
        self,
        algorithm: Algorithm,
        comp_ptrs: int,
        comp_nbytes: int,
        capacities: int,
        actual_nbytes: int,
        streams: int,
        temp: int,
        temp_nbytes: int,
        out_ptrs: int,
        statuses: int,
        stream: int = 0,
    ) -> int:
        """See `BatchDecoder.decompress`; returns before the work is done. Releases the GIL."""
        calls = self._calls(algorithm)
        return int(
            calls.decompress(
                comp_ptrs or None,
                comp_nbytes or None,
                capacities or None,
                actual_nbytes or None,
                streams,
                temp or None,
                temp_nbytes,
                out_ptrs or None,
                calls.options,
                statuses or None,
                stream or None,
            )
        )

    def crc_kernel(self, streams: int, max_nbytes: int) -> CrcKernel | None:
        """How the library would compute CRCs of ``streams`` spans of at most ``max_nbytes``; None without a device."""
        function = self.library.nvcompBatchedCRC32GetHeuristicConf
        function.argtypes = [_pointer, _size, ctypes.POINTER(CrcKernel), _size, _pointer]
        function.restype = _int
        kernel = CrcKernel()
        code = function(None, streams, ctypes.byref(kernel), max(max_nbytes, 1), None)
        return kernel if code == Status.SUCCESS else None

    def crc(
        self,
        kind: ChecksumKind,
        ptrs: int,
        nbytes: int,
        streams: int,
        out: int,
        statuses: int,
        stream: int,
        kernel: CrcKernel,
    ) -> int:
        """CRCs of spans, see `CRC_SPECS`: addresses of tables as in `decompress`; ``out`` holds uint32."""
        function = self.library.nvcompBatchedCRC32Async
        function.argtypes = [_pointer, _pointer, _size, _pointer, CrcOptions, _int, _pointer, _pointer]
        function.restype = _int
        options = CrcOptions(CRC_SPECS[kind], kernel)
        whole = 0
        return int(
            function(
                ptrs or None,
                nbytes or None,
                streams,
                out or None,
                options,
                whole,
                statuses or None,
                stream or None,
            )
        )

    def describe_status(self, code: int) -> str:
        """The library's words for a status."""
        function = self.library.nvcompGetStatusString
        function.argtypes, function.restype = [_int], ctypes.c_char_p
        text = function(code)
        return text.decode(errors="replace") if text else f"status {code}"

    def _calls(self, algorithm: Algorithm) -> _Calls:
        return _bound(self.library, algorithm, self.backend)


@cache
def _bound(library: ctypes.CDLL, algorithm: Algorithm, backend: Backend) -> _Calls:
    return _Calls.bind(library, algorithm, backend)


@cache
def _version(library: ctypes.CDLL) -> tuple[int, int, int]:
    properties = _Properties()
    function = library.nvcompGetProperties
    function.argtypes, function.restype = [ctypes.POINTER(_Properties)], _int
    function(ctypes.byref(properties))
    number = int(properties.version)  # 5.3.0 is 5300
    return number // 1000, number // 100 % 10, number % 100


@cache
def load_nvcomp() -> ctypes.CDLL:
    """The nvCOMP library: of the package ``nvidia-libnvcomp-cu12`` or ``-cu13``, else the system's.

    Raises
    ------
    EnvironmentLacksError
        There is none, or only one of a version whose calls are not known.
    """
    problems = []
    for candidate in _candidates():
        try:
            library = ctypes.CDLL(candidate, os.RTLD_LOCAL)
        except OSError as error:
            problems.append(str(error))
            continue
        missing = [
            name
            for name, _ in _NAMES.values()
            if not hasattr(library, f"nvcompBatched{name}DecompressAsync")
            or not hasattr(library, f"nvcompBatched{name}DecompressGetRequiredAlignments")
        ]
        if missing or _version(library)[0] not in _VERSIONS:
            problems.append(f"{Path(candidate).name} is nvCOMP {'.'.join(map(str, _version(library)))}")
            continue
        return library
    found = f" Found: {'; '.join(problems)}." if problems else ""
    raise EnvironmentLacksError(
        f"nvCOMP {_VERSIONS[-1]} to {_VERSIONS[0]} was not found. Install nvidia-libnvcomp-cu13.{found}"
    )


def _candidates() -> Iterator[str]:
    """Files of the package, then names for the system's loader."""
    try:
        package = importlib.util.find_spec("nvidia.libnvcomp")
    except (ModuleNotFoundError, ValueError):
        package = None
    for folder in (package.submodule_search_locations if package else None) or ():
        for version in _VERSIONS:
            path = Path(folder) / "lib64" / f"libnvcomp.so.{version}"
            if path.exists():
                yield str(path)
    for version in _VERSIONS:
        yield f"libnvcomp.so.{version}"
