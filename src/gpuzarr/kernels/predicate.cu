// Evaluates a postfix program (program.py) for every row; a thread does V rows, so that an instruction is looked at once
// for all of them. The stacks are registers: numbers are shifted, outcomes are V-bit fields of two words.
#include "common.cuh"

constexpr int V = 4, DEPTH = 4;
constexpr uint32_t EACH = (1u << V) - 1;

enum Op {
  LOAD, CONSTANT, CAST, ADD, SUBTRACT, MULTIPLY, DIVIDE, LESS, LESS_EQUAL, GREATER, GREATER_EQUAL, EQUAL, NOT_EQUAL,
  EQUAL_MISSING, NOT_EQUAL_MISSING, IS_NULL, IS_NOT_NULL, IS_NAN, IS_NOT_NAN, IN, LOAD_BOOLEAN, LOAD_OUTCOME, OUTCOME,
  AND, OR, XOR, NOT, OUTCOME_IS_NULL, OUTCOME_IS_NOT_NULL
};
enum CellType { I8, I16, I32, I64, U8, U16, U32, U64, F32, F64 };
enum Domain { SIGNED, UNSIGNED, FLOAT };

struct Numbers {
  uint64_t cell[DEPTH][V];  // [0] is the top; indexed by constants only
  uint32_t known[DEPTH];
};

__device__ inline void push(Numbers& s) {
#pragma unroll
  for (int d = DEPTH - 1; d > 0; --d) {
#pragma unroll
    for (int k = 0; k < V; ++k) s.cell[d][k] = s.cell[d - 1][k];
    s.known[d] = s.known[d - 1];
  }
}
__device__ inline void pop(Numbers& s) {
#pragma unroll
  for (int d = 0; d < DEPTH - 1; ++d) {
#pragma unroll
    for (int k = 0; k < V; ++k) s.cell[d][k] = s.cell[d + 1][k];
    s.known[d] = s.known[d + 1];
  }
}

__device__ inline double real(uint64_t cell) { return bits_as<double>(cell); }
__device__ inline uint64_t cell_of(double value) { return bits_as<uint64_t>(value); }
__device__ inline uint64_t cell_of(float value) { return bits_as<uint64_t>((double)value); }

template <class T> __device__ inline uint64_t cell_from(T value) {
  if constexpr (T(1) / 2 != 0) return cell_of((double)value);
  else if constexpr (T(-1) < T(0)) return (uint64_t)(int64_t)value;
  else return (uint64_t)value;
}

template <class T> __device__ inline void load_as(uint64_t values, int64_t row, uint32_t rows, uint64_t (&top)[V]) {
  const T* from = at<const T>(values) + row;
  T loaded[V];
  if (rows == (uint32_t)V) {
    constexpr int BYTES = V * sizeof(T) > 16 ? 16 : V * sizeof(T);
    uint8_t bytes[V * sizeof(T)];
#pragma unroll
    for (int q = 0; q < (int)(V * sizeof(T)) / BYTES; ++q)
      read_bytes<BYTES, sizeof(T)>(reinterpret_cast<const uint8_t*>(from) + q * BYTES, bytes + q * BYTES);
    memcpy(loaded, bytes, sizeof bytes);
  } else {
#pragma unroll
    for (int k = 0; k < V; ++k) loaded[k] = (uint32_t)k < rows ? from[k] : T(0);
  }
#pragma unroll
  for (int k = 0; k < V; ++k) top[k] = cell_from(loaded[k]);
}

__device__ inline void load(int type, uint64_t values, int64_t row, uint32_t rows, uint64_t (&top)[V]) {
  switch (type) {
    case I8: load_as<int8_t>(values, row, rows, top); break;
    case I16: load_as<int16_t>(values, row, rows, top); break;
    case I32: load_as<int32_t>(values, row, rows, top); break;
    case I64: load_as<int64_t>(values, row, rows, top); break;
    case U8: load_as<uint8_t>(values, row, rows, top); break;
    case U16: load_as<uint16_t>(values, row, rows, top); break;
    case U32: load_as<uint32_t>(values, row, rows, top); break;
    case U64: load_as<uint64_t>(values, row, rows, top); break;
    case F32: load_as<float>(values, row, rows, top); break;
    default: load_as<double>(values, row, rows, top); break;
  }
}

// Validity of V rows from a bitmap; `row` is a multiple of V.
__device__ inline uint32_t known_rows(uint64_t bitmap, int64_t row, uint32_t rows) {
  const uint32_t inside = (1u << rows) - 1;
  return bitmap ? at<const uint8_t>(bitmap)[row / 8] >> (row % 8) & inside : inside;
}

