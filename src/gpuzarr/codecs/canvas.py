"""A chunk of which only some bytes are decoded; the memory of the others is never touched."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from gpuzarr.codecs.layout import StoredLayout
from gpuzarr.codecs.steps import Bytes

__all__ = ["Canvas"]


class Canvas:
    """Memory of one chunk in stored order.

    Parameters
    ----------
    layout
        Of the chunk.
    out
        C-contiguous array of the chunk's shape and native dtype, used where the stored order is C.
    """

    def __init__(self, layout: StoredLayout, out: np.ndarray | None) -> None:
        self._layout = layout
        native = layout.dtype.newbyteorder("=")
        if out is not None and layout.is_c_order:
            self._flat = out.reshape(-1)
        else:
            self._flat = np.empty(layout.nbytes // native.itemsize, native)
        self.data: Bytes = self._flat.view(np.uint8)

    def finish(self, runs: Iterable[Sequence[int]]) -> np.ndarray:
        """The chunk, after the bytes of ``runs`` ((start, stop), apart from each other) were written to ``data``.

        An element of which only a part was written stays undefined.
        """
        if not self._layout.dtype.isnative:
            itemsize = self._layout.dtype.itemsize
            for start, stop in runs:
                self._flat[-(-start // itemsize) : stop // itemsize].byteswap(inplace=True)
        return self._layout.view(self._flat)
