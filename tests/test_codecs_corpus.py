"""Every array of the real stores, read chunk by chunk, has the values that its facts state."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from gpuzarr.errors import GpuzarrError
from gpuzarr.metadata import open_node
from gpuzarr.metadata.model import ArrayMetadata
from gpuzarr.store import open_store
from gpuzarr.table.whole import read_whole


def digest(values: np.ndarray) -> str:
    """SHA-256 of the values in C order, little-endian."""
    flat = np.ascontiguousarray(values)
    return hashlib.sha256(flat.astype(flat.dtype.newbyteorder("<"), copy=False).tobytes()).hexdigest()


def test_every_array_of_the_corpus(corpus: Path) -> None:
    entries = json.loads((corpus / "manifest.json").read_text())["entries"]
    right = refused = 0
    for entry in entries:
        for name, facts in (entry["facts"]["arrays"] or {}).items():
            value = facts.get("value", {})
            try:
                opened = open_store(corpus / entry["path"])
                path = "/".join(part for part in (opened.path, name.strip(".")) if part)
                array = open_node(opened.store, path)
                assert isinstance(array, ArrayMetadata)
                values = read_whole(opened.store, array)
            except GpuzarrError as error:
                expected = (entry["facts"].get("expect_arrays") or {}).get(name, entry["facts"]["expect"])
                if expected == "must_read":
                    pytest.fail(f"{entry['name']} {name}: {error}")
                refused += 1
                continue
            if values.dtype.kind in "biufc" and "sha256" in value:
                assert digest(values) == value["sha256"], (entry["name"], name)
                right += 1
    assert right > 350
    assert refused < 10
