// Batch and layer normalisation and the activation after them: xpnet/ops/normalization.py, fused.
//
// x, y and a are (R, J), a = f(y) and y = gamma x_hat + beta, x_hat being x normalised. The mean
// and inv_std = 1 / sqrt(v + eps) are kept, per column or per row; x_hat is recomputed from them and
// x. Sums over rows are taken by patches (common.cuh); if several lie one below another, a first
// launch writes their sums to partial (gridDim.y, 2, J), and each block of the next adds those up
// in order.
//
// Pads (padding.py) have 0 in gamma and beta, so y is 0 there. To a batch norm they are columns like
// others; a layer norm has `width` of them, of which only J count in a row's sums.

struct Moments { real mean, deviation; };  // deviation: the sum of (x - mean)^2

__device__ inline Moments moments(const act* x, Patch patch, int J) {
  real sum = 0, deviation = 0;
  EACH_ROW(n, patch) sum += (real)x[(size_t)n * J + patch.j];
  real mean = column_sum(sum) / patch.count;
  EACH_ROW(n, patch) {
    real centred = (real)x[(size_t)n * J + patch.j] - mean;
    deviation += centred * centred;
  }
  return {mean, column_sum(deviation)};
}

KERNEL column_moments(const act* x, real* partial, int R, int J, int rows) {
  Patch patch = patch_of(R, J, rows);
  Moments m = moments(x, patch, J);
  if (patch.group > 0 || patch.j >= J) return;
  partial[(size_t)blockIdx.y * 2 * J + patch.j] = m.mean;
  partial[((size_t)blockIdx.y * 2 + 1) * J + patch.j] = m.deviation;
}

// The moments of all rows, from those of the patches: Chan, Golub and LeVeque 1979.
__device__ inline Moments all_moments(const real* partial, Patch patch, int R, int J, int rows) {
  Moments all = {0, 0};
  if (patch.j >= J) return all;
  const real *means = partial + patch.j, *deviations = means + J;
  for (int s = 0, n = 0; n < R; s++, n += rows)
    all.mean += means[(size_t)s * 2 * J] * (n + rows < R ? rows : R - n);
  all.mean /= R;
  for (int s = 0, n = 0; n < R; s++, n += rows) {
    real off = means[(size_t)s * 2 * J] - all.mean;
    all.deviation += deviations[(size_t)s * 2 * J] + off * off * (n + rows < R ? rows : R - n);
  }
  return all;
}

// The running statistics (tracked) move towards the batch's mean and variance; unbiased is
// R / (R - 1).
FRAME batch_norm(F f, const act* x, act* y, act* a, const act* gamma, const act* beta, real* mean,
                  real* inv_std, const real* partial, real* running_mean, real* running_var,
                  int tracked, int R, int J, int rows, real eps, real retained, real momentum,
                  real unbiased) {
  Patch patch = patch_of(R, J, rows);
  int j = patch.j;
  Moments m = partial ? all_moments(partial, patch, R, J, rows) : moments(x, patch, J);
  real variance = m.deviation / R, inverse = 1 / sqrt(variance + eps);
  if (blockIdx.y == 0 && patch.group == 0 && j < J) {
    mean[j] = m.mean;
    inv_std[j] = inverse;
  }
  if (blockIdx.y == 0 && patch.group == 0 && j < tracked) {
    running_mean[j] = retained * running_mean[j] + momentum * m.mean;
    running_var[j] = retained * running_var[j] + momentum * (variance * unbiased);
  }
  EACH_ROW(n, patch) {
    size_t i = (size_t)n * J + j;
    real value = y[i] = ((real)x[i] - m.mean) * inverse * (real)gamma[j] + (real)beta[j];
    a[i] = f(value);
  }
}

// The gradient of y, from that of a and what the activation kept.
#define DY(i) f(da[i], kept[i])

struct Gradients { real gamma, beta; };  // the sums of dy x_hat and of dy over rows

// by_row: whether mean and inv_std are per row, not per column.
template <class F>
__device__ inline Gradients gradients(F f, const act* da, const act* kept, const act* x,
                                      const real* mean, const real* inv_std, int by_row,
                                      Patch patch, int J) {
  real dgamma = 0, dbeta = 0;
  EACH_ROW(n, patch) {
    size_t i = (size_t)n * J + patch.j;
    int of = by_row ? n : patch.j;
    real dy = DY(i);
    dgamma += dy * (((real)x[i] - mean[of]) * inv_std[of]);
    dbeta += dy;
  }
  dgamma = column_sum(dgamma);
  return {dgamma, column_sum(dbeta)};
}

