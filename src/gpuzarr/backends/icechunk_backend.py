"""A backend over one snapshot, branch or tag of an Icechunk repository."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any, Self, TypeVar

from gpuzarr.backends.asynchronous import AsyncBackend
from gpuzarr.backends.options import BackendOptions
from gpuzarr.errors import EnvironmentLacksError, NotFoundError, RequestError, StoreError
from gpuzarr.store import open_store

__all__ = ["IcechunkBackend"]

T = TypeVar("T")


class IcechunkBackend(AsyncBackend):
    """One snapshot for many queries: what was opened does not change, also where its branch moves on.

    A session that can be written to is not a snapshot; its chunks are believed for ``BackendOptions.max_age`` seconds like
    those of any store that tells no versions.
    """

    @classmethod
    async def from_filesystem(
        cls,
        path: str | os.PathLike[str],
        branch: str | None = None,
        root: str | None = None,
        options: BackendOptions | None = None,
        *,
        tag: str | None = None,
        snapshot: str | None = None,
        group: str | None = None,
        **table: Any,
    ) -> Self:
        """Open a repository in a local directory.

        Parameters
        ----------
        path
            The directory.
        branch, tag, snapshot
            What to read: at most one of them; none: the branch ``main``.
        root, group
            Path of the group inside the store (two names for one thing).
        options
            Sizes and rules of the caches.
        table
            As in `ZarrBackend.from_url`.

        Raises
        ------
        NotFoundError
            There is no such repository, branch, tag or snapshot.
        """
        return await asyncio.get_running_loop().run_in_executor(
            None, cls._in_folder, os.fspath(path), branch, tag, snapshot, _one(root, group), options, table
        )

    @classmethod
    async def from_repository(
        cls,
        repository: Any,
        branch: str | None = None,
        root: str | None = None,
        options: BackendOptions | None = None,
        *,
        tag: str | None = None,
        snapshot: str | None = None,
        group: str | None = None,
        **table: Any,
    ) -> Self:
        """Open a branch, tag or snapshot of an ``icechunk.Repository``, wherever it is stored.

        Parameters are those of `from_filesystem`.
        """
        return await asyncio.get_running_loop().run_in_executor(
            None, cls._of, repository, branch, tag, snapshot, _one(root, group), options, table
        )

    @classmethod
    async def from_session(
        cls,
        session: Any,
        root: str | None = None,
        options: BackendOptions | None = None,
        *,
        group: str | None = None,
        **table: Any,
    ) -> Self:
        """Open an ``icechunk.Session``, through its own Python store (no version of the library is assumed)."""
        return cls(
            open_store(session),
            options,
            group=_one(root, group),
            fixed=bool(getattr(session, "read_only", False)),
            **table,
        )

    @classmethod
    def _in_folder(
        cls,
        place: str,
        branch: str | None,
        tag: str | None,
        snapshot: str | None,
        group: str | None,
        options: BackendOptions | None,
        table: dict[str, Any],
    ) -> Self:
        icechunk = _icechunk()
        if not os.path.isdir(place):  # noqa: PTH112  # Icechunk would say that the object store has no such object
            raise NotFoundError(f"There is no Icechunk repository at {place!r}.")
        repository = _refused(
            lambda: icechunk.Repository.open(icechunk.local_filesystem_storage(place)),
            f"There is no Icechunk repository at {place!r}",
        )
        return cls._of(repository, branch, tag, snapshot, group, options, table)

    @classmethod
    def _of(
        cls,
        repository: Any,
        branch: str | None,
        tag: str | None,
        snapshot: str | None,
        group: str | None,
        options: BackendOptions | None,
        table: dict[str, Any],
    ) -> Self:
        named = {"branch": branch, "tag": tag, "snapshot_id": snapshot}
        given = {name: value for name, value in named.items() if value is not None} or {"branch": "main"}
        if len(given) > 1:
            raise RequestError("Give one of branch, tag and snapshot.")
        what = ", ".join(f"{name.removesuffix('_id')} {value!r}" for name, value in given.items())
        session = _refused(lambda: repository.readonly_session(**given), f"There is no {what} in the repository")
        return cls(open_store(session), options, group=group, fixed=True, **table)


def _one(root: str | None, group: str | None) -> str | None:
    if root is not None and group is not None and root.strip("/") != group.strip("/"):
        raise RequestError(f"root={root!r} and group={group!r} are two names for one thing; give one.")
    return group if group is not None else root


def _refused(make: Callable[[], T], message: str) -> T:
    """The result; errors of Icechunk are of this library's tree."""
    try:
        return make()
    except Exception as error:
        text = str(error).strip()
        first = text.splitlines()[0] if text else type(error).__name__
        lower = text.lower()
        if any(word in lower for word in ("not found", "doesn't exist", "does not exist", "invalid", "no such")):
            raise NotFoundError(f"{message}: {first}") from error
        raise StoreError(f"The repository cannot be read: {first}") from error


def _icechunk() -> Any:
    try:
        import icechunk
    except ImportError as error:
        raise EnvironmentLacksError("Icechunk repositories need icechunk: pip install 'gpuzarr[icechunk]'.") from error
    return icechunk
