"""The measurements of the GPU engine, as far as they run without one."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(not (ROOT / "benchmarks" / "gpu").is_dir(), reason="no benchmarks in this tree")


def test_everything_is_planned_and_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.gpu import engine
    from benchmarks.gpu.common import Bench, WrongAnswerError

    bench = Bench(host=True, repeat=1, folder=tmp_path)
    with bench.running("engine"):
        engine.main(bench)
    timed = [entry["case"] for entry in bench.results if "median_s" in entry]
    assert len(timed) == len(engine.CODECS) * len(engine.QUERIES) * 4  # two CPU engines; one rank, and four
    assert {entry["memory"] for entry in bench.results if "median_s" in entry} == {"host memory"}
    absent = [entry for entry in bench.results if "absent" in entry]
    assert len(absent) == len(engine.CODECS) * len(engine.BUDGETS)
    assert all("needs a GPU" in entry["absent"] for entry in absent)

    monkeypatch.setattr(engine, "CODECS", engine.CODECS[:1])
    source = engine._rows
    monkeypatch.setattr(engine, "_rows", lambda *arguments: source(*arguments).reverse())
    wrong = Bench(host=True, repeat=1, folder=tmp_path)
    with pytest.raises(WrongAnswerError, match="scans of the plan, 1 ranks"):
        engine.main(wrong)
    assert not any("scans of the plan" in entry["case"] for entry in wrong.results)
