from __future__ import annotations

import ctypes
import importlib.metadata
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from gpuzarr import probe as probe_function
from gpuzarr import show_versions
from gpuzarr.errors import EnvironmentLacksError, Kind

PROBE = sys.modules["gpuzarr.probe"]
H200 = PROBE.Gpu((13, 0), ("NVIDIA H200",))


def test_report_of_this_machine() -> None:
    report = probe_function()
    found = {piece.name: piece for piece in (*report.base, *report.optional)}
    for name in ("polars", "numpy", "pyarrow", "zarr", "numcodecs"):
        assert found[name].state == "found"
        assert found[name].version == importlib.metadata.version(name)
    assert report.runs("cpu")
    assert report.cores >= 1
    text = str(report)
    for line in ("Runs here", "Libraries", "Optional", "CUDA", "gds"):
        assert line in text
    with pytest.raises(AttributeError):
        report.cores = 1  # type: ignore[misc]


def test_bug_report_holds_no_names_of_users(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    show_versions()
    printed = capsys.readouterr().out
    assert "polars" in printed
    assert "hunter2" not in printed
    home = os.path.expanduser("~")
    assert home not in printed
    assert str(Path(__file__).resolve().parents[1]) not in printed


@pytest.mark.parametrize(
    ("version", "walled"),
    [("1.35.2", False), ("1.44.9", False), ("1.45.0", True), ("2.1.0", True), ("2.0.0rc1", True), (None, False)],
)
def test_polars_wall_of_the_gpu_engine(version: str | None, walled: bool) -> None:
    lacks = PROBE._polars_wall(version)
    assert bool(lacks) is walled
    if walled:
        assert version in lacks[0]
        assert "<1.45" in lacks[0]


def test_the_wall_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PROBE, "_polars_wall", lambda version: ("the wall",))
    engine = next(device for device in probe_function().devices if device.name == "engine='gpu'")
    assert engine.lacks[0] == "the wall"
    assert not probe_function().runs("engine='gpu'")


def _with_cuda(monkeypatch: pytest.MonkeyPatch, gpu: object, absent: set[str], broken: set[str]) -> None:
    """Pretend that the CUDA reader and all CUDA libraries are there, but for some."""

    def look(name: str, distributions: tuple[str, ...], note: str, *, load: bool) -> object:
        state = "missing" if name in absent else "broken" if name in broken else "found"
        return PROBE.Piece(name, state, None, note if name in absent else "libcudart.so.13 not found")

    monkeypatch.setattr(PROBE, "_ask_driver", lambda: gpu)
    monkeypatch.setattr(PROBE, "_has_module", lambda name: True)
    monkeypatch.setattr(PROBE, "_look", look)


@pytest.mark.parametrize(
    ("gpu", "absent", "broken", "said"),
    [
        (PROBE.Gpu(problem="there is no NVIDIA driver (libcuda)"), {"cupy"}, set(), "no NVIDIA driver"),
        (H200, {"cupy", "kvikio"}, set(), "cupy is missing: install the extra 'cuda13'"),
        (PROBE.Gpu((12, 8), ("NVIDIA A100",)), {"kvikio"}, set(), "kvikio is missing: install the extra 'cuda12'"),
        (H200, set(), {"nvidia.libnvcomp"}, "nvidia.libnvcomp is broken: libcudart.so.13 not found"),
    ],
)
def test_require_cuda_names_the_first_missing_piece(
    monkeypatch: pytest.MonkeyPatch, gpu: object, absent: set[str], broken: set[str], said: str
) -> None:
    _with_cuda(monkeypatch, gpu, absent, broken)
    with pytest.raises(EnvironmentLacksError, match="device='cuda' cannot run here") as caught:
        PROBE.require_cuda()
    assert said in str(caught.value)
    assert caught.value.kind is Kind.BACKEND_UNAVAILABLE


