"""zarr-python as the oracle of metadata: writes stores into a dict, and says what it reads from them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import zarr
from zarr.storage import MemoryStore

from gpuzarr.metadata import ArrayMetadata, GroupMetadata


@contextmanager
def quiet() -> Iterator[None]:
    """zarr-python warns about what it writes and reads itself, which is not the point here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def written(write: Callable[[MemoryStore], object]) -> dict[str, bytes]:
    """Objects of a store that `write` filled."""
    objects: dict[str, Any] = {}
    with quiet():
        write(MemoryStore(objects))
    return {key: bytes(value.to_bytes()) for key, value in objects.items()}


def opened_by_zarr(objects: dict[str, bytes]) -> Any:
    """The root node as zarr-python opens it."""
    store = MemoryStore()
    prototype = zarr.core.buffer.default_buffer_prototype()
    store._store_dict.update({key: prototype.buffer.from_bytes(value) for key, value in objects.items()})
    with quiet():
        return zarr.open(store, mode="r")


def same_value(ours: Any, theirs: Any) -> bool:
    """Whether two fill values are the same, NaN and NaT included, whatever their byte order."""
    if ours is None or theirs is None:
        return ours is theirs
    if isinstance(theirs, str | bytes) and not isinstance(theirs, np.generic):
        return type(ours) is type(theirs) and ours == theirs
    theirs = np.asarray(theirs)
    native = theirs.dtype.newbyteorder("=")
    theirs = theirs.astype(native)
    ours = np.asarray(ours)
    if ours.dtype.kind in "SU":  # NumPy's scalars keep zeros at the end, its arrays do not
        return bool(ours == theirs)
    return ours.dtype == native and ours.tobytes() == theirs.tobytes()


def assert_same_array(ours: ArrayMetadata, theirs: Any, *, by_others: bool = False) -> None:
    """Our metadata say what zarr-python says; of arrays written by others it may fill in what their codecs leave out."""
    metadata = theirs.metadata
    assert ours.path == theirs.path
    assert ours.zarr_format == metadata.zarr_format
    assert ours.shape == theirs.shape
    assert dict(ours.attributes) == dict(theirs.attrs)
    assert same_value(ours.fill_value, metadata.fill_value), (ours.fill_value, metadata.fill_value)
    dtype = theirs.dtype
    if dtype.kind in "OT":
        assert ours.dtype.numpy == np.dtype(object)
        assert ours.dtype.kind in ("string", "bytes")
    else:
        assert ours.dtype.numpy == dtype.newbyteorder("=")
    index = tuple(range(len(ours.shape)))
    assert ours.key(index) == "/".join(filter(None, (theirs.path, metadata.encode_chunk_key(index))))
    with quiet():
        document = metadata.to_dict()
    if metadata.zarr_format == 2:
        assert ours.chunk_shape == metadata.chunks
        assert ours.order == metadata.order
        has_order = dtype.kind not in "OT" and dtype != dtype.newbyteorder("S")
        assert ours.dtype.stored_big_endian == (has_order and dtype.newbyteorder("=") != dtype)
        listed = [*(document["filters"] or ()), *([document["compressor"]] if document["compressor"] else ())]
        assert [codec.name for codec in ours.codecs] == [codec["id"] for codec in listed]
        assert by_others or [{"id": codec.name, **codec.configuration} for codec in ours.codecs] == listed
    else:
        assert ours.chunk_shape == metadata.chunk_grid.chunk_shape
        assert ours.order == "C"
        assert ours.dimension_names == metadata.dimension_names
        assert [codec.name for codec in ours.codecs] == [codec["name"] for codec in document["codecs"]]


def assert_same_group(ours: GroupMetadata, theirs: Any) -> None:
    """Our group has the children and attributes that zarr-python's has."""
    assert ours.path == theirs.path
    assert ours.zarr_format == theirs.metadata.zarr_format
    assert dict(ours.attributes) == dict(theirs.attrs)
    assert not ours.unreadable
    assert set(ours.arrays) == set(theirs.array_keys())
    assert set(ours.groups) == set(theirs.group_keys())
    for name, array in ours.arrays.items():
        assert_same_array(array, theirs[name])