__device__ inline uint64_t wrapped(int type, uint64_t x) {
  switch (type) {
    case I8: return (uint64_t)(int64_t)(int8_t)x;
    case I16: return (uint64_t)(int64_t)(int16_t)x;
    case I32: return (uint64_t)(int64_t)(int32_t)x;
    case U8: return (uint8_t)x;
    case U16: return (uint16_t)x;
    case U32: return (uint32_t)x;
    default: return x;
  }
}

__device__ inline uint64_t cast(int from, int to, uint64_t cell) {
  if (to < F32) return from < F32 ? wrapped(to, cell) : cell;
  if (from >= F32) return to == F32 ? cell_of((float)real(cell)) : cell;
  if (from >= U8) return to == F32 ? cell_of((float)cell) : cell_of((double)cell);
  return to == F32 ? cell_of((float)(int64_t)cell) : cell_of((double)(int64_t)cell);
}

__device__ inline uint64_t computed(int op, int type, uint64_t a, uint64_t b) {
  if (type == F64) {
    const double x = real(a), y = real(b);
    return cell_of(op == ADD ? x + y : op == SUBTRACT ? x - y : op == MULTIPLY ? x * y : x / y);
  }
  if (type == F32) {
    const float x = (float)real(a), y = (float)real(b);
    return cell_of(op == ADD ? x + y : op == SUBTRACT ? x - y : op == MULTIPLY ? x * y : x / y);
  }
  return wrapped(type, op == ADD ? a + b : op == SUBTRACT ? a - b : a * b);
}

// -1, 0, 1: order of a and b; NaN equals itself and is larger than every number.
__device__ inline int order(int domain, uint64_t a, uint64_t b) {
  if (domain == FLOAT) {
    const double x = real(a), y = real(b);
    const bool x_nan = x != x, y_nan = y != y;
    if (x_nan || y_nan) return (int)x_nan - (int)y_nan;
    return (int)(x > y) - (int)(x < y);
  }
  if (domain == SIGNED) return (int)((int64_t)a > (int64_t)b) - (int)((int64_t)a < (int64_t)b);
  return (int)(a > b) - (int)(a < b);
}

__device__ inline bool holds(int op, int sign) {
  switch (op) {
    case LESS: return sign < 0;
    case LESS_EQUAL: return sign <= 0;
    case GREATER: return sign > 0;
    case GREATER_EQUAL: return sign >= 0;
    case EQUAL: case EQUAL_MISSING: return sign == 0;
    default: return sign != 0;
  }
}

__device__ inline void push_outcome(uint64_t& is_true, uint64_t& is_null, uint32_t now_true, uint32_t now_null) {
  is_true = is_true << V | (now_true & ~now_null & EACH);
  is_null = is_null << V | (now_null & EACH);
}

__device__ inline void compare(int op, int domain, Numbers& s, uint64_t& is_true, uint64_t& is_null) {
  uint32_t found = 0;
#pragma unroll
  for (int k = 0; k < V; ++k) found |= (uint32_t)holds(op, order(domain, s.cell[1][k], s.cell[0][k])) << k;
  const uint32_t both = s.known[1] & s.known[0], neither = ~(s.known[1] | s.known[0]);
  if (op == EQUAL_MISSING) push_outcome(is_true, is_null, (found & both) | neither, 0);
  else if (op == NOT_EQUAL_MISSING) push_outcome(is_true, is_null, (found | ~both) & ~neither, 0);
  else push_outcome(is_true, is_null, found, ~both);
  pop(s);
  pop(s);
}

__device__ inline void connect(int op, uint64_t& is_true, uint64_t& is_null) {
  const uint32_t tb = is_true & EACH, nb = is_null & EACH, fb = ~tb & ~nb & EACH;
  is_true >>= V;
  is_null >>= V;
  const uint32_t ta = is_true & EACH, na = is_null & EACH, fa = ~ta & ~na & EACH;
  uint32_t t, n;
  if (op == AND) { t = ta & tb; n = ~(fa | fb) & (na | nb); }
  else if (op == OR) { t = ta | tb; n = ~(ta | tb) & (na | nb); }
  else { n = na | nb; t = (ta ^ tb) & ~n; }
  is_true >>= V;
  is_null >>= V;
  push_outcome(is_true, is_null, t, n);
}

