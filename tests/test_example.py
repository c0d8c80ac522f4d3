from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from gpuzarr.example import tour as tour_module
from gpuzarr.example import write_example
from gpuzarr.example.__main__ import STORE, main


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_example(tmp_path_factory.mktemp("example") / "era5.zarr", size="tiny")


def _digest(store: Path) -> dict[str, str]:
    files = sorted(path for path in store.rglob("*") if path.is_file())
    return {str(path.relative_to(store)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_same_seed_same_store_and_nothing_is_overwritten(store: Path, tmp_path: Path) -> None:
    assert _digest(write_example(tmp_path / "again.zarr", size="tiny")) == _digest(store)
    other = _digest(write_example(tmp_path / "other.zarr", size="tiny", seed=1))
    assert any(other[name] != digest for name, digest in _digest(store).items())
    with pytest.raises(FileExistsError, match="nothing is overwritten"):
        write_example(store, size="tiny")
    with pytest.raises(ValueError, match="huge"):
        write_example(tmp_path / "huge.zarr", size="huge")


def test_store_is_what_its_docstring_says(store: Path) -> None:
    with xr.open_zarr(store, consolidated=False, chunks=None) as dataset:
        assert set(dataset.data_vars) == {"t2m", "sst", "u10", "tp", "t", "q"}
        assert set(dataset.coords) == {"time", "level", "lat", "lon", "elevation"}
        assert dataset.t2m.dims == dataset.sst.dims == dataset.u10.dims == dataset.tp.dims == ("time", "lat", "lon")
        assert dataset.t.dims == dataset.q.dims == ("time", "level", "lat", "lon")
        assert dataset.elevation.dims == ("lat", "lon")
        assert np.all(np.diff(dataset.lat) < 0)
        assert dataset.time[0] == np.datetime64("2023-06-01")
        # one chunk of t2m is not stored, all others are; sst is missing exactly over land
        steps, rows, columns = dataset.t2m.encoding["chunks"]
        lost = np.zeros(dataset.t2m.shape, bool)
        lost[steps : 2 * steps, :rows, columns : 2 * columns] = True
        np.testing.assert_array_equal(np.isnan(dataset.t2m), lost)
        land = np.broadcast_to(dataset.elevation > 0, dataset.sst.shape)
        np.testing.assert_array_equal(np.isnan(dataset.sst), land)
        assert 0.25 < land.mean() < 0.4
        for name, low, high in [("t2m", 200, 330), ("sst", 270, 305), ("u10", -40, 40), ("tp", 0, 50), ("t", 180, 310)]:
            assert low <= dataset[name].min() < dataset[name].mean() < dataset[name].max() <= high
        assert float(dataset.tp.median()) == 0
        assert float(dataset.q.min()) > 0


def test_chunks_compress_about_as_well_as_real_ones(store: Path) -> None:
    """Neither noise, which would not shrink at all, nor constants."""
    with xr.open_zarr(store, consolidated=False, decode_cf=False, chunks=None) as dataset:
        for name in dataset.data_vars:
            stored = sum(path.stat().st_size for path in (store / str(name) / "c").rglob("*") if path.is_file())
            assert 1.1 < dataset[name].nbytes / stored < 40, name


def test_tour_checks_every_answer_and_cleans_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert main(["--size", "tiny"]) == 0
    printed = capsys.readouterr().out
    assert "NOT" not in printed
    assert printed.count("  ok ") == 8
    assert list(tmp_path.iterdir()) == []

    assert main([str(tmp_path / "here"), "--size", "tiny", "--keep"]) == 0
    assert (tmp_path / "here" / STORE / "zarr.json").exists()
    with pytest.raises(SystemExit):
        main([str(tmp_path / "here"), "--size", "tiny"])
    assert "exists; remove it" in capsys.readouterr().err


def test_tour_notices_a_wrong_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks can fail: where numpy reads other values, the answers differ."""
    path = write_example(tmp_path / "era5.zarr", size="tiny")
    unpacked = tour_module._unpacked
    monkeypatch.setattr(tour_module, "_unpacked", lambda group, name: unpacked(group, name) + 0.01)
    findings = {finding.what: finding.holds for finding in tour_module.tour(path, lambda line: None)}
    assert not findings["heat: the answer is numpy's"]
    assert not findings["point: the answer is numpy's"]
    assert findings["heat: bytes and requests are those of the bill"]