FRAME norm_gradients(F f, const act* da, const act* kept, const act* x, const real* mean,
                      const real* inv_std, real* partial, int by_row, int R, int J, int rows) {
  Patch patch = patch_of(R, J, rows);
  Gradients sums = gradients(f, da, kept, x, mean, inv_std, by_row, patch, J);
  if (patch.group > 0 || patch.j >= J) return;
  partial[(size_t)blockIdx.y * 2 * J + patch.j] = sums.gamma;
  partial[((size_t)blockIdx.y * 2 + 1) * J + patch.j] = sums.beta;
}

__device__ inline Gradients all_gradients(const real* partial, int splits, int J, int j) {
  Gradients all = {0, 0};
  for (int s = 0; j < J && s < splits; s++) {
    all.gamma += partial[(size_t)s * 2 * J + j];
    all.beta += partial[((size_t)s * 2 + 1) * J + j];
  }
  return all;
}

// dgamma and dbeta, and dx in place of da if has_dx:
// dx = gamma (dy - dbeta / R - x_hat dgamma / R) inv_std.
FRAME batch_norm_backward(F f, act* da, const act* kept, const act* x, const act* gamma,
                           const real* mean, const real* inv_std, const real* partial,
                           real* dgamma, real* dbeta, int add, int has_dx, int R, int J, int rows) {
  Patch patch = patch_of(R, J, rows);
  int j = patch.j;
  Gradients sums = partial ? all_gradients(partial, gridDim.y, J, j)
                           : gradients(f, da, kept, x, mean, inv_std, 0, patch, J);
  if (blockIdx.y == 0 && patch.group == 0 && j < J) {
    put(dgamma + j, sums.gamma, add);
    put(dbeta + j, sums.beta, add);
  }
  if (!has_dx) return;
  EACH_ROW(n, patch) {
    size_t i = (size_t)n * J + j;
    real x_hat = ((real)x[i] - mean[j]) * inv_std[j];
    real along = (sums.beta + x_hat * sums.gamma) / R;
    da[i] = (real)gamma[j] * inv_std[j] * (DY(i) - along);
  }
}

// One warp per row.
FRAME layer_norm(F f, const act* x, act* y, act* a, const act* gamma, const act* beta, real* mean,
                  real* inv_std, int R, int J, int width, real eps) {
  int lane = threadIdx.x % WARP;
  for (int n = FIRST / WARP; n < R; n += STRIDE / WARP) {
    const act* xn = x + (size_t)n * width;
    real sum = 0, deviation = 0;
    for (int j = lane; j < J; j += WARP) sum += (real)xn[j];
    real mu = warp_sum(sum) / J;
    for (int j = lane; j < J; j += WARP) deviation += ((real)xn[j] - mu) * ((real)xn[j] - mu);
    real inverse = 1 / sqrt(warp_sum(deviation) / J + eps);
    if (lane == 0) {
      mean[n] = mu;
      inv_std[n] = inverse;
    }
    for (int j = lane; j < width; j += WARP) {
      size_t i = (size_t)n * width + j;
      real value = y[i] = ((real)xn[j] - mu) * inverse * (real)gamma[j] + (real)beta[j];
      a[i] = f(value);
    }
  }
}

// dgamma and dbeta (width) from their partial sums, and dx in place of da if has_dx, a warp per row:
// with g = gamma dy, dx = (g - mean(g) - x_hat mean(g x_hat)) inv_std.
FRAME layer_norm_backward(F f, act* da, const act* kept, const act* x, const act* gamma,
                           const real* mean, const real* inv_std, const real* partial,
                           real* dgamma, real* dbeta, int add, int has_dx, int R,
                           int width, int J, int splits) {
  for (int j = FIRST; j < width; j += STRIDE) {
    Gradients sums = all_gradients(partial, splits, width, j);
    put(dgamma + j, sums.gamma, add);
    put(dbeta + j, sums.beta, add);
  }
  int lane = threadIdx.x % WARP;
  for (int n = FIRST / WARP; has_dx && n < R; n += STRIDE / WARP) {
    real along_mean = 0, along_x_hat = 0;
    for (int j = lane; j < J; j += WARP) {
      size_t i = (size_t)n * width + j;
      real g = (real)gamma[j] * DY(i);
      along_mean += g;
      along_x_hat += g * (((real)x[i] - mean[n]) * inv_std[n]);
    }
    along_mean = warp_sum(along_mean) / J;
    along_x_hat = warp_sum(along_x_hat) / J;
    for (int j = lane; j < width; j += WARP) {
      size_t i = (size_t)n * width + j;
      real g = (real)gamma[j] * DY(i), x_hat = ((real)x[i] - mean[n]) * inv_std[n];
      real dx = (g - along_mean - x_hat * along_x_hat) * inv_std[n];
      da[i] = j < J ? dx : (real)0;
    }
  }
}
