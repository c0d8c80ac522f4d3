// N-dimensional gather of a column from the memory of its chunks, decoded on the way.
//
// A thread does V consecutive rows: their positions along every dimension are found once, and where the V cells lie side by
// side (or are one cell that repeats) they are read at once. Neighbouring threads write neighbouring 16 bytes.
#include "common.cuh"
#include "decode.cuh"

[[maybe_unused]] constexpr uint32_t FLAG_SWAP = 1, FLAG_ASCENDING = 2;
[[maybe_unused]] constexpr uint32_t STATUS_OUT_OF_RANGE = 1;

template <class I> struct EntryOf;
template <> struct EntryOf<int32_t> { using type = Entry32; };
template <> struct EntryOf<int64_t> { using type = Entry64; };

__device__ inline uint32_t high_product(uint32_t a, uint32_t b) { return (uint32_t)((uint64_t)a * b >> 32); }

// n / dim.extent; the 32-bit variant for n below 2^31.
__device__ inline int32_t quotient(int32_t n, const GatherDim& dim) {
  return dim.magic ? (int32_t)(high_product((uint32_t)n, dim.magic) >> dim.shift) : n;
}
__device__ inline int64_t quotient(int64_t n, const GatherDim& dim) { return n / (int64_t)dim.extent; }

template <class I> struct Cell { I chunk, offset; };

// Chunk and offset of a row of a piece. `last` becomes its position along the last dimension.
template <class I> __device__ inline Cell<I> locate(const GatherArgs& args, const GatherPiece& piece, I row, I& last) {
  using Entry = typename EntryOf<I>::type;
  const Entry* entries = at<const Entry>(args.entries);
  Cell<I> cell{0, 0};
  last = 0;
  for (int d = args.dims - 1; d >= 0; --d) {
    const GatherDim dim = piece.dims[d];
    I position = row;
    if (d) {
      const I outer = quotient(row, dim);
      position = row - outer * (I)dim.extent;
      row = outer;
    }
    if (d == args.dims - 1) last = position;
    if (dim.entries >= 0) {
      const Entry entry = entries[dim.entries + position];
      cell.chunk += entry.chunk;
      cell.offset += entry.offset;
    }
  }
  return cell;
}

template <class S> __device__ inline S swapped(S value) {
  uint8_t in[sizeof(S)], out[sizeof(S)];
  memcpy(in, &value, sizeof value);
#pragma unroll
  for (int k = 0; k < (int)sizeof(S); ++k) out[k] = in[sizeof(S) - 1 - k];
  memcpy(&value, out, sizeof value);
  return value;
}

// V elements from `offset` on. Byte-shuffled: the bytes of an element are a plane apart; a run may cross into the next block.
template <class S, int V, class I>
__device__ inline void read_elements(const ChunkSource& chunk, I offset, S (&out)[V]) {
  constexpr int SIZE = sizeof(S);
  const uint8_t* base = at<const uint8_t>(chunk.address);
  uint8_t bytes[V * SIZE];
  if (!chunk.block) {
    read_bytes<V * SIZE, SIZE>(base + (int64_t)offset * SIZE, bytes);
  } else {
    const uint32_t first = (uint32_t)offset / chunk.block;
    uint32_t start = first * chunk.block, n = chunk.total - start < chunk.block ? chunk.total - start : chunk.block;
    uint32_t inside = (uint32_t)offset - start;
    if (inside + V <= n) {
      const uint8_t* plane = base + (uint64_t)start * SIZE + inside;
#pragma unroll
      for (int j = 0; j < SIZE; ++j) {
        uint8_t run[V];
        read_bytes<V, 1>(plane + (uint64_t)j * n, run);
#pragma unroll
        for (int k = 0; k < V; ++k) bytes[k * SIZE + j] = run[k];
      }
    } else {
#pragma unroll
      for (int k = 0; k < V; ++k) {
        if (inside == n) {
          start += n;
          n = chunk.total - start < chunk.block ? chunk.total - start : chunk.block;
          inside = 0;
        }
#pragma unroll
        for (int j = 0; j < SIZE; ++j) bytes[k * SIZE + j] = base[(uint64_t)start * SIZE + (uint64_t)j * n + inside];
        ++inside;
      }
    }
  }
  memcpy(out, bytes, sizeof bytes);
}

