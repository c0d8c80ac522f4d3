"""One measurement in a fresh process: ``python -m benchmarks.worker`` reads lines of JSON, answers each with one line.

A measurement is one request; only checks, which measure nothing, send several to one process.

Imports and a first answer on a tiny store of the same kind come before the clock starts, so that what is measured is the
work on the store, with nothing of it known; how long those took is in the result too.
"""

from __future__ import annotations

import gc
import importlib.metadata
import json
import os
import platform
import resource
import sys
import time
import traceback
import warnings
from typing import Any

from benchmarks.answers import digest
from benchmarks.datasets import Description
from benchmarks.peers import PEERS, NotApplicable, load_peer
from benchmarks.queries import make_query

__all__ = ["main", "reset_peak", "status"]


def main() -> None:
    """Read requests from stdin, answer on the original stdout."""
    answer_to = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries that print do not disturb the answer
    warnings.filterwarnings("ignore")
    for line in sys.stdin.read().splitlines():
        json.dump(_answer(json.loads(line)), answer_to)
        answer_to.write("\n")
        answer_to.flush()
    os._exit(0)  # a peer's threads do not hold the run


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    try:
        return _measured(request)
    except NotApplicable as error:
        return {"status": "not applicable", "message": str(error)}
    except ImportError as error:
        return {"status": "missing", "message": f"{type(error).__name__}: {error}"}
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # PanicException of a peer is no Exception
        traceback.print_exc()
        return {"status": "failed", "message": f"{type(error).__name__}: {error}"[:500]}


def _measured(request: dict[str, Any]) -> dict[str, Any]:
    began = time.perf_counter()
    peer = load_peer(request["peer"])
    imported = time.perf_counter()
    if request["query"] is None:  # asks whether the peer can be imported
        return {"status": "ok"}
    tiny, description = (_description(request[key]) for key in ("warm_up", "dataset"))
    query = make_query(request["query"], tiny)
    peer.answer(peer.open(tiny, query), query)
    warmed = time.perf_counter()
    query = make_query(request["query"], description)
    first_box = make_query(request["query"], description)
    gc.collect()

    handle = None
    if query.shape == "boxes":  # asked on what is open and has answered one box
        object.__setattr__(first_box, "boxes", query.boxes[:1])
        object.__setattr__(query, "boxes", query.boxes[1:])
        handle = peer.open(description, query)
        peer.answer(handle, first_box)
    baseline = status("VmRSS")
    peak_is_reset = reset_peak()
    io, usage, start = _io(), resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    if handle is None:
        handle = peer.open(description, query)
    frame = peer.answer(handle, query)
    wall = time.perf_counter() - start
    after, io_after = resource.getrusage(resource.RUSAGE_SELF), _io()
    peak = status("VmHWM") if peak_is_reset else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    result: dict[str, Any] = {
        "status": "ok",
        "wall_s": wall,
        "cpu_s": after.ru_utime - usage.ru_utime + after.ru_stime - usage.ru_stime,
        "peak_rss": peak,
        "baseline_rss": baseline,
        "result_bytes": _size(frame),
        "rows": len(frame),
        "import_s": imported - began,
        "warm_up_s": warmed - imported,
    }
    if io and io_after:
        result["bytes_requested"] = io_after["rchar"] - io["rchar"]  # by read calls; memory maps are not seen
        result["bytes_from_disk"] = io_after["read_bytes"] - io["read_bytes"]
    if request.get("digest"):
        result["digest"] = digest(frame, query)
        result["versions"] = _versions(PEERS[request["peer"]].packages)
    return result


def _description(fields: dict[str, Any]) -> Description:
    return Description(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})


def _versions(packages: tuple[str, ...]) -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in packages:
        found[package] = importlib.metadata.version(package)
    return found


def _size(frame: Any) -> int:
    if type(frame).__module__.startswith("polars"):
        return int(frame.estimated_size())
    return int(frame.memory_usage(index=True).sum())


def _io() -> dict[str, int] | None:
    try:
        with open("/proc/self/io") as lines:
            return {name: int(value) for name, value in (line.split(":") for line in lines)}
    except OSError:
        return None


def status(name: str) -> int:
    """A field of ``/proc/self/status`` in bytes, 0 where there is none."""
    try:
        with open("/proc/self/status") as lines:
            for line in lines:
                if line.startswith(name + ":"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def reset_peak() -> bool:
    """Let ``VmHWM`` start again from what is resident now; whether the system can."""
    try:
        with open("/proc/self/clear_refs", "w") as control:
            control.write("5")
    except OSError:
        return False
    return True


if __name__ == "__main__":
    main()
