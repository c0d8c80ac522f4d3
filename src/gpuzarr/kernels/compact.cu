// From a byte mask to the numbers of the kept rows in order, and the values of those rows.
#include "common.cuh"

constexpr int PER_THREAD = TILE_ROWS / THREADS;  // 16 mask bytes

// A bit per mask byte that is not 0, of this thread's part of a tile.
__device__ inline uint32_t kept_bits(const MaskArgs& args, int64_t row) {
  uint32_t bits = 0;
  if (row + PER_THREAD <= args.rows) {
    uint8_t mask[PER_THREAD];
    read_bytes<PER_THREAD, 1>(at<const uint8_t>(args.mask) + row, mask);
#pragma unroll
    for (int k = 0; k < PER_THREAD; ++k) bits |= (uint32_t)(mask[k] != 0) << k;
  } else {
    for (int k = 0; k < PER_THREAD && row + k < args.rows; ++k)
      bits |= (uint32_t)(at<const uint8_t>(args.mask)[row + k] != 0) << k;
  }
  return bits;
}

__global__ void __launch_bounds__(THREADS) mask_counts(const MaskArgs args) {
  __shared__ uint32_t partial[32];
  EACH_BLOCK(t, (uint64_t)(args.rows + TILE_ROWS - 1) / TILE_ROWS) {
    uint32_t total;
    const int64_t row = (int64_t)t * TILE_ROWS + (int64_t)threadIdx.x * PER_THREAD;
    block_exclusive_sum(__popc(kept_bits(args, row)), partial, total);
    if (threadIdx.x == 0) at<uint32_t>(args.counts)[t] = total;
    __syncthreads();
  }
}

// One block: sums of SCAN_THREADS counts at a time, carried on.
__global__ void __launch_bounds__(SCAN_THREADS) scan_counts(const ScanArgs args) {
  __shared__ uint32_t partial[32];
  uint64_t carry = 0;
  for (int64_t first = 0; first < args.tiles; first += blockDim.x) {
    const int64_t t = first + threadIdx.x;
    const uint32_t count = t < args.tiles ? at<const uint32_t>(args.counts)[t] : 0u;
    uint32_t total;
    const uint32_t before = block_exclusive_sum(count, partial, total);
    if (t < args.tiles) at<uint32_t>(args.offsets)[t] = (uint32_t)carry + before;
    carry += total;
    __syncthreads();
  }
  if (threadIdx.x == 0) *at<uint64_t>(args.total) = carry;
}

__global__ void __launch_bounds__(THREADS) survivors(const MaskArgs args) {
  __shared__ uint32_t partial[32];
  EACH_BLOCK(t, (uint64_t)(args.rows + TILE_ROWS - 1) / TILE_ROWS) {
    uint32_t total;
    const int64_t row = (int64_t)t * TILE_ROWS + (int64_t)threadIdx.x * PER_THREAD;
    uint32_t bits = kept_bits(args, row);
    int32_t* out = at<int32_t>(args.out) + at<const uint32_t>(args.offsets)[t];
    uint32_t place = block_exclusive_sum(__popc(bits), partial, total);
    for (; bits; bits &= bits - 1) out[place++] = (int32_t)row + __ffs((int)bits) - 1;
    __syncthreads();
  }
}

template <int N> __global__ void __launch_bounds__(THREADS) take(const TakeArgs args) {
  using Word = typename WordOf<N>::type;
  const int32_t* rows = at<const int32_t>(args.rows);
  EACH_BLOCK(t, (uint64_t)(args.count + TILE_ROWS - 1) / TILE_ROWS) {
    uint32_t missing = 0;
    for (int turn = 0; turn < TILE_ROWS / THREADS; ++turn) {
      const int64_t i = (int64_t)t * TILE_ROWS + turn * THREADS + threadIdx.x;
      const bool inside = i < args.count;
      bool valid = false;
      if (inside) {
        const int32_t row = rows[i];
        at<Word>(args.out_values)[i] = at<const Word>(args.values)[row];
        valid = !args.valid || (at<const uint32_t>(args.valid)[row / 32] >> (row % 32) & 1);
      }
      if (args.valid) {
        const uint32_t word = __ballot_sync(FULL_WARP, valid);
        if (inside && threadIdx.x % 32 == 0) at<uint32_t>(args.out_valid)[i / 32] = word;
        missing += inside && !valid;
      }
    }
    if (args.valid && args.null_count) {
      const uint32_t all = warp_sum(missing);
      if (threadIdx.x % 32 == 0 && all) atomicAdd(at<unsigned long long>(args.null_count), (unsigned long long)all);
    }
  }
}
