"""Is this thread one that Polars computes with?

Polars up to about 1.40 pulls the scans of a join or a union on the threads of its own pool. While all of these wait for our
workers, a worker that evaluates an expression waits for one of them: nobody moves. So a scan that is pulled from such a
thread leaves all work with Polars to that thread, which may compute at any time.
"""

from __future__ import annotations

import threading
from pathlib import Path

__all__ = ["is_engine_thread"]


def is_engine_thread() -> bool:
    """Whether the calling thread may belong to Polars' compute pool; True where that cannot be known."""
    if not isinstance(threading.current_thread(), threading._DummyThread):  # noqa: SLF001  # started by Python
        return False
    try:
        name = Path(f"/proc/self/task/{threading.get_native_id()}/comm").read_text()
    except OSError:
        return True
    return name.startswith("polars")
