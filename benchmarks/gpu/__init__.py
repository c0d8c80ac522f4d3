"""Measurements on a GPU: ``python -m benchmarks.gpu``; ``--host`` runs all of it on host memory, to see that it is right.

Not yet run on a GPU.
"""
