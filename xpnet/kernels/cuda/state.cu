// What else happens to the state in a step.

template <class Places>
__device__ inline void narrow_to(Places places, const real* x, act* y, int n) {
  each<WIDE_REAL>(aligned(x) && aligned(y), n, [&](auto width, unsigned i) {
    const int V = decltype(width)::V;
    Pack<real, V> wide = load<V>(x + i);
    Pack<act, V> rounded;
    for (int v = 0; v < V; v++) rounded.x[v] = wide.x[v];
    places.put(y, i, rounded);
  });
}

// y = x, rounded to act.
KERNEL narrowed(const real* x, act* y, int n) { narrow_to(Flat(0), x, y, n); }

// The same where y has its tensors apart: common.cuh. Its pads stay as they are.
KERNEL narrowed_apart(const real* x, act* y, const unsigned* tensors, int n) {
  narrow_to(Apart(tensors), x, y, n);
}

// *good = 0 if a gradient is not finite; the loss set it to 1. All writers write the same value.
KERNEL find_overflow(const real* g, int* good, int n) {
  each<WIDE_REAL>(aligned(g), n, [&](auto width, unsigned i) {
    Pack<real, decltype(width)::V> x = load<decltype(width)::V>(g + i);
    for (real of_g : x.x)
      if (of_g - of_g != 0) *good = 0;
  });
}

// One thread updates the loss scale (S, good steps since it changed) and the number of steps that
// were skipped, after a step:
// xpnet/step/mixed_precision.py.
KERNEL next_scale(real* scale, int* skipped, const int* good, real growth) {
  if (FIRST != 0) return;
  *skipped += !*good;
  bool grown = scale[1] + 1 >= growth;
  scale[0] *= !*good ? (real)0.5 : grown ? (real)2 : (real)1;
  scale[1] = *good && !grown ? scale[1] + 1 : (real)0;
}

// to = from, unless *unless: a skipped step leaves the running statistics as they were.
KERNEL copied(const real* from, real* to, int n, const int* unless) {
  if (unless && *unless) return;
  each<WIDE_REAL>(aligned(from) && aligned(to), n, [&](auto width, unsigned i) {
    store(to + i, load<decltype(width)::V>(from + i));
  });
}

// Exchanges the n words at a with those at b.
KERNEL exchanged(unsigned* a, unsigned* b, unsigned long long n) {
  for (size_t i = FIRST; i < n; i += STRIDE) {
    unsigned x = a[i];
    a[i] = b[i];
    b[i] = x;
  }
}

// *count += how many of the n words at a differ from those at b.
KERNEL differences(const unsigned* a, const unsigned* b, unsigned long long* count,
                   unsigned long long n) {
  unsigned long long found = 0;
  for (size_t i = FIRST; i < n; i += STRIDE) found += a[i] != b[i];
  if (found) atomicAdd(count, found);  // of integers: the same in any order
}
