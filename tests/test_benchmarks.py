"""The benchmarks run and their peers agree: answers are compared, no time is asserted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.skipif(not (ROOT / "benchmarks").is_dir(), reason="the benchmarks are not part of this tree")

KINDS = ("cube", "features", "levels", "packed", "curvilinear", "sparse", "trajectories", "v2")
QUERIES = (
    "full_scan",
    "box",
    "value_filter_1pct",
    "mean_by_cell",
    "head",
    "novel_boxes",
    "wide_filter_clustered_0.01pct",
    "ml_features",
)


def _run(*arguments: str, data: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "GPUZARR_BENCH_DATA": str(data), "PYTHONPATH": str(ROOT / "src")}
    environment.pop("GPUZARR_BENCH_ENVIRONMENTS", None)
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks", "--size", "tiny", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=280)


@pytest.fixture
def benchmarks(monkeypatch):
    """The package can be imported."""
    monkeypatch.syspath_prepend(str(ROOT))


@pytest.mark.slow
def test_peers_agree_and_the_absent_are_named(tmp_path, benchmarks):
    pytest.importorskip("xarray")
    from benchmarks.report import markdown

    record_file = tmp_path / "record.json"
    peers = ("gpuzarr", "xarray", "zarr-python", "parquet", "tensorstore")
    done = _run(
        "--check",
        "--peers",
        *peers,
        "--datasets",
        *KINDS,
        "--queries",
        *QUERIES,
        "--record",
        str(record_file),
        data=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads(record_file.read_text())
    assert {result["dataset"] for result in record["results"]} == set(KINDS)
    assert {result["query"] for result in record["results"]} == set(QUERIES)
    present = set(peers) - {
        line.split()[1].rstrip(":") for line in done.stdout.splitlines() if line.startswith("skipping")
    }
    assert {"gpuzarr", "xarray", "zarr-python", "parquet"} <= present
    for result in record["results"]:
        assert {peer: outcome["status"] for peer, outcome in result["peers"].items()} == dict.fromkeys(present, "ok"), (
            result
        )
    assert record["versions"]["gpuzarr"]["polars"] == pl.__version__
    assert "\n| sparse, " in markdown(record)
    assert str(tmp_path) not in json.dumps(record)  # no path of this machine in a record


@pytest.mark.slow
def test_a_measurement(tmp_path, benchmarks):
    """Two runs of two peers: figures for both, in the tables."""
    from benchmarks.report import markdown, ratio, short_table

    record_file = tmp_path / "record.json"
    done = _run(
        "--repeats", "2", "--cache", "cold", "--peers", "gpuzarr", "zarr-python", "--queries", "point_series",
        "--record", str(record_file), data=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads(record_file.read_text())
    (result,) = record["results"]
    for peer in ("gpuzarr", "zarr-python"):
        outcome = result["peers"][peer]
        assert len(outcome["wall_all"]) == 2
        assert outcome["cpu_s"] > 0
        assert outcome["rows"] == 72
        assert outcome["peak_rss"] >= outcome["baseline_rss"] * 0.9 > 0
        assert outcome["cold"] in (True, False)
    assert ratio(result) == pytest.approx(
        result["peers"]["gpuzarr"]["wall_s"] / result["peers"]["zarr-python"]["wall_s"]
    )
    assert "point_series" in markdown(record)
    assert "zarr-python" in short_table(record)


def _table() -> pl.DataFrame:
    rng = np.random.default_rng(0)
    rows = 500
    return pl.DataFrame(
        {
            "time": pl.Series(np.arange(rows) // 100 * 3600 * 10**9).cast(pl.Datetime("ns")),
            "lat": (np.arange(rows) // 10 % 10).astype(np.float32) * 2.5,
            "lon": (np.arange(rows) % 10).astype(np.float32),
            "t2m": rng.normal(280, 10, rows).astype(np.float32),
        }
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.head(499),
        lambda t: t.with_columns(lat=pl.col("lat").reverse()),
        lambda t: t.with_columns(
            t2m=pl.col("t2m").shift(-1).fill_null(pl.col("t2m").first())
        ),  # right values, wrong rows
        lambda t: t.with_columns(t2m=pl.when(pl.col("lon") == 3).then(None).otherwise(pl.col("t2m"))),
        lambda t: t.with_columns(t2m=pl.col("t2m") * 1.0001),
    ],
)
def test_wrong_answers_are_noticed(benchmarks, change):
    from benchmarks.answers import differences, digest
    from benchmarks.queries import Query

    dims = ("time", "lat", "lon")
    query = Query("full_scan", "rows", dims, dims, ("t2m",))
    right = digest(_table(), query)
    assert differences(digest(change(_table()), query), right, query)


def test_order_and_library_of_an_answer_do_not_matter(benchmarks):
    pytest.importorskip("pandas")
    from benchmarks.answers import differences, digest
    from benchmarks.queries import Query

    dims = ("time", "lat", "lon")
    query = Query("full_scan", "rows", dims, dims, ("t2m",))
    right = digest(_table(), query)
    others: list[Any] = [
        _table().reverse().select("t2m", "lon", "time", "lat"),
        _table().with_columns(pl.col("time").cast(pl.Datetime("us"))),
        _table().to_pandas(use_pyarrow_extension_array=False).set_index(["time", "lat", "lon"]),
    ]
    for other in others:
        assert differences(digest(other, query), right, query) == []


def test_fields_do_not_depend_on_how_they_are_cut(benchmarks):
    from benchmarks.fields import SURFACE, Field, Grid

    field = Field(SURFACE[0], Grid(8, 6, 19, 36))
    whole = field.block(slice(None))
    assert whole.shape == (8, 19, 36)
    assert whole.std() > 1
    np.testing.assert_array_equal(whole[2:5, 4:9], field.block(slice(2, 5), slice(4, 9)))
