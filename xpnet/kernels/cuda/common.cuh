// What all kernels share. `real` is float or double; NaN propagates, as in xpnet.ops. Layers store
// `act`: narrow.cuh. A FRAME is a kernel without its formula f, which is printed: printed.py.
//
// A kernel gives the right result for any block size that is a multiple of 32 (at most 1024) and,
// unless it works on patches, for any grid. The same launch gives the same bits every time: sums
// are taken in a fixed order, without floating-point atomics, so that a replayed graph can be
// compared with an eager step bit by bit. Numbers that change from step to step are read from
// device memory.

#define KERNEL_OF(...) extern "C" __global__ void __launch_bounds__(__VA_ARGS__)
#define KERNEL KERNEL_OF(1024)
#define FRAME template <class F> __device__ inline void
#define WARP 32
#define MOST_SUMS 8     // that a block adds up at once
#define MOST_NUMBERS 8  // that change from one update to the next

// Index of this thread's first element, and the distance to its next.
#define FIRST (blockIdx.x * blockDim.x + threadIdx.x)
#define STRIDE (gridDim.x * blockDim.x)

// Numbers that are loaded or stored together. 16 bytes of them take one instruction, if they are
// aligned; a tensor inside the flat vector of parameters may not be.
template <class T, int V> struct alignas(sizeof(T) * V) Pack { T x[V]; };

#define WIDE (16 / (int)sizeof(act))  // numbers of a layer in 16 bytes
#define WIDE_REAL (16 / (int)sizeof(real))

template <int V, class T> __device__ inline Pack<T, V> load(const T* from) {
  return *(const Pack<T, V>*)from;
}

template <int V, class T> __device__ inline void store(T* to, const Pack<T, V>& x) {
  *(Pack<T, V>*)to = x;
}

__device__ inline bool aligned(const void* x) { return (size_t)x % 16 == 0; }

template <int n> struct Width { enum { V = n }; };

template <int V, class Body>
__device__ inline void each_pack(unsigned first, unsigned n, Body body) {
  for (unsigned i = first + FIRST * V; i < n; i += STRIDE * V) body(Width<V>(), i);
}

// Calls body(width, i) for this thread's packs of V of n numbers, or if they are not aligned, and at
// their end, for single ones; i is the first of decltype(width)::V.
template <int V, class Body> __device__ inline void each(bool aligned, unsigned n, Body body) {
  unsigned whole = aligned ? n - n % V : 0;
  each_pack<V>(0, whole, body);
  each_pack<1>(whole, n, body);
}

template <int n> __device__ inline void warp_sums(real (&x)[n]) {  // the same in all lanes
  for (int offset = WARP / 2; offset > 0; offset /= 2)
    for (int k = 0; k < n; k++) x[k] += __shfl_xor_sync(0xffffffffu, x[k], offset);
}

__device__ inline real warp_sum(real x) {
  real sums[] = {x};
  warp_sums(sums);
  return sums[0];
}

__device__ inline real* shared_sums() {
  __shared__ real of_warps[MOST_SUMS * WARP];
  return of_warps;
}

// The sums over the block, in every thread. Every thread must call it.
template <int n> __device__ inline void block_sums(real (&x)[n]) {
  real* of_warp = shared_sums();
  int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  warp_sums(x);
  __syncthreads();  // the last use of of_warp is over
  for (int k = 0; lane == 0 && k < n; k++) of_warp[k * WARP + warp] = x[k];
  __syncthreads();
  for (int k = 0; k < n; k++)
    x[k] = lane < (int)blockDim.x / WARP ? of_warp[k * WARP + lane] : (real)0;
  warp_sums(x);
}

