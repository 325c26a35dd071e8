// Losses with their gradients: xpnet/nn/losses.py, with the last layer's bias and the sums fused.
//
// Each block writes its sums to partial (blocks, 4): loss, weights, correct, counted; the last
// block of the batch adds them up. The gradient is that of the sum of the losses; the optimizer's
// kernels divide it by the denominator, which is known only after the whole batch. In mixed
// precision it is multiplied by the loss scale and `share`, one over the usual denominator, and
// later divided by both together with the denominator.

enum { MEAN, MEAN_COUNT, SUM };                   // reductions
enum { SQUARED_ERROR, HUBER, BINARY_CROSS_ENTROPY };  // element-wise losses
enum { LOSS, WEIGHTS, CORRECT, COUNTED };         // columns of partial

__device__ inline real enlarged(const real* scale, real share) {
  return scale ? *scale * share : (real)1;
}

// first: how many blocks the earlier micro-batches had; finishes: whether this micro-batch is the
// last. good: null, or the flag that find_overflow may clear.
#define FINISH const real* scale, real share, real* partial, int first, int finishes, \
               unsigned* turns, int reduction, int has_correct, real* denominator, \
               real* total_loss, real* total_denominator, real* total_correct, real* total_count, \
               int* bad_step, const int* step, const unsigned long long* cost_at, int* good
#define SAME scale, share, partial, first, finishes, turns, reduction, has_correct, denominator, \
             total_loss, total_denominator, total_correct, total_count, bad_step, step, cost_at, \
             good

// Adds the batch to the totals, and writes C to where *cost_at points and the denominator that the
// gradient is to be divided by. Every thread of every block must call it with its sums; it is true
// in the block that did it, the last one.
__device__ inline bool finish(real loss, real weights, real correct, real counted, FINISH) {
  real sums[] = {loss, weights, correct, counted};
  for (int k = 0; k < 4; k++) {
    sums[k] = block_sum(sums[k]);
    if (threadIdx.x == 0) partial[(first + blockIdx.x) * 4 + k] = sums[k];
  }
  if (!finishes || !last_block(turns)) return false;
  for (int k = 0; k < 4; k++) {
    real x = 0;
    for (unsigned i = threadIdx.x; i < first + gridDim.x; i += blockDim.x) x += partial[i * 4 + k];
    sums[k] = block_sum(x);
  }
  if (threadIdx.x != 0) return true;
  loss = sums[LOSS];
  real D = reduction == MEAN ? sums[WEIGHTS] : reduction == MEAN_COUNT ? sums[COUNTED] : (real)1;
  *total_loss += loss;
  *total_denominator += D;
  if (has_correct) {
    *total_correct += sums[CORRECT];
    *total_count += sums[COUNTED];
  }
  bool finite = loss - loss == 0;
  if (!finite && *bad_step < 0) *bad_step = *step;
  D = D == 0 ? (real)1 : D;
  *(real*)*cost_at = loss / D;
  *denominator = D * enlarged(scale, share);
  if (good) *good = 1;
  return true;
}

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

