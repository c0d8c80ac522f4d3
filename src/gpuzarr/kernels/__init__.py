"""The CUDA kernels: CUDA C++ in ``*.cu``, a loader for the device, and a numpy twin of each.

Every kernel takes **one structure by value** (`gpuzarr.kernels.descriptors`) and nothing else; what a structure points to
are device addresses. A `Launch` names kernel, template arguments, blocks, threads and the structure. The same `Launch`
runs in three places, on the memory that its addresses belong to:

* on the device: ``loader.run(launch, stream)``;
* on the host with numpy: ``twins.run(launch)``;
* on the host as compiled C++, in tests (``tests/kernel_host``): ``HostKernels.run(launch)``.

Host code fills tables (numpy arrays of `descriptors.dtype_of`) that a `tables.TableBuffer` packs into one buffer, so that
a wave copies all its tables to the device at once; then the addresses are known and the launches can be made.

=====================  ==================  =====================================================================
kernel<template>       structure           what it does (function of `gpuzarr.kernels.launch` that makes it)
=====================  ==================  =====================================================================
copy                   CopyArgs            copies spans (``copy``; table: `tables.copy_items`)
byte_unshuffle<N>      FilterArgs          Blosc's byte shuffle undone, from one arena to another (``filters``;
                                           tables: `tables.filter_items`); N: 2, 4, 8, 16 or 0 for any
bit_unshuffle<N>       FilterArgs          Blosc's bit shuffle undone, likewise; N: 1, 2, 4, 8 or 0
byte_swap<N>           FilterArgs          bytes of every element reversed, in place too; N: 2, 4, 8 or 0
gather<S, C, O, I>     GatherArgs          all rows of a column: cells of chunks, selected, decoded by CF, to values,
                                           validity bitmap and null count (``gather``; tables: `gather_tables`)
gather_rows<…>         GatherArgs          the same for a list of rows (survivors)
predicate              PredicateArgs       a postfix program per row, to a byte mask (``predicate``; program:
                                           `compiler.compile_predicate`)
mask_counts            MaskArgs            survivors per tile of 4096 rows          ┐
scan_counts            ScanArgs            exclusive sums of them, and the total    │ ``survivors``: three launches
survivors              MaskArgs            row numbers of survivors, ascending      ┘
take<N>                TakeArgs            values and validity of some rows of a column in memory (``take``)
checksum_items<KIND>   ChecksumItemsArgs   crc32c, crc32, adler32, fletcher32 of pieces ┐ ``checksums``: two launches
checksum_spans<KIND>   ChecksumSpansArgs   joined and compared; xxh64 in one go         ┘ (one for xxh64)
check_status           StatusArgs          statuses all 0 and actual == expected, to one `Summary` (``check_status``)
=====================  ==================  =====================================================================

Gather
------
``S`` is the type of the stored numbers, ``C`` the one in which scale and offset are applied, ``O`` that of the column in
memory (``uint8`` 0 or 1 for Boolean, int64 ticks for Datetime and Duration), ``I`` ``int32`` or ``int64``: how offsets
inside of a chunk are counted. `cf_program.column_program(decoding)` gives the types and the `Decode` steps, or None where
the column has to be decoded on the host (text, complex numbers, calendars other than Gregorian, float16 arithmetic, more than
eight missing values); then decode there and gather the result with ``column_program_plain(dtype)``.

A frame is a list of pieces (boxes of rows in C order). `gather_tables.gather_tables` turns the pieces of a launch and the
selections of the column's own dimensions into the tables. Chunks are numbered piece after piece, in C order over
the *array's* dimensions (the order of `plan.chunks.piece_chunks`); fill the `ChunkSource` table in that order with the address
of each chunk's element 0 wherever it lies: decoded arena, stored arena (uncompressed chunks, any alignment), or 0 for a chunk
that is not stored. Transposed chunks: give their element strides. Byte-swapped: ``swap=True`` (leave the plan's
BYTE_SWAP filter out). Byte-shuffled with blocks in order: set ``ChunkSource.block``, leave the unshuffle out.

Coordinates are gathered by the same kernel: one "chunk" that holds the whole coordinate (or its selected values), entries
only for its own dimensions; a mask of one byte per element gives its nulls. Index columns: upload the selected indices as an
int64 coordinate. Outcome codes of coordinate-only predicate parts: a uint8 coordinate.

A wave may gather only some pieces of a frame (``row_begin``, ``row_end``): words of the validity bitmap that two launches
share are or-ed atomically, so **zero the bitmap before the first wave**. ``null_count`` and ``status`` are added to.
A status other than 0 means that a value needs the host's decoder (which then raises, or gets it right).

Bitmaps are LSB first, padded to 64 bytes (`launch.bitmap_nbytes`). Values are 16-byte aligned. Frames have fewer than 2^31 rows.

Predicate
---------
``compile_predicate(expression, schema, codes=names) -> Program | None``: ``codes`` are the columns that hold outcome codes (uint8:
1 true, 2 false, 4 null). ``Program.columns`` are the names in the order of `PredicateArgs.columns`. None: evaluate on the host with
Polars and upload a byte mask. A program is compared with Polars on a sample of awkward values when it is compiled.

Survivors: ``mask_counts`` → ``scan_counts`` → (read the total back) → ``survivors`` into an int32 array of that size.

Not yet run on a GPU: everything here has been compiled for every architecture and run on the host only.
"""

from __future__ import annotations
