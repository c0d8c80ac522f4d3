"""Buffers of the threads that decode: never one in two hands, and no more of them than are in use at a time."""

from __future__ import annotations

import threading

import numpy as np

from gpuzarr.device.loading import Scratch
from gpuzarr.device.shared_chunks import SharedChunks
from gpuzarr.errors import ScanCancelled

FLOATS = np.dtype("f4")


def test_buffers_are_used_again_once_they_are_given_back():
    scratch = Scratch()
    first = scratch.array((3, 4), FLOATS)
    assert (first.shape, first.dtype) == ((3, 4), FLOATS)
    assert np.shares_memory(scratch.array((2,), FLOATS), first)
    scratch.give_back()
    scratch.give_back()  # nothing is held: nothing happens
    seen: list[tuple[bool, bool]] = []

    def other() -> None:
        mine = scratch.array((12,), FLOATS)
        barrier.wait(10)
        again = scratch.array((12,), FLOATS)
        seen.append((np.shares_memory(mine, first), np.shares_memory(mine, again)))
        barrier.wait(10)
        scratch.give_back()

    barrier = threading.Barrier(3)
    threads = [threading.Thread(target=other) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == [(False, True), (False, True), (True, True)]
    assert scratch.array((1000,), FLOATS).size == 1000


def test_a_chunk_that_arrives_while_a_scan_fails_is_no_error_of_its_own():
    shared = SharedChunks()
    future, is_first = shared.claim(("v", (0,)), lambda: 0)
    assert is_first
    seen = iter([False, False])
    future.done = lambda: next(seen, True)  # a worker sets the result just after it was looked at
    future.set_result(None)
    shared.fail(ScanCancelled("The scan was closed."))
    assert future.exception() is None
