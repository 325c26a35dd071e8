// Bias and activation, forward and backward.

// a = f(x + bias), x (N, J); bias (J) may be null. In place if a is null, else x becomes x + bias.
template <int V, class F>
__device__ inline void activate(F f, act* __restrict__ x, const act* __restrict__ bias,
                                act* __restrict__ a, unsigned size, unsigned J) {
  for (Walk at(J, V); at.i < size; at.next()) {
    Pack<act, V> z = load<V>(x + at.i), b = bias ? load<V>(bias + at.j) : z, out;
    for (int v = 0; v < V; v++) {
      if (bias) z.x[v] = (real)z.x[v] + (real)b.x[v];
      out.x[v] = f(z.x[v]);
    }
    if (bias && a) store(x + at.i, z);
    store((a ? a : x) + at.i, out);
  }
}

FRAME bias_activation(F f, act* x, const act* bias, act* a, int N, int J) {
  unsigned size = (unsigned)N * J;
  if (J % WIDE == 0 && aligned(x) && aligned(bias) && aligned(a))
    activate<WIDE>(f, x, bias, a, size, J);
  else
    activate<1>(f, x, bias, a, size, J);
}

__device__ inline real* shared_columns() {
  __shared__ real of_groups[WARP * WARP * WIDE];
  return of_groups;
}

// Puts the sums over the warps of the block of each lane's V columns. Every thread must call it. A
// thread adds up a column: with a tree of a warp for each it took 1.2 to 1.5 times as long on an H200.
template <int V>
__device__ inline void put_column_sums(const real (&x)[V], real* out, int J, int add) {
  real* of_group = shared_columns();
  int lane = threadIdx.x % WARP, group = threadIdx.x / WARP, groups = blockDim.x / WARP;
  for (int v = 0; v < V; v++) of_group[(group * V + v) * WARP + lane] = x[v];
  __syncthreads();
  for (int c = threadIdx.x; c < WARP * V; c += blockDim.x) {
    int v = c / WARP, of = c % WARP, j = (blockIdx.x * WARP + of) * V + v;
    real sum = 0;
    for (int g = 0; g < groups; g++) sum += of_group[(g * V + v) * WARP + of];
    if (j < J) put(out + j, sum, add);
  }
}

template <int V, class F>
__device__ inline void differentiate(F f, act* __restrict__ da, const act* __restrict__ kept,
                                     real* __restrict__ sums, int add, int N, int J, int rows) {
  Patch patch = patch_of(N, J, rows, V);
  real sum[V] = {};
  EACH_ROW(n, patch) {
    size_t i = (size_t)n * J + patch.j;
    Pack<act, V> dz = load<V>(da + i), z = kept ? load<V>(kept + i) : dz;
    for (int v = 0; v < V; v++) {
      if (kept) dz.x[v] = f(dz.x[v], z.x[v]);
      sum[v] += (real)dz.x[v];
    }
    if (kept) store(da + i, dz);
  }
  if (sums) put_column_sums(sum, sums + (size_t)blockIdx.y * J, J, add);
}

// dz = f(da, kept) in place of da (N, J), unless kept is null, and unless sums (gridDim.y, J) is
// null, the sums of dz over this block's patch of rows: the bias gradient or its partial sums.
// add: to the values in sums. wide: whether a lane has WIDE columns.
FRAME activation_backward(F f, act* da, const act* kept, real* sums, int add, int N, int J,
                          int rows, int wide) {
  if (wide)
    differentiate<WIDE>(f, da, kept, sums, add, N, J, rows);
  else
    differentiate<1>(f, da, kept, sums, add, N, J, rows);
}

// out (J) = the sums of x (S, J) over its rows, or with add, out += those.
KERNEL column_sums(const real* __restrict__ x, real* __restrict__ out, int S, int J, int add) {
  for (unsigned j = FIRST; j < (unsigned)J; j += STRIDE) {
    real sum = 0;
    for (int s = 0; s < S; s++) sum += x[(size_t)s * J + j];
    put(out + j, sum, add);
  }
}
