#include "rows.cuh"

// Batch and layer normalisation and the activation after them: xpnet/ops/normalization.py, fused.
//
// x, y and a are (R, J), a = f(y) and y = gamma x_hat + beta, x_hat being x normalised. The mean
// and inv_std = 1 / sqrt(v + eps) are kept, per column or per row; x_hat is recomputed from them and
// x. Sums over rows are taken by patches (common.cuh); if several lie one below another, a first
// launch writes their sums to partial (gridDim.y, 2, J), and each block of the next adds those up
// in order.
//
// Where ranks share the batch, `whole` are the rows of all. Their means and deviations are summed one
// after the other, between launches of rank_means, rank_deviations and batch_norm, and so are the
// sums of rank_gradients: a rank without rows has the same launches but for those over rows.
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
__device__ inline Moments all_moments(const real* partial, int j, int R, int J, int rows) {
  Moments all = {0, 0};
  if (j >= J || R == 0) return all;
  const real *means = partial + j, *deviations = means + J;
  for (int s = 0, n = 0; n < R; s++, n += rows)
    all.mean += means[(size_t)s * 2 * J] * (n + rows < R ? rows : R - n);
  all.mean /= R;
  for (int s = 0, n = 0; n < R; s++, n += rows) {
    real off = means[(size_t)s * 2 * J] - all.mean;
    all.deviation += deviations[(size_t)s * 2 * J] + off * off * (n + rows < R ? rows : R - n);
  }
  return all;
}

// own (2, J): the moments of this rank's rows; sums (J): what is to be summed for the mean of all.
KERNEL rank_means(const real* partial, real* own, real* sums, int R, int J, int rows) {
  for (int j = FIRST; j < J; j += STRIDE) {
    Moments m = all_moments(partial, j, R, J, rows);
    own[j] = m.mean;
    own[J + j] = m.deviation;
    sums[j] = m.mean * R;
  }
}

// moments (2, J): the mean of all ranks' rows, and the deviations of this one's, to be summed.
KERNEL rank_deviations(const real* own, const real* sums, real* moments, int R, int J, int whole) {
  for (int j = FIRST; j < J; j += STRIDE) {
    real mean = sums[j] / whole, off = own[j] - mean;
    moments[j] = mean;
    moments[J + j] = own[J + j] + off * off * R;
  }
}

