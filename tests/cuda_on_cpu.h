// Enough of CUDA C++ for g++ to compile and run the kernels of xpnet/kernels/cuda, one thread of a
// block after the other, as coroutines that change places at a barrier or a shuffle.
//
// It proves arithmetic and indexing. Beyond that, the order of blocks and of threads between two
// barriers is a parameter: a kernel that gives other bits in another order lacks a barrier. Shared
// memory is NaN when a block begins. It proves nothing of the memory model, of warps that diverge
// at a shuffle on a real device, of occupancy or of speed.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <algorithm>
#include <functional>
#include <numeric>
#include <random>
#include <tuple>
#include <utility>
#include <vector>
#include <setjmp.h>
#include <ucontext.h>

using std::exp, std::expm1, std::fabs, std::log, std::log1p, std::sqrt, std::tanh, std::erf;

#define inline static inline  // all shared memory in one kind of section
#define __global__
#define __device__
#define __launch_bounds__(most)
#define __shared__ static __attribute__((section("shared_memory")))
extern "C" char __start_shared_memory[] __attribute__((weak));
extern "C" char __stop_shared_memory[] __attribute__((weak));

// The 16-bit types of narrow.cuh: half by g++'s own type, as the device has an instruction for it.
static unsigned short float_to_half(float x) {
  _Float16 h = (_Float16)x;
  unsigned short bits;
  std::memcpy(&bits, &h, sizeof bits);
  return bits;
}
static float half_to_float(unsigned short bits) {
  _Float16 h;
  std::memcpy(&h, &bits, sizeof h);
  return (float)h;
}
static unsigned __float_as_uint(float x) {
  unsigned u;
  std::memcpy(&u, &x, sizeof u);
  return u;
}
static float __uint_as_float(unsigned u) {
  float x;
  std::memcpy(&x, &u, sizeof x);
  return x;
}

struct Dim { unsigned x = 1, y = 1; };
static Dim threadIdx, blockIdx, blockDim, gridDim;

namespace emulator {

enum State { RUNNABLE, AT_BLOCK_BARRIER, AT_WARP_BARRIER, DONE };
constexpr size_t STACK = 64 * 1024, MAX_THREADS = 1024, LANES = 32;

// A coroutine with its own stack; it goes from one kernel to the next. Places are changed by
// _longjmp, since swapcontext calls the operating system each time.
struct Thread { ucontext_t first; jmp_buf place; bool begun; State state; };
static std::vector<Thread> threads(MAX_THREADS);
static std::vector<char> stacks(STACK * MAX_THREADS);
static jmp_buf scheduler;
static std::function<void()> body;
static unsigned order_seed = 0;
static uint64_t exchanged[MAX_THREADS];

static void leave(State state) {
  Thread& self = threads[threadIdx.x];
  self.state = state;
  if (!_setjmp(self.place)) _longjmp(scheduler, 1);
}

static void entry() {
  for (;;) {
    body();
    leave(DONE);
  }
}

static void enter(unsigned t) {
  threadIdx.x = t;
  Thread& thread = threads[t];
  if (_setjmp(scheduler)) return;
  if (thread.begun) _longjmp(thread.place, 1);
  thread.begun = true;
  getcontext(&thread.first);
  thread.first.uc_stack = {stacks.data() + t * STACK, 0, STACK};
  makecontext(&thread.first, entry, 0);
  setcontext(&thread.first);
}

// 0 forwards, 1 backwards, else shuffled by that seed.
static std::vector<unsigned> order(unsigned n) {
  std::vector<unsigned> indices(n);
  std::iota(indices.begin(), indices.end(), 0u);
  if (order_seed == 1) std::reverse(indices.begin(), indices.end());
  if (order_seed > 1) std::shuffle(indices.begin(), indices.end(), std::mt19937(order_seed));
  return indices;
}

static bool release(unsigned first, unsigned last, State barrier) {
  bool waiting = false;
  for (unsigned t = first; t < last; t++) {
    if (threads[t].state != barrier && threads[t].state != DONE) return false;
    if (barrier == AT_WARP_BARRIER && threads[t].state == DONE) return false;  // all lanes take part
    waiting |= threads[t].state == barrier;
  }
  for (unsigned t = first; waiting && t < last; t++)
    if (threads[t].state == barrier) threads[t].state = RUNNABLE;
  return waiting;
}

static bool run_block() {
  unsigned n = blockDim.x;
  std::memset(__start_shared_memory, 0xff, __stop_shared_memory - __start_shared_memory);
  for (unsigned t = 0; t < n; t++) threads[t].state = RUNNABLE;
  std::vector<unsigned> warps = order(n / LANES), lanes = order(LANES);
  for (;;) {
    bool alive = false;
    for (unsigned w : warps) {  // each warp goes as far as it can before the next one moves
      unsigned first = w * LANES;
      do
        for (unsigned lane : lanes)
          if (threads[first + lane].state == RUNNABLE) enter(first + lane);
      while (release(first, first + LANES, AT_WARP_BARRIER));
    }
    for (unsigned t = 0; t < n; t++) alive |= threads[t].state != DONE;
    if (!alive) return true;
    if (!release(0, n, AT_BLOCK_BARRIER)) return false;  // a barrier that not all threads reach
  }
}

template <class... Parameters, size_t... I>
int launch(void (*kernel)(Parameters...), const unsigned* grid, unsigned block, void** arguments,
           std::index_sequence<I...>) {
  if (block % LANES || block > MAX_THREADS) return 1;
  gridDim = {grid[0], grid[1]};
  blockDim = {block, 1};
  body = [=] { kernel(*static_cast<Parameters*>(arguments[I])...); };
  for (unsigned b : order(grid[0] * grid[1])) {
    blockIdx = {b % grid[0], b / grid[0]};
    if (!run_block()) return 2;
  }
  return 0;
}

template <class... Parameters>
int launch(void (*kernel)(Parameters...), const unsigned* grid, unsigned block, void** arguments) {
  return launch(kernel, grid, block, arguments, std::index_sequence_for<Parameters...>());
}

}  // namespace emulator

extern "C" void set_order(unsigned seed) { emulator::order_seed = seed; }

static void __threadfence() {}  // blocks run one after the other

static unsigned atomicInc(unsigned* at, unsigned most) {
  unsigned before = *at;
  *at = before >= most ? 0 : before + 1;
  return before;
}

static void __syncthreads() { emulator::leave(emulator::AT_BLOCK_BARRIER); }

template <class T>
static T __shfl_xor_sync(unsigned, T value, int mask) {
  static_assert(sizeof(T) <= 8);
  T other;
  std::memcpy(&emulator::exchanged[threadIdx.x], &value, sizeof(T));
  emulator::leave(emulator::AT_WARP_BARRIER);
  std::memcpy(&other, &emulator::exchanged[threadIdx.x ^ mask], sizeof(T));
  emulator::leave(emulator::AT_WARP_BARRIER);  // until all have read
  return other;
}

#define LAUNCHER(kernel)                                                                   \
  extern "C" int launch_##kernel(const unsigned* grid, unsigned block, void** arguments) { \
    return emulator::launch(kernel, grid, block, arguments);                               \
  }
