// Copies of spans of any alignment; a block per item.
#include "common.cuh"

// 16 bytes to an aligned destination from a source that is `shift` bytes after a multiple of 4, out of aligned words
// that lie within the source.
__device__ inline Quad shifted_quad(const uint32_t* words, uint32_t shift) {
  Quad out;
  uint32_t low = words[0];
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const uint32_t high = words[k + 1];
    out.w[k] = __funnelshift_r(low, high, shift * 8);
    low = high;
  }
  return out;
}

__global__ void __launch_bounds__(THREADS) copy(const CopyArgs args) {
  EACH_BLOCK(i, args.count) {
    const CopyItem item = at<const CopyItem>(args.items)[i];
    const uint8_t* src = at<const uint8_t>(item.src);
    uint8_t* dst = at<uint8_t>(item.dst);
    const uint64_t n = item.nbytes, lead = (16 - item.dst % 16) % 16;
    uint64_t head = lead < n ? lead : n, quads = (n - head) / 16;
    const uint32_t shift = (item.src + head) % 4;
    if (shift) {
      // the words must not reach over the span: one quad later at the start, one less at the end
      if (head < shift && quads) { head += 16; --quads; }
      if (quads && head + quads * 16 + (4 - shift) > n) --quads;
    }
    Quad* to = reinterpret_cast<Quad*>(dst + head);
    if (shift) {
      const uint32_t* from = reinterpret_cast<const uint32_t*>(src + head - shift);
      for (uint64_t k = threadIdx.x; k < quads; k += blockDim.x) to[k] = shifted_quad(from + 4 * k, shift);
    } else if ((item.src + head) % 16 == 0) {
      const Quad* from = reinterpret_cast<const Quad*>(src + head);
      for (uint64_t k = threadIdx.x; k < quads; k += blockDim.x) to[k] = from[k];
    } else {
      const uint32_t* from = reinterpret_cast<const uint32_t*>(src + head);
      for (uint64_t k = threadIdx.x; k < quads; k += blockDim.x) {
        Quad word;
#pragma unroll
        for (int j = 0; j < 4; ++j) word.w[j] = from[4 * k + j];
        to[k] = word;
      }
    }
    for (uint64_t k = threadIdx.x; k < head; k += blockDim.x) dst[k] = src[k];
    for (uint64_t k = head + quads * 16 + threadIdx.x; k < n; k += blockDim.x) dst[k] = src[k];
  }
}