// V decoded values of neighbouring elements of one chunk, and a bit per value that is not missing.
template <class S, class C, class O, int V, class I>
__device__ inline uint32_t decoded(const GatherArgs& args, Cell<I> cell, O (&out)[V], bool& bad) {
  constexpr uint32_t ALL = (1u << V) - 1;
  const ChunkSource chunk = at<const ChunkSource>(args.chunks)[cell.chunk];
  if (!chunk.address) {
    const O fill = field<O>(args.fill_value);
#pragma unroll
    for (int k = 0; k < V; ++k) out[k] = fill;
    return args.fill_valid ? ALL : 0u;
  }
  S stored[V];
  read_elements<S, V>(chunk, cell.offset, stored);
  if (sizeof(S) > 1 && args.flags & FLAG_SWAP) {
#pragma unroll
    for (int k = 0; k < V; ++k) stored[k] = swapped(stored[k]);
  }
  uint32_t valid = ALL;
  if (chunk.mask) {
    const uint8_t* mask = at<const uint8_t>(chunk.mask) + (int64_t)cell.offset;
#pragma unroll
    for (int k = 0; k < V; ++k)
      if (!mask[k]) valid &= ~(1u << k);
  }
  bad = decode_values<S, C, O, V>(stored, out, valid, args.decode) || bad;
  return valid;
}

template <class O, int V> __device__ inline void write_run(const O (&out)[V], O* to) {
  uint8_t bytes[sizeof out];
  memcpy(bytes, out, sizeof out);
  write_bytes<sizeof out, sizeof(O)>(bytes, reinterpret_cast<uint8_t*>(to));
}

enum Run { APART, ADJACENT, REPEATED };

// Whether V rows from position `last` of the last dimension on are cells side by side, or one and the same.
template <int V, class I> __device__ inline Run run_of(const GatherArgs& args, const GatherPiece& piece, I last) {
  if (args.dims == 0) return REPEATED;
  const GatherDim dim = piece.dims[args.dims - 1];
  if (last + (I)V > (I)dim.extent) return APART;
  if (dim.entries < 0) return REPEATED;
  if (!(args.flags & FLAG_ASCENDING)) return APART;
  using Entry = typename EntryOf<I>::type;
  const Entry* along = at<const Entry>(args.entries) + dim.entries + last;
  const Entry first = along[0], final = along[V - 1];
  return first.chunk == final.chunk && final.offset - first.offset == (I)(V - 1) ? ADJACENT : APART;
}

// Words of the bitmap out of V bits per lane. `done` has a bit for each of this lane's rows that this launch does: words
// that another launch shares are or-ed, which is why the bitmap begins as zeros.
template <int V> __device__ inline void write_valid(uint64_t bitmap, int64_t row, uint32_t valid, uint32_t done) {
  constexpr int LANES = 32 / V;  // lanes per word
  const uint32_t lane = threadIdx.x % LANES;
  uint32_t word = valid << (V * lane), whole = done << (V * lane);
#pragma unroll
  for (int step = 1; step < LANES; step <<= 1) {
    word |= __shfl_xor_sync(FULL_WARP, word, step);
    whole |= __shfl_xor_sync(FULL_WARP, whole, step);
  }
  if (lane == 0 && whole) {
    uint32_t* to = at<uint32_t>(bitmap) + row / 32;
    if (whole == 0xffffffffu) *to = word;
    else if (word) atomicOr(to, word);
  }
}

__device__ inline void count_missing(uint64_t counter, uint32_t missing) {
  const uint32_t all = warp_sum(missing);
  if (threadIdx.x % 32 == 0 && all) atomicAdd(at<unsigned long long>(counter), (unsigned long long)all);
}

