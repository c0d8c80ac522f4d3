"""The runtime on an NVIDIA GPU: CuPy for streams, copies and kernels, RMM (or the driver's pool) for memory, nvCOMP for batches.

Thin on purpose, to be read line by line: all decisions are in the wave engine, which runs on host memory as well.
Not yet run on a GPU.
"""

from __future__ import annotations

import contextlib
import threading
from importlib.util import find_spec
from typing import Any

import numpy as np

from gpuzarr.codecs.batch import BatchDecoder
from gpuzarr.codecs.tables import ChecksumKind
from gpuzarr.device.cuda_files import KvikioReader
from gpuzarr.device.file_reads import PreadReader, RangeReader
from gpuzarr.device.runtime import Bytes, DeviceMemoryError, Stream
from gpuzarr.errors import EnvironmentLacksError, Kind
from gpuzarr.kernels import loader
from gpuzarr.kernels.launch import Launch

__all__ = ["CudaBuffer", "CudaRuntime", "CudaStream", "current_runtime"]

HOST_TO_DEVICE, DEVICE_TO_HOST = 1, 2


class CudaStream:
    """A non-blocking stream of the device."""

    def __init__(self) -> None:
        import cupy

        self.stream = cupy.cuda.Stream(non_blocking=True)

    @property
    def handle(self) -> int:
        """``cudaStream_t``."""
        return int(self.stream.ptr)

    def record(self) -> Any:
        """See `Stream.record`."""
        import cupy

        return self.stream.record(cupy.cuda.Event(disable_timing=True))

    def wait(self, event: Any) -> None:
        """See `Stream.wait`."""
        self.stream.wait_event(event)

    def synchronize(self) -> None:
        """See `Stream.synchronize`."""
        self.stream.synchronize()


class CudaBuffer:
    """Device memory that RMM or the driver's pool takes back in the order of the stream it came from."""

    def __init__(self, owner: Any, address: int, nbytes: int, stream: CudaStream | None) -> None:
        self.owner = owner
        self.address = address
        self.nbytes = nbytes
        self._stream = stream  # outlives the memory


class CudaPinned:
    """Page-locked memory of CuPy."""

    def __init__(self, nbytes: int) -> None:
        import cupy

        self._memory = cupy.cuda.alloc_pinned_memory(nbytes)
        self.data: Bytes = np.frombuffer(self._memory, np.uint8, nbytes)


