"""The hook into the GPU engine waits for the engine's import, once, and goes away; without the engine nothing changes.

Every test runs in a process of its own, with a stand-in for cudf_polars first on the path.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import gpuzarr
from gpuzarr.source import gpu_hook

SOURCE = Path(gpuzarr.__file__).parents[1]


def run(code: str, folder: Path, engine: str | None) -> str:
    """What a new process prints that runs the code; `engine` is the text of a stand-in for cudf_polars."""
    if engine is not None:
        (folder / "cudf_polars").mkdir()
        (folder / "cudf_polars" / "__init__.py").write_text(textwrap.dedent(engine))
    prelude = "import sys, warnings, gpuzarr\nfrom gpuzarr.source import gpu_hook\n"
    path = os.pathsep.join([str(folder), str(SOURCE)])
    done = subprocess.run(
        [sys.executable, "-c", prelude + textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


FINDERS = "sum(type(f).__name__ == '_Finder' for f in sys.meta_path)"


@pytest.mark.parametrize(
    ("version", "numbers", "tested"),
    [
        ("26.10.02", (26, 10, 2), True),
        ("26.10.2", (26, 10, 2), True),
        ("26.11.0", (26, 11, 0), True),
        ("26.12.00a47", (26, 12, 0), False),
        ("26.08.00", (26, 8, 0), False),
        ("27.2", (27, 2), False),
        ("0.0.0a0", (0, 0, 0), False),
        ("unknown", (), False),
    ],
)
def test_tested_releases(version: str, numbers: tuple[int, ...], tested: bool) -> None:
    assert gpu_hook.version_numbers(version) == numbers
    assert (gpu_hook.refusal(version) is None) == tested


def test_waits_for_the_import_and_warns_once_about_untested_releases(tmp_path: Path) -> None:
    engine = "__version__ = '99.04.00'\nimport os\n"
    code = f"""
        for _ in range(3):
            gpu_hook.install()
        assert "cudf_polars" not in sys.modules
        assert {FINDERS} == 1
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            import cudf_polars
            gpu_hook.install()
            gpu_hook.install()
        assert {FINDERS} == 0
        assert not gpu_hook.installed()
        (warning,) = caught
        assert warning.category is gpuzarr.GpuzarrWarning
        loader = cudf_polars.__spec__.loader
        assert type(loader).__name__ == type(cudf_polars.__loader__).__name__ == "SourceFileLoader", loader
        print(warning.message)
    """
    said = run(code, tmp_path, engine)
    assert "cudf-polars 99.04.00 was not tested" in said
    assert "upgrade gpuzarr" in said
    assert "Results are right" in said


def test_engine_with_other_internals_is_left_alone(tmp_path: Path) -> None:
    code = """
        gpu_hook.install()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            import cudf_polars
        assert not gpu_hook.installed()
        print(caught[0].message)
    """
    assert "differs from the tested ones" in run(code, tmp_path, "__version__ = '26.10.02'\n")


def test_an_import_that_fails_fails_as_before(tmp_path: Path) -> None:
    """As that of cudf-polars does beside a Polars that is too new for it."""
    code = """
        gpu_hook.install()
        for _ in range(2):
            try:
                import cudf_polars
            except ImportError as error:
                print(error)
        assert "cudf_polars" not in sys.modules
    """
    assert run(code, tmp_path, "raise ImportError('too new')\n") == "too new\ntoo new\n"


def test_without_the_engine_nothing_changes(tmp_path: Path) -> None:
    code = f"""
        from importlib.util import find_spec
        sys.path[:] = [p for p in sys.path if "site-packages" not in p]
        gpu_hook.install()
        assert find_spec("cudf_polars") is None
        try:
            import cudf_polars
        except ModuleNotFoundError as error:
            print(error)
        gpu_hook.uninstall()
        assert {FINDERS} == 0
    """
    assert run(code, tmp_path, None) == "No module named 'cudf_polars'\n"


def test_scans_and_unpickled_queries_install_it(tmp_path: Path) -> None:
    """And looking for the engine, as `probe` does, loads nothing."""
    code = f"""
        import numpy, pickle, zarr
        group = zarr.create_group({str(tmp_path / "s.zarr")!r})
        group.create_array("v", shape=(3,), chunks=(3,), dtype="f8", dimension_names=("x",))[...] = 1.0
        lf = gpuzarr.scan_zarr(group)
        assert {FINDERS} == 1
        text = pickle.dumps(lf)
        gpu_hook.uninstall()
        assert {FINDERS} == 0
        again = pickle.loads(text)
        assert {FINDERS} == 1
        assert again.collect().equals(lf.collect())
        gpuzarr.probe()
        from importlib.util import find_spec
        assert find_spec("cudf_polars") is not None
        assert "cudf_polars" not in sys.modules
    """
    run(code, tmp_path, "__version__ = '26.10.02'\n")


def test_many_threads_install_one(tmp_path: Path) -> None:
    code = f"""
        import threading
        barrier = threading.Barrier(16)
        def go(n):
            barrier.wait()
            for _ in range(50):
                gpu_hook.install()
            if n % 4 == 0:
                import cudf_polars
            gpu_hook.install()
        threads = [threading.Thread(target=go, args=(n,)) for n in range(16)]
        warnings.simplefilter("ignore")
        for t in threads: t.start()
        for t in threads: t.join()
        assert {FINDERS} == 0
        print(gpu_hook._warned)
    """
    assert run(code, tmp_path, "import time\ntime.sleep(0.2)\n__version__ = '1.0'\n") == "{'1.0'}\n"
