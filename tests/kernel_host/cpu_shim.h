// CUDA C++ kernels as plain C++, so that the same file runs on host arrays.
//
// Kernels without barriers and warp exchanges: a loop over blocks (OpenMP) and one over threads. The others
// ("cooperative"): one fiber per CUDA thread; a fiber that reaches a barrier or a warp exchange waits until its block or its
// whole warp has. Threads that wait for different things for ever, or an exchange that not all lanes of a warp reach, end the
// process with a message: on a device that is undefined.
// Not covered: 2-D grids, launch limits, data races inside a block.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>
#include <ucontext.h>

using std::memcpy;

struct ShimIndex { unsigned x, y, z; };
static thread_local ShimIndex threadIdx{0, 0, 0}, blockIdx{0, 0, 0}, blockDim{1, 1, 1}, gridDim{1, 1, 1};

#define __global__ static
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static thread_local

static inline int __popc(unsigned v) { return __builtin_popcount(v); }
static inline int __ffs(int v) { return __builtin_ffs(v); }
static inline uint32_t __funnelshift_r(uint32_t low, uint32_t high, uint32_t by) {
  return (uint32_t)(((uint64_t)high << 32 | low) >> (by & 31));
}
template <class T, class U> static inline T atomicOr(T* p, U v) { return __atomic_fetch_or(p, (T)v, __ATOMIC_RELAXED); }
template <class T, class U> static inline T atomicAdd(T* p, U v) { return __atomic_fetch_add(p, (T)v, __ATOMIC_RELAXED); }
template <class T, class U> static inline T atomicMax(T* p, U v) {
  T seen = __atomic_load_n(p, __ATOMIC_RELAXED);
  while (seen < (T)v && !__atomic_compare_exchange_n(p, &seen, (T)v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {}
  return seen;
}

namespace shim {

enum State : char { READY, IN_WARP, IN_BLOCK, DONE };

struct Fibers {
  std::vector<ucontext_t> contexts;
  std::vector<State> state;
  std::vector<unsigned> exchanges;          // how many each fiber has done
  std::vector<uint64_t> slots[2];           // what each lane gave, of this exchange and of the one before
  ucontext_t scheduler;
  unsigned current;
  void (*body)(void*);
  void* argument;
};
static thread_local Fibers* running = nullptr;

static void fiber_entry() {
  running->body(running->argument);
  running->state[running->current] = DONE;
  swapcontext(&running->contexts[running->current], &running->scheduler);
}

static inline void wait_for(State what) {
  if (!running) {
    std::fprintf(stderr, "shim: a kernel that is not marked cooperative waits\n");
    std::abort();
  }
  running->state[running->current] = what;
  swapcontext(&running->contexts[running->current], &running->scheduler);
}

// Lets fibers go on whose warp, or whose block, is complete. Whether there were any.
static bool release(Fibers& f, unsigned threads) {
  bool any = false, all_in_block = true;
  for (unsigned first = 0; first < threads; first += 32) {
    const unsigned end = std::min(threads, first + 32);
    unsigned waiting = 0;
    for (unsigned t = first; t < end; ++t) {
      waiting += f.state[t] == IN_WARP;
      all_in_block &= f.state[t] == IN_BLOCK || f.state[t] == DONE;
    }
    if (waiting == end - first) {
      for (unsigned t = first; t < end; ++t) f.state[t] = READY;
      any = true;
    }
  }
  if (!any && all_in_block)
    for (unsigned t = 0; t < threads; ++t)
      if (f.state[t] == IN_BLOCK) {
        f.state[t] = READY;
        any = true;
      }
  return any;
}

static void run_block(unsigned threads, void (*body)(void*), void* argument) {
  constexpr size_t stack_bytes = 64 * 1024;
  static thread_local std::vector<char> stacks;
  if (stacks.size() < stack_bytes * threads) stacks.resize(stack_bytes * threads);
  Fibers f;
  f.contexts.resize(threads);
  f.state.assign(threads, READY);
  f.exchanges.assign(threads, 0);
  f.slots[0].assign(threads, 0);
  f.slots[1].assign(threads, 0);
  f.body = body;
  f.argument = argument;
  running = &f;
  for (unsigned t = 0; t < threads; ++t) {
    getcontext(&f.contexts[t]);
    f.contexts[t].uc_stack.ss_sp = stacks.data() + stack_bytes * t;
    f.contexts[t].uc_stack.ss_size = stack_bytes;
    f.contexts[t].uc_link = nullptr;
    makecontext(&f.contexts[t], fiber_entry, 0);
  }
  unsigned first = 0;
  do {  // each pass starts at another fiber, so that no result leans on their order
    for (unsigned i = 0; i < threads; ++i) {
      const unsigned t = (first % threads + i) % threads;
      if (f.state[t] != READY) continue;
      f.current = t;
      threadIdx = {t, 0, 0};
      swapcontext(&f.scheduler, &f.contexts[t]);
    }
    first = first * 1664525u + 1013904223u;
  } while (release(f, threads));
  for (unsigned t = 0; t < threads; ++t)
    if (f.state[t] != DONE) {
      std::fprintf(stderr, "shim: threads of a block or lanes of a warp wait for different things\n");
      std::abort();
    }
  running = nullptr;
}

// Every lane gives a value; what lane `from(lane)` of the warp gave comes back.
template <class T, class From> static inline T exchange(T value, From from) {
  static_assert(sizeof(T) <= 8, "one slot");
  const unsigned self = threadIdx.x, lane = self % 32;
  const unsigned turn = running ? running->exchanges[self]++ % 2 : 0;
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof value);
  if (running) running->slots[turn][self] = bits;
  wait_for(IN_WARP);
  bits = running->slots[turn][self - lane + from(lane)];
  memcpy(&value, &bits, sizeof value);
  return value;
}

template <class... A, size_t... I>
static inline void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
  kernel(*(typename std::remove_const<A>::type*)arguments[I]...);
}

// The argument array has cuLaunchKernel's layout: one pointer to each argument's value.
template <class... A>
static void launch(void (*kernel)(A...), unsigned blocks, unsigned threads, void** arguments, bool cooperative) {
  struct Packed { void (*kernel)(A...); void** arguments; } packed{kernel, arguments};
#pragma omp parallel for schedule(dynamic) if (blocks > 1)
  for (unsigned b = 0; b < blocks; ++b) {
    gridDim = {blocks, 1, 1};
    blockDim = {threads, 1, 1};
    blockIdx = {b, 0, 0};
    if (cooperative) {
      run_block(threads, [](void* raw) {
        auto* p = (Packed*)raw;
        call(p->kernel, p->arguments, std::index_sequence_for<A...>{});
      }, &packed);
    } else {
      for (unsigned t = 0; t < threads; ++t) {
        threadIdx = {t, 0, 0};
        call(kernel, arguments, std::index_sequence_for<A...>{});
      }
    }
  }
}

}  // namespace shim

