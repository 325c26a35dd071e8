// Clipping and the update rules: xpnet/optim/clipping.py and xpnet/optim/optimizers.py, each in one
// pass over the flat vectors. c is (step_size, eps, keep), the coefficients of this update; rest is
// 1 - alpha or 1 - beta, computed on the host, because float arithmetic here would round it.

#define STEP_SIZE c[0]
#define EPS c[1]
#define KEEP c[2]

// The gradient of the loss from that of the sum: divided, then clipped.
__device__ inline real loss_gradient(real g, const real* denominator, real limit) {
  g /= *denominator;
  return limit > 0 ? clamp(g, -limit, limit) : g;  // 0: no limit
}

// factor = min(1, max_norm / (norm + 1e-6)); partial (gridDim.x) are the blocks' sums of squares.
KERNEL clip_factor(const real* g, const real* denominator, real limit, real* partial,
                   unsigned* turns, real max_norm, real* factor, int n) {
  real sum = 0;
  for (unsigned i = FIRST; i < (unsigned)n; i += STRIDE) {
    real x = loss_gradient(g[i], denominator, limit);
    sum += x * x;
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
  if (!last_block(turns)) return;
  sum = 0;
  for (unsigned i = threadIdx.x; i < gridDim.x; i += blockDim.x) sum += partial[i];
  sum = block_sum(sum);
  if (threadIdx.x != 0) return;
  real f = max_norm / (sqrt(sum) + (real)1e-6);
  *factor = f > 1 ? (real)1 : f;
}

// g of parameter i, clipped, plus the gradient of weight decay if that is coupled.
__device__ inline real gradient(const real* g, const real* p, unsigned i, const real* denominator,
                                real limit, const real* factor, real decay) {
  real x = loss_gradient(g[i], denominator, limit);
  if (factor) x *= *factor;
  return decay > 0 ? x + decay * p[i] : x;
}

// *good = 0 if a gradient is not finite; the loss set it to 1. All writers write the same value.
KERNEL find_overflow(const real* g, int* good, int n) {
  for (unsigned i = FIRST; i < (unsigned)n; i += STRIDE)
    if (g[i] - g[i] != 0) *good = 0;
}

// One thread updates the loss scale (S, good steps since it changed) after a step:
// xpnet/step/mixed_precision.py.
KERNEL next_scale(real* scale, const int* good, real growth) {
  if (FIRST != 0) return;
  bool grown = scale[1] + 1 >= growth;
  scale[0] *= !*good ? (real)0.5 : grown ? (real)2 : (real)1;
  scale[1] = *good && !grown ? scale[1] + 1 : (real)0;
}

// good: null, or whether this step is applied; narrow (n): null, or p rounded for the layers.
#define GRADIENT const real* g, const real* denominator, real limit, const real* factor, \
                 real decay, const int* good, act* narrow
#define EACH(i) if (!good || *good) for (unsigned i = FIRST; i < (unsigned)n; i += STRIDE)
#define G(i) gradient(g, p, i, denominator, limit, factor, decay)

__device__ inline void set(real* p, act* narrow, unsigned i, real value) {
  p[i] = value;
  if (narrow) narrow[i] = value;
}

KERNEL sgd(real* p, GRADIENT, const real* c, int n, real* v, real momentum, int nesterov) {
  EACH(i) {
    real step = G(i);
    if (v) {
      real vi = v[i] = momentum * v[i] + step;
      step = nesterov ? step + momentum * vi : vi;
    }
    set(p, narrow, i, p[i] - STEP_SIZE * step);
  }
}

KERNEL rmsprop(real* p, GRADIENT, const real* c, int n, real* r, real* m, real* v, real alpha,
               real rest, real eps, real momentum) {
  EACH(i) {
    real gi = G(i), variance = r[i] = alpha * r[i] + rest * (gi * gi);
    if (m) {
      real mi = m[i] = alpha * m[i] + rest * gi;
      variance -= mi * mi;
      variance = variance < 0 ? (real)0 : variance;
    }
    real step = gi / (sqrt(variance) + eps);
    if (v) step = v[i] = momentum * v[i] + step;
    set(p, narrow, i, p[i] - STEP_SIZE * step);
  }
}

KERNEL adagrad(real* p, GRADIENT, const real* c, int n, real* r, real eps) {
  EACH(i) {
    real gi = G(i), ri = r[i] += gi * gi;
    set(p, narrow, i, p[i] - STEP_SIZE * (gi / (sqrt(ri) + eps)));
  }
}

// AdamW is this with decay = 0 and KEEP < 1.
KERNEL adam(real* p, GRADIENT, const real* c, int n, real* m, real* v, real beta1, real rest1,
            real beta2, real rest2) {
  EACH(i) {
    real gi = G(i);
    real vi = v[i] = beta2 * v[i] + rest2 * (gi * gi);
    real mi = m[i] = beta1 * m[i] + rest1 * gi;
    set(p, narrow, i, KEEP * p[i] - STEP_SIZE * (mi / (sqrt(vi) + EPS)));
  }
}

KERNEL lion(real* p, GRADIENT, const real* c, int n, real* m, real beta1, real rest1, real beta2,
            real rest2) {
  EACH(i) {
    real gi = G(i), u = beta1 * m[i] + rest1 * gi;
    real sign = u > 0 ? (real)1 : u < 0 ? (real)-1 : u;  // 0 and NaN stay as they are
    set(p, narrow, i, KEEP * p[i] - STEP_SIZE * sign);
    m[i] = beta2 * m[i] + rest2 * gi;
  }
}
