// What ends every loss: its sums, with those of the epoch.
//
// Each block writes its sums to partial (blocks, 4): loss, its denominator, and the weights of what
// is correct and of all that counts; the last block of the batch adds them up. The gradient is that of the sum of the losses; the update divides
// it by the denominator, which is known only after the whole batch. In mixed precision it is
// multiplied by the loss scale and `share`, one over the usual denominator, and later divided by
// both together with the denominator.
//
// Where several ranks share the batch, these are the sums of one of them. They stand behind its
// gradient until both were summed over the ranks: then add_shared of ranks.cu ends the loss.

enum { MEAN, MEAN_COUNT, SUM };                    // reductions
enum { LOSS, DENOMINATOR, CORRECT, COUNTED, ALL };  // columns of partial

__device__ inline real enlarged(const real* scale, real share) {
  return scale ? *scale * share : (real)1;
}

// first: how many blocks the earlier micro-batches had; finishes: whether this micro-batch is the
// last. own: null, or where the sums (ALL) go if other ranks have more of the batch. good: null, or
// the flag that find_overflow may clear.
#define FINISH const real* scale, real share, real* partial, int first, int finishes, \
               unsigned* turns, real* own, OUTCOME
#define OUTCOME int reduction, int has_correct, real* denominator, real* total_loss, \
                real* total_denominator, real* total_correct, real* total_count, int* bad_step, \
                const int* step, const unsigned long long* cost_at, int* good
#define SAME_OUTCOME reduction, has_correct, denominator, total_loss, total_denominator, \
                     total_correct, total_count, bad_step, step, cost_at, good
#define SAME scale, share, partial, first, finishes, turns, own, SAME_OUTCOME

// What the end of a loss reads. It is loaded before the sums are taken: a thread waits for all at
// once, and not after them.
struct Before {
  real loss, D, right, count, larger, *cost;
  int bad, now;

  __device__ Before(const real* scale, real share, OUTCOME)
      : loss(*total_loss), D(*total_denominator), right(*total_correct), count(*total_count),
        larger(enlarged(scale, share)), cost((real*)*cost_at), bad(*bad_step), now(*step) {}
};

// One thread adds the batch to the totals, and writes C to where *cost_at points and the
// denominator that the gradient is to be divided by.
__device__ inline void end_loss(const real (&sums)[ALL], const Before& before, OUTCOME) {
  real d = reduction == SUM ? (real)1 : sums[DENOMINATOR];
  *total_loss = before.loss + sums[LOSS];
  *total_denominator = before.D + d;
  if (has_correct) {
    *total_correct = before.right + sums[CORRECT];
    *total_count = before.count + sums[COUNTED];
  }
  if (sums[LOSS] - sums[LOSS] != 0 && before.bad < 0) *bad_step = before.now;
  d = d == 0 ? (real)1 : d;
  *before.cost = sums[LOSS] / d;
  *denominator = d * before.larger;
  if (good) *good = 1;
}

// Ends the loss, or writes its sums to `own`. Every thread of every block must call it with its
// sums; it is true in the block that did it, the last one.
__device__ inline bool finish(real (&sums)[ALL], FINISH) {
  Before before(scale, share, SAME_OUTCOME);
  block_sums(sums);
  if (!finishes || first + gridDim.x > 1) {
    if (threadIdx.x == 0)
      for (int k = 0; k < ALL; k++) partial[(first + blockIdx.x) * ALL + k] = sums[k];
    if (!finishes || !last_block(turns)) return false;
    for (int k = 0; k < ALL; k++) sums[k] = 0;
    for (unsigned i = threadIdx.x; i < first + gridDim.x; i += blockDim.x)
      for (int k = 0; k < ALL; k++) sums[k] += partial[i * ALL + k];
    block_sums(sums);
  }
  if (threadIdx.x == 0 && own)
    for (int k = 0; k < ALL; k++) own[k] = sums[k];
  else if (threadIdx.x == 0)
    end_loss(sums, before, SAME_OUTCOME);
  return true;
}

// The same, and dbias (K) = the sums of `column` over the warps of all blocks, by way of columns
// (blocks, K), if dbias is not null: then K is at most 32, and lane k has column k.
__device__ inline void finish_columns(real (&sums)[ALL], real column, int K, real* columns,
                                      real* dbias, FINISH) {
  int lane = threadIdx.x % WARP, group = threadIdx.x / WARP, groups = blockDim.x / WARP;
  int blocks = first + gridDim.x;
  bool alone = finishes && blocks == 1;
  if (dbias) {
    column = column_sum(column);
    real* to = alone ? dbias : columns + (first + blockIdx.x) * K;
    if (group == 0 && lane < K) to[lane] = column;
  }
  if (!finish(sums, SAME) || !dbias || alone) return;
  column = 0;
  for (int i = group; lane < K && i < blocks; i += groups) column += columns[i * K + lane];
  column = column_sum(column);
  if (group == 0 && lane < K) dbias[lane] = column;
}
