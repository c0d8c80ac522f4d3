// Byte and bit shuffles undone, bytes of elements reversed; a block per item, a thread per run of elements.
#include "common.cuh"

__device__ inline void copy_tail(const FilterItem& item, uint32_t itemsize) {
  const uint64_t start = item.elements * itemsize;
  for (uint32_t k = threadIdx.x; k < item.tail; k += blockDim.x)
    at<uint8_t>(item.dst)[start + k] = at<const uint8_t>(item.src)[start + k];
}

// Byte j of element i was at j * elements + i.
template <int N> __global__ void __launch_bounds__(THREADS) byte_unshuffle(const FilterArgs args) {
  EACH_BLOCK(b, args.count) {
    const FilterItem item = at<const FilterItem>(args.items)[b];
    if constexpr (N == 0) {
      const uint32_t size = args.itemsize;
      const uint8_t* src = at<const uint8_t>(item.src) + item.first;
      uint8_t* dst = at<uint8_t>(item.dst) + item.first * size;
      // consecutive threads write consecutive bytes
      const uint64_t bytes = (uint64_t)item.count * size;
      for (uint64_t k = threadIdx.x; k < bytes; k += blockDim.x) {
        const uint32_t e = (uint32_t)(k / size), j = (uint32_t)(k - (uint64_t)e * size);
        dst[k] = src[j * item.elements + e];
      }
    } else {
      constexpr uint32_t RUN = N >= 8 ? 4 : 16 / N;  // elements per thread: 16 bytes or more to write
      const uint8_t* src = at<const uint8_t>(item.src) + item.first;
      uint8_t* dst = at<uint8_t>(item.dst) + item.first * N;
      const uint32_t runs = item.count / RUN;
      for (uint32_t r = threadIdx.x; r < runs; r += blockDim.x) {
        uint8_t planes[N][RUN], turned[RUN * N];
#pragma unroll
        for (int j = 0; j < N; ++j) read_bytes<RUN, 1>(src + j * item.elements + r * RUN, planes[j]);
#pragma unroll
        for (int e = 0; e < (int)RUN; ++e)
#pragma unroll
          for (int j = 0; j < N; ++j) turned[e * N + j] = planes[j][e];
#pragma unroll
        for (int q = 0; q < (int)RUN * N / 16; ++q)
          write_bytes<16, N < 8 ? N : 8>(turned + 16 * q, dst + (uint64_t)r * RUN * N + 16 * q);
      }
      for (uint32_t e = runs * RUN + threadIdx.x; e < item.count; e += blockDim.x)
#pragma unroll
        for (int j = 0; j < N; ++j) dst[(uint64_t)e * N + j] = src[j * item.elements + e];
    }
    copy_tail(item, N ? N : args.itemsize);
  }
}

// An 8 x 8 square of bits with rows and columns exchanged (Hacker's Delight, 7-3).
__device__ inline uint64_t transposed(uint64_t x) {
  uint64_t t = (x ^ (x >> 7)) & 0x00AA00AA00AA00AAull;
  x = x ^ t ^ (t << 7);
  t = (x ^ (x >> 14)) & 0x0000CCCC0000CCCCull;
  x = x ^ t ^ (t << 14);
  t = (x ^ (x >> 28)) & 0x00000000F0F0F0F0ull;
  return x ^ t ^ (t << 28);
}

// Bit k of byte j of element i was bit i % 8 of byte (j * 8 + k) * (elements / 8) + i / 8.
template <int N> __global__ void __launch_bounds__(THREADS) bit_unshuffle(const FilterArgs args) {
  EACH_BLOCK(b, args.count) {
    const FilterItem item = at<const FilterItem>(args.items)[b];
    const uint32_t size = N ? N : args.itemsize, groups = item.count / 8;
    const uint64_t row = item.elements / 8;
    const uint8_t* src = at<const uint8_t>(item.src) + item.first / 8;
    uint8_t* dst = at<uint8_t>(item.dst) + item.first * size;
    for (uint32_t g = threadIdx.x; g < groups; g += blockDim.x) {
      if constexpr (N != 0) {
        uint8_t turned[8 * N];
#pragma unroll
        for (int j = 0; j < N; ++j) {
          uint64_t square = 0;
#pragma unroll
          for (int k = 0; k < 8; ++k) square |= (uint64_t)src[(j * 8 + k) * row + g] << (8 * k);
          square = transposed(square);
#pragma unroll
          for (int e = 0; e < 8; ++e) turned[e * N + j] = (uint8_t)(square >> (8 * e));
        }
        constexpr int STEP = N >= 2 ? 16 : 8;
#pragma unroll
        for (int q = 0; q < 8 * N / STEP; ++q)
          write_bytes<STEP, N>(turned + STEP * q, dst + (uint64_t)g * 8 * N + STEP * q);
      } else {
        for (uint32_t j = 0; j < size; ++j) {
          uint64_t square = 0;
#pragma unroll
          for (int k = 0; k < 8; ++k) square |= (uint64_t)src[((uint64_t)j * 8 + k) * row + g] << (8 * k);
          square = transposed(square);
#pragma unroll
          for (int e = 0; e < 8; ++e) dst[((uint64_t)g * 8 + e) * size + j] = (uint8_t)(square >> (8 * e));
        }
      }
    }
    copy_tail(item, size);
  }
}

// In place too.
template <int N> __global__ void __launch_bounds__(THREADS) byte_swap(const FilterArgs args) {
  EACH_BLOCK(b, args.count) {
    const FilterItem item = at<const FilterItem>(args.items)[b];
    const uint32_t size = N ? N : args.itemsize;
    const uint8_t* src = at<const uint8_t>(item.src) + item.first * size;
    uint8_t* dst = at<uint8_t>(item.dst) + item.first * size;
    if constexpr (N != 0) {
      constexpr uint32_t RUN = 16 / N;
      const uint32_t runs = item.count / RUN;
      for (uint32_t r = threadIdx.x; r < runs; r += blockDim.x) {
        uint8_t in[16], out[16];
        read_bytes<16, N>(src + (uint64_t)r * 16, in);
#pragma unroll
        for (int k = 0; k < 16; ++k) out[k] = in[k / N * N + (N - 1 - k % N)];
        write_bytes<16, N>(out, dst + (uint64_t)r * 16);
      }
      for (uint32_t e = runs * RUN + threadIdx.x; e < item.count; e += blockDim.x) {
        uint8_t in[N], out[N];
        read_bytes<N, 1>(src + (uint64_t)e * N, in);
#pragma unroll
        for (int k = 0; k < N; ++k) out[k] = in[N - 1 - k];
        write_bytes<N, 1>(out, dst + (uint64_t)e * N);
      }
    } else {
      for (uint32_t e = threadIdx.x; e < item.count; e += blockDim.x) {
        for (uint32_t k = 0; 2 * k < size; ++k) {
          const uint8_t low = src[(uint64_t)e * size + k], high = src[(uint64_t)e * size + size - 1 - k];
          dst[(uint64_t)e * size + k] = high;
          dst[(uint64_t)e * size + size - 1 - k] = low;
        }
      }
    }
    if (item.src != item.dst) copy_tail(item, size);
  }
}
