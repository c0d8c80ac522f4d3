// Checksums of spans: pieces by blocks, threads of a block do consecutive parts of a piece, parts are joined by the
// algebra of each checksum. KIND as gpuzarr.codecs.tables.ChecksumKind.
#include "common.cuh"

constexpr int CRC32C = 0, CRC32 = 1, ADLER32 = 2, FLETCHER32 = 3, XXH64 = 4;

template <int KIND> __device__ constexpr uint32_t polynomial() { return KIND == CRC32C ? 0x82f63b78u : 0xedb88320u; }

// Product of two polynomials modulo the CRC's, bits reflected (bit 31 is x^0).
template <int KIND> __device__ inline uint32_t crc_product(uint32_t a, uint32_t b) {
  uint32_t product = 0;
#pragma unroll 1
  for (int k = 0; k < 32; ++k) {
    if (a & 0x80000000u) product ^= b;
    a <<= 1;
    b = b & 1 ? b >> 1 ^ polynomial<KIND>() : b >> 1;
  }
  return product;
}

// x^(8 * bytes): what the CRC of data is multiplied with when `bytes` more follow.
template <int KIND> __device__ inline uint32_t crc_shift(uint64_t bytes) {
  uint32_t shift = 0x80000000u, power = 0x00800000u;  // 1 and x^8
  for (; bytes; bytes >>= 1) {
    if (bytes & 1) shift = crc_product<KIND>(shift, power);
    power = crc_product<KIND>(power, power);
  }
  return shift;
}

struct Sums { uint32_t a, b; };

// Remainder modulo 65521 (Adler) or 65535 (Fletcher, whose end-around carry leaves 65535 for positive multiples).
template <int KIND> __device__ inline uint32_t reduced(uint64_t sum) {
  if constexpr (KIND == ADLER32) return (uint32_t)(sum % 65521u);
  const uint32_t rest = (uint32_t)(sum % 65535u);
  return rest || !sum ? rest : 65535u;
}

// Sums of `left` followed by `right`, which covers `bytes`. CRCs start at 0 and are not inverted; Adler and Fletcher
// start at 0.
template <int KIND> __device__ inline Sums joined(Sums left, Sums right, uint64_t bytes) {
  if (!bytes) return left;
  if constexpr (KIND == CRC32C || KIND == CRC32) {
    return {left.a ? crc_product<KIND>(left.a, crc_shift<KIND>(bytes)) ^ right.a : right.a, 0};
  } else {
    const uint64_t units = reduced<KIND>(KIND == ADLER32 ? bytes : (bytes + 1) / 2);
    return {reduced<KIND>((uint64_t)left.a + right.a), reduced<KIND>((uint64_t)left.b + right.b + units * left.a)};
  }
}

template <int KIND> __device__ inline Sums sums_of(const uint8_t* data, uint32_t n, const uint32_t* table) {
  if constexpr (KIND == CRC32C || KIND == CRC32) {
    uint32_t crc = 0;
    for (uint32_t k = 0; k < n; ++k) crc = crc >> 8 ^ table[(crc ^ data[k]) & 255];
    return {crc, 0};
  } else {
    uint64_t a = 0, b = 0;  // a part has some kilobytes at most: nothing overflows
    for (uint32_t k = 0; k < n; k += KIND == ADLER32 ? 1 : 2) {
      if constexpr (KIND == ADLER32) a += data[k];
      else a += (uint32_t)data[k] << 8 | (k + 1 < n ? data[k + 1] : 0u);
      b += a;
    }
    return {reduced<KIND>(a), reduced<KIND>(b)};
  }
}

