// A batch whose rows are on several ranks: xpnet/step/data_parallel.py.
#include "totals.cuh"

// x (n) = 0: what a rank without rows of the batch adds to the sums.
KERNEL cleared(real* x, int n) {
  for (size_t i = FIRST; i < (unsigned)n; i += STRIDE) x[i] = 0;
}

// One thread ends the loss of the whole batch, whose sums (ALL) are those of all ranks now.
KERNEL add_shared(const real* shared, const real* scale, real share, OUTCOME) {
  if (FIRST != 0) return;
  real sums[ALL];
  for (int k = 0; k < ALL; k++) sums[k] = shared[k];
  end_loss(sums, Before(scale, share, SAME_OUTCOME), SAME_OUTCOME);
}
