#include "totals.cuh"

// Losses of elements, with the last layer's bias and the sums fused.

template <int V, class F>
__device__ inline void add_losses(F f, const act* z, const act* bias, act* dz, const real* y,
                                  const real* weights, unsigned size, unsigned J, real larger,
                                  int reduction, real (&sums)[ALL]) {
  for (Walk at(J, V); at.i < size; at.next()) {
    Pack<act, V> values = load<V>(z + at.i), b = bias ? load<V>(bias + at.j) : values, d;
    Pack<real, V> targets = load<V>(y + at.i);
    real weight = weights ? weights[at.n] : (real)1;
    for (int v = 0; v < V; v++) {
      real value = values.x[v], e, de;
      if (bias) value = (act)(value + (real)b.x[v]);
      sums[CORRECT] += f(value, targets.x[v], e, de) * weight;
      d.x[v] = de * weight * larger;
      sums[LOSS] += e * weight;
      sums[DENOMINATOR] += reduction == MEAN ? weight : (real)1;
      sums[COUNTED] += weight;
    }
    store(dz + at.i, d);
  }
}

// dz from outputs z (N, J), after adding the bias (J) if it is not null, and targets y (N, J); dz may
// be z. f(z, y, e, de) gives a loss and its derivative, and returns whether z is correct.
FRAME elementwise_loss(F f, const act* z, const act* bias, act* dz, const real* y,
                       const real* weights, int N, int J, FINISH) {
  real larger = enlarged(scale, share), sums[ALL] = {};
  unsigned size = (unsigned)N * J;
  if (J % WIDE == 0 && aligned(z) && aligned(bias) && aligned(dz) && aligned(y))
    add_losses<WIDE>(f, z, bias, dz, y, weights, size, J, larger, reduction, sums);
  else
    add_losses<1>(f, z, bias, dz, y, weights, size, J, larger, reduction, sums);
  finish(sums, SAME);
}