__device__ inline real block_sum(real x) {
  real sums[] = {x};
  block_sums(sums);
  return sums[0];
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

// The best of the block, in every thread. Every thread must call it.
__device__ inline Best block_best(Best x) {
  __shared__ real values[WARP];
  __shared__ int indices[WARP];
  int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  x = warp_best(x);
  __syncthreads();  // the last use of values is over
  if (lane == 0) values[warp] = x.value, indices[warp] = x.index;
  __syncthreads();
  int from = lane < (int)blockDim.x / WARP ? lane : 0;
  return warp_best(Best{values[from], indices[from]});
}

// A patch of 32 V columns, V to a lane, and `rows` rows of a matrix (N, J): block (x, y) has the
// columns from 32 V x and the rows from rows y, which its warps take in turn.
struct Patch { int j, group, groups, first, last, count; };  // last: first where j >= J

__device__ inline Patch patch_of(int N, int J, int rows, int V = 1) {
  int j = (blockIdx.x * WARP + threadIdx.x % WARP) * V, first = blockIdx.y * rows;
  int last = first + rows < N ? first + rows : N;
  int group = threadIdx.x / WARP, groups = blockDim.x / WARP;
  return {j, group, groups, first, j < J ? last : first, last - first};
}

#define EACH_ROW(n, patch) \
  for (int n = patch.first + patch.group; n < patch.last; n += patch.groups)

// The sum of each lane's x over the warps of the block, in every thread. Every thread must call it.
__device__ inline real column_sum(real x) {
  __shared__ real of_group[WARP][WARP + 1], sums[WARP];
  int lane = threadIdx.x % WARP, group = threadIdx.x / WARP, groups = blockDim.x / WARP;
  of_group[group][lane] = x;
  __syncthreads();  // also: the last use of sums is over
  for (int column = group; column < WARP; column += groups) {
    real sum = warp_sum(lane < groups ? of_group[lane][column] : (real)0);
    if (lane == 0) sums[column] = sum;
  }
  __syncthreads();  // also: this use of of_group is over
  return sums[lane];
}

// *out = x, or *out += x.
__device__ inline void put(real* out, real x, int add) { *out = add ? *out + x : x; }

// The elements of a matrix with J columns that a thread has, V at a time: the number i of the first,
// its row and its column, without a division for each.
struct Walk {
  unsigned i, n, j, step, rows, columns, J;

  __device__ Walk(unsigned J, unsigned V) : i(FIRST * V), step(STRIDE * V), J(J) {
    n = i / J, j = i % J, rows = step / J, columns = step % J;
  }

  __device__ void next() {
    i += step, n += rows, j += columns;
    if (j >= J) j -= J, n++;
  }
};

// How the numbers i to i + V - 1 of the flat vector of parameters are found in another vector.
struct Flat {  // with the same layout
  __device__ Flat(const unsigned*) {}

  template <int V, class T> __device__ Pack<T, V> get(const T* from, unsigned i) {
    return load<V>(from + i);
  }

  template <int V, class T> __device__ void put(T* to, unsigned i, const Pack<T, V>& x) {
    store(to + i, x);
  }
};

// In one where tensors and their rows are apart: padding.py. i never decreases.
struct Apart {
  // A row of the table: first number and place of a tensor, its J, the pads of a row, (2^32 - 1) / J.
  struct Tensor { unsigned first, place, J, more, inverse; };
  const Tensor* tensor;

  __device__ Apart(const unsigned* tensors) : tensor((const Tensor*)tensors) {}

  // The place of number i, and whether n of them lie there in a pack.
  __device__ unsigned at(unsigned i, int n, bool& packed) {
    while (i >= tensor[1].first) tensor++;
    unsigned k = i - tensor->first, J = tensor->J;
    unsigned row = (unsigned long long)k * tensor->inverse >> 32;  // or one less than it is
    unsigned column = k - row * J, more = column >= J;
    row += more, column -= more * J;
    unsigned place = tensor->place + k + row * tensor->more;
    packed = column + n <= J && place % n == 0;
    return place;
  }

  template <int V, class T> __device__ Pack<T, V> get(const T* from, unsigned i) {
    bool packed;
    unsigned place = at(i, V, packed);
    if (packed) return load<V>(from + place);
    Pack<T, V> x;
    Apart next = *this;
    for (int v = 0; v < V; v++) x.x[v] = from[next.at(i + v, 1, packed)];
    return x;
  }

  template <int V, class T> __device__ void put(T* to, unsigned i, const Pack<T, V>& x) {
    bool packed;
    unsigned place = at(i, V, packed);
    if (packed) return store(to + place, x);
    Apart next = *this;
    for (int v = 0; v < V; v++) to[next.at(i + v, 1, packed)] = x.x[v];
  }
};
