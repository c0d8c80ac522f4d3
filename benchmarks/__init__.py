"""Benchmarks of gpuzarr against what people use today; ``python -m benchmarks --help``, method in docs/benchmarks.md."""