template <class S, class C, class O, class I>
__global__ void __launch_bounds__(THREADS) gather(const GatherArgs args) {
  constexpr int WIDEST = sizeof(S) > sizeof(O) ? sizeof(S) : sizeof(O), V = 16 / WIDEST;
  constexpr uint32_t ALL = (1u << V) - 1;
  const GatherPiece* pieces = at<const GatherPiece>(args.pieces);
  O* values = at<O>(args.values);
  const int64_t first_tile = args.row_begin / TILE_ROWS, tiles = (args.row_end + TILE_ROWS - 1) / TILE_ROWS - first_tile;
  bool bad = false;
  EACH_BLOCK(t, (uint64_t)tiles) {
    const int64_t tile_row = (first_tile + (int64_t)t) * TILE_ROWS;
    const int32_t tile_piece = at<const int32_t>(args.tile_piece)[t];
    uint32_t missing = 0;
    for (int turn = 0; turn < TILE_ROWS / (THREADS * V); ++turn) {
      const int64_t row = tile_row + (int64_t)(turn * THREADS + (int)threadIdx.x) * V;
      uint32_t valid = 0, done = 0;
      if (row < args.row_end && row + V > args.row_begin) {
        const int64_t low = row < args.row_begin ? args.row_begin : row;
        const int64_t high = row + V < args.row_end ? row + V : args.row_end;
        int32_t p = tile_piece;
        while (p + 1 < args.piece_count && low >= pieces[p + 1].first_row) ++p;
        const GatherPiece& piece = pieces[p];
        const bool whole = low == row && high == row + V && row + V <= piece.first_row + piece.rows;
        Cell<I> cell{0, 0};
        I last = 0;
        Run run = APART;
        if (whole) {
          cell = locate(args, piece, (I)(row - piece.first_row), last);
          run = run_of<V>(args, piece, last);
        }
        if (run == ADJACENT) {
          O out[V];
          valid = decoded<S, C, O, V>(args, cell, out, bad);
          done = ALL;
          write_run(out, values + row);
        } else {
          // one by one; a cell that repeats is decoded once. Stored at once: a register array has no run-time index.
#pragma unroll 1
          for (int64_t r = low; r < high; ++r) {
            if (run == APART) {
              while (p + 1 < args.piece_count && r >= pieces[p + 1].first_row) ++p;
              cell = locate(args, pieces[p], (I)(r - pieces[p].first_row), last);
            }
            O one[1];
            const uint32_t is_valid = decoded<S, C, O, 1>(args, cell, one, bad);
            if (run == REPEATED) {
              O out[V];
#pragma unroll
              for (int k = 0; k < V; ++k) out[k] = one[0];
              write_run(out, values + row);
              valid = is_valid ? ALL : 0u;
              done = ALL;
              break;
            }
            values[r] = one[0];
            valid |= is_valid << (int)(r - row);
            done |= 1u << (int)(r - row);
          }
        }
      }
      missing += __popc(done & ~valid);
      if (args.valid) write_valid<V>(args.valid, row, valid, done);
    }
    if (args.null_count) count_missing(args.null_count, missing);
  }
  if (bad && args.status) atomicOr(at<uint32_t>(args.status), STATUS_OUT_OF_RANGE);
}

// The piece of a row, by bisection.
__device__ inline int32_t piece_of(const GatherPiece* pieces, int32_t count, int64_t row) {
  int32_t low = 0, high = count - 1;
  while (low < high) {
    const int32_t middle = (low + high + 1) / 2;
    if (pieces[middle].first_row <= row) low = middle;
    else high = middle - 1;
  }
  return low;
}

template <class S, class C, class O, class I>
__global__ void __launch_bounds__(THREADS) gather_rows(const GatherArgs args) {
  const GatherPiece* pieces = at<const GatherPiece>(args.pieces);
  const int32_t* rows = at<const int32_t>(args.rows);
  O* values = at<O>(args.values);
  const int64_t first_tile = args.row_begin / TILE_ROWS, tiles = (args.row_end + TILE_ROWS - 1) / TILE_ROWS - first_tile;
  bool bad = false;
  EACH_BLOCK(t, (uint64_t)tiles) {
    uint32_t missing = 0;
    for (int turn = 0; turn < TILE_ROWS / THREADS; ++turn) {
      const int64_t i = (first_tile + (int64_t)t) * TILE_ROWS + turn * THREADS + (int)threadIdx.x;
      uint32_t valid = 0, done = 0;
      if (i >= args.row_begin && i < args.row_end) {
        const int64_t row = rows[i];
        const GatherPiece& piece = pieces[piece_of(pieces, args.piece_count, row)];
        I last;
        const Cell<I> cell = locate(args, piece, (I)(row - piece.first_row), last);
        O out[1];
        valid = decoded<S, C, O, 1>(args, cell, out, bad);
        values[i] = out[0];
        done = 1;
      }
      missing += done & ~valid;
      if (args.valid) write_valid<1>(args.valid, i, valid, done);
    }
    if (args.null_count) count_missing(args.null_count, missing);
  }
  if (bad && args.status) atomicOr(at<uint32_t>(args.status), STATUS_OUT_OF_RANGE);
}
