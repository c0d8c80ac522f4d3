"""URLs to stores: obstore where it knows the scheme, fsspec for the rest."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from zarr.storage import FsspecStore

from gpuzarr.errors import EnvironmentLacksError, RequestError
from gpuzarr.redact import public_cause, redact
from gpuzarr.store.base import ByteStore
from gpuzarr.store.obstore_store import ObstoreByteStore, Recipe
from gpuzarr.store.options import StoreOptions
from gpuzarr.store.zarr_store import ZarrByteStore

__all__ = ["open_obstore", "open_url"]

_SCHEMES = {
    "s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "az": "az", "azure": "az", "adl": "az", "abfs": "az", "abfss": "az",
    "http": "http", "https": "http",
}  # fmt: skip
_S3_NAMES = {"anon": "skip_signature", "key": "access_key_id", "secret": "secret_access_key", "region_name": "region"}
_GS_NAMES = {"anon": "skip_signature"}
_AZ_NAMES = {"anon": "skip_signature"}
_NAMES = {"s3": _S3_NAMES, "gs": _GS_NAMES, "az": _AZ_NAMES}
_IGNORED = frozenset(
    {"asynchronous", "cache_regions", "default_block_size", "use_listings_cache", "skip_instance_cache"}
)
_TRUE = (True, "true", "True", "1", 1)


def open_url(url: str, storage_options: Mapping[str, Any], options: StoreOptions) -> ByteStore:
    """Store at a URL that is no local path.

    Raises
    ------
    EnvironmentLacksError
        The library for it is not installed.
    RequestError
        Nothing knows the scheme, or an option does not fit.
    """
    scheme = urlsplit(url).scheme.lower()
    known = scheme in _SCHEMES and "::" not in url
    if options.backend == "obstore" and not known:
        raise RequestError(f"obstore does not know {redact(url)!r}; leave StoreOptions.backend at 'auto'.")
    preferred = options.backend == "obstore" or (options.backend == "auto" and (_has_obstore() or not _has_fsspec()))
    if known and preferred:
        return open_obstore(url, storage_options, options)
    return _open_fsspec(url, storage_options, options)


def open_obstore(
    url: str, storage_options: Mapping[str, Any], options: StoreOptions, *, stripped: bool = False
) -> ObstoreByteStore:
    """Store at a URL, through obstore; retries and time limits are gpuzarr's."""
    try:
        import obstore.store as stores
    except ImportError as error:
        raise EnvironmentLacksError(
            f"Reading {redact(url)!r} needs obstore: pip install 'gpuzarr[remote]'.", store=url
        ) from error
    kind = _SCHEMES[urlsplit(url).scheme.lower()]
    keywords = obstore_options(kind, url, storage_options)
    client = {
        "timeout": timedelta(seconds=options.request_timeout),
        "connect_timeout": timedelta(seconds=min(options.connect_timeout, options.request_timeout)),
        **keywords.pop("client_options", {}),
    }
    # One place decides about retries, and counts them: this library's own loop.
    retry = keywords.pop("retry_config", None)
    try:
        make: Any = stores.HTTPStore.from_url if kind == "http" else stores.from_url
        store = make(url, client_options=client, retry_config=retry or {"max_retries": 0}, **keywords)
    except Exception as error:
        raise RequestError(
            f"The store cannot be opened: {str(error).strip().splitlines()[0]}. Check the URL and storage_options (names as "
            f"obstore.store.{ {'s3': 'S3Store', 'gs': 'GCSStore', 'az': 'AzureStore', 'http': 'HTTPStore'}[kind] } has them).",
            store=url,
        ) from public_cause(error)
    return ObstoreByteStore(
        store,
        options,
        label=url,
        recipe=Recipe(url, dict(storage_options)),
        retries_itself=retry is not None,
        stripped=stripped,
    )


def obstore_options(kind: str, url: str, storage_options: Mapping[str, Any]) -> dict[str, Any]:
    """Options in obstore's names; the most used names of s3fs, gcsfs and adlfs are understood too.

    Parameters
    ----------
    kind
        ``"s3"``, ``"gs"``, ``"az"`` or ``"http"``.
    """
    given = {name: value for name, value in storage_options.items() if name not in _IGNORED and value is not None}
    client = dict(given.pop("client_options", {}))
    if kind == "http":
        headers = given.pop("headers", None)
        if headers is not None:
            client["default_headers"] = dict(headers)
    nested = given.pop("client_kwargs", None) if kind == "s3" else None
    given = {**(nested or {}), **given}
    if kind == "gs" and given.get("token") == "anon":
        given["anon"] = given.pop("token") == "anon"
    names = _NAMES.get(kind, {})
    keywords: dict[str, Any] = {}
    for name, value in given.items():
        name = names.get(name, name)
        if name == "skip_signature":
            value = value in _TRUE
        keywords[name] = value
    plain = (url, *(str(keywords.get(name, "")) for name in ("endpoint", "endpoint_url", "aws_endpoint", "base_url")))
    if any(text.lower().startswith("http://") for text in plain):
        client.setdefault("allow_http", True)
    if client:
        keywords["client_options"] = client
    return keywords


def _open_fsspec(url: str, storage_options: Mapping[str, Any], options: StoreOptions) -> ByteStore:
    if not _has_fsspec():
        raise EnvironmentLacksError(
            f"Reading {redact(url)!r} needs fsspec: pip install 'gpuzarr[remote]' (obstore) or 'gpuzarr[fsspec]'.",
            store=url,
        )
    try:
        store = FsspecStore.from_url(url, storage_options=dict(storage_options), read_only=True)
    except ImportError as error:
        raise EnvironmentLacksError(
            f"fsspec needs another package for {redact(url)!r}: {error}. For s3, gs, az and http, pip install "
            f"'gpuzarr[remote]' is enough.",
            store=url,
        ) from public_cause(error)
    except Exception as error:
        raise RequestError(
            f"The store cannot be opened: {str(error).strip().splitlines()[0] if str(error) else type(error).__name__}. "
            f"Check the URL and storage_options.",
            store=url,
        ) from public_cause(error)
    return ZarrByteStore(store, options, label=url, url=url, storage_options=dict(storage_options))


def _has_obstore() -> bool:
    try:
        import obstore  # noqa: F401
    except ImportError:
        return False
    return True


def _has_fsspec() -> bool:
    try:
        import fsspec  # noqa: F401
    except ImportError:
        return False
    return True