class CudaRuntime:
    """`gpuzarr.device.runtime.Runtime` on one GPU.

    Parameters
    ----------
    device
        Its number; the current one by default.
    """

    def __init__(self, device: int | None = None) -> None:
        try:
            import cupy

            from gpuzarr.device.nvcomp import NvcompDecoder, load_nvcomp

            self._device = cupy.cuda.Device(device)
            self._device.use()
            properties = cupy.cuda.runtime.getDeviceProperties(self._device.id)
            self.decoder: BatchDecoder = NvcompDecoder(load_nvcomp())
        except EnvironmentLacksError:
            raise
        except Exception as error:
            raise EnvironmentLacksError(
                f"device='cuda' cannot run here: {type(error).__name__}: {error}. Use device='cpu'; "
                "gpuzarr.probe() lists what is missing.",
                kind=Kind.BACKEND_UNAVAILABLE,
            ) from error
        self.name = properties["name"].decode()
        self.verifies = frozenset(ChecksumKind)
        self._use_rmm = find_spec("rmm") is not None
        self.files = _range_reader()

    def activate(self) -> None:
        """See `Runtime.activate`."""
        self._device.use()

    def stream(self) -> CudaStream:
        """See `Runtime.stream`."""
        self.activate()
        return CudaStream()

    def allocate(self, nbytes: int, stream: Stream) -> CudaBuffer:
        """See `Runtime.allocate`."""
        import cupy

        assert isinstance(stream, CudaStream)
        try:
            if self._use_rmm:
                import rmm
                from rmm.pylibrmm.stream import Stream as RmmStream

                owner = rmm.DeviceBuffer(size=nbytes, stream=RmmStream(stream.stream))
                return CudaBuffer(owner, int(owner.ptr), nbytes, stream)
            with stream.stream:
                owner = cupy.cuda.malloc_async(nbytes)
            return CudaBuffer(owner, int(owner.ptr), nbytes, stream)
        except (MemoryError, cupy.cuda.memory.OutOfMemoryError) as error:
            raise DeviceMemoryError(nbytes, self.free_nbytes()) from error
        except cupy.cuda.runtime.CUDARuntimeError as error:
            if "cudaErrorMemoryAllocation" not in str(error):
                raise
            raise DeviceMemoryError(nbytes, self.free_nbytes()) from error

    def direct(self, nbytes: int) -> CudaBuffer:
        """See `Runtime.direct`: of ``cudaMalloc``, which cuFile can register; ``cudaFree`` waits for the device."""
        import cupy

        self.activate()
        try:
            owner = cupy.cuda.Memory(nbytes)
        except (MemoryError, cupy.cuda.memory.OutOfMemoryError) as error:
            raise DeviceMemoryError(nbytes, self.free_nbytes()) from error
        except cupy.cuda.runtime.CUDARuntimeError as error:
            if "cudaErrorMemoryAllocation" not in str(error):
                raise
            raise DeviceMemoryError(nbytes, self.free_nbytes()) from error
        return CudaBuffer(owner, int(owner.ptr), nbytes, None)

    def pinned(self, nbytes: int) -> CudaPinned:
        """See `Runtime.pinned`."""
        self.activate()
        return CudaPinned(nbytes)

    def upload(self, address: int, source: Bytes, stream: Stream) -> None:
        """See `Runtime.upload`."""
        self._copy(address, int(source.ctypes.data), source.nbytes, HOST_TO_DEVICE, stream)

    def download(self, target: Bytes, address: int, stream: Stream) -> None:
        """See `Runtime.download`."""
        self._copy(int(target.ctypes.data), address, target.nbytes, DEVICE_TO_HOST, stream)

    @staticmethod
    def _copy(target: int, source: int, nbytes: int, kind: int, stream: Stream) -> None:
        import cupy

        if nbytes:
            cupy.cuda.runtime.memcpyAsync(target, source, nbytes, kind, stream.handle)

    def zero(self, address: int, nbytes: int, stream: Stream) -> None:
        """See `Runtime.zero`."""
        import cupy

        if nbytes:
            cupy.cuda.runtime.memsetAsync(address, 0, nbytes, stream.handle)

    def launch(self, launch: Launch, stream: Stream) -> None:
        """See `Runtime.launch`."""
        assert isinstance(stream, CudaStream)
        loader.run(launch, stream.stream)

    def decompress(self, *arguments: int, stream: Stream) -> int:
        """See `Runtime.decompress`."""
        algorithm, *rest = arguments
        return self.decoder.decompress(algorithm, *rest, stream.handle)  # type: ignore[arg-type, call-arg]

    def free_nbytes(self) -> int:
        """See `Runtime.free_nbytes`. Memory that a pool keeps for reuse does not count as free."""
        import cupy

        free, _ = cupy.cuda.runtime.memGetInfo()
        return int(free)

    def stage(self, name: str) -> contextlib.AbstractContextManager[None]:
        """See `Runtime.stage`."""
        return _range(name)


@contextlib.contextmanager
def _range(name: str) -> Any:
    """An NVTX range of this thread."""
    from cupy.cuda import nvtx

    nvtx.RangePush(f"gpuzarr {name}")
    try:
        yield
    finally:
        nvtx.RangePop()


def _range_reader() -> RangeReader:
    """The one by kvikio where it is there."""
    try:
        return KvikioReader()
    except Exception:  # missing, or broken in whatever way: `gpuzarr.probe` says which
        return PreadReader()


_runtimes: dict[int, CudaRuntime] = {}
_lock = threading.Lock()


def current_runtime() -> CudaRuntime:
    """The runtime of the current device, made once: compiled kernels and page-locked memory are kept with it."""
    import cupy

    number = int(cupy.cuda.Device().id)
    with _lock:
        if number not in _runtimes:
            _runtimes[number] = CudaRuntime(number)
        return _runtimes[number]
