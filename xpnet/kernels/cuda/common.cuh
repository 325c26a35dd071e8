// What all kernels share. `real` is float or double; NaN propagates, as in xpnet.ops. Layers store
// `act`: narrow.cuh.
//
// A kernel gives the right result for any block size that is a multiple of 32 (at most 1024) and,
// unless it works on patches, for any grid. The same launch gives the same bits every time: sums
// are taken in a fixed order, without floating-point atomics, so that a replayed graph can be
// compared with an eager step bit by bit. Numbers that change from step to step are read from
// device memory.

#define KERNEL extern "C" __global__ void __launch_bounds__(1024)
#define WARP 32

// Index of this thread's first element, and the distance to its next.
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

// Whether this block is the last of the launch to get here; it sees what the others wrote before
// they got here. Every thread must call it. *turns is 0 before and after.
__device__ inline bool last_block(unsigned* turns) {
  __shared__ int last;
  unsigned others = gridDim.x * gridDim.y - 1;
  __syncthreads();  // all threads have written
  if (threadIdx.x == 0) {
    __threadfence();
    last = atomicInc(turns, others) == others;
    __threadfence();
  }
  __syncthreads();
  return last;
}

struct Best { real value; int index; };

// The larger of two, the first of equals, as in argmax; a NaN is the largest.
__device__ inline Best better(Best a, Best b) {
  bool a_is_nan = a.value != a.value, b_is_nan = b.value != b.value;
  bool larger = b.value > a.value || (b_is_nan && !a_is_nan);
  bool equal = b.value == a.value || (b_is_nan && a_is_nan);
  return larger || (equal && b.index < a.index) ? b : a;
}

__device__ inline Best warp_best(Best x) {
  for (int offset = WARP / 2; offset > 0; offset /= 2) {
    Best other = {__shfl_xor_sync(0xffffffffu, x.value, offset),
                  __shfl_xor_sync(0xffffffffu, x.index, offset)};
    x = better(x, other);
  }
  return x;
}

// A patch of 32 columns, one per lane, and `rows` rows of a matrix (N, J): block (x, y) has columns
// 32x .. 32x+31 and rows rows*y .. rows*(y+1)-1, which its warps take in turn.
struct Patch { int j, group, groups, first, last, count; };  // last: first where j >= J

__device__ inline Patch patch_of(int N, int J, int rows) {
  int j = blockIdx.x * WARP + threadIdx.x % WARP, first = blockIdx.y * rows;
  int last = first + rows < N ? first + rows : N;
  int group = threadIdx.x / WARP, groups = blockDim.x / WARP;
  return {j, group, groups, first, j < J ? last : first, last - first};
}

#define EACH_ROW(n, patch) \
  for (int n = patch.first + patch.group; n < patch.last; n += patch.groups)

// The sum of each lane's x over the warps of the block, in every thread. Every thread must call it.
__device__ inline real column_sum(real x) {
  __shared__ real of_group[WARP][WARP + 1];
  int lane = threadIdx.x % WARP, group = threadIdx.x / WARP, groups = blockDim.x / WARP;
  __syncthreads();  // the last use of of_group is over
  of_group[group][lane] = x;
  __syncthreads();
  for (int g = 1; group == 0 && g < groups; g++) x += of_group[g][lane];
  if (group == 0) of_group[0][lane] = x;
  __syncthreads();
  return of_group[0][lane];
}

// *out = x, or *out += x.
__device__ inline void put(real* out, real x, int add) { *out = add ? *out + x : x; }
