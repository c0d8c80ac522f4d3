"""What a query will read on the Polars GPU engine: its translated plan, looked at without running it or asking for a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl

from gpuzarr.errors import EnvironmentLacksError
from gpuzarr.source import gpu_hook
from gpuzarr.source.tracing import TracedScan

__all__ = ["GpuScan", "gpu_scans"]


@dataclass(frozen=True)
class GpuScan:
    """A scan of a query on the GPU engine, as planned for a single rank.

    Attributes
    ----------
    frames, stores
        Chunks that the engine is told to expect, of so many stores together.
    left
        Parts of the filter that the engine evaluates, by name.
    on_device
        Whether the scan runs on the GPU; else its frames are copied there.
    """

    scan: TracedScan
    frames: int
    left: tuple[str, ...]
    on_device: bool
    stores: int = 1

    @property
    def device(self) -> tuple[str, str]:
        """Where the scan runs, and why."""
        asked = f"device={self.scan.dataset.options.device!r} under the GPU engine"
        return (
            ("cuda", f"{asked}; not yet run on a GPU")
            if self.on_device
            else ("cpu", f"{asked}, which copies the frames")
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What a bill says besides."""
        together = "" if self.stores == 1 else f" of {self.stores:,} stores together"
        out = [f"GPU engine: {self.frames:,} frame{'' if self.frames == 1 else 's'}{together}"]
        if self.left:
            out.append(
                f"filter left to the engine: {', '.join(self.left)} has no counterpart in the scan, and prunes nothing"
            )
        return tuple(out)


def gpu_scans(lf: pl.LazyFrame, engine: pl.GPUEngine | None = None) -> tuple[list[GpuScan], str | None]:
    """Scans of Zarr tables in a query's plan on the GPU engine, and why the engine cannot run the query, if so.

    Without an engine the plan is that of the in-memory executor: what is pushed into scans is the same for all.

    Raises
    ------
    EnvironmentLacksError
        The libraries of the GPU engine are missing, or the hook cannot be installed.
    """
    try:
        import cudf_polars  # noqa: F401
    except Exception as error:  # missing, broken, or too old for this Polars
        raise EnvironmentLacksError(
            f"There is no plan of the GPU engine here: {type(error).__name__}: {error}. "
            "It needs the extra 'cuda13' with polars <1.45; gpuzarr.probe() lists everything."
        ) from error
    from cudf_polars.dsl.translate import Translator
    from cudf_polars.dsl.traversal import traversal

    from gpuzarr.source.gpu_source import reads_on_device
    from gpuzarr.source.gpu_translate import bound_source

    gpu_hook.install()
    if not gpu_hook.installed():
        raise EnvironmentLacksError(
            "The GPU engine hands filters and row limits to no scan here, so it reads whole arrays; "
            "gpuzarr.scan_zarr has warned why."
        )
    translator: Any = Translator(lf._ldf.visit(), engine or pl.GPUEngine(executor="in-memory"))  # noqa: SLF001
    root = translator.translate_ir()
    if translator.errors:
        return [], "; ".join(sorted({str(error) for error in translator.errors}))
    out = []
    for node in traversal([root]):
        source = bound_source(node)
        if source is not None:
            on_device = reads_on_device(source.device)
            frames, planned = source.planned(node.options[1], on_device=on_device)
            out += [GpuScan(scan, frames, source.left, on_device, len(planned)) for scan in planned]
    return out, None
