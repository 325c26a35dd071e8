// Dropout: xpnet/ops/dropout.py.

__device__ inline unsigned mix(unsigned h) {
  h = (h ^ (h >> 16)) * 0x7FEB352Du;
  h = (h ^ (h >> 15)) * 0x846CA68Bu;
  return h ^ (h >> 16);
}

// y = x m / (1 - rate), m = 0 where the hash of the position is below the threshold; y may be x.
// The adjoint is the same kernel: the mask is recomputed, not kept. first: position of x[0] in the
// batch.
KERNEL dropout(const act* x, act* y, const int* keys, int n, int threshold, real scale,
               int first) {
  unsigned key = (unsigned)keys[0], second = (unsigned)keys[1];
  each<WIDE>(aligned(x) && aligned(y), n, [&](auto width, unsigned i) {
    const int V = decltype(width)::V;
    Pack<act, V> z = load<V>(x + i);
    for (int v = 0; v < V; v++) {
      int hash = (int)(mix(mix((i + v + (unsigned)first) ^ key) + second) >> 8);
      z.x[v] = (real)z.x[v] * (hash >= threshold ? scale : (real)0);
    }
    store(y + i, z);
  });
}
