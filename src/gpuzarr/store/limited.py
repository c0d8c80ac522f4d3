"""Reading an object that may be a trap: nothing much larger than expected is ever held in memory."""

from __future__ import annotations

from gpuzarr.store.base import Buffer, ByteStore

__all__ = ["ObjectTooLargeError", "get_at_most"]


class ObjectTooLargeError(Exception):
    """An object is larger than the caller takes; internal, as the caller knows what the limit is for.

    Parameters
    ----------
    nbytes
        Its size, as far as it is known.
    """

    def __init__(self, nbytes: int) -> None:
        super().__init__(nbytes)
        self.nbytes = nbytes


def get_at_most(store: ByteStore, key: str, most: int) -> Buffer | None:
    """The whole object, None if there is none; its size is known before its bytes where the store can tell.

    Stores may have a ``get_at_most(key, most)`` of their own, which takes one request: the size is that of an open file, is in
    the head of a reply, or a range is asked for. Of others it is asked for first where that costs no round trip.

    Raises
    ------
    ObjectTooLargeError
        It has more than ``most`` bytes.
    StoreError
        Reading failed.
    """
    limited = getattr(store, "get_at_most", None)
    if limited is None and store.is_local:
        nbytes = store.size(key)
        if nbytes is None:
            return None
        if nbytes > most:
            raise ObjectTooLargeError(nbytes)
    data: Buffer | None = store.get(key) if limited is None else limited(key, most)
    if data is not None and len(data) > most:
        raise ObjectTooLargeError(len(data))
    return data
