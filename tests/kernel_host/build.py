"""The kernels' sources compiled with the host's C++ compiler, and launches of them on host memory."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from gpuzarr.kernels import loader
from gpuzarr.kernels.descriptors import STRUCTURES
from gpuzarr.kernels.launch import Launch

SHIM = Path(__file__).with_name("cpu_shim.h")
COOPERATIVE = {"gather", "gather_rows", "mask_counts", "scan_counts", "survivors", "take", "checksum_items"}
"""Kernels with barriers or exchanges within a warp."""

# Every stored, computed and out type, and both index types, at least once; the device compiles all of them.
GATHERS = (
    ("uint8_t", "uint8_t", "uint8_t", "int32_t"),
    ("uint16_t", "uint16_t", "uint16_t", "int32_t"),
    ("uint32_t", "uint32_t", "uint32_t", "int32_t"),
    ("uint32_t", "uint32_t", "uint32_t", "int64_t"),
    ("uint64_t", "uint64_t", "uint64_t", "int32_t"),
    ("uint64_t", "uint64_t", "uint64_t", "int64_t"),
    ("float", "float", "float", "int32_t"),
    ("double", "double", "double", "int32_t"),
    ("uint8_t", "uint8_t", "bool", "int32_t"),
    ("int8_t", "float", "bool", "int32_t"),
    ("int16_t", "float", "float", "int32_t"),
    ("uint8_t", "float", "float", "int32_t"),
    ("float16", "float", "float", "int32_t"),
    ("float16", "double", "double", "int32_t"),
    ("int16_t", "double", "double", "int32_t"),
    ("float", "float", "float", "int64_t"),
    ("int64_t", "double", "double", "int32_t"),
    ("uint64_t", "double", "double", "int32_t"),
    ("float", "double", "double", "int32_t"),
    ("uint16_t", "int64_t", "int64_t", "int32_t"),
    ("int32_t", "int64_t", "int64_t", "int32_t"),
    ("int64_t", "int64_t", "int64_t", "int32_t"),
    ("uint64_t", "uint64_t", "int64_t", "int32_t"),
    ("float", "double", "int64_t", "int32_t"),
    ("double", "double", "int64_t", "int32_t"),
)


def compiler() -> str | None:
    """The C++ compiler, if there is one."""
    return shutil.which(os.environ.get("CXX", "g++"))


class HostKernels:
    """Runs launches on host memory. Builds what it needs once; results are kept by the hash of what went in.

    Parameters
    ----------
    sanitize
        Build with AddressSanitizer and UndefinedBehaviorSanitizer; their libraries must be preloaded.
    """

    def __init__(self, *, sanitize: bool = False) -> None:
        self.sanitize = sanitize
        self._numbers: dict[str, tuple[str, int]] = {}
        jobs = [(file, part) for file in sorted(set(loader.SOURCES.values())) for part in _parts(file)]
        with ThreadPoolExecutor(max(os.cpu_count() or 1, 2)) as pool:
            built = list(pool.map(lambda job: _build(*job, sanitize), jobs))
        self._libraries = {path: ctypes.CDLL(str(path)) for path in built}
        self._functions = {}
        for (_, symbols), path in zip(jobs, built, strict=True):
            for number, symbol in enumerate(symbols):
                self._functions[symbol] = getattr(self._libraries[path], f"launch_{number}")

    def has(self, symbol: str) -> bool:
        """Whether an instance was built."""
        return symbol in self._functions

    def run(self, launch: Launch, *, threads: int | None = None) -> None:
        """Launch, by default with the launch's own number of threads."""
        if launch.blocks <= 0:
            return
        pointers = (ctypes.c_void_p * 1)(ctypes.addressof(launch.args))
        function = self._functions[launch.symbol]
        function(ctypes.c_uint(launch.blocks), ctypes.c_uint(threads or launch.threads), pointers)


@cache
def host_kernels(sanitize: bool = False) -> HostKernels:
    """The kernels of this process; ``GPUZARR_SANITIZE=1`` chooses the sanitized ones."""
    return HostKernels(sanitize=sanitize or os.environ.get("GPUZARR_SANITIZE") == "1")


def sizes_in_cpp() -> dict[str, tuple[int, ...]]:
    """What C++ says of the structures: size, then the offset of every field."""
    lines = []
    for structure in STRUCTURES:
        name = structure.__name__
        offsets = [f"offsetof({name}, {field[0]})" for field in structure._fields_]
        lines.append(f'  print("{name}", {{{", ".join(["sizeof(" + name + ")", *offsets])}}});')
    text = "\n".join(
        [
            '#include "cpu_shim.h"',
            "#include <initializer_list>",
            loader.source("common.cuh"),
            "static void print(const char* name, std::initializer_list<size_t> numbers) {",
            '  std::printf("%s", name); for (size_t n : numbers) std::printf(" %zu", n); std::printf("\\n"); }',
            "int main() {",
            *lines,
            "}",
        ]
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sizes.cpp"
        path.write_text(text)
        program = Path(folder) / "sizes"
        command = [compiler() or "g++", "-std=c++17", "-w", f"-I{SHIM.parent}", "-o", str(program), str(path)]
        environment = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}
        subprocess.run(command, check=True, env=environment)
        out = subprocess.run([str(program)], check=True, capture_output=True, text=True, env=environment).stdout
    return {words[0]: tuple(map(int, words[1:])) for words in map(str.split, out.splitlines())}


def _parts(file: str) -> list[list[str]]:
    """Symbols of a file, in as many groups as are worth a compiler of their own."""
    symbols = loader.symbols(file)
    if file != "gather.cu":
        return [symbols]
    chosen = [f"{kernel}<{', '.join(types)}>" for kernel in ("gather", "gather_rows") for types in GATHERS]
    return [[s for s in chosen if s in symbols][i::4] for i in range(4)]


def _build(file: str, symbols: list[str], sanitize: bool) -> Path:
    exports = []
    for number, symbol in enumerate(symbols):
        cooperative = "true" if symbol.split("<")[0] in COOPERATIVE else "false"
        exports.append(f"SHIM_EXPORT({number}, {cooperative}, {symbol})")
    text = "\n".join(['#include "cpu_shim.h"', f'#line 1 "{file}"', loader.source(file), *exports, ""])
    flags = ["-std=c++17", "-O1", "-g1", "-fPIC", "-shared", "-fopenmp", "-ffp-contract=off", "-fno-strict-aliasing"]
    flags += ["-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Wno-unused-function", "-Wno-maybe-uninitialized", "-Werror"]
    if sanitize:
        flags += [
            "-fsanitize=address,undefined",
            "-fno-sanitize-recover=undefined",
            "-fno-omit-frame-pointer",
            "-Wno-clobbered",
        ]
    key = hashlib.sha256("\0".join([text, SHIM.read_text(), *flags]).encode()).hexdigest()[:24]
    folder = Path(tempfile.gettempdir()) / f"gpuzarr-kernels-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    library = folder / f"{Path(file).stem}-{key}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            source, made = Path(scratch) / "host.cpp", Path(scratch) / "host.so"
            source.write_text(text)
            command = [compiler() or "g++", *flags, f"-I{SHIM.parent}", "-o", str(made), str(source)]
            environment = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}  # of the sanitizers
            subprocess.run(command, check=True, env=environment)
            made.replace(library)
    return library
