"""Other names of two numcodecs filters in Zarr v3 documents."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gpuzarr.errors import RequestError
from gpuzarr.metadata import ArrayMetadata, GroupMetadata
from gpuzarr.metadata.model import CodecMetadata

__all__ = ["checked_aliases", "configure_zarr_codecs", "default_aliases", "with_aliases"]

_TARGETS = ("bitround", "fixedscaleoffset")

_lock = threading.Lock()
_defaults: dict[str, str] = {}


def configure_zarr_codecs(*, aliases: Mapping[str, str] | None = None) -> None:
    """Set which other names of codecs backends understand that are made **afterwards** without ``codec_aliases``.

    This is a table of the process, kept for programs that were written for it; it replaces what was set before. Where two
    parts of a program could differ, give ``BackendOptions(codec_aliases=...)`` instead, which nothing else can change.

    Parameters
    ----------
    aliases
        Name in the document to ``"bitround"`` or ``"fixedscaleoffset"``, with or without ``numcodecs.`` before it.

    Raises
    ------
    RequestError
        Another codec is named: aliases cannot reach anything that is not known to be safe.
    """
    checked = checked_aliases(aliases or {})
    with _lock:
        _defaults.clear()
        _defaults.update(checked)


def default_aliases() -> dict[str, str]:
    """What `configure_zarr_codecs` set last."""
    with _lock:
        return dict(_defaults)


def checked_aliases(aliases: Mapping[Any, Any]) -> dict[str, str]:
    """Aliases with full names of codecs; raises `RequestError`."""
    out: dict[str, str] = {}
    for name, target in aliases.items():
        bare = target.removeprefix("numcodecs.") if isinstance(target, str) else target
        if not isinstance(name, str) or not name or bare not in _TARGETS:
            allowed = " or ".join(map(repr, _TARGETS))
            raise RequestError(f"The codec alias {name!r} must stand for {allowed}, not {target!r}.")
        out[name] = f"numcodecs.{bare}"
    return out


def with_aliases(node: ArrayMetadata | GroupMetadata, aliases: Mapping[str, str]) -> ArrayMetadata | GroupMetadata:
    """The node with aliases replaced by what they stand for."""
    if not aliases:
        return node
    if isinstance(node, ArrayMetadata):
        return _array(node, aliases)
    return replace(node, arrays={name: _array(array, aliases) for name, array in node.arrays.items()})


def _array(array: ArrayMetadata, aliases: Mapping[str, str]) -> ArrayMetadata:
    if array.zarr_format != 3 or not any(_named(codec, aliases) for codec in array.codecs):
        return array
    return replace(array, codecs=tuple(_codec(codec, aliases) for codec in array.codecs))


def _named(codec: CodecMetadata, aliases: Mapping[str, str]) -> bool:
    return codec.name in aliases or codec.name == "sharding_indexed"


def _codec(codec: CodecMetadata, aliases: Mapping[str, str]) -> CodecMetadata:
    if codec.name in aliases:
        return replace(codec, name=aliases[codec.name])
    inner: Any = codec.configuration.get("codecs")
    if codec.name != "sharding_indexed" or not isinstance(inner, list):
        return codec
    renamed = [
        {**entry, "name": aliases.get(entry["name"], entry["name"])}
        if isinstance(entry, dict) and isinstance(entry.get("name"), str)
        else entry
        for entry in inner
    ]
    return replace(codec, configuration={**codec.configuration, "codecs": renamed})
