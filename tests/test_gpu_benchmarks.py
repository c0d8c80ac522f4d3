"""The measurements of a GPU run on host memory: every part, answers before times, and never a record of a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(not (ROOT / "benchmarks" / "gpu").is_dir(), reason="no benchmarks in this tree")
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.setenv("PYTHONPATH", ENVIRONMENT["PYTHONPATH"])
    import benchmarks.gpu.__main__

    return benchmarks.gpu.__main__


def test_one_command_measures_everything(tmp_path: Path) -> None:
    record = tmp_path / "record.json"
    command = [sys.executable, "-m", "benchmarks.gpu", "--host", "--folder", str(tmp_path), "--record", str(record)]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-2000:]
    assert all("host memory" in line for line in done.stdout.splitlines() if "GB/s" in line)
    found = json.loads(record.read_text())
    assert found["memory"].startswith("host memory")
    assert "card" not in found
    timed = [entry for entry in found["results"] if "median_s" in entry]
    assert {entry["memory"] for entry in timed} == {"host memory"}
    assert {entry["part"] for entry in timed} == {"copies", "kernels", "batches", "scans", "cold", "engine"}
    cases = " | ".join(entry["case"] for entry in timed)
    for wanted in (
        "host to device", "device to host", "copy kernel", "byte-shuffled, 4 bytes", "expand", "compaction, 1%",
        "bit_unshuffle", "lz4, 64 streams", "zstd, 64 streams", "host threads", "gzip: fetch alone", "zstd: copy alone",
        "sharded-zstd: decode alone", "blosc-lz4-shuffle: gather alone", "uncompressed: a point series", "1.00% of the rows",
        "collected on the host", "gpuzarr on the CPU, 1 threads", "zarr-python", "no compiled kernels",
    ):  # fmt: skip
        assert wanted in cases, wanted
    whole = [
        e for e in timed if e.get("question") == "everything" and e.get("stays") and "coordinates" not in e["case"]
    ]
    assert len(whole) == 6
    assert all(e["slowest_stage"] in ("fetch", "copy", "decode", "gather") for e in whole)
    assert all(e["share_of_slowest_stage"] > 0 and "peak_device_nbytes" in e and e["rows_per_s"] > 0 for e in whole)
    absent = {entry["case"].rpartition(", ")[2]: entry["absent"] for entry in found["results"] if "absent" in entry}
    assert absent["GPU mode"] == "needs a GPU"
    assert not any("wrong" in why for why in absent.values())


def test_a_wrong_answer_is_not_timed(tmp_path: Path, gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.gpu import stores
    from benchmarks.gpu.common import Bench, WrongAnswerError
    from benchmarks.gpu.scans import main

    bench = Bench(host=True, repeat=1, folder=tmp_path)
    stores.store(bench, "uncompressed")
    chunk = next(p for p in sorted((tmp_path).glob("uncompressed*/t/c/**/*")) if p.is_file())
    data = bytearray(chunk.read_bytes())
    data[:8] = data[4:8] + data[:4]  # two values in each other's rows: their sum is the same
    chunk.write_bytes(data)
    with pytest.raises(WrongAnswerError, match="everything"):
        main(bench)
    assert not bench.results


def test_no_record_of_a_gpu_without_one(gpu: Any, capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks.gpu.common import RECORDS

    with pytest.raises(SystemExit):
        gpu.main(["copies", "--host", "--record", str(RECORDS / "x.json")])
    assert "no record of a GPU" in capsys.readouterr().err
    assert gpu.main(["nonsense", "--host"]) == 2


def test_plots_name_where_figures_come_from(tmp_path: Path, gpu: Any) -> None:
    pytest.importorskip("matplotlib")
    assert gpu.main(["copies", "batches", "--host", "--folder", str(tmp_path), "--plots", str(tmp_path / "p")]) == 0
    assert sorted(p.name for p in (tmp_path / "p").iterdir()) == ["gpu-batches.png", "gpu-copies.png"]