template <int KIND> __global__ void __launch_bounds__(THREADS) checksum_items(const ChecksumItemsArgs args) {
  __shared__ uint32_t table[256];
  __shared__ Sums sums[THREADS];
  if (KIND == CRC32C || KIND == CRC32) {
    for (uint32_t k = threadIdx.x; k < 256; k += blockDim.x) {
      uint32_t entry = k;
#pragma unroll
      for (int bit = 0; bit < 8; ++bit) entry = entry & 1 ? entry >> 1 ^ polynomial<KIND>() : entry >> 1;
      table[k] = entry;
    }
  }
  __syncthreads();
  EACH_BLOCK(i, args.count) {
    const ChecksumItem item = at<const ChecksumItem>(args.items)[i];
    // equal parts, even so that words of Fletcher's stay whole, except for what is left for the last ones
    const uint32_t n = (uint32_t)item.nbytes, part = ((n + blockDim.x - 1) / blockDim.x + 1) / 2 * 2;
    const uint32_t start = threadIdx.x * part < n ? threadIdx.x * part : n;
    const uint32_t size = start + part <= n ? part : n - start;
    sums[threadIdx.x] = sums_of<KIND>(at<const uint8_t>(item.src) + start, size, table);
    __syncthreads();
    for (uint32_t step = 1; step < blockDim.x; step *= 2) {
      if (threadIdx.x % (2 * step) == 0) {
        const uint64_t middle = (uint64_t)(threadIdx.x + step) * part, end = (uint64_t)(threadIdx.x + 2 * step) * part;
        const uint64_t bytes = (end < n ? end : n) - (middle < n ? middle : n);
        sums[threadIdx.x] = joined<KIND>(sums[threadIdx.x], sums[threadIdx.x + step], bytes);
      }
      __syncthreads();
    }
    if (threadIdx.x == 0) at<Sums>(args.partials)[i] = sums[0];
    __syncthreads();
  }
}

__device__ inline uint64_t rotated(uint64_t x, int by) { return x << by | x >> (64 - by); }

template <int BYTES> __device__ inline typename WordOf<BYTES>::type word_at(const uint8_t* from) {
  typename WordOf<BYTES>::type word;
  uint8_t bytes[BYTES];
  read_bytes<BYTES, 1>(from, bytes);
  memcpy(&word, bytes, BYTES);
  return word;
}

// XXH64 with seed 0: serial by nature, so a thread per span.
__device__ inline uint64_t xxh64(const uint8_t* p, uint64_t n) {
  constexpr uint64_t P1 = 11400714785074694791ull, P2 = 14029467366897019727ull, P3 = 1609587929392839161ull;
  constexpr uint64_t P4 = 9650029242287828579ull, P5 = 2870177450012600261ull;
  const uint8_t* end = p + n;
  uint64_t h;
  if (n >= 32) {
    uint64_t lane[4] = {P1 + P2, P2, 0, 0ull - P1};
    for (; end - p >= 32; p += 32)
#pragma unroll
      for (int k = 0; k < 4; ++k) lane[k] = rotated(lane[k] + word_at<8>(p + 8 * k) * P2, 31) * P1;
    h = rotated(lane[0], 1) + rotated(lane[1], 7) + rotated(lane[2], 12) + rotated(lane[3], 18);
#pragma unroll
    for (int k = 0; k < 4; ++k) h = (h ^ rotated(lane[k] * P2, 31) * P1) * P1 + P4;
  } else {
    h = P5;
  }
  h += n;
  for (; end - p >= 8; p += 8) h = rotated(h ^ rotated(word_at<8>(p) * P2, 31) * P1, 27) * P1 + P4;
  if (end - p >= 4) {
    h = rotated(h ^ (uint64_t)word_at<4>(p) * P1, 23) * P2 + P3;
    p += 4;
  }
  for (; p < end; ++p) h = rotated(h ^ *p * P5, 11) * P1;
  h = (h ^ h >> 33) * P2;
  h = (h ^ h >> 29) * P3;
  return h ^ h >> 32;
}

template <int KIND> __global__ void __launch_bounds__(THREADS) checksum_spans(const ChecksumSpansArgs args) {
  EACH_THREAD(i, args.count) {
    const ChecksumSpan span = at<const ChecksumSpan>(args.spans)[i];
    uint32_t found;
    if constexpr (KIND == XXH64) {
      found = (uint32_t)xxh64(at<const uint8_t>(span.src), span.nbytes);
    } else {
      Sums all = {0, 0};
      for (uint64_t k = span.first_item; k < span.first_item + span.items; ++k)
        all = joined<KIND>(all, at<const Sums>(args.partials)[k], at<const ChecksumItem>(args.items)[k].nbytes);
      if constexpr (KIND == ADLER32) {
        all = joined<KIND>({1, 0}, all, span.nbytes);
        found = all.b << 16 | all.a;
      } else if constexpr (KIND == FLETCHER32) {
        found = all.b << 16 | all.a;
      } else {
        found = all.a ^ crc_product<KIND>(0xffffffffu, crc_shift<KIND>(span.nbytes)) ^ 0xffffffffu;
      }
    }
    if (args.found) at<uint32_t>(args.found)[i] = found;
    const bool wrong = found != span.expected;
    if (args.failures) at<uint8_t>(args.failures)[i] = wrong;
    if (wrong) report_failure(args.summary, i);
  }
}
