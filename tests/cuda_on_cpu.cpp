// The emulator of cuda_on_cpu.h: it runs the threads of a block as coroutines.
#include "cuda_on_cpu.h"
#undef inline
#include <algorithm>
#include <functional>
#include <numeric>
#include <random>
#include <vector>
#include <setjmp.h>
#include <ucontext.h>

Dim threadIdx, blockIdx, blockDim, gridDim;

namespace emulator {

constexpr size_t STACK = 64 * 1024;
uint64_t exchanged[MAX_THREADS];

// A coroutine with its own stack; it goes from one kernel to the next. Places are changed by
// _longjmp, since swapcontext calls the operating system each time.
struct Thread { ucontext_t first; jmp_buf place; bool begun; State state; };
static std::vector<Thread> threads(MAX_THREADS);
static std::vector<char> stacks(STACK * MAX_THREADS);
static jmp_buf scheduler;
static std::function<void()> body;
static unsigned order_seed = 0;

void leave(State state) {
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

}  // namespace emulator

extern "C" void set_order(unsigned seed) { emulator::order_seed = seed; }

// 0, or what went wrong: cuda_on_cpu.py.
extern "C" int launch(void (*kernel)(void**), void (*poison)(), const unsigned* grid,
                      unsigned block, void** arguments) {
  using namespace emulator;
  if (block % LANES || block > MAX_THREADS) return 1;
  gridDim = {grid[0], grid[1]};
  blockDim = {block, 1};
  body = [=] { kernel(arguments); };
  for (unsigned b : order(grid[0] * grid[1])) {
    blockIdx = {b % grid[0], b / grid[0]};
    poison();
    if (!run_block()) {
      for (Thread& thread : threads) thread.begun = false;  // some are in the midst of the kernel
      return 2;
    }
  }
  return 0;
}
