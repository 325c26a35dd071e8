#include "rows.cuh"
#include "totals.cuh"

// Cross-entropy with its gradient: xpnet/nn/losses.py, with the last layer's bias and the sums fused.

// One row of class targets. v_k = s w_k t_k, t the smoothed target: xpnet.nn.losses.
struct Target {
  int label;              // the class, if targets are labels
  const real* row;        // (K), if targets are rows
  const real* class_weights;
  real kept, uniform;     // t = kept y + uniform: label smoothing
  real counted, weight;   // 0 if the label is ignored, and s

  __device__ real y(int k) const { return row ? row[k] : (real)(k == label); }
  __device__ real v(int k) const {
    real t = (kept * y(k) + uniform) * counted;
    return (class_weights ? t * class_weights[k] : t) * weight;
  }
};

// Loops over the entries of a row that a lane has. It holds HELD of them in x, or with 0 none, and
// then x is the entry at hand.
#define EACH_ENTRY(h, k) \
  _Pragma("unroll (F::HELD ? F::HELD : 1)") \
  for (int h = 0, k = all.lane; HELD ? h < HELD : k < K; h++, k += all.lanes) if (k < K)

// dz from logits z (N, K), after adding the bias (K) if it is not null; dz may be z. Rows of both
// begin every `width` numbers, and pads stay as they are. probabilities: whether z holds those
// instead of logits. dbias (K), null if K > 32, becomes the sum of dz over the whole batch, by way of
// columns (blocks, K). Targets are labels (N) or rows (N, K), the other one null; class_weights (K)
// and weights (N) may be null.
//
// F says how: the lanes of a row are a warp, or with BLOCK a block, and each holds HELD entries.
FRAME cross_entropy(F f, act* z, const act* bias, act* dz, const int* labels, const real* rows,
                    const real* class_weights, const real* weights, int N, int K, int width,
                    real kept, real uniform, int ignores, int ignored, int probabilities,
                    real* columns, real* dbias, FINISH) {
  const int HELD = F::HELD;
  const bool BLOCK = F::BLOCK;
  if (BLOCK) dbias = 0;
  real larger = enlarged(scale, share), sums[ALL] = {}, column = 0;
  Rows<BLOCK, 1> all;
  real held[HELD ? HELD : 1];

  for (int n = all.first; n < N; n += all.step) {
    act *zn = z + (size_t)n * width, *dn = dz + (size_t)n * width;
    Target target = {labels ? labels[n] : -1, rows ? rows + (size_t)n * K : 0, class_weights,
                     kept, uniform, 1, weights ? weights[n] : (real)1};
    if (labels && ignores && target.label == ignored) target.counted = 0;

    real lowest = log((real)0);
    Best top = {lowest, K}, expected = {lowest, K};
    auto fetch = [&](int k) { return bias ? (act)((real)zn[k] + (real)bias[k]) : zn[k]; };
    EACH_ENTRY(h, k) {
      real* x = held + (HELD ? h : 0);
      *x = fetch(k);
      top = better(top, Best{*x, k});
      if (rows) expected = better(expected, Best{target.row[k], k});
    }
    top = BLOCK ? block_best(top) : warp_best(top);
    if (rows) expected = BLOCK ? block_best(expected) : warp_best(expected);
    else expected.index = target.label;

    enum { EXP, TARGET, LIKELIHOOD, Y, WY, PARTS };  // LIKELIHOOD but for the logarithm of EXP
    real part[PARTS] = {};
    EACH_ENTRY(h, k) {
      real* x = held + (HELD ? h : 0);
      if (!HELD) *x = fetch(k);
      real v = target.v(k), log_a = probabilities ? log(*x) : *x - top.value;
      if (v != 0) part[LIKELIHOOD] += v * log_a;  // 0 times -inf would be NaN
      if (!probabilities) part[EXP] += *x = exp(log_a);
      part[TARGET] += v;
      if (!class_weights) continue;
      part[Y] += target.y(k);
      part[WY] += target.y(k) * class_weights[k];
    }
    all.sums(part);

    EACH_ENTRY(h, k) {
      real* x = held + (HELD ? h : 0);
      if (!HELD) *x = fetch(k);
      real v = target.v(k), e = HELD || probabilities ? *x : exp(*x - top.value);
      real from_a = v != 0 ? -v / e : (real)0, from_z = e / part[EXP] * part[TARGET] - v;
      act d = (probabilities ? from_a : from_z) * larger;
      column += (real)d;  // of one column, if K is small enough
      dn[k] = d;
    }
    if (all.lane != 0) continue;
    bool counts = !probabilities && part[TARGET] != 0;
    sums[LOSS] += (counts ? part[TARGET] * log(part[EXP]) : (real)0) - part[LIKELIHOOD];
    real of_class = class_weights ? part[WY] / (part[Y] == 0 ? (real)1 : part[Y]) : (real)1;
    real weight = target.counted * target.weight;
    sums[DENOMINATOR] += reduction == MEAN ? weight * of_class : target.counted;
    sums[CORRECT] += weight * (real)(top.index == expected.index);
    sums[COUNTED] += weight;
  }
  finish_columns(sums, column, K, columns, dbias, SAME);
}
