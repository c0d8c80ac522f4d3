"""The corpus of real stores: its own checks against scans, and its first and last rows."""

from __future__ import annotations

import importlib.util
import json
import math
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import polars as pl
import pytest
import scan_corpus


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("check", ["check", "check_arrays"])
def test_corpus_checks_pass(corpus: Path, check: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = load(corpus / f"{check}.py")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # arrays left out are named
        failed = module.main(str(corpus / "manifest.json"), scan_corpus.__file__)
    text = capsys.readouterr().out
    assert not failed, text
    if check == "check":
        assert "57 passed, 0 failed" in text, text


def test_first_and_last_rows(corpus: Path) -> None:
    """``head`` and ``tail`` facts are in C order."""
    entries = json.loads((corpus / "manifest.json").read_text())["entries"]
    compared = 0
    for entry in entries:
        for group, facts in entry["facts"]["groups"].items():
            for table in facts.get("tables", []):
                if table.get("skipped") or "head" not in table or entry["facts"]["expect"] != "must_read":
                    continue
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    lf = scan_corpus.table(str(corpus / entry["path"]), group, table["dims"], table["data_vars"])
                    compared += rows_equal(lf, table, entry["name"])
    assert compared > 100


def rows_equal(lf: pl.LazyFrame, table: dict[str, Any], name: str) -> int:
    """Compare the stated cells at both ends; returns how many."""
    schema = lf.collect_schema()
    compared = 0
    ends = [(lf.head(len(table["head"])).collect(), table["head"]), (lf.tail(1).collect(), [table["tail"]])]
    for frame, rows in ends:
        assert frame.height == len(rows), name
        for ours, theirs in zip(frame.to_dicts(), rows, strict=True):
            for column, value in theirs.items():
                if column not in schema or not schema[column].is_numeric() or "T" in str(value):  # other calendars
                    continue
                expected = math.nan if value is None else float(value)
                mine = math.nan if ours[column] is None else float(ours[column])
                compared += 1
                assert mine == pytest.approx(expected, rel=1e-6, nan_ok=True), (name, column, ours, theirs)
    return compared
