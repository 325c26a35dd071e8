// What every kernel here shares. `real` is float or double; NaN goes through, as in xpnet.ops. What
// layers store is `act`: narrow.cuh.
//
// A kernel may be launched with any grid and any block of a multiple of 32 threads (at most 1024)
// and gives the right result. The same launch gives the same bits every time: sums are taken in a
// fixed order, without floating-point atomics, so that a replayed graph can be compared with an
// eager step bit by bit. Numbers that change from step to step come from device memory.

#define KERNEL extern "C" __global__ void __launch_bounds__(1024)
#define WARP 32

// Index of the first element of this thread, and the distance to its next one.
#define FIRST (blockIdx.x * blockDim.x + threadIdx.x)
#define STRIDE (gridDim.x * blockDim.x)

__device__ inline real clamp(real x, real low, real high) {
  return x < low ? low : x > high ? high : x;
}

__device__ inline real warp_sum(real x) {
  for (int offset = WARP / 2; offset > 0; offset /= 2)
    x += __shfl_xor_sync(0xffffffffu, x, offset);
  return x;  // the same in all lanes
}

// The sum over the block, valid in thread 0. Every thread must call it.
__device__ inline real block_sum(real x) {
  __shared__ real of_warp[WARP];
  int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  x = warp_sum(x);
  __syncthreads();  // the last use of of_warp is over
  if (lane == 0) of_warp[warp] = x;
  __syncthreads();
  x = lane < (int)blockDim.x / WARP ? of_warp[lane] : (real)0;
  return warp_sum(x);
}