// dz from logits z (N, K), after adding the bias (K) if it is not null; dz may be z. probabilities:
// whether z holds those instead of logits. dbias (K), null if K > 32, becomes the sum of dz over
// the whole batch, by way of columns (blocks, K). One warp per row. Targets are labels (N) or rows
// (N, K), the other one null; class_weights (K) and weights (N) may be null.
KERNEL softmax_cross_entropy(act* z, const act* bias, act* dz, const int* labels,
                             const real* rows, const real* class_weights, const real* weights,
                             int N, int K, real kept, real uniform, int ignores, int ignored,
                             int probabilities, real* columns, real* dbias, FINISH) {
  real larger = enlarged(scale, share);
  int lane = threadIdx.x % WARP, warp = FIRST / WARP, warps = STRIDE / WARP;
  real loss = 0, row_weights = 0, correct = 0, count = 0;  // of this warp's rows, in lane 0
  real column = 0;
  for (int n = warp; n < N; n += warps) {
    act* zn = z + (size_t)n * K;
    Target target = {labels ? labels[n] : -1, rows ? rows + (size_t)n * K : 0, class_weights,
                     kept, uniform, 1, weights ? weights[n] : (real)1};
    if (labels && ignores && target.label == ignored) target.counted = 0;

    real lowest = log((real)0);
    Best top = {lowest, K}, expected = {lowest, K};
    for (int k = lane; k < K; k += WARP) {
      if (bias) zn[k] = (real)zn[k] + (real)bias[k];
      real value = zn[k];
      top = better(top, Best{value, k});
      if (rows) expected = better(expected, Best{target.row[k], k});
    }
    top = warp_best(top);
    expected = rows ? warp_best(expected) : Best{0, target.label};

    real sum_exp = 0, sum_v = 0, sum_y = 0, sum_wy = 0;
    for (int k = lane; k < K; k += WARP) {
      sum_exp += exp((real)zn[k] - top.value);
      sum_v += target.v(k);
      sum_y += target.y(k);
      if (class_weights) sum_wy += target.y(k) * class_weights[k];
    }
    sum_v = warp_sum(sum_v);
    sum_y = warp_sum(sum_y);
    sum_wy = warp_sum(sum_wy);
    real log_sum = log(warp_sum(sum_exp)), row_loss = 0;
    for (int k = lane; k < K; k += WARP) {
      real v = target.v(k), value = zn[k];
      real log_a = probabilities ? log(value) : value - top.value - log_sum;
      if (v != 0) row_loss -= v * log_a;  // 0 times -inf would be NaN
      real from_a = v != 0 ? -v / value : (real)0, from_z = exp(log_a) * sum_v - v;
      act d = (probabilities ? from_a : from_z) * larger;
      dz[(size_t)n * K + k] = d;
      column += (real)d;  // of one column, if K is small enough
    }
    row_loss = warp_sum(row_loss);
    if (lane != 0) continue;
    loss += row_loss;
    real of_class = class_weights ? sum_wy / (sum_y == 0 ? (real)1 : sum_y) : (real)1;
    row_weights += target.counted * of_class * target.weight;
    correct += target.counted * (real)(top.index == expected.index);
    count += target.counted;
  }
  int group = threadIdx.x / WARP, groups = blockDim.x / WARP, blocks = first + gridDim.x;
  if (dbias) {
    column = column_sum(column);
    if (group == 0 && lane < K) columns[(first + blockIdx.x) * K + lane] = column;
  }
  if (!finish(loss, row_weights, correct, count, SAME) || !dbias) return;
  column = 0;
  for (int i = group; lane < K && i < blocks; i += groups) column += columns[i * K + lane];
  column = column_sum(column);
  if (group == 0 && lane < K) dbias[lane] = column;
}

// e and de/dz of one element; p is the delta of HUBER or BINARY_CROSS_ENTROPY's positive weight.
__device__ inline void element(int kind, real z, real y, real p, real* e, real* de) {
  if (kind == BINARY_CROSS_ENTROPY) {
    *e = p * y * softplus(-z) + (1 - y) * softplus(z);
    *de = (1 - y) * sigmoid(z) - p * y * sigmoid(-z);
    return;
  }
  real r = z - y, size = fabs(r), inner = size > p ? p : size;
  *e = kind == HUBER ? inner * (size - (real)0.5 * inner) : r * r;
  *de = kind == HUBER ? clamp(r, -p, p) : 2 * r;
}

// dz from outputs z (N, J), after adding the bias (J) if it is not null, and targets y (N, J); dz
// may be z.
KERNEL elementwise_loss(const act* z, const act* bias, act* dz, const real* y,
                        const real* weights, int kind, int N, int J, real p, FINISH) {
  real larger = enlarged(scale, share);
  real loss = 0, all_weights = 0, correct = 0, count = 0;
  unsigned size = (unsigned)N * J;
  for (unsigned i = FIRST; i < size; i += STRIDE) {
    real value = z[i], e, de;
    if (bias) value = (act)(value + (real)bias[i % (unsigned)J]);
    real weight = weights ? weights[i / (unsigned)J] : (real)1;
    element(kind, value, y[i], p, &e, &de);
    dz[i] = de * weight * larger;
    loss += e * weight;
    all_weights += weight;
    correct += (real)((value > 0) == (y[i] > (real)0.5));
    count += 1;
  }
  finish(loss, all_weights, correct, count, SAME);
}