// The running statistics (tracked) move towards the batch's mean and variance; unbiased is
// R / (R - 1).
FRAME batch_norm(F f, const act* x, act* y, act* a, const act* gamma, const act* beta, real* mean,
                  real* inv_std, const real* partial, real* running_mean, real* running_var,
                  int tracked, int R, int J, int rows, int whole, int whole_rows, real eps,
                  real retained, real momentum, real unbiased) {
  Patch patch = patch_of(R, J, rows);
  int j = patch.j;
  Moments m = partial ? all_moments(partial, j, whole, J, whole_rows) : moments(x, patch, J);
  real variance = m.deviation / whole, inverse = 1 / sqrt(variance + eps);
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

// sums (2, J): of this rank's rows, to be summed; they are also its part of dgamma and dbeta.
KERNEL rank_gradients(const real* partial, real* sums, real* dgamma, real* dbeta, int add,
                      int splits, int J) {
  for (int j = FIRST; j < J; j += STRIDE) {
    Gradients own = all_gradients(partial, splits, J, j);
    sums[j] = own.gamma;
    sums[J + j] = own.beta;
    put(dgamma + j, own.gamma, add);
    put(dbeta + j, own.beta, add);
  }
}

// dgamma and dbeta, unless null, and dx in place of da if has_dx:
// dx = gamma (dy - dbeta / R - x_hat dgamma / R) inv_std.
FRAME batch_norm_backward(F f, act* da, const act* kept, const act* x, const act* gamma,
                           const real* mean, const real* inv_std, const real* partial,
                           real* dgamma, real* dbeta, int add, int has_dx, int R, int J, int rows,
                           int splits, int whole) {
  Patch patch = patch_of(R, J, rows);
  int j = patch.j;
  Gradients sums = partial ? all_gradients(partial, splits, J, j)
                           : gradients(f, da, kept, x, mean, inv_std, 0, patch, J);
  if (dgamma && blockIdx.y == 0 && patch.group == 0 && j < J) {
    put(dgamma + j, sums.gamma, add);
    put(dbeta + j, sums.beta, add);
  }
  if (!has_dx) return;
  EACH_ROW(n, patch) {
    size_t i = (size_t)n * J + j;
    real x_hat = ((real)x[i] - mean[j]) * inv_std[j];
    real along = (sums.beta + x_hat * sums.gamma) / whole;
    da[i] = (real)gamma[j] * inv_std[j] * (DY(i) - along);
  }
}

// A row for each warp, or with `block` for each block.
FRAME layer_norm(F f, const act* x, act* y, act* a, const act* gamma, const act* beta, real* mean,
                  real* inv_std, int R, int J, int width, real eps, int block) {
  bool wide = width % WIDE == 0 && aligned(x) && aligned(y) && aligned(a) && aligned(gamma) &&
              aligned(beta);
  by_rows(block, wide, [&](auto rows, auto pack) {
    const int V = decltype(pack)::V;
    for (int n = rows.first; n < R; n += rows.step) {
      const act* xn = x + (size_t)n * width;
      real sum = 0, deviation = 0;
      rows.each(J, [&](int j) {
        Pack<act, V> of_x = load<V>(xn + j);
        for (int v = 0; v < V; v++) sum += j + v < J ? (real)of_x.x[v] : (real)0;
      });
      real mu = rows.sum(sum) / J;
      rows.each(J, [&](int j) {
        Pack<act, V> of_x = load<V>(xn + j);
        for (int v = 0; v < V; v++) {
          real centred = j + v < J ? (real)of_x.x[v] - mu : (real)0;
          deviation += centred * centred;
        }
      });
      real inverse = 1 / sqrt(rows.sum(deviation) / J + eps);
      if (rows.lane == 0) {
        mean[n] = mu;
        inv_std[n] = inverse;
      }
      rows.each(width, [&](int j) {
        size_t i = (size_t)n * width + j;
        Pack<act, V> of_x = load<V>(x + i), of_y = load<V>(gamma + j), b = load<V>(beta + j), of_a;
        for (int v = 0; v < V; v++) {
          of_y.x[v] = ((real)of_x.x[v] - mu) * inverse * (real)of_y.x[v] + (real)b.x[v];
          of_a.x[v] = f(of_y.x[v]);
        }
        store(y + i, of_y);
        store(a + i, of_a);
      });
    }
  });
}

// dgamma and dbeta (width) from their partial sums, and dx in place of da if has_dx, a row for each
// warp or with `block` for each block: with g = gamma dy,
// dx = (g - mean(g) - x_hat mean(g x_hat)) inv_std.
FRAME layer_norm_backward(F f, act* da, const act* kept, const act* x, const act* gamma,
                           const real* mean, const real* inv_std, const real* partial,
                           real* dgamma, real* dbeta, int add, int has_dx, int R,
                           int width, int J, int splits, int block) {
  for (int j = FIRST; j < width; j += STRIDE) {
    Gradients sums = all_gradients(partial, splits, width, j);
    put(dgamma + j, sums.gamma, add);
    put(dbeta + j, sums.beta, add);
  }
  if (!has_dx) return;
  bool wide = width % WIDE == 0 && aligned(da) && aligned(kept) && aligned(x) && aligned(gamma);
  by_rows(block, wide, [&](auto rows, auto pack) {
    const int V = decltype(pack)::V;
    for (int n = rows.first; n < R; n += rows.step) {
      real mu = mean[n], inverse = inv_std[n], along[2] = {};  // g, and g x_hat
      // Calls body with each g and x_hat of a pack.
      auto each_of = [&](int j, auto body) {
        size_t i = (size_t)n * width + j;
        Pack<act, V> d = load<V>(da + i), k = load<V>(kept + i), z = load<V>(x + i),
                     c = load<V>(gamma + j);
        for (int v = 0; v < V; v++)
          body(v, (real)c.x[v] * f(d.x[v], k.x[v]), ((real)z.x[v] - mu) * inverse);
      };
      rows.each(J, [&](int j) {
        each_of(j, [&](int v, real g, real x_hat) {
          if (j + v < J) along[0] += g, along[1] += g * x_hat;
        });
      });
      rows.sums(along);
      rows.each(width, [&](int j) {
        Pack<act, V> dx;
        each_of(j, [&](int v, real g, real x_hat) {
          real d = (g - along[0] / J - x_hat * (along[1] / J)) * inverse;
          dx.x[v] = j + v < J ? d : (real)0;
        });
        store(da + (size_t)n * width + j, dx);
      });
    }
  });
}
