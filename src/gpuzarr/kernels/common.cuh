// What all kernels share: types, the structures of descriptors.py, unaligned access, warp sums.
#ifdef __CUDACC_RTC__  // NVRTC has no <cstdint>
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;
#endif

constexpr int THREADS = 256, SCAN_THREADS = 1024, TILE_ROWS = 4096;
constexpr int MAX_DIMS = 8, MAX_FILLS = 8, MAX_COLUMNS = 16, MAX_INSTRUCTIONS = 64;
constexpr uint32_t FULL_WARP = 0xffffffffu;

struct CopyItem { uint64_t src, dst, nbytes; };
struct CopyArgs { uint64_t items, count; };
struct FilterItem { uint64_t src, dst, elements, first; uint32_t count, tail; };
struct FilterArgs { uint64_t items, count; uint32_t itemsize, pad; };
struct GatherDim { uint32_t extent, magic, shift; int32_t entries; };
struct GatherPiece { int64_t first_row, rows; GatherDim dims[MAX_DIMS]; };
struct Entry32 { int32_t chunk, offset; };
struct Entry64 { int64_t chunk, offset; };
struct ChunkSource { uint64_t address, mask; uint32_t block, total; };
struct TimeDecode {
  int32_t kind, post;
  int64_t factor, offset;
  uint64_t low, high;
  int64_t step, rest, early;
  double a, b;
};
struct Decode {
  uint32_t flags, fill_count;
  uint64_t fills[MAX_FILLS], scale, offset;
  TimeDecode time;
};
struct GatherArgs {
  uint64_t pieces, entries, chunks, tile_piece, rows, values, valid, null_count, status;
  int64_t row_begin, row_end;
  uint64_t fill_value;
  uint32_t fill_valid;
  int32_t piece_count, dims;
  uint32_t flags;
  Decode decode;
};
struct PredicateColumn { uint64_t values, valid; };
struct Instruction { uint8_t op, type, column, pad; uint32_t extra; uint64_t constant; };
struct PredicateArgs {
  uint64_t mask;
  int64_t row_begin, row_end;
  int32_t instruction_count, column_count;
  PredicateColumn columns[MAX_COLUMNS];
  Instruction program[MAX_INSTRUCTIONS];
};
struct MaskArgs { uint64_t mask; int64_t rows; uint64_t counts, offsets, out; };
struct ScanArgs { uint64_t counts, offsets, total; int64_t tiles; };
struct TakeArgs { uint64_t rows; int64_t count; uint64_t values, valid, out_values, out_valid, null_count; };
struct ChecksumItem { uint64_t src, nbytes; };
struct ChecksumItemsArgs { uint64_t items, count, partials; };
struct ChecksumSpan { uint64_t src, nbytes, first_item; uint32_t items, expected; };
struct ChecksumSpansArgs { uint64_t spans, count, items, partials, found, failures, summary; };
struct Summary { uint32_t failed, first_inverted; };
struct StatusArgs { uint64_t statuses, actual, expected, count, failures, summary; };

template <class T> __device__ inline T* at(uint64_t address) { return reinterpret_cast<T*>(address); }

// Grid-stride index over blocks: works for any number of blocks.
#define EACH_BLOCK(i, n) for (uint64_t i = blockIdx.x; i < (n); i += gridDim.x)
#define EACH_THREAD(i, n) \
  for (uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; i < (n); i += (uint64_t)gridDim.x * blockDim.x)

template <int BYTES> struct WordOf;
template <> struct WordOf<1> { using type = uint8_t; };
template <> struct WordOf<2> { using type = uint16_t; };
template <> struct WordOf<4> { using type = uint32_t; };
template <> struct WordOf<8> { using type = uint64_t; };

struct alignas(16) Quad { uint32_t w[4]; };
template <> struct WordOf<16> { using type = Quad; };

template <class To, class From> __device__ inline To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From), "same size");
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

// Reads BYTES bytes: at once where the address is a multiple of BYTES, else by words of at least STEP bytes where that is
// possible, else byte by byte. STEP is the size of the elements that the bytes are.
template <int BYTES, int STEP> __device__ inline void read_bytes(const uint8_t* from, uint8_t* to) {
  const uint64_t address = reinterpret_cast<uint64_t>(from);
  if (address % BYTES == 0) {
    using Word = typename WordOf<BYTES>::type;
    const Word word = *reinterpret_cast<const Word*>(from);
    memcpy(to, &word, BYTES);
  } else if (address % STEP == 0) {
    using Word = typename WordOf<STEP>::type;
#pragma unroll
    for (int k = 0; k < BYTES / STEP; ++k) {
      const Word word = reinterpret_cast<const Word*>(from)[k];
      memcpy(to + k * STEP, &word, STEP);
    }
  } else {
#pragma unroll
    for (int k = 0; k < BYTES; ++k) to[k] = from[k];
  }
}

// The same for writing.
template <int BYTES, int STEP> __device__ inline void write_bytes(const uint8_t* from, uint8_t* to) {
  const uint64_t address = reinterpret_cast<uint64_t>(to);
  if (address % BYTES == 0) {
    using Word = typename WordOf<BYTES>::type;
    Word word;
    memcpy(&word, from, BYTES);
    *reinterpret_cast<Word*>(to) = word;
  } else if (address % STEP == 0) {
    using Word = typename WordOf<STEP>::type;
#pragma unroll
    for (int k = 0; k < BYTES / STEP; ++k) {
      Word word;
      memcpy(&word, from + k * STEP, STEP);
      reinterpret_cast<Word*>(to)[k] = word;
    }
  } else {
#pragma unroll
    for (int k = 0; k < BYTES; ++k) to[k] = from[k];
  }
}

// Sum over a whole warp, in every lane.
__device__ inline uint32_t warp_sum(uint32_t value) {
#pragma unroll
  for (int step = 16; step; step >>= 1) value += __shfl_xor_sync(FULL_WARP, value, step);
  return value;
}

// Sum of the lanes up to this one.
__device__ inline uint32_t warp_inclusive_sum(uint32_t value) {
  const uint32_t lane = threadIdx.x % 32;
#pragma unroll
  for (uint32_t step = 1; step < 32; step <<= 1) {
    const uint32_t below = __shfl_up_sync(FULL_WARP, value, step);
    if (lane >= step) value += below;
  }
  return value;
}

// Sum of the threads of the block before this one; `total` becomes the sum of all. `partial` has 32 words of shared
// memory; every thread of the block must call it, and the caller puts a barrier between two calls.
__device__ inline uint32_t block_exclusive_sum(uint32_t value, uint32_t* partial, uint32_t& total) {
  const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  const uint32_t inclusive = warp_inclusive_sum(value);
  if (lane == 31) partial[warp] = inclusive;
  __syncthreads();
  if (warp == 0) {
    const uint32_t sum = warp_inclusive_sum(lane < warps ? partial[lane] : 0u);
    if (lane < warps) partial[lane] = sum;
  }
  __syncthreads();
  total = partial[warps - 1];
  return inclusive - value + (warp ? partial[warp - 1] : 0u);
}

__device__ inline void report_failure(uint64_t summary, uint64_t index) {
  Summary* s = at<Summary>(summary);
  atomicAdd(&s->failed, 1u);
  atomicMax(&s->first_inverted, 0xffffffffu - (uint32_t)index);
}
