"""Errors of scans name the store, however a scan is done; memory that runs out is an error of this package."""

from __future__ import annotations

from collections.abc import Callable
from unittest import mock

import numpy as np
import pytest
import zarr
from support_stores import MemoryStore

from gpuzarr.api import open_dataset
from gpuzarr.device.coordinate_scan import CoordinateScan
from gpuzarr.device.host import FrameJob
from gpuzarr.device.small import SmallScan
from gpuzarr.errors import ChunkError, Kind, ResourceError
from gpuzarr.source import dataset as source_dataset

LABEL = MemoryStore.label
Scan = Callable[[Exception], None]


@pytest.fixture(params=["small", "coordinates", "device"])
def scan(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Scan:
    """A scan in one of the ways that there are, in which an error arises once frames are made."""
    group = zarr.create_group(inner := zarr.storage.MemoryStore())
    group.create_array("y", data=np.arange(4.0), dimension_names=("y",))
    group.create_array("v", data=np.arange(12.0).reshape(4, 3), dimension_names=("y", "x"))
    objects = {key: bytes(data.to_bytes()) for key, data in inner._store_dict.items()}
    dataset = open_dataset(MemoryStore(objects, is_local=True))
    if request.param != "small":
        monkeypatch.setattr(source_dataset, "SMALL_TILES", 0)
    plan = dataset.plan(["y"] if request.param == "coordinates" else ["y", "v"])
    makes, name = {
        "small": (SmallScan, "_series"),
        "coordinates": (CoordinateScan, "_data_frame"),
        "device": (FrameJob, "_whole"),
    }[request.param]

    def run(error: Exception) -> None:
        with mock.patch.object(makes, name, side_effect=error):
            list(dataset.scan(plan))

    return run


def test_memory_that_ran_out(scan: Scan) -> None:
    with pytest.raises(ResourceError) as caught:
        scan(MemoryError("no 8 GiB"))
    error = caught.value
    assert "Memory ran out while" in error.message
    assert error.message.endswith("select less. no 8 GiB.")
    assert error.store == LABEL
    with pytest.raises(ResourceError) as caught:  # which is a `MemoryError`
        scan(ResourceError("Of this package.", array="v"))
    error = caught.value
    assert (error.message, error.array, error.store) == ("Of this package.", "v", LABEL)


def test_errors_of_this_package(scan: Scan) -> None:
    with pytest.raises(ChunkError) as caught:
        scan(ChunkError("Damaged.", kind=Kind.CHUNK_DECODE, array="v", key="v/c/0/0", byte_range=(3, 4)))
    error = caught.value
    assert error.store == LABEL
    assert (error.message, error.kind, error.array, error.key) == ("Damaged.", Kind.CHUNK_DECODE, "v", "v/c/0/0")
    assert error.byte_range == (3, 4)
    elsewhere = ChunkError("Damaged.", store="elsewhere")
    with pytest.raises(ChunkError) as caught:
        scan(elsewhere)
    assert caught.value is elsewhere
    with pytest.raises(ZeroDivisionError, match="a mistake"):
        scan(ZeroDivisionError("a mistake"))