#define __syncthreads() shim::wait_for(shim::IN_BLOCK)
template <class T> static inline T __shfl_xor_sync(unsigned, T value, int mask) {
  return shim::exchange(value, [=](unsigned lane) { return lane ^ (unsigned)mask; });
}
template <class T> static inline T __shfl_up_sync(unsigned, T value, unsigned by) {
  return shim::exchange(value, [=](unsigned lane) { return lane >= by ? lane - by : lane; });
}
static inline unsigned __ballot_sync(unsigned, bool value) {
  const unsigned self = threadIdx.x, lane = self % 32;
  const unsigned turn = shim::running ? shim::running->exchanges[self] % 2 : 0;
  shim::exchange<uint32_t>(value, [](unsigned l) { return l; });
  unsigned word = 0;
  for (unsigned k = 0; k < 32; ++k) word |= (unsigned)(shim::running->slots[turn][self - lane + k] & 1) << k;
  return word;
}

// A kernel (an instance of a template may hold commas, so its name comes last) as launch_<number>.
#define SHIM_EXPORT(NUMBER, COOPERATIVE, ...)                                            \
  extern "C" void launch_##NUMBER(unsigned blocks, unsigned threads, void** arguments) { \
    shim::launch(&__VA_ARGS__, blocks, threads, arguments, COOPERATIVE);                 \
  }
