"""Micro-benchmarks: ``python -m pytest benchmarks/micro``; compare runs with pytest-benchmark's ``--benchmark-compare``."""
