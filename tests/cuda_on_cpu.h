// Enough of CUDA C++ for g++ to compile and run the kernels of xpnet/kernels/cuda, one thread of a
// block after the other, as coroutines that change places at a barrier or a shuffle.
//
// It proves arithmetic and indexing. Beyond that, the order of blocks and of threads between two
// barriers is a parameter: a kernel that gives other bits in another order lacks a barrier. Shared
// memory is NaN when a block begins. It proves nothing of the memory model, of warps that diverge
// at a shuffle on a real device, of occupancy or of speed.
// This header is what a kernel sees; the emulator itself is cuda_on_cpu.cpp. Both are compiled once.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>

using std::exp, std::expm1, std::fabs, std::log, std::log1p, std::sqrt, std::tanh, std::erf,
    std::sin, std::cos, std::pow, std::floor, std::isnan, std::isfinite, std::isinf;

struct Dim { unsigned x = 1, y = 1; };
extern Dim threadIdx, blockIdx, blockDim, gridDim;

namespace emulator {

enum State { RUNNABLE, AT_BLOCK_BARRIER, AT_WARP_BARRIER, DONE };
constexpr size_t MAX_THREADS = 1024, LANES = 32;
extern uint64_t exchanged[MAX_THREADS];
void leave(State state);  // until the barrier lets this thread go on

template <class... Parameters, size_t... I>
static void call(void (*kernel)(Parameters...), void** arguments, std::index_sequence<I...>) {
  kernel(*static_cast<Parameters*>(arguments[I])...);
}

}  // namespace emulator

#define inline static inline  // all shared memory in one kind of section
#define __global__
#define __device__
#define __launch_bounds__(...)
#define __shared__ static __attribute__((section("shared_memory")))
extern "C" char __start_shared_memory[] __attribute__((weak, visibility("hidden")));
extern "C" char __stop_shared_memory[] __attribute__((weak, visibility("hidden")));

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

static void __threadfence() {}  // blocks run one after the other

static unsigned atomicInc(unsigned* at, unsigned most) {
  unsigned before = *at;
  *at = before >= most ? 0 : before + 1;
  return before;
}

static unsigned long long atomicAdd(unsigned long long* at, unsigned long long x) {
  unsigned long long before = *at;
  *at = before + x;
  return before;
}

static void __syncthreads() { emulator::leave(emulator::AT_BLOCK_BARRIER); }
static void __syncwarp() { emulator::leave(emulator::AT_WARP_BARRIER); }

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

#define CALLER(kernel)                                                                       \
  template <class... Parameters>                                                             \
  static void call_it_##kernel(void (*f)(Parameters...), void** arguments) {                 \
    emulator::call(f, arguments, std::index_sequence_for<Parameters...>());                  \
  }                                                                                          \
  extern "C" void call_##kernel(void** arguments) { call_it_##kernel(kernel, arguments); }

// Shared memory begins as NaN in every block.
extern "C" void poison_shared_memory() {
  if (__start_shared_memory)
    std::memset(__start_shared_memory, 0xff, __stop_shared_memory - __start_shared_memory);
}
