"""Memory of frames is used again, and never while anybody can see it."""

from __future__ import annotations

import gc
import random
import sys
import threading
from collections import deque

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from gpuzarr.device import frame_memory
from gpuzarr.device.frame_memory import USUAL_NBYTES, FrameMemory, _capacity
from gpuzarr.device.large_pages import PAGE, Region


def _views(values: np.ndarray, rng: random.Random) -> object:
    """Something that shows the array, as the engines, the readers and a user would make it."""
    array = pa.Array.from_buffers(pa.int64(), len(values), [None, pa.py_buffer(values)])
    match rng.randrange(6):
        case 0:
            return values
        case 1:
            return values[7:].reshape(-1)[1:]
        case 2:
            return array.slice(11)
        case 3:
            return pl.Series("a", array).slice(5)
        case 4:
            return pl.DataFrame({"a": pl.Series("a", array)}).lazy()
        case _:
            return pl.Series("a", array).to_numpy(allow_copy=False)


def _shown(view: object) -> set[int]:
    if isinstance(view, pl.LazyFrame):
        view = view.collect()["a"]
    if isinstance(view, pl.Series):
        return set(view.unique().to_list())
    return set(np.unique(np.asarray(view)).tolist())


@pytest.mark.parametrize("threads", [1, 4])
def test_nobody_sees_another_frame(threads):
    memory = FrameMemory(2**23)
    wrong: list[tuple[int, set[int]]] = []
    addresses: list[int] = []

    def work(thread: int) -> None:
        rng = random.Random(thread)
        kept: list[tuple[int, object]] = []
        for step in range(300):
            values = memory.array(rng.choice([30, 20_000, 20_001, 40_000, 100_000]), np.dtype(np.int64))
            addresses.append(values.ctypes.data)
            number = thread * 1000 + step
            values[:] = number
            kept.append((number, _views(values, rng)))
            del values
            if len(kept) > 6:
                expected, view = kept.pop(rng.randrange(len(kept)))
                if (shown := _shown(view)) != {expected}:
                    wrong.append((expected, shown))
                del view
        for expected, view in kept:
            if _shown(view) != {expected}:
                wrong.append((expected, _shown(view)))

    workers = [threading.Thread(target=work, args=(t,)) for t in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong
    assert len(set(addresses)) < len(addresses) / 2  # it was used again
    assert 0 < memory.kept_bytes <= 2**23
    memory.close()
    assert memory.kept_bytes == 0


def test_limits():
    memory = FrameMemory(2**20)
    kept = [memory.array(2**19, np.dtype(np.uint8)) for _ in range(4)]
    kept.clear()
    assert memory.kept_bytes == 2**20
    last = memory.array(2**19, np.dtype(np.uint8))
    last[:] = 3
    memory.close()
    assert (last == 3).all()
    del last
    assert memory.kept_bytes == 0
    for nbytes in (2**17, 2**17 + 1, 1_000_000, 2**20 - 1, 123_456_789):
        assert nbytes <= _capacity(nbytes) <= nbytes * 1.15


def _resident() -> int:
    with open("/proc/self/statm") as numbers:
        return int(numbers.read().split()[1]) * PAGE


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="resident memory is asked of Linux")
def test_memory_of_dropped_columns_goes_back_while_others_of_the_same_region_live():
    memory = FrameMemory(0)
    usual = memory.array(USUAL_NBYTES, np.dtype(np.uint8))
    columns = [memory.array(2**20 + 2**18, np.dtype(np.uint8)) for _ in range(40)]
    huge = memory.array(3 * 2**25, np.dtype(np.uint8))  # a region of its own
    for column in columns:
        column[:] = 7
    huge[:] = 7
    before = _resident()
    last = columns[20]
    del columns, column, huge, usual
    assert before - _resident() > 0.9 * (39 * (2**20 + 2**18) + 3 * 2**25)
    memory.close()
    del memory
    gc.collect()
    assert (last == 7).all()


def test_a_region_is_aligned_and_its_parts_can_be_forgotten():
    region = Region(5 * PAGE)
    assert region.bytes.nbytes == 5 * PAGE
    assert region.bytes.ctypes.data % 2**21 == 0
    region.bytes[:] = 9
    region.forget(PAGE - 1, 2 * PAGE + 2)  # the whole pages of it
    assert (region.bytes[:PAGE] == 9).all()
    assert (region.bytes[3 * PAGE :] == 9).all()
    region.forget(0, PAGE - 1)
    assert (region.bytes[:PAGE] == 9).all()


def test_where_no_region_can_be_had_the_allocator_is_asked(monkeypatch):
    def refused(nbytes: int) -> Region:
        raise OSError(12, "Cannot allocate memory")  # RLIMIT_AS, or the system's count of mappings

    memory = FrameMemory(2**24)
    usual = memory.array(USUAL_NBYTES, np.dtype(np.uint8))
    monkeypatch.setattr(frame_memory, "Region", refused)
    for nbytes in (2**20, 2**26):
        values = memory.array(nbytes, np.dtype(np.uint8))
        values[:] = 1
        del values
    assert memory.kept_bytes == 2**20  # used again like any other, where it is not too large to be kept
    with pytest.raises(MemoryError):
        memory.array(2**60, np.dtype(np.uint8))
    assert usual.nbytes == USUAL_NBYTES


def test_closing_while_a_thread_takes_the_last_block():
    class Emptied(deque):
        def popleft(self):
            self.clear()
            return super().popleft()

    memory = FrameMemory(2**24)
    memory.array(2**20, np.dtype(np.uint8))
    memory._free = {capacity: Emptied(blocks) for capacity, blocks in memory._free.items()}
    assert memory.kept_bytes
    memory.close()
    assert memory.kept_bytes == 0
