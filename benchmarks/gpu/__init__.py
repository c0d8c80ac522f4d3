"""Measurements on a GPU: ``python -m benchmarks.gpu.copies`` and so on; ``--dry`` runs each on host memory, without figures.

Not yet run on a GPU.
"""
