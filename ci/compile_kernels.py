"""Compile every instance of every kernel to machine code with NVRTC, for every architecture. No GPU or driver needed.

compile_kernels.py [--arch sm_90]... [--file gather.cu]... [--sample N]

``--sample N`` compiles every instance for the oldest and the newest architecture, and of the sources with many instances
every N-th for those between.
"""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")


AT_ONCE = 25


def compile_some(file: str, symbols: list[str], arch: str) -> tuple[int, float]:
    """Bytes of machine code and seconds; raises with the compiler's log on an error or a warning."""
    from cuda.bindings import nvrtc

    from gpuzarr.kernels import loader

    def check(result: tuple[object, ...]) -> object:
        code, *values = result
        if code != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise RuntimeError(f"{file} for {arch}: {nvrtc.nvrtcGetErrorString(code)[1].decode()}")
        return values[0] if values else None

    begin = time.perf_counter()
    names = [symbol.encode() for symbol in symbols]
    program = check(nvrtc.nvrtcCreateProgram(loader.source(file).encode(), file.encode(), 0, [], []))
    try:
        for name in names:
            check(nvrtc.nvrtcAddNameExpression(program, name))
        options = [option.encode() for option in (*loader.OPTIONS, f"--gpu-architecture={arch}")]
        (code,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
        size = check(nvrtc.nvrtcGetProgramLogSize(program))
        log = bytearray(size)
        check(nvrtc.nvrtcGetProgramLog(program, log))
        text = bytes(log).rstrip(b"\0").decode().strip()
        if code != nvrtc.nvrtcResult.NVRTC_SUCCESS or text:
            raise RuntimeError(f"{file} for {arch}:\n{text}")
        for name in names:
            check(nvrtc.nvrtcGetLoweredName(program, name))  # exists: the loader finds the function by it
        cubin = bytearray(check(nvrtc.nvrtcGetCUBINSize(program)))
        check(nvrtc.nvrtcGetCUBIN(program, cubin))
    finally:
        nvrtc.nvrtcDestroyProgram(program)
    return len(cubin), time.perf_counter() - begin


def main() -> None:
    """Compile; a line per compilation."""
    from gpuzarr.kernels import loader

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", action="append")
    parser.add_argument("--file", action="append")
    parser.add_argument("--sample", type=int, default=1)
    arguments = parser.parse_args()
    files = arguments.file or sorted(set(loader.SOURCES.values()))
    jobs = []
    for file in files:
        symbols = loader.symbols(file)
        for arch in arguments.arch or ARCHITECTURES:
            between = arch not in (ARCHITECTURES[0], ARCHITECTURES[-1]) and len(symbols) > AT_ONCE
            some = symbols[:: arguments.sample] if between else symbols
            jobs += [(file, some[i : i + AT_ONCE], arch) for i in range(0, len(some), AT_ONCE)]
    with ThreadPoolExecutor() as pool:
        for (file, part, arch), (size, seconds) in zip(
            jobs, pool.map(lambda job: compile_some(*job), jobs), strict=True
        ):
            print(f"{file:14} {arch:7} {len(part):4} instances {size / 1024:8.0f} KiB {seconds:6.1f} s", flush=True)


if __name__ == "__main__":
    main()
