#include "totals.cuh"

// Losses of elements, with the last layer's bias and the sums fused: dz from outputs z (N, J), after
// adding the bias (J) if it is not null, and targets y (N, J); dz may be z. f(z, y, e, de) gives a
// loss and its derivative, and returns whether z is correct.
FRAME elementwise_loss(F f, const act* z, const act* bias, act* dz, const real* y,
                       const real* weights, int N, int J, FINISH) {
  real larger = enlarged(scale, share), sums[ALL] = {};
  for (Walk at(J, 1); at.i < (unsigned)N * J; at.next()) {
    real value = z[at.i], weight = weights ? weights[at.n] : (real)1, e, de;
    if (bias) value = (act)(value + (real)bias[at.j]);
    sums[CORRECT] += f(value, y[at.i], e, de) * weight;
    dz[at.i] = de * weight * larger;
    sums[LOSS] += e * weight;
    sums[DENOMINATOR] += reduction == MEAN ? weight : (real)1;
    sums[COUNTED] += weight;
  }
  finish(sums, SAME);
}