__global__ void __launch_bounds__(THREADS) predicate(const PredicateArgs args) {
  EACH_THREAD(i, (uint64_t)(args.row_end - args.row_begin + V - 1) / V) {
    const int64_t row = args.row_begin + (int64_t)i * V;
    const uint32_t rows = args.row_end - row < V ? (uint32_t)(args.row_end - row) : (uint32_t)V;
    Numbers s = {};
    uint64_t is_true = 0, is_null = 0;
    for (int pc = 0; pc < args.instruction_count; ++pc) {
      const Instruction step = args.program[pc];
      const int op = step.op;
      switch (op) {
        case LOAD: {
          const PredicateColumn column = args.columns[step.column];
          push(s);
          load(step.type, column.values, row, rows, s.cell[0]);
          s.known[0] = known_rows(column.valid, row, rows);
          break;
        }
        case CONSTANT:
          push(s);
#pragma unroll
          for (int k = 0; k < V; ++k) s.cell[0][k] = step.constant;
          s.known[0] = step.extra ? 0u : EACH;
          break;
        case CAST:
#pragma unroll
          for (int k = 0; k < V; ++k) s.cell[0][k] = cast(step.type, (int)step.extra, s.cell[0][k]);
          break;
        case ADD: case SUBTRACT: case MULTIPLY: case DIVIDE: {
#pragma unroll
          for (int k = 0; k < V; ++k) s.cell[1][k] = computed(op, step.type, s.cell[1][k], s.cell[0][k]);
          s.known[1] &= s.known[0];
          pop(s);
          break;
        }
        case IS_NULL: push_outcome(is_true, is_null, ~s.known[0], 0); pop(s); break;
        case IS_NOT_NULL: push_outcome(is_true, is_null, s.known[0], 0); pop(s); break;
        case IS_NAN: case IS_NOT_NAN: {
          uint32_t found = 0;
#pragma unroll
          for (int k = 0; k < V; ++k) found |= (uint32_t)(real(s.cell[0][k]) != real(s.cell[0][k])) << k;
          push_outcome(is_true, is_null, op == IS_NAN ? found : ~found, ~s.known[0]);
          pop(s);
          break;
        }
        case IN: {
          uint32_t found = 0;
          for (uint32_t c = 0; c < step.extra; ++c) {
            const uint64_t constant = args.program[++pc].constant;
#pragma unroll
            for (int k = 0; k < V; ++k) found |= (uint32_t)(order(step.type, s.cell[0][k], constant) == 0) << k;
          }
          push_outcome(is_true, is_null, found, ~s.known[0]);
          pop(s);
          break;
        }
        case LOAD_BOOLEAN: case LOAD_OUTCOME: {
          const PredicateColumn column = args.columns[step.column];
          uint32_t t = 0, n = 0;
#pragma unroll
          for (int k = 0; k < V; ++k) {
            const uint8_t code = (uint32_t)k < rows ? at<const uint8_t>(column.values)[row + k] : 0;
            t |= (uint32_t)(op == LOAD_BOOLEAN ? code != 0 : code == 1) << k;
            n |= (uint32_t)(op == LOAD_OUTCOME && code == 4) << k;
          }
          if (op == LOAD_BOOLEAN) n = ~known_rows(column.valid, row, rows);
          push_outcome(is_true, is_null, t, n);
          break;
        }
        case OUTCOME: push_outcome(is_true, is_null, step.extra == 1 ? EACH : 0, step.extra == 4 ? EACH : 0); break;
        case AND: case OR: case XOR: connect(op, is_true, is_null); break;
        case NOT: is_true ^= EACH & ~is_null; break;
        case OUTCOME_IS_NULL: case OUTCOME_IS_NOT_NULL: {
          const uint32_t n = is_null & EACH;
          is_true >>= V;
          is_null >>= V;
          push_outcome(is_true, is_null, op == OUTCOME_IS_NULL ? n : ~n, 0);
          break;
        }
        default: compare(op, step.type, s, is_true, is_null); break;
      }
    }
    uint8_t* mask = at<uint8_t>(args.mask) + row;
    uint8_t keep[V];
#pragma unroll
    for (int k = 0; k < V; ++k) keep[k] = is_true >> k & 1;
    if (rows == (uint32_t)V) {
      write_bytes<V, 1>(keep, mask);
    } else {
#pragma unroll
      for (int k = 0; k < V; ++k)
        if ((uint32_t)k < rows) mask[k] = keep[k];
    }
  }
}
