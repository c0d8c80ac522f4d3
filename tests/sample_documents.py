"""Documents of arrays and groups that tests vary."""

from __future__ import annotations

import base64
import json
from typing import Any

V2 = {
    "zarr_format": 2,
    "shape": [10, 20],
    "chunks": [5, 6],
    "dtype": "<f4",
    "order": "C",
    "compressor": {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1, "blocksize": 0},
    "filters": None,
    "fill_value": "NaN",
}
V3 = {
    "zarr_format": 3,
    "node_type": "array",
    "shape": [10, 20],
    "data_type": "float32",
    "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [5, 6]}},
    "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
    "fill_value": 0.5,
    "codecs": [
        {"name": "bytes", "configuration": {"endian": "little"}},
        {"name": "zstd", "configuration": {"level": 1}},
    ],
    "attributes": {"units": "K"},
    "dimension_names": ["y", None],
}
GROUP = {
    "zarr_format": 3,
    "node_type": "group",
    "attributes": {},
    "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": {"a": V3, "g/b": V3}},
}
ZMETADATA = {
    "zarr_consolidated_format": 1,
    "metadata": {".zgroup": {"zarr_format": 2}, "a/.zarray": V2, "a/.zattrs": {"_ARRAY_DIMENSIONS": ["y", "x"]}},
}


def objects_of(document: Any, name: str) -> dict[str, bytes]:
    return {name: document if isinstance(document, bytes) else json.dumps(document).encode()}


def raw(data: bytes) -> str:
    return base64.b64encode(data).decode()


def named(name: str, **configuration: Any) -> dict[str, Any]:
    return {"name": name, "configuration": configuration}
