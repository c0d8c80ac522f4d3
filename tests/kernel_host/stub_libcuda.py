"""A libcuda without a device: enough for kvikio to read into host memory. For tests only, on the library path of one process."""

from __future__ import annotations

import subprocess
from pathlib import Path

NOT_INITIALIZED = [
    "cuInit",
    "cuCtxCreate_v2",
    "cuCtxCreate_v3",
    "cuCtxCreate_v4",
    "cuCtxDestroy_v2",
    "cuCtxPushCurrent_v2",
    "cuCtxPopCurrent_v2",
    "cuCtxGetCurrent",
    "cuCtxGetDevice",
    "cuMemHostAlloc",
    "cuMemFreeHost",
    "cuMemHostRegister_v2",
    "cuMemHostUnregister",
    "cuMemcpyHtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyAsync",
    "cuMemcpyBatchAsync",
    "cuMemcpyBatchAsync_v2",
    "cuMemGetAddressRange_v2",
    "cuPointerGetAttribute",
    "cuPointerGetAttributes",
    "cuDeviceGet",
    "cuDeviceGetCount",
    "cuDeviceGetAttribute",
    "cuDevicePrimaryCtxRetain",
    "cuDevicePrimaryCtxRelease",
    "cuDevicePrimaryCtxRelease_v2",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamSynchronize",
    "cuStreamQuery",
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventSynchronize",
    "cuEventQuery",
    "cuEventRecord",
    "cuLaunchHostFunc",
]


def build(folder: Path) -> Path:
    """Compile it into a folder; gives the folder."""
    lines = [f"int {name}(void) {{ return 3; }}" for name in NOT_INITIALIZED]
    lines += [
        f'int {name}(int error, const char **text) {{ *text = "no device"; return 0; }}'
        for name in ("cuGetErrorName", "cuGetErrorString")
    ]
    lines.append("int cuDriverGetVersion(int *version) { *version = 13000; return 0; }")
    source = folder / "stub.c"
    source.write_text("\n".join(lines))
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", folder / "libcuda.so.1", source], check=True)
    return folder
