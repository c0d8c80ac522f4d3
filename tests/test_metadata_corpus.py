"""Metadata of stores that many other programs wrote: equal to the facts known of them, and to what zarr-python reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from support_stores import FolderStore
from support_zarr import assert_same_array, quiet

from gpuzarr.errors import Kind, MetadataError
from gpuzarr.metadata import ArrayMetadata, GroupMetadata, open_node, walk

UNREADABLE = {"zarrita_v2": {"1d.contiguous.json2.O": Kind.METADATA_UNSUPPORTED}}
"""What has no column type: objects written as JSON."""


def entries(corpus: Path) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = json.loads((corpus / "manifest.json").read_text())["entries"]
    assert len(listed) >= 77
    return listed


def test_every_array_of_the_corpus(corpus: Path) -> None:
    seen = 0
    for entry in entries(corpus):
        store = FolderStore(corpus / entry["path"])
        refused = UNREADABLE.get(entry["name"], {})
        for name, facts in entry["facts"]["arrays"].items():
            if name in refused:
                continue
            path = "" if name == "." else name
            array = open_node(store, path)
            where = (entry["name"], name)
            assert isinstance(array, ArrayMetadata), where
            assert array.zarr_format == facts["zarr_format"], where
            assert array.shape == tuple(facts["shape"]), where
            assert array.chunk_shape == tuple(facts["chunks"]), where
            if facts["zarr_format"] == 2:
                assert array.key_encoding.separator == facts["sep"], where
                assert array.order == facts["order"], where
            if facts["dims"] is not None:
                assert list(array.dimension_names or ()) == facts["dims"], where
            with quiet():
                theirs = zarr.open_array(store.root, path=path, mode="r")
            assert_same_array(array, theirs, by_others=True)
            seen += 1
    assert seen >= 445


def test_walking_every_store_of_the_corpus(corpus: Path) -> None:
    for entry in entries(corpus):
        facts = entry["facts"]
        store = FolderStore(corpus / entry["path"])
        if "." in facts["arrays"]:
            assert isinstance(open_node(store), ArrayMetadata), entry["name"]
            continue
        groups = {group.path: group for group in walk(store)}
        refused = {child: error for group in groups.values() for child, error in group.unreadable.items()}
        expected = UNREADABLE.get(entry["name"], {})
        assert refused.keys() == expected.keys()
        for name, error in refused.items():
            assert isinstance(error, MetadataError)
            assert error.kind == expected[name]
            assert name in str(error)
        found = {array.path for group in groups.values() for array in group.arrays.values()}
        assert found == facts["arrays"].keys() - expected.keys(), entry["name"]
        for path, of_group in (facts.get("groups") or {}).items():
            group = groups["" if path in (".", "/") else path.strip("/")]
            assert isinstance(group, GroupMetadata)
            for name, dims in {**of_group.get("coords", {}), **of_group.get("data_vars", {})}.items():
                array = group.arrays.get(name)  # xarray inherits coordinates from groups above
                if array is not None:
                    is_text = array.dtype.numpy == np.dtype(
                        "S1"
                    )  # xarray joins the last dimension of single characters
                    names = list(array.dimension_names or ())
                    assert dims in ([names, names[:-1]] if is_text else [names]), (entry["name"], path, name)
