#include "rows.cuh"

// Softmax and its logarithm as layers: xpnet/ops/softmax.py. A row of z, a (R, J) for each warp, or
// with `block` for each block.

KERNEL softmax(const act* z, act* a, int R, int J, int logarithm, int block) {
  by_rows(block, J % WIDE == 0 && aligned(z) && aligned(a), [&](auto rows, auto width) {
    const int V = decltype(width)::V;
    for (int n = rows.first; n < R; n += rows.step) {
      const act* zn = z + (size_t)n * J;
      real top = log((real)0), sum = 0;
      rows.each(J, [&](int j) {
        Pack<act, V> x = load<V>(zn + j);
        for (int v = 0; v < V; v++) top = larger_of(top, x.x[v]);
      });
      top = rows.largest(top);
      rows.each(J, [&](int j) {
        Pack<act, V> x = load<V>(zn + j);
        for (int v = 0; v < V; v++) sum += exp((real)x.x[v] - top);
      });
      sum = rows.sum(sum);
      real log_sum = log(sum);
      rows.each(J, [&](int j) {
        Pack<act, V> x = load<V>(zn + j);
        for (int v = 0; v < V; v++) {
          real shifted = (real)x.x[v] - top;
          x.x[v] = logarithm ? shifted - log_sum : exp(shifted) / sum;
        }
        store(a + (size_t)n * J + j, x);
      });
    }
  });
}

// dz in place of da, from the layer's output a: dz = a (da - sum(da a)), or da - exp(a) sum(da) for
// the logarithm.
KERNEL softmax_backward(act* da, const act* a, int R, int J, int logarithm, int block) {
  by_rows(block, J % WIDE == 0 && aligned(da) && aligned(a), [&](auto rows, auto width) {
    const int V = decltype(width)::V;
    for (int n = rows.first; n < R; n += rows.step) {
      act* dn = da + (size_t)n * J;
      const act* an = a + (size_t)n * J;
      real sum = 0;
      rows.each(J, [&](int j) {
        Pack<act, V> d = load<V>(dn + j), x = load<V>(an + j);
        for (int v = 0; v < V; v++) sum += (real)d.x[v] * (logarithm ? (real)1 : (real)x.x[v]);
      });
      sum = rows.sum(sum);
      rows.each(J, [&](int j) {
        Pack<act, V> of_da = load<V>(dn + j), x = load<V>(an + j);
        for (int v = 0; v < V; v++) {
          real d = of_da.x[v], value = x.x[v];
          of_da.x[v] = logarithm ? d - exp(value) * sum : value * (d - sum);
        }
        store(dn + j, of_da);
      });
    }
  });
}
