"""Detects that this process was forked from one whose I/O threads it did not inherit."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from gpuzarr.errors import EnvironmentLacksError, Kind

__all__ = ["check_same_process", "check_tokio"]

_FORKED = (
    "This process was forked from one that had already read through {what}; its threads do not exist here and a read "
    "would wait for ever. Start processes with the 'spawn' or 'forkserver' method."
)


class _Tokio:
    """Whether the runtime of obstore, one per process, was started before a fork."""

    used = False
    lost = False


def check_same_process(pid: int, store: str) -> None:
    """Refuse to use a store that was opened in another process (``pid``)."""
    if os.getpid() != pid:
        raise EnvironmentLacksError(_FORKED.format(what="this store"), kind=Kind.FORKED, store=store)


def check_tokio(store: str) -> None:
    """Refuse to use obstore where its runtime was lost in a fork; a store opened anew would hang as well."""
    if _Tokio.lost:
        raise EnvironmentLacksError(_FORKED.format(what="obstore"), kind=Kind.FORKED, store=store)
    _Tokio.used = True


def _before_fork() -> None:
    # Others than gpuzarr may have started the runtime; its threads tell.
    if "obstore" in sys.modules and not _Tokio.used and not _Tokio.lost:
        try:
            _Tokio.used = any("tokio" in (task / "comm").read_text() for task in Path("/proc/self/task").iterdir())
        except OSError:
            return


def _after_fork() -> None:
    _Tokio.lost = _Tokio.lost or _Tokio.used


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork)
