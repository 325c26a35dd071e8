// Dropout: xpnet/ops/dropout.py.

__device__ inline unsigned mix(unsigned h) {
  h = (h ^ (h >> 16)) * 0x7FEB352Du;
  h = (h ^ (h >> 15)) * 0x846CA68Bu;
  return h ^ (h >> 16);
}

struct Mask {
  unsigned key, second;
  int threshold;
  real scale;

  __device__ real operator()(unsigned position) const {
    int hash = (int)(mix(mix(position ^ key) + second) >> 8);
    return hash >= threshold ? scale : (real)0;
  }
};

__device__ inline unsigned position(const Walk& at, int first, int J, int between) {
  return (unsigned)first + at.n * (unsigned)(J + between) + at.j;
}

// y = x m / (1 - rate), m = 0 where the hash of the position is below the threshold; y may be x.
// The adjoint is the same kernel: the mask is recomputed, not kept. first: position of x[0] in the
// batch, of which the rows between those of J numbers here, `between` numbers, are elsewhere.
KERNEL dropout(const act* x, act* y, const int* keys, int n, int threshold, real scale,
               int first, int J, int between) {
  Mask mask = {(unsigned)keys[0], (unsigned)keys[1], threshold, scale};
  if (between) {
    for (Walk at(J, 1); at.i < (unsigned)n; at.next()) {
      y[at.i] = (real)x[at.i] * mask(position(at, first, J, between));
    }
    return;
  }
  each<WIDE>(aligned(x) && aligned(y), n, [&](auto width, unsigned i) {
    const int V = decltype(width)::V;
    Pack<act, V> z = load<V>(x + i);
    for (int v = 0; v < V; v++) z.x[v] = (real)z.x[v] * mask(i + v + (unsigned)first);
    store(y + i, z);
  });
}

// The same of J numbers in each of N aligned rows of `width`, a multiple of WIDE; pads become 0.
KERNEL dropout_with_pads(const act* x, act* y, const int* keys, int N, int width, int threshold,
                         real scale, int first, int J, int between) {
  Mask mask = {(unsigned)keys[0], (unsigned)keys[1], threshold, scale};
  for (Walk at(width, WIDE); at.i < (unsigned)N * width; at.next()) {
    Pack<act, WIDE> z = load<WIDE>(x + at.i);
    unsigned p = position(at, first, J, between);
    for (int v = 0; v < WIDE; v++)
      z.x[v] = at.j + v < (unsigned)J ? (real)z.x[v] * mask(p + v) : (real)0;
    store(y + at.i, z);
  }
}