def test_require_cuda_is_silent_where_all_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    _with_cuda(monkeypatch, H200, {"rmm", "cudf_polars"}, set())  # those are for the engine, not for the device
    PROBE.require_cuda()


def test_require_cuda_first_says_that_the_release_has_no_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    _with_cuda(monkeypatch, PROBE.Gpu(problem="no driver"), set(), set())
    monkeypatch.setattr(PROBE, "_has_module", lambda name: name != "gpuzarr.device.cuda_frames")
    with pytest.raises(EnvironmentLacksError, match="reads on the CPU only"):
        PROBE.require_cuda()


class _Driver:
    """A libcuda that answers as told."""

    def __init__(self, status: int, names: tuple[str, ...]) -> None:
        self.status, self.names = status, names

    def cuDriverGetVersion(self, out: object) -> int:
        return self._put(out, 13010)

    def cuInit(self, flags: int) -> int:
        return self.status

    def cuDeviceGetCount(self, out: object) -> int:
        return self._put(out, len(self.names))

    def cuDeviceGet(self, out: object, index: int) -> int:
        return self._put(out, index)

    def cuDeviceGetName(self, text: ctypes.Array[ctypes.c_char], size: int, device: ctypes.c_int) -> int:
        text.value = self.names[device.value].encode()[: size - 1]
        return 0

    @staticmethod
    def _put(out: object, value: int) -> int:
        out._obj.value = value  # type: ignore[attr-defined]
        return 0


@pytest.mark.parametrize(
    ("status", "names", "expected"),
    [
        (0, ("NVIDIA H200", "NVIDIA L4"), "NVIDIA H200, NVIDIA L4 (driver for CUDA 13.1)"),
        (100, (), "offers no device"),
        (0, (), "offers no device"),
        (999, (), "does not start (CUDA error 999)"),
    ],
)
def test_what_the_driver_says(
    monkeypatch: pytest.MonkeyPatch, status: int, names: tuple[str, ...], expected: str
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: _Driver(status, names))
    gpu = PROBE._ask_driver()
    assert expected in str(gpu)
    assert gpu.names == names
    assert bool(gpu.problem) is not bool(names)


def test_broken_installations_are_reported_and_nothing_heavy_is_imported(tmp_path: Path) -> None:
    """A process of its own: libraries that fail on import, and one that must not be imported where there is no GPU."""
    (tmp_path / "obstore.py").write_text("raise OSError('libssl.so.99: cannot open shared object file')\n")
    (tmp_path / "icechunk.py").write_text("import a_module_that_is_not_there\n")
    (tmp_path / "kvikio.py").write_text("raise SystemExit('kvikio was imported without a GPU')\n")
    script = textwrap.dedent(
        """
        import sys
        import gpuzarr.probe
        assert not {"polars", "zarr", "pyarrow"} & set(sys.modules), "importing gpuzarr alone stays light"
        gpuzarr.probe.__globals__["_ask_driver"] = lambda: gpuzarr.probe.__globals__["Gpu"](problem="no device")
        report = gpuzarr.probe()
        assert "kvikio" not in sys.modules
        print(report)
        """
    )
    source = Path(PROBE.__file__).parents[1]
    path = os.pathsep.join([str(tmp_path), str(source)])
    run = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "broken" in run.stdout
    assert "(OSError: libssl.so.99: cannot open shared object file)" in run.stdout
    assert "(ModuleNotFoundError: No module named 'a_module_that_is_not_there')" in run.stdout


def test_runs_with_every_cuda_package_blocked(tmp_path: Path) -> None:
    blocked = ["cupy", "kvikio", "nvidia", "rmm", "pylibcudf", "cudf_polars"]
    script = f"import sys; sys.modules.update(dict.fromkeys({blocked!r})); import gpuzarr; report = gpuzarr.probe()\n"
    script += "assert report.runs('cpu') and not report.runs('cuda'); print(report)"
    source = Path(PROBE.__file__).parents[1]
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(source)},
        check=False,
    )
    assert run.returncode == 0, run.stderr
