"""A small store that looks like a reanalysis, and a tour of what a scan does with it: ``python -m gpuzarr.example``."""

from __future__ import annotations

from gpuzarr.example.dataset import ExampleSize, write_example

__all__ = ["ExampleSize", "write_example"]
