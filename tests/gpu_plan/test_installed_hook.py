"""The hook in the real engine: installed by its import, in any order, and taken back without a trace."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import polars as pl
from cudf_polars.dsl import translate
from cudf_polars.streaming.rank_aware_source import RankAwareSource
from support_gpu_plans import plan

import gpuzarr
from gpuzarr.source import gpu_hook
from gpuzarr.source.gpu_source import BoundSource, ScanFunction

TYPES = [translate.plrs._ir_nodes.PythonScan, translate.plrs._ir_nodes.SimpleProjection]


def test_installing_and_taking_back(grid: Path) -> None:
    gpu_hook.install()
    ours = [translate._translate_ir.dispatch(t) for t in TYPES]
    originals = list(gpu_hook._originals.values())
    for _ in range(3):
        gpu_hook.install()
    assert [translate._translate_ir.dispatch(t) for t in TYPES] == ours
    assert issubclass(BoundSource, RankAwareSource)
    lf = gpuzarr.scan_zarr(grid)
    try:
        gpu_hook.uninstall()
        assert [translate._translate_ir.dispatch(t) for t in TYPES] == originals
        _, (scan,) = plan(lf.filter(pl.col("lat") > 3).select("rain"))
        assert not isinstance(scan.options[0], ScanFunction)
        assert scan.predicate is not None  # right all the same: the engine filters what the scan gives
        chunks, _ = scan.options[0](scan.options[1], None, None, None)
        assert pl.concat(list(chunks)).equals(lf.select("lat", "rain").collect())
    finally:
        gpu_hook.install()
    _, (scan,) = plan(lf.filter(pl.col("lat") > 3).select("rain"))
    assert isinstance(scan.options[0], ScanFunction)


def run(code: str) -> list[str]:
    """What a new process prints, word by word."""
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", textwrap.dedent(code)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(Path(gpuzarr.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]),
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_scan_before_the_engine_is_imported(grid: Path) -> None:
    code = f"""
        import sys, polars as pl, gpuzarr
        lf = gpuzarr.scan_zarr({str(grid)!r})
        assert not {{"cudf_polars", "rmm", "pylibcudf"}} & set(sys.modules)
        import cudf_polars
        from cudf_polars.dsl.translate import Translator
        query = lf.filter(pl.col("lat") > 3).select("rain")
        node = Translator(query._ldf.visit(), pl.GPUEngine(executor="in-memory")).translate_ir()
        assert list(node.schema) == ["rain"], node
        print(sum(c.height for c in node.options[0].io_source(["rain"])))
    """
    assert run(code) == ["2400"]


def test_workers_read_shipped_plans_and_queries(grid: Path, tmp_path: Path) -> None:
    """As on Ray and Dask: a process that never called gpuzarr unpickles a plan, and the engine there finds the source."""
    lf = gpuzarr.scan_zarr(grid)
    query = lf.filter(pl.col("lat") > 3).select("rain")
    root, _ = plan(query)
    (tmp_path / "plan").write_bytes(pickle.dumps((root, query)))
    code = f"""
        import pickle, sys
        root, query = pickle.loads(open({str(tmp_path / "plan")!r}, "rb").read())
        from cudf_polars.streaming.actor_graph.io import _find_rank_aware_source
        source = _find_rank_aware_source(root.options[0])
        print(root.get_stable_id(), sum(c.height for r in range(3) for c in source(["rain"], None, None, None, rank=r, nranks=3)))
        from cudf_polars.dsl.translate import Translator
        import polars as pl
        print(*Translator(query._ldf.visit(), pl.GPUEngine(executor="in-memory")).translate_ir().schema)
    """
    assert run(code) == [str(root.get_stable_id()), "2400", "rain"]


def test_documented_names_exist() -> None:
    """What the docs tell users to import and to call; Ray and Dask need not be installed for that."""
    import ast
    import re
    from importlib.util import find_spec

    def body(module: str) -> ast.Module:
        spec = find_spec(module)
        assert spec is not None
        assert spec.origin is not None
        return ast.parse(Path(spec.origin).read_text())

    page = Path(__file__).parents[2] / "docs" / "gpu-engine.md"
    fenced = re.split(r"^```", page.read_text(), flags=re.MULTILINE)[1::2]
    blocks = [ast.parse(block) for block in fenced if block.startswith("\n")]
    imports = [n for block in blocks for n in ast.walk(block) if isinstance(n, ast.ImportFrom)]
    names = [(node.module, alias.name) for node in imports for alias in node.names]
    assert {name for _, name in names} >= {"RayEngine", "SPMDEngine", "allgather_polars_dataframe"}
    found = {}
    for module, name in [*names, ("cudf_polars.engine.dask", "DaskEngine")]:
        assert module is not None
        defined = [n for n in body(module).body if isinstance(n, ast.ClassDef | ast.FunctionDef) and n.name == name]
        assert len(defined) == 1, (module, name)
        found[name] = defined[0]
    for engine in ("RayEngine", "DaskEngine", "SPMDEngine"):
        methods = {n.name: n for n in ast.walk(found[engine]) if isinstance(n, ast.FunctionDef)}
        assert "from_options" in methods
        arguments = methods["__init__"].args
        assert not arguments.args[1 + len(arguments.defaults) :]  # all may be left out
    calls = [n for block in blocks for n in ast.walk(block) if isinstance(n, ast.Call)]
    for call in calls:
        if isinstance(call.func, ast.Name) and isinstance(found.get(call.func.id), ast.FunctionDef):
            function = found[call.func.id]
            assert isinstance(function, ast.FunctionDef)
            assert {k.arg for k in call.keywords} <= {a.arg for a in (*function.args.args, *function.args.kwonlyargs)}


def test_queries_on_many_stores_install_it_where_they_are_read(grid: Path, tmp_path: Path) -> None:
    query = gpuzarr.scan_zarr([str(grid), str(grid)]).filter(pl.col("lat") > 3).head(3000).select("rain")
    root, _ = plan(query)
    (tmp_path / "plan").write_bytes(pickle.dumps((root, query)))
    code = f"""
        import pickle
        root, query = pickle.loads(open({str(tmp_path / "plan")!r}, "rb").read())
        from cudf_polars.streaming.actor_graph.io import _find_rank_aware_source
        from cudf_polars.dsl.translate import Translator
        import polars as pl
        again = Translator(query._ldf.visit(), pl.GPUEngine(executor="in-memory")).translate_ir()
        for node in (root, again):
            source = _find_rank_aware_source((node.children[0] if node.children else node).options[0])
            print(sum(c.height for r in range(3) for c in source(["rain"], None, None, None, rank=r, nranks=3)))
    """
    height = gpuzarr.scan_zarr([str(grid), str(grid)]).filter(pl.col("lat") > 3).select(pl.len()).collect().item()
    assert run(code) == [str(height)] * 2
