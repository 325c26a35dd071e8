// Clipping by norm, and the update: xpnet/optim/clipping.py and xpnet/optim/optimizers.py, in one
// pass over the flat vectors. The gradient g is that of the sum of the losses.

// *factor = f.factor(norm); partial (gridDim.x) are the blocks' sums of squares. F::Places says how
// the n numbers are found in g: common.cuh, of whose table `tensors` is null for Flat.
FRAME clip_factor(F f, const real* g, const unsigned* tensors, const real* denominator,
                  real* partial, unsigned* turns, real* factor, int n) {
  typename F::Places places(tensors);
  real sum = 0, D = *denominator;
  each<WIDE_REAL>(aligned(g), n, [&](auto width, unsigned i) {
    Pack<real, decltype(width)::V> x = places.template get<decltype(width)::V>(g, i);
    for (real of_g : x.x) sum += f.square(of_g, D);
  });
  sum = block_sum(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
  if (!last_block(turns)) return;
  sum = 0;
  for (unsigned i = threadIdx.x; i < gridDim.x; i += blockDim.x) sum += partial[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) *factor = f.factor(sqrt(sum));
}

// f(p, g, slots, denominator, factor, c) turns p and the slots of one parameter into the next ones.
// factor: null, or what clips the norm; good: null, or whether this step is applied; working: null,
// or p rounded for the layers, in the places of g. c (MOST_NUMBERS) are the coefficients.
FRAME update(F f, real* __restrict__ p, const real* __restrict__ g, const unsigned* tensors,
             const real* denominator, const real* factor, const int* good,
             act* __restrict__ working, const real* c, int n) {
  if (good && !*good) return;
  typename F::Places places(tensors);
  bool wide = aligned(p) && aligned(g) && aligned(working);
  for (int s = 0; s < F::SLOTS; s++) wide &= aligned(f.slots[s]);
  real D = *denominator, clipped = factor ? *factor : (real)1, numbers[MOST_NUMBERS];
  for (int k = 0; k < MOST_NUMBERS; k++) numbers[k] = c[k];
  each<WIDE_REAL>(wide, n, [&](auto width, unsigned i) {
    const int V = decltype(width)::V;
    Pack<real, V> of_p = load<V>(p + i), of_g = places.template get<V>(g, i), slots[F::SLOTS + 1];
    for (int s = 0; s < F::SLOTS; s++) slots[s] = load<V>(f.slots[s] + i);
    Pack<act, V> rounded;
    for (int v = 0; v < V; v++) {
      real slot[F::SLOTS + 1];
      for (int s = 0; s < F::SLOTS; s++) slot[s] = slots[s].x[v];
      f(of_p.x[v], of_g.x[v], slot, D, clipped, numbers);
      for (int s = 0; s < F::SLOTS; s++) slots[s].x[v] = slot[s];
      rounded.x[v] = of_p.x[v];
    }
    for (int s = 0; s < F::SLOTS; s++) store(f.slots[s] + i, slots[s]);
    store(p + i, of_p);
    if (working) places.put(working, i, rounded);
  });
}
