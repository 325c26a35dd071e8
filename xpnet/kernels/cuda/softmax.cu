// Softmax and its logarithm as layers: xpnet/ops/softmax.py. One warp per row of z, a (R, J).

KERNEL softmax(const act* z, act* a, int R, int J, int logarithm) {
  int lane = threadIdx.x % WARP;
  for (int n = FIRST / WARP; n < R; n += STRIDE / WARP) {
    const act* zn = z + (size_t)n * J;
    real lowest = log((real)0), sum = 0;
    Best top = {lowest, J};
    for (int j = lane; j < J; j += WARP) top = better(top, Best{zn[j], j});
    top = warp_best(top);
    for (int j = lane; j < J; j += WARP) sum += exp((real)zn[j] - top.value);
    sum = warp_sum(sum);
    real log_sum = log(sum);
    for (int j = lane; j < J; j += WARP) {
      real shifted = (real)zn[j] - top.value;
      a[(size_t)n * J + j] = logarithm ? shifted - log_sum : exp(shifted) / sum;
    }
  }
}

// dz in place of da, from the layer's output a: dz = a (da - sum(da a)), or da - exp(a) sum(da) for
// the logarithm.
KERNEL softmax_backward(act* da, const act* a, int R, int J, int logarithm) {
  int lane = threadIdx.x % WARP;
  for (int n = FIRST / WARP; n < R; n += STRIDE / WARP) {
    act* dn = da + (size_t)n * J;
    const act* an = a + (size_t)n * J;
    real sum = 0;
    for (int j = lane; j < J; j += WARP) sum += (real)dn[j] * (logarithm ? (real)1 : (real)an[j]);
    sum = warp_sum(sum);
    for (int j = lane; j < J; j += WARP) {
      real d = dn[j], value = an[j];
      dn[j] = logarithm ? d - exp(value) * sum : value * (d - sum);
    }
  }
}
