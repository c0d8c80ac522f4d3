// From stored numbers to values and validity: the steps of gpuzarr.cf.decoding, in their order and precision.
// Compile without contraction of multiply and add: every step is rounded once, as numpy does.

struct float16 { uint16_t bits; };

__device__ inline float half_to_float(uint16_t h) {
  const uint32_t sign = (uint32_t)(h & 0x8000u) << 16, rest = h & 0x7fffu;
  if (rest >= 0x7c00u) return bits_as<float>(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
  if (rest >= 0x400u) return bits_as<float>(sign | ((rest << 13) + 0x38000000u));
  const float magnitude = (float)rest * 5.9604644775390625e-8f;  // subnormal: a multiple of 2^-24, exact
  return bits_as<float>(sign | bits_as<uint32_t>(magnitude));
}

// The stored number as something that compares and converts.
template <class S> __device__ inline S number(S value) { return value; }
__device__ inline float number(float16 value) { return half_to_float(value.bits); }

template <class T> struct IsFloat { static constexpr bool value = false; };
template <> struct IsFloat<float> { static constexpr bool value = true; };
template <> struct IsFloat<double> { static constexpr bool value = true; };
template <> struct IsFloat<float16> { static constexpr bool value = true; };

template <class T> __device__ inline bool is_nan(T value) {
  if constexpr (IsFloat<T>::value) return value != value;
  return false;
}

// The low bytes of a 64-bit field as a value of T.
template <class T> __device__ inline T field(uint64_t bits) {
  T value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

constexpr uint32_t FILLS_COMPUTED = 1, NAN_STORED = 2, NAN_COMPUTED = 4, SCALE = 8, OFFSET = 16;
constexpr int TIME_LINEAR = 1, TIME_FLOOR = 2, TIME_TRUNCATE = 3, TIME_ROUND = 4, TIME_ROUND_FINE = 5, TIME_STEPS = 6;
constexpr int US_TO_NS = 1, US_TO_MS = 2;
constexpr double TWO_63 = 9223372036854775808.0;
constexpr int64_t NAT = -9223372036854775807ll - 1;

__device__ inline int64_t wrapped_product(int64_t a, int64_t b) { return (int64_t)((uint64_t)a * (uint64_t)b); }
__device__ inline int64_t wrapped_sum(int64_t a, int64_t b) { return (int64_t)((uint64_t)a + (uint64_t)b); }

// Quotient rounded down and remainder, which is not negative; d > 0.
__device__ inline int64_t floor_quotient(int64_t n, int64_t d, int64_t& rest) {
  const int64_t q = n / d;
  rest = n % d;
  if (rest >= 0) return q;
  rest += d;
  return q - 1;
}

// 0 where the result does not fit: such values are reported, or missing.
__device__ inline int64_t to_int64(double x) { return fabs(x) < TWO_63 ? (int64_t)x : 0; }

template <class C> __device__ inline int64_t integer_ticks(C raw, const TimeDecode& t, bool& valid, bool& bad) {
  bool outside;
  if constexpr (sizeof(C) == 8 && C(-1) > C(0)) {  // uint64
    outside = (uint64_t)raw < t.low || (uint64_t)raw > t.high;
  } else {
    const int64_t n = (int64_t)raw;
    if (n == NAT) valid = false;
    outside = n < (int64_t)t.low || n > (int64_t)t.high;
  }
  bad = valid && outside;
  const int64_t n = (int64_t)raw;
  if (t.kind == TIME_LINEAR) return wrapped_sum(wrapped_product(n, t.factor), t.offset);
  int64_t part;
  const int64_t whole = floor_quotient(n, t.step, part);
  return wrapped_sum(wrapped_sum(whole, (part + t.rest) / t.step), t.offset);
}

__device__ inline int64_t float_ticks(double raw, const TimeDecode& t, bool& valid, bool& bad) {
  if (raw != raw) valid = false;
  bool outside;
  int64_t out = 0;
  if (t.kind == TIME_TRUNCATE) {
    const double scaled = raw * t.a;
    outside = !(fabs(scaled + (double)t.offset) < TWO_63) || !(fabs(scaled) < TWO_63);
    out = to_int64(scaled);
    outside = outside || (t.offset > 0 ? out > 9223372036854775807ll - t.offset : out < -9223372036854775807ll - t.offset);
    out = wrapped_sum(out, t.offset);
  } else if (t.kind == TIME_STEPS) {
    int64_t unit = t.factor < 1000000000ll ? t.factor : 1000000000ll;
    double level = raw * (double)(t.factor / unit);
    outside = !(fabs(level * (double)unit) < TWO_63);
    while (unit > 1 && level != trunc(level) && !outside) {
      level = level * 1000.0;
      unit /= 1000;
    }
    out = wrapped_product(to_int64(level), unit);
  } else {
    outside = !(fabs(raw * t.a + bits_as<double>(t.low)) < TWO_63);
    if (t.kind == TIME_ROUND) {
      const double whole = floor(raw);
      out = wrapped_sum(wrapped_product(to_int64(whole), t.factor), to_int64(rint((raw - whole) * t.b)));
    } else {
      out = to_int64(rint(raw / t.b));
    }
    out = wrapped_sum(out, t.offset);
  }
  bad = valid && outside;
  return out;
}

template <class C> __device__ inline int64_t ticks(C raw, const TimeDecode& t, bool& valid, bool& bad) {
  int64_t out;
  if constexpr (IsFloat<C>::value) out = float_ticks((double)raw, t, valid, bad);
  else out = integer_ticks(raw, t, valid, bad);
  bad = bad || (valid && out < t.early);
  if (t.post == US_TO_NS) {
    constexpr int64_t limit = 9223372036854775807ll / 1000;
    bad = bad || (valid && (out < -limit || out > limit));
    out = wrapped_product(out, 1000);
  } else if (t.post == US_TO_MS) {
    int64_t rest;
    out = floor_quotient(out, 1000, rest);
  }
  return out;
}

template <class C> __device__ inline C product(C a, C b) {
  if constexpr (IsFloat<C>::value) return a * b;
  else return (C)((uint64_t)a * (uint64_t)b);
}
template <class C> __device__ inline C sum(C a, C b) {
  if constexpr (IsFloat<C>::value) return a + b;
  else return (C)((uint64_t)a + (uint64_t)b);
}

// V values. `valid` has a bit per value, set where it may be valid; bits of missing values are cleared. Returns whether
// a value is out of range.
template <class S, class C, class O, int V>
__device__ inline bool decode_values(const S (&stored)[V], O (&out)[V], uint32_t& valid, const Decode& d) {
  C values[V];
#pragma unroll
  for (int k = 0; k < V; ++k) values[k] = (C)number(stored[k]);
  const uint32_t flags = d.flags;
  if (d.fill_count && !(flags & FILLS_COMPUTED)) {
    using N = decltype(number(stored[0]));
    for (uint32_t f = 0; f < d.fill_count; ++f) {
      const N fill = field<N>(d.fills[f]);
#pragma unroll
      for (int k = 0; k < V; ++k)
        if (number(stored[k]) == fill) valid &= ~(1u << k);
    }
  }
  if (flags & NAN_STORED) {
#pragma unroll
    for (int k = 0; k < V; ++k)
      if (is_nan(number(stored[k]))) valid &= ~(1u << k);
  }
  if (flags & FILLS_COMPUTED) {
    for (uint32_t f = 0; f < d.fill_count; ++f) {
      const C fill = field<C>(d.fills[f]);
#pragma unroll
      for (int k = 0; k < V; ++k)
        if (values[k] == fill) valid &= ~(1u << k);
    }
  }
  if (flags & SCALE) {
    const C scale = field<C>(d.scale);
#pragma unroll
    for (int k = 0; k < V; ++k) values[k] = product(values[k], scale);
  }
  if (flags & OFFSET) {
    const C offset = field<C>(d.offset);
#pragma unroll
    for (int k = 0; k < V; ++k) values[k] = sum(values[k], offset);
  }
  if (flags & NAN_COMPUTED) {
#pragma unroll
    for (int k = 0; k < V; ++k)
      if (is_nan(values[k])) valid &= ~(1u << k);
  }
  bool any_bad = false;
  if constexpr (sizeof(O) == 8 && !IsFloat<O>::value) {
    if (d.time.kind) {
#pragma unroll
      for (int k = 0; k < V; ++k) {
        bool good = valid >> k & 1, bad = false;
        out[k] = (O)ticks(values[k], d.time, good, bad);
        if (!good) valid &= ~(1u << k);
        any_bad = any_bad || bad;
      }
      return any_bad;
    }
  }
#pragma unroll
  for (int k = 0; k < V; ++k) {
    if constexpr (sizeof(O) == 1 && O(2) == O(1)) out[k] = values[k] != C(0);  // bool
    else out[k] = (O)values[k];
  }
  return any_bad;
}
