"""Warnings: what is left out or read otherwise than expected, said once, at the caller's line."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType

__all__ = ["GpuzarrWarning", "level_of_caller"]

_PACKAGE = str(Path(__file__).resolve().parent)


class GpuzarrWarning(UserWarning):
    """Something of the store is not in the table, or not as one might expect; the rest is right."""


def level_of_caller() -> int:
    """Stack level, as seen from the function that warns, of the first frame outside this package."""
    level = 1
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001  # the frame that warns
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
        level += 1
    return level
