"""What can run here, and what is missing for the rest.

Nothing heavy is imported to say no: the CUDA libraries are imported only where a GPU answers. A library whose import
fails is reported as broken, with its own words.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import sys
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module, metadata, util
from typing import Any, Literal

from gpuzarr.errors import EnvironmentLacksError
from gpuzarr.redact import redact

__all__ = ["Gpu", "Piece", "ProbeReport", "Runnable", "probe", "require_cuda", "show_versions"]

GPU_ENGINE_POLARS_BELOW = (1, 45)  # cudf-polars 26.10 refuses the query plans of newer releases

_BASE = {name: (name,) for name in ("polars", "numpy", "pyarrow", "zarr", "numcodecs")}
_OPTIONAL = {
    "isal": (("isal",), "gzip and zlib chunks are decoded by zlib, at half the speed: install isal"),
    "obstore": (("obstore",), "S3, GCS, Azure and HTTP stores: install the extra 'remote'"),
    "fsspec": (("fsspec",), "fsspec URLs: install the extra 'fsspec'"),
    "icechunk": (("icechunk",), "Icechunk repositories: install the extra 'icechunk'"),
}
_CUDA = {
    "cupy": ("cupy-cuda13x", "cupy-cuda12x", "cupy"),
    "kvikio": ("kvikio-cu13", "kvikio-cu12", "kvikio"),
    "nvidia.libnvcomp": ("nvidia-libnvcomp-cu13", "nvidia-libnvcomp-cu12"),
    "rmm": ("rmm-cu13", "rmm-cu12", "rmm"),
    "cudf_polars": ("cudf-polars-cu13", "cudf-polars-cu12", "cudf-polars"),
}
_FOR_CUDA = ("cupy", "kvikio", "nvidia.libnvcomp")
_FOR_GPU_ENGINE = ("rmm", "cudf_polars")


@dataclass(frozen=True)
class Piece:
    """A library that gpuzarr uses.

    Attributes
    ----------
    name
        Name of the module.
    state
        ``"found"``, ``"missing"``, or ``"broken"``: installed, but its import fails.
    version
        Installed version, if known.
    note
        What to install, or why it is broken.
    """

    name: str
    state: Literal["found", "missing", "broken"]
    version: str | None = None
    note: str = ""

    def __str__(self) -> str:
        known = f" {self.version}" if self.version and self.state != "found" else ""
        state = self.version or "found" if self.state == "found" else self.state + known
        return f"{self.name:<17} {state}" + (f" ({self.note})" if self.note else "")


@dataclass(frozen=True)
class Gpu:
    """What the NVIDIA driver says.

    Attributes
    ----------
    cuda_version
        Newest CUDA version that the driver supports, ``(major, minor)``; None without a driver.
    names
        Names of the devices that this process may use.
    problem
        Why there is none; empty if there is one.
    """

    cuda_version: tuple[int, int] | None = None
    names: tuple[str, ...] = ()
    problem: str = ""

    def __str__(self) -> str:
        driver = "" if self.cuda_version is None else " (driver for CUDA {}.{})".format(*self.cuda_version)
        return (", ".join(self.names) if self.names else f"none: {self.problem}") + driver


@dataclass(frozen=True)
class Runnable:
    """A device or engine, and what it lacks here: the first entry of ``lacks`` is what to do first."""

    name: str
    lacks: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.name:<17} " + (f"no: {self.lacks[0]}" if self.lacks else "yes")


@dataclass(frozen=True)
class ProbeReport:
    """What can run here and why not; ``str()`` of it is a readable table.

    Attributes
    ----------
    python, platform, cores, gpuzarr
        Versions and machine; ``cores`` are those that this process may use.
    base, optional, cuda
        Libraries: always needed; for speed and for some stores; for CUDA.
    gpu
        Driver and devices.
    gds
        GPUDirect Storage: "in use", or why it is not or is unknown.
    devices
        What ``device="cpu"``, ``device="cuda"`` and ``engine="gpu"`` lack.
    """

    python: str
    platform: str
    cores: int
    gpuzarr: str
    base: tuple[Piece, ...]
    optional: tuple[Piece, ...]
    cuda: tuple[Piece, ...]
    gpu: Gpu
    gds: str
    devices: tuple[Runnable, ...]

    def runs(self, name: str) -> bool:
        """Whether ``"cpu"``, ``"cuda"`` or ``"engine='gpu'"`` can run here."""
        return any(device.name == name and not device.lacks for device in self.devices)

    def __str__(self) -> str:
        sections = [
            (f"gpuzarr {self.gpuzarr}, Python {self.python}, {self.cores} cores, {self.platform}", ()),
            ("Runs here", self.devices),
            ("Libraries", self.base),
            ("Optional", self.optional),
            ("CUDA", (*self.cuda, f"{'gpu':<17} {self.gpu}", f"{'gds':<17} {self.gds}")),
        ]
        return "\n".join("\n".join([title, *(f"  {line}" for line in lines)]) for title, lines in sections)


def probe() -> ProbeReport:
    """Report what can run here, and for the rest what is missing and what to install.

    Never raises: a broken installation is part of the report. Asks the CUDA driver for its devices, so a process that
    wants to fork and use CUDA in the children should not call it first.

    Examples
    --------
    >>> import gpuzarr
    >>> gpuzarr.probe().runs("cpu")
    True
    """
    gpu = _ask_driver()
    base = tuple(
        _look(name, names, "install gpuzarr with its dependencies", load=True) for name, names in _BASE.items()
    )
    optional = tuple(_look(name, names, note, load=True) for name, (names, note) in _OPTIONAL.items())
    advice = f"install the extra {_extra(gpu)!r}"
    cuda = tuple(_look(name, names, advice, load=bool(gpu.names)) for name, names in _CUDA.items())
    lacks_cpu = _lacking(base, _BASE)
    lacks_cuda = _lacks_cuda(gpu, cuda)
    found_polars = next(piece.version for piece in base if piece.name == "polars")
    devices = (
        Runnable("cpu", lacks_cpu),
        Runnable("cuda", lacks_cpu + lacks_cuda),
        Runnable("engine='gpu'", _polars_wall(found_polars) + _lacks_engine(gpu, cuda) + lacks_cpu),
    )
    return ProbeReport(
        python=platform.python_version(),
        platform=_safe(platform.platform),
        cores=_cores(),
        gpuzarr=_version(("gpuzarr",)) or "source tree",
        base=base,
        optional=optional,
        cuda=cuda,
        gpu=gpu,
        gds=_gds(gpu, cuda),
        devices=devices,
    )


def require_cuda() -> None:
    """Return if ``device="cuda"`` can run here.

    Raises
    ------
    EnvironmentLacksError
        Names the first missing piece and what to do.
    """
    gpu = _ask_driver()
    advice = f"install the extra {_extra(gpu)!r}"
    lacks = _lacks_cuda(gpu, tuple(_look(name, _CUDA[name], advice, load=bool(gpu.names)) for name in _FOR_CUDA))
    if lacks:
        raise EnvironmentLacksError(
            f"device='cuda' cannot run here: {lacks[0]}. Use device='cpu' (or 'auto'); gpuzarr.probe() lists everything"
        )


def show_versions() -> None:
    """Print what a bug report needs: versions, machine, devices. Holds no paths, names of users or secrets."""
    print(probe())


def _lacks_cuda(gpu: Gpu, pieces: tuple[Piece, ...]) -> tuple[str, ...]:
    """What reading with ``device="cuda"`` lacks, first things first."""
    lacks = []
    if not _has_module("gpuzarr.device.cuda_frames"):  # installing libraries would not help
        lacks.append("this release of gpuzarr reads on the CPU only")
    if gpu.problem:
        lacks.append(gpu.problem)
    return (*lacks, *_lacking(pieces, _FOR_CUDA))


def _lacks_engine(gpu: Gpu, pieces: tuple[Piece, ...]) -> tuple[str, ...]:
    """What ``collect(engine="gpu")`` lacks besides a Polars that it accepts."""
    problem = (gpu.problem,) if gpu.problem else ()
    return problem + _lacking(pieces, _FOR_GPU_ENGINE)


def _lacking(pieces: tuple[Piece, ...], wanted: Iterable[str]) -> tuple[str, ...]:
    bad = (piece for piece in pieces if piece.name in wanted and piece.state != "found")
    return tuple(f"{piece.name} is {piece.state}: {piece.note}" for piece in bad)


def _polars_wall(version: str | None) -> tuple[str, ...]:
    """Why this Polars cannot use the GPU engine; empty if it can, or if there is no Polars to judge."""
    numbers = tuple(int(part) for part in (version or "").split(".")[:2] if part.isdigit())
    if len(numbers) < 2 or numbers < GPU_ENGINE_POLARS_BELOW:
        return ()
    wall = ".".join(map(str, GPU_ENGINE_POLARS_BELOW))
    return (
        f"Polars {version} has no GPU engine yet: cudf-polars needs polars >=1.35,<{wall}; install 'polars<{wall}'",
    )


def _look(name: str, distributions: tuple[str, ...], note: str, *, load: bool) -> Piece:
    """Look for a module; ``load`` imports it too, which is what tells whether it is broken."""
    version = _version(distributions)
    if not _has_module(name):
        state: Literal["missing", "broken"] = "missing" if version is None else "broken"
        return Piece(name, state, version, note)
    if load:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                import_module(name)
        except Exception as error:  # whatever a broken installation raises
            reason = redact(f"{type(error).__name__}: {error}").splitlines()[0]
            return Piece(name, "broken", version, _without_home(reason))
    return Piece(name, "found", version)


def _has_module(name: str) -> bool:
    try:
        return util.find_spec(name) is not None
    except (ImportError, AttributeError, ValueError):  # a parent is missing, blocked or broken
        return False


def _version(distributions: tuple[str, ...]) -> str | None:
    for name in distributions:
        with contextlib.suppress(metadata.PackageNotFoundError):
            return metadata.version(name)
    return None


def _ask_driver() -> Gpu:
    """Ask the CUDA driver itself (libcuda), which honours containers, MIG and ``CUDA_VISIBLE_DEVICES``."""
    try:
        cuda = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return Gpu(problem="there is no NVIDIA driver (libcuda)")
    number = ctypes.c_int(0)
    version = None
    if cuda.cuDriverGetVersion(ctypes.byref(number)) == 0 and number.value > 0:
        version = (number.value // 1000, number.value % 1000 // 10)
    status = cuda.cuInit(0)
    if status == 100:  # CUDA_ERROR_NO_DEVICE
        hidden = " (CUDA_VISIBLE_DEVICES is set)" if "CUDA_VISIBLE_DEVICES" in os.environ else ""
        return Gpu(version, problem=f"the NVIDIA driver offers no device{hidden}")
    if status != 0 or cuda.cuDeviceGetCount(ctypes.byref(number)) != 0:
        return Gpu(version, problem=f"the NVIDIA driver does not start (CUDA error {status})")
    names = []
    for index in range(number.value):
        device, text = ctypes.c_int(0), ctypes.create_string_buffer(256)
        if cuda.cuDeviceGet(ctypes.byref(device), index) == 0 and cuda.cuDeviceGetName(text, 256, device) == 0:
            names.append(text.value.decode(errors="replace"))
    return Gpu(version, tuple(names), "" if names else "the NVIDIA driver offers no device")


def _extra(gpu: Gpu) -> str:
    return "cuda12" if gpu.cuda_version is not None and gpu.cuda_version < (13, 0) else "cuda13"


def _gds(gpu: Gpu, pieces: tuple[Piece, ...]) -> str:
    if not gpu.names:
        return "no device"
    if not any(piece.name == "kvikio" and piece.state == "found" for piece in pieces):
        return "unknown without kvikio"
    from gpuzarr.device.cuda_files import gds_problem

    problem = gds_problem()
    return f"not in use, reads go through host memory: {problem}" if problem else "in use"


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _safe(text: Any) -> str:
    try:
        return str(text())
    except Exception:  # a stripped container may lack what platform asks
        return sys.platform


def _without_home(text: str) -> str:
    """Messages of failed imports name files; the folder of a user is nobody's business."""
    home = os.path.expanduser("~")  # noqa: PTH111
    return text.replace(home, "~") if len(home) > 1 else text
