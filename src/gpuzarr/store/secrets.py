"""Which options of a store may be written down: deny by default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit, urlunsplit

__all__ = ["public_options", "public_url"]

_PUBLIC = frozenset({
    "account_name", "allow_http", "allow_invalid_certificates", "anon", "anonymous", "asynchronous", "base_url", "bucket",
    "bucket_name", "cache_regions", "checksum_algorithm", "client_options", "connect_timeout", "container_name",
    "copy_if_not_exists", "default_block_size", "default_region", "disable_tagging", "endpoint", "endpoint_url",
    "http1_only", "http2_only", "imdsv1_fallback", "max_retries", "metadata_endpoint", "pool_idle_timeout",
    "pool_max_idle_per_host", "project", "randomize_addresses", "read_timeout", "region", "region_name",
    "request_payer", "requester_pays", "retry_config", "retry_timeout", "s3_express", "skip_signature", "timeout",
    "unsigned_payload", "use_azure_cli", "use_emulator", "use_fabric_endpoint", "use_ssl", "user_agent",
    "virtual_hosted_style_request", "client_kwargs", "backoff", "init_backoff", "max_backoff", "base", "verify",
    "block_size", "protocol", "skip_instance_cache", "use_listings_cache", "listings_expiry_time", "max_paths", "timestamp",
})  # fmt: skip
_VENDORS = ("aws_", "azure_storage_", "azure_", "google_")
_AZURE = ("abfs", "abfss", "wasb", "wasbs")  # container@account is a place there, not a user


def public_options(options: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """The options that are no secrets, and whether any was left out. Only known names pass; mappings are searched."""
    kept: dict[str, Any] = {}
    dropped = False
    for name, value in options.items():
        if _plain(name) not in _PUBLIC:
            dropped = True
        elif isinstance(value, Mapping):
            kept[name], inner = public_options(value)
            dropped |= inner
        elif isinstance(value, str) and "://" in value:
            kept[name] = public_url(value)
            dropped |= kept[name] != value
        else:
            kept[name] = value
    return kept, dropped


def public_url(url: str) -> str:
    """The URL without user information, query and fragment."""
    parts = urlsplit(url)
    place = parts.netloc if parts.scheme.lower() in _AZURE else parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, place, parts.path, "", ""))


def _plain(name: str) -> str:
    name = name.lower()
    for vendor in _VENDORS:
        name = name.removeprefix(vendor)
    return name
