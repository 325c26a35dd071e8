#include "rows.cuh"
#include "totals.cuh"

// Softmax cross-entropy of labels with its gradient: what cross_entropy.cu does, in fewer
// instructions, without weights of classes. A row is read once and written once, and in between it
// is in registers.

__device__ inline bool same(real a, real b) { return a == b || (a != a && b != b); }

#define EACH_HELD(h, k) \
  _Pragma("unroll") \
  for (int h = 0, k = all.lane * V; h < HELD; h += V, k += all.lanes * V) if (k < K)

// dz from logits z (N, K), after adding the bias (K) if it is not null; dz may be z. Rows of both
// begin every `width` numbers, and pads stay as they are. The target of a row is uniform, and more by
// kept at its label of labels (N); weights (N) may be null.
//
// dbias (K), null if a lane holds more than one entry, becomes the sum of dz over the whole batch, by
// way of columns (blocks, K).
//
// F says how: the lanes of a row are a warp, or with BLOCK a block, and each holds HELD entries in
// packs of V.
FRAME labelled_rows(F f, const act* z, const act* bias, act* dz, const int* labels,
                    const real* weights, int N, int K, int width, real kept, real uniform,
                    int ignores, int ignored, real* columns, real* dbias, FINISH) {
  const int HELD = F::HELD, V = F::V;
  real larger = enlarged(scale, share), sums[ALL] = {}, x[HELD] = {}, column = 0;
  Rows<F::BLOCK, V> all;

  for (int n = all.first; n < N; n += all.step) {
    const act* zn = z + (size_t)n * width;
    int label = labels[n];
    bool known = label >= 0 && label < K;
    real counted = ignores && label == ignored ? (real)0 : (real)1;
    real weight = weights ? counted * weights[n] : counted, at_label = 0, top = log((real)0);
    if (known) {
      act at = zn[label];
      at_label = bias ? (act)((real)at + (real)bias[label]) : at;
    }
    EACH_HELD(h, k) {
      Pack<act, V> of_z = load<V>(zn + k), b = bias ? load<V>(bias + k) : of_z;
      for (int v = 0; v < V; v++) {
        x[h + v] = bias ? (real)(act)((real)of_z.x[v] + (real)b.x[v]) : (real)of_z.x[v];
        top = larger_of(top, x[h + v]);
      }
    }
    top = all.largest(top);

    enum { EXP, LOGARITHMS, BEFORE, PARTS };  // LOGARITHMS but for that of EXP
    real part[PARTS] = {};
    bool largest = known && same(at_label, top);
    if (largest) {  // and the prediction if no entry before it is as large
      EACH_HELD(h, k)
        for (int v = 0; v < V; v++) part[BEFORE] += k + v < label && same(x[h + v], top);
    }
    EACH_HELD(h, k)
      for (int v = 0; v < V; v++) {
        real log_a = x[h + v] - top;
        part[LOGARITHMS] += log_a;
        part[EXP] += x[h + v] = exp(log_a);
      }
    all.sums(part);
    if (!F::BLOCK) __syncwarp();  // all have read at_label

    // The targets times the weight: low everywhere, and more by high at the label.
    real low = uniform * weight, high = kept * weight, target = low * K + (known ? high : (real)0);
    real of_exp = target / part[EXP] * larger, of_low = low * larger, of_high = high * larger;
    EACH_HELD(h, k) {
      Pack<act, V> d;
      for (int v = 0; v < V; v++)
        d.x[v] = x[h + v] * of_exp - (k + v == label ? of_low + of_high : of_low);
      if (HELD == 1) column += (real)d.x[0];
      store(dz + (size_t)n * width + k, d);
    }
    if (all.lane != 0) continue;
    real likelihood = low != 0 ? low * part[LOGARITHMS] : (real)0;  // 0 times -inf would be NaN
    if (known && high != 0) likelihood += high * (at_label - top);
    sums[LOSS] += (target != 0 ? target * log(part[EXP]) : (real)0) - likelihood;
    sums[DENOMINATOR] += reduction == MEAN ? weight : counted;
    sums[CORRECT] += largest && part[BEFORE] == 0 ? weight : (real)0;
    sums[COUNTED] += weight;
  }
  finish_columns(sums, column, K, columns, HELD == 1 && !F::BLOCK ? dbias : 0, SAME);
}
