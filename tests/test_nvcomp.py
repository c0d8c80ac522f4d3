"""The binding of nvCOMP against the real library, as far as it answers without a driver; skipped where it is not installed."""

from __future__ import annotations

import ctypes
import importlib.util

import numpy as np
import pytest

from gpuzarr.codecs.batch import ALIGNMENTS, MAX_STREAM_NBYTES, Alignments, BatchDecoder, Status, temp_nbytes
from gpuzarr.codecs.tables import Algorithm, ChecksumKind
from gpuzarr.device import nvcomp
from gpuzarr.device.nvcomp import Backend, NvcompDecoder, load_nvcomp
from gpuzarr.errors import EnvironmentLacksError


@pytest.fixture(scope="module")
def decoder() -> NvcompDecoder:
    try:
        return NvcompDecoder(load_nvcomp())
    except EnvironmentLacksError as error:
        pytest.skip(str(error))


def test_is_a_batch_decoder(decoder):
    as_protocol: BatchDecoder = decoder
    assert as_protocol.algorithms == frozenset(ALIGNMENTS)
    assert as_protocol.name.startswith("nvCOMP ")
    assert decoder.version[0] in (5, 6)
    assert decoder.describe_status(Status.ALIGNMENT)


def test_structures_have_the_sizes_of_the_headers():
    for _, options in nvcomp._NAMES.values():
        assert ctypes.sizeof(options) == 64
    assert ctypes.sizeof(nvcomp.CrcOptions) == 128
    assert ctypes.sizeof(nvcomp.CrcSpec) == 32
    assert ctypes.sizeof(nvcomp.CrcKernel) == 32


@pytest.mark.parametrize("algorithm", sorted(ALIGNMENTS))
def test_alignments_and_scratch_are_those_of_the_host_twin(decoder, algorithm):
    assert decoder.required_alignments(algorithm) == ALIGNMENTS[algorithm]
    for streams, largest, total in (
        (1, 65536, 65536),
        (1000, 65536, 655_360),
        (1000, 65536, 65_536_000),
        (1, 1 << 24, 1 << 24),
        (64, 1 << 24, 64 << 24),
        (1000, 1 << 20, 1 << 20),
        (10_000, 1024, 10_240_000),
    ):
        code, nbytes = decoder.temp_size(algorithm, streams, largest, total)
        assert code == Status.SUCCESS
        assert nbytes == temp_nbytes(algorithm, streams, total)
    most = MAX_STREAM_NBYTES[algorithm]
    assert decoder.temp_size(algorithm, 1, most, most)[0] == Status.SUCCESS
    assert decoder.temp_size(algorithm, 1, most + 1, most + 1)[0] == Status.CHUNK_TOO_LARGE


@pytest.mark.parametrize("algorithm", sorted(ALIGNMENTS))
def test_what_it_refuses(decoder, algorithm):
    assert decoder.decompress(algorithm, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0) == Status.INVALID_VALUE
    table = np.zeros(16, np.uint64)
    odd = table.ctypes.data + 4
    code = decoder.decompress(
        algorithm,
        odd,
        table.ctypes.data,
        table.ctypes.data,
        table.ctypes.data,
        1,
        0,
        0,
        table.ctypes.data,
        table.ctypes.data,
        0,
    )
    assert code == Status.ALIGNMENT


def test_options_arrive_intact(decoder):
    """Zstd has no hardware decoder anywhere, so the library refuses that backend: it read the structure passed by value."""
    hardware = NvcompDecoder(decoder.library, Backend.HARDWARE)
    assert hardware.temp_size(Algorithm.ZSTD, 1, 1000, 1000)[0] != Status.SUCCESS
    assert hardware.required_alignments(Algorithm.ZSTD) == ALIGNMENTS[Algorithm.ZSTD]


def test_crc_call_exists(decoder):
    kernel = nvcomp.CrcKernel(0, 4, 1)
    assert set(nvcomp.CRC_SPECS) == {ChecksumKind.CRC32, ChecksumKind.CRC32C}
    assert decoder.crc(ChecksumKind.CRC32, 0, 0, 1, 0, 0, 0, kernel) != Status.SUCCESS  # no arrays
    assert decoder.crc_kernel(100, 1 << 16) is None or decoder.crc_kernel(100, 1 << 16).bytes_per_read > 0


def test_missing_library(monkeypatch):
    monkeypatch.setattr(nvcomp, "_candidates", lambda: iter(["/nowhere/libnvcomp.so.6"]))
    nvcomp.load_nvcomp.cache_clear()
    try:
        with pytest.raises(EnvironmentLacksError, match="nvidia-libnvcomp"):
            load_nvcomp()
    finally:
        nvcomp.load_nvcomp.cache_clear()


def test_a_library_of_another_version_is_refused(monkeypatch, decoder):
    monkeypatch.setattr(nvcomp, "_version", lambda _: (4, 2, 0))
    nvcomp.load_nvcomp.cache_clear()
    try:
        with pytest.raises(EnvironmentLacksError, match=r"nvCOMP 4\.2\.0"):
            load_nvcomp()
    finally:
        nvcomp.load_nvcomp.cache_clear()


def test_nothing_is_imported_to_find_it():
    import subprocess
    import sys

    # zarr itself imports CuPy where it is installed.
    code = (
        "import sys, zarr; before = set(sys.modules)\n"
        "import gpuzarr.device.nvcomp as n\n"
        "try: n.load_nvcomp()\n"
        "except n.EnvironmentLacksError: pass\n"
        "assert not {'nvidia.nvcomp', 'cupy', 'nvidia.libnvcomp'} & (set(sys.modules) - before)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert importlib.util.find_spec("gpuzarr.device.nvcomp") is not None


def test_alignments_never_fall_below_the_known(decoder, monkeypatch):
    monkeypatch.setattr(nvcomp, "ALIGNMENTS", dict.fromkeys(ALIGNMENTS, Alignments(64, 32, 128)))
    assert decoder.required_alignments(Algorithm.LZ4) == Alignments(64, 32, 128)
