// Work along rows: by a warp for each, or where rows are long by a block.

// The larger of two; NaN if either is.
__device__ inline real larger_of(real a, real b) { return b == b ? (a <= b ? b : a) : b; }

__device__ inline real warp_largest(real x) {
  for (int offset = WARP / 2; offset > 0; offset /= 2)
    x = larger_of(x, __shfl_xor_sync(0xffffffffu, x, offset));
  return x;
}

// The largest of the block, in every thread. Every thread must call it.
__device__ inline real block_largest(real x) {
  real* of_warp = shared_sums();
  int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  x = warp_largest(x);
  __syncthreads();  // the last use of of_warp is over
  if (lane == 0) of_warp[warp] = x;
  __syncthreads();
  return warp_largest(of_warp[lane < (int)blockDim.x / WARP ? lane : 0]);
}

// Rows that the warps take in turn, or with BLOCK the blocks: this thread is one of `lanes` of a
// row. Of its entries each lane has packs of V.
template <bool BLOCK, int V> struct Rows {
  int lanes, lane, first, step;

  __device__ Rows() {
    lanes = BLOCK ? blockDim.x : WARP, lane = threadIdx.x % lanes;
    first = BLOCK ? blockIdx.x : FIRST / WARP, step = BLOCK ? gridDim.x : STRIDE / WARP;
  }
  template <int n> __device__ void sums(real (&x)[n]) const {
    if (BLOCK) block_sums(x); else warp_sums(x);
  }
  __device__ real sum(real x) const { return BLOCK ? block_sum(x) : warp_sum(x); }
  __device__ real largest(real x) const { return BLOCK ? block_largest(x) : warp_largest(x); }
  // Calls body(k) for the first entry of each of this lane's packs of a row of K.
  template <class Body> __device__ void each(int K, Body body) const {
#pragma unroll 1  // NVRTC stores several packs number by number
    for (int k = lane * V; k < K; k += lanes * V) body(k);
  }
};

// Calls body(rows, width), of which decltype(width)::V are a pack: WIDE if the rows are aligned.
template <class Body> __device__ inline void by_rows(bool block, bool wide, Body body) {
  if (block && wide) body(Rows<true, WIDE>(), Width<WIDE>());
  else if (block) body(Rows<true, 1>(), Width<1>());
  else if (wide) body(Rows<false, WIDE>(), Width<WIDE>());
  else body(Rows<false, 1>(), Width<1>());
}
