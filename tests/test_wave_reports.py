"""What explain, profile and probe say of the device's way: where files go, what is decoded where, and why on the host."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import zarr
import zarr.codecs
from support_wave import scans_on

import gpuzarr
from gpuzarr.codecs.batch_host import HostBatchDecoder
from gpuzarr.device import cuda_files
from gpuzarr.device.file_reads import PreadReader
from gpuzarr.device.runtime_host import HostRuntime
from gpuzarr.probe import Gpu, Piece, _gds

pytestmark = pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr version 3")

CODECS = {
    "plain": None,
    "zstd": zarr.codecs.ZstdCodec(),
    "blosc": zarr.codecs.BloscCodec(cname="lz4", shuffle="shuffle", typesize=4),
    "blosclz": zarr.codecs.BloscCodec(cname="blosclz", typesize=4),
}


@pytest.fixture
def scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pl.LazyFrame:
    group = zarr.create_group(tmp_path / "s.zarr")
    data = np.random.default_rng(0).normal(size=(20, 30)).cumsum(-1).astype("f4").round(1)
    for name, compressor in CODECS.items():
        array = group.create_array(
            name, shape=data.shape, chunks=(10, 30), dtype="f4", dimension_names=("y", "x"), compressors=compressor
        )
        array[...] = data
    import numcodecs.zarr3  # noqa: F401
    from zarr.registry import get_codec_class

    bz2 = get_codec_class("numcodecs.bz2")(level=1)  # type: ignore[call-arg]
    words = np.array([f"w{i}" for i in range(20)], dtype=object)
    array = group.create_array(
        "bz2", shape=data.shape, chunks=(20, 30), dtype="f4", dimension_names=("y", "x"), compressors=bz2
    )
    array[...] = data
    group.create_array("text", shape=(20, 30), chunks=(20, 30), dtype=str, dimension_names=("y", "x"))[...] = (
        np.broadcast_to(words[:, None], (20, 30))
    )
    monkeypatch.setattr("gpuzarr.api.require_cuda", lambda: None)
    return gpuzarr.scan_zarr(tmp_path / "s.zarr", device="cuda")


def test_a_bill_says_how_each_column_is_decoded_and_how_files_come(scan: pl.LazyFrame) -> None:
    bill = gpuzarr.explain(scan)
    routes = {array.column: array.on_device for array in bill.scans[0].arrays}
    assert routes == {
        "plain": "gathered as stored",
        "zstd": "zstd in batches",
        "blosc": "blosc in batches, byte shuffles read in place",
        "blosclz": "blosc in batches, byte shuffles read in place",
        "bz2": "chunks decoded on the host, then copied: no batch decoder for this codec",
        "text": "whole column on the host: String has no fixed width",
    }
    text = str(bill)
    assert "device: zstd in batches" in text
    assert "note      GPUDirect Storage is not in use: " in text
    assert cuda_files.gds_problem() in text
    on_cpu = gpuzarr.explain(gpuzarr.scan_zarr(bill.scans[0].store))
    assert not any(array.on_device for array in on_cpu.scans[0].arrays)
    assert "GPUDirect" not in str(on_cpu)


@pytest.mark.parametrize("direct", [False, True])
def test_a_profile_says_what_went_where(scan: pl.LazyFrame, direct: bool) -> None:
    decoder = HostBatchDecoder()
    files = PreadReader(direct=direct)
    with scans_on(lambda: HostRuntime(files=files, decoder=decoder)):
        profile = gpuzarr.profile(scan)
    (done,) = profile.scans
    assert profile.frame.height == 600
    assert (done.statistics["waves_direct"] > 0) == direct
    assert done.statistics["chunks_in_place"] > 0
    assert done.statistics["columns_on_host"] == 1
    way = "straight to the device" if direct else "through page-locked memory: kvikio is not installed"
    assert any(note.startswith("files are read by preadv, ") and way in note for note in done.notes)
    assert "text: whole column on the host: String has no fixed width" in done.notes
    assert "bz2: no batch decoder for this codec (1 chunks)" in done.notes
    assert not any(note.startswith(("zstd", "plain")) for note in done.notes)
    assert "gathered while shuffled" in str(profile)
    assert done.notes[0] in str(profile)


def test_a_failed_batch_is_named(scan: pl.LazyFrame) -> None:
    from test_wave import Flaky

    with scans_on(lambda: HostRuntime(decoder=Flaky(every=1))):  # type: ignore[arg-type]
        (done,) = gpuzarr.profile(scan.select("zstd")).scans
    assert done.notes[-1] == "zstd: its batch failed (2 chunks)"
    assert done.statistics["chunks_retried"] == 2


def test_stages_have_names(scan: pl.LazyFrame) -> None:
    with scans_on() as made:
        scan.filter(pl.col("zstd") > 0).collect()
    ((_, runtime),) = made
    assert set(runtime.stages) == {"fetch", "copy", "decode", "gather", "filter", "hand over"}


def test_a_probe_says_whether_files_go_straight_to_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = (Piece("kvikio", "found", "26.10"),)
    monkeypatch.setattr(cuda_files, "gds_problem", lambda: "for a test")
    there = Gpu((13, 0), ("a card",))
    assert _gds(there, pieces) == "not in use, reads go through host memory: for a test"
    monkeypatch.setattr(cuda_files, "gds_problem", lambda: "")
    assert _gds(there, pieces) == "in use"
    assert _gds(Gpu(problem="none"), pieces) == "no device"
    assert _gds(there, ()) == "unknown without kvikio"
