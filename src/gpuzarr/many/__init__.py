"""Many stores as one table: one below the other (lists, globs, catalogues), or side by side (a dict of variables)."""

from __future__ import annotations

from gpuzarr.many.scan import is_many, scan_many

__all__ = ["is_many", "scan_many"]
