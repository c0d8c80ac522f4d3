"""Lets the Polars GPU engine hand filter, columns and row limit of a query to our scans.

cudf-polars 26.10 calls an IO source without the predicate and runs no query with a row limit on one. Its translator from the
Polars plan is registered again here, for scans of ours only: every other node goes to the translator that was there before.

Needed until cudf-polars hands these over itself: rapidsai/cudf#22917 (predicate, rank and stable options of a source) and
rapidsai/cudf#22918 (row limits).

cudf_polars is never imported from here. While it is not loaded, a finder at the front of `sys.meta_path` waits for its
import; the finder answers one name and is gone afterwards.
"""

from __future__ import annotations

import re
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from gpuzarr.notices import GpuzarrWarning, level_of_caller

__all__ = ["TESTED", "install", "installed", "refusal", "uninstall", "version_numbers"]

TESTED = ((26, 10), (26, 12))
"""Releases of cudf-polars that the hook was tested with: from the first, below the second."""

_ENGINE = "cudf_polars"
_lock = threading.RLock()
_originals: dict[type, Callable[..., Any]] = {}
_warned: set[str] = set()


def version_numbers(version: str) -> tuple[int, ...]:
    """Leading numbers of a version: ``"26.10.02"`` and ``"26.10.2"`` are both (26, 10, 2)."""
    numbers = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in numbers[0].split(".")) if numbers else ()


def refusal(version: str) -> str | None:
    """Why the hook is not used with a release of cudf-polars, and what to install; None if it is."""
    low, high = TESTED
    if low <= version_numbers(version)[:2] < high:
        return None
    wanted = f"cudf-polars >={'.'.join(map(str, low))},<{'.'.join(map(str, high))}"
    older = version_numbers(version)[:2] < low
    what = "cudf-polars" if older else "gpuzarr"
    return f"cudf-polars {version} was not tested, {wanted} was: upgrade {what}, or install that release"


def install() -> None:
    """Make the GPU engine push into our scans: now if cudf_polars is loaded, else when it is imported.

    Cheap, and safe to call from any thread any number of times.
    """
    if _originals:
        return
    with _lock:
        if _originals:
            return
        engine = sys.modules.get(_ENGINE)
        if engine is None:
            if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
                sys.meta_path.insert(0, _Finder())
        elif not _is_loading(engine):
            _register(engine)


def installed() -> bool:
    """Whether the translators are registered."""
    return bool(_originals)


def uninstall() -> None:
    """Take the hook back: the engine treats our scans like any other source again."""
    with _lock:
        sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Finder)]
        if _originals:
            translate = sys.modules[f"{_ENGINE}.dsl.translate"]
            for node_type, original in _originals.items():
                translate._translate_ir.register(node_type, original)  # noqa: SLF001
            _originals.clear()
        _warned.clear()


def _is_loading(module: ModuleType) -> bool:
    """Whether another thread, or an import below us on the stack, is still executing the module."""
    return bool(getattr(getattr(module, "__spec__", None), "_initializing", False))


def _register(engine: ModuleType) -> None:
    """Register our translators with the loaded engine, or warn once that and why they are not."""
    with _lock:
        if _originals or _warned:
            return
        version = str(getattr(engine, "__version__", "of unknown version"))
        problem = refusal(version)
        if problem is None:
            try:
                _originals.update(_translators())
            except Exception as error:  # internals that moved: the query must run all the same
                problem = f"cudf-polars {version} differs from the tested ones ({type(error).__name__}: {error}): upgrade gpuzarr"
        if problem is not None:
            _warned.add(version)
            warnings.warn(
                "Queries on the GPU engine read whole Zarr arrays, because filters and row limits cannot be handed to the "
                f"scan. Results are right. {problem}.",
                GpuzarrWarning,
                stacklevel=level_of_caller(),
            )


def _translators() -> dict[type, Callable[..., Any]]:
    """Register ours; the translators that were there, by type of plan node."""
    from cudf_polars.dsl import translate
    from cudf_polars.streaming.rank_aware_source import RankAwareSource

    from gpuzarr.source import gpu_translate
    from gpuzarr.source.gpu_source import Bound

    registry, nodes = translate._translate_ir, translate.plrs._ir_nodes  # noqa: SLF001  # rapidsai/cudf#22917 asks for a public way
    ours = {nodes.PythonScan: gpu_translate.scan, nodes.SimpleProjection: gpu_translate.projection}
    originals = {node_type: registry.dispatch(node_type) for node_type in ours}
    for original in originals.values():
        if original is registry.dispatch(object):
            raise LookupError("a plan node without a translator")
    RankAwareSource.register(Bound)

    def with_original(function: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
        return lambda node, translator, schema: function(node, translator, schema, original)

    for node_type, function in ours.items():
        registry.register(node_type, with_original(function, originals[node_type]))
    return originals


class _Finder:
    """Waits for the import of cudf_polars; any other import costs one comparison."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        """The spec that the finders after this one give, with a loader that registers the hook at the end."""
        if name != _ENGINE:
            return None
        for finder in list(sys.meta_path):
            find = getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = None if find is None or isinstance(finder, _Finder) else find(name, path, target)
            if spec is not None:
                if spec.loader is not None and hasattr(spec.loader, "exec_module"):
                    spec.loader = _Loader(spec.loader)  # type: ignore[assignment]  # a loader by behaviour
                return spec
        return None


class _Loader:
    """Loads with the loader it stands for, and gives the place back to it."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As the loader makes it."""
        module: ModuleType | None = self.loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Execute the module, then register."""
        module.__loader__ = self.loader
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        self.loader.exec_module(module)
        with _lock:
            sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Finder)]
        _register(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)
