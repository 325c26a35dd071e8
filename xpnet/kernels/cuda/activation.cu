// Bias, activation and dropout: xpnet/ops/activations.py and xpnet/ops/dropout.py, fused.

enum { IDENTITY, RELU, LEAKY_RELU, SIGMOID, TANH, GELU, GELU_TANH, SILU, SOFTPLUS, ELU, SELU };

#define SELU_ALPHA (real)1.6732632423543772848170429916717
#define SELU_SCALE (real)1.0507009873554804934193349852946
#define SQRT_HALF (real)0.70710678118654752440
#define INV_SQRT_2PI (real)0.39894228040143267794
#define SQRT_2_OVER_PI (real)0.79788456080286535588
#define CUBIC (real)0.044715

__device__ inline real sigmoid(real z) {
  real e = exp(-fabs(z));
  return (z >= 0 ? (real)1 : e) / (1 + e);
}

__device__ inline real softplus(real z) {
  return (z < 0 ? (real)0 : z) + log1p(exp(-fabs(z)));
}

__device__ inline real elu(real z, real alpha) { return z > 0 ? z : alpha * expm1(z); }

__device__ inline real normal_cdf(real z) { return (real)0.5 * (1 + erf(z * SQRT_HALF)); }

__device__ inline real gelu_inner(real z) { return SQRT_2_OVER_PI * (z + CUBIC * z * z * z); }

// a = f(z); p is the slope of LEAKY_RELU or the alpha of ELU.
__device__ inline real activate(int kind, real z, real p) {
  switch (kind) {
    case RELU: return z < 0 ? (real)0 : z;
    case LEAKY_RELU: return z > 0 ? z : p * z;
    case SIGMOID: return sigmoid(z);
    case TANH: return tanh(z);
    case GELU: return z * normal_cdf(z);
    case GELU_TANH: return (real)0.5 * z * (1 + tanh(gelu_inner(z)));
    case SILU: return z * sigmoid(z);
    case SOFTPLUS: return softplus(z);
    case ELU: return elu(z, p);
    case SELU: return SELU_SCALE * elu(z, SELU_ALPHA);
    default: return z;
  }
}

__device__ inline real elu_slope(real z, real alpha) { return z > 0 ? (real)1 : alpha * exp(z); }

__device__ inline real gelu_tanh_slope(real z) {
  real t = tanh(gelu_inner(z)), du = SQRT_2_OVER_PI * (1 + 3 * CUBIC * z * z);
  return (real)0.5 * (1 + t) + (real)0.5 * z * (1 - t * t) * du;
}

// dz = f'(z) da, from what the layer kept: the output a (IDENTITY, RELU, SIGMOID, TANH) or else z.
__device__ inline real activate_backward(int kind, real da, real kept, real p) {
  switch (kind) {
    case RELU: return kept > 0 ? da : (real)0;
    case LEAKY_RELU: return kept > 0 ? da : p * da;
    case SIGMOID: return da * kept * (1 - kept);
    case TANH: return da * (1 - kept * kept);
    case GELU:
      return da * (normal_cdf(kept) + kept * INV_SQRT_2PI * exp((real)-0.5 * kept * kept));
    case GELU_TANH: return da * gelu_tanh_slope(kept);
    case SILU: {
      real s = sigmoid(kept);
      return da * s * (1 + kept * (1 - s));
    }
    case SOFTPLUS: return da * sigmoid(kept);
    case ELU: return da * elu_slope(kept, p);
    case SELU: return da * SELU_SCALE * elu_slope(kept, SELU_ALPHA);
    default: return da;
  }
}

// z (N, J) += bias (J) if not null; a = f(z). a may be z if the layer keeps its output.
KERNEL bias_activation(act* z, const act* bias, act* a, int kind, int n, int J, real p) {
  for (unsigned i = FIRST; i < (unsigned)n; i += STRIDE) {
    real value = z[i];
    if (bias) value = z[i] = value + (real)bias[i % (unsigned)J];
    a[i] = activate(kind, value, p);
  }
}

// dz = f'(z) da (N, J) in place of da and, unless sums (gridDim.y, J) is null, the sums of dz over
// this block's patch of rows: the bias gradient or its partial sums. add: to the values in sums.
KERNEL activation_backward(act* da, const act* kept, real* sums, int add, int kind, int N, int J,
                           int rows, real p) {
  Patch patch = patch_of(N, J, rows);
  real sum = 0;
  EACH_ROW(n, patch) {
    size_t i = (size_t)n * J + patch.j;
    real dz = da[i];
    if (kind != IDENTITY) dz = da[i] = activate_backward(kind, dz, kept[i], p);
    sum += dz;
  }
  if (!sums) return;
  sum = column_sum(sum);
  if (patch.group == 0 && patch.j < J) put(sums + (size_t)blockIdx.y * J + patch.j, sum, add);
}

// out (J) = the sums of x (S, J) over its rows, or with add, out += those.
KERNEL column_sums(const real* x, real* out, int S, int J, int add) {
  for (unsigned j = FIRST; j < (unsigned)J; j += STRIDE) {
    real sum = 0;
    for (int s = 0; s < S; s++) sum += x[(size_t)s * J + j];
    put(out + j, sum, add);
  }
}

__device__ inline unsigned mix(unsigned h) {
  h = (h ^ (h >> 16)) * 0x7FEB352Du;
  h = (h ^ (h >> 15)) * 0x846CA68Bu;
  return h ^ (h >> 16);
}

// y = x m / (1 - rate), m = 0 where the hash of the position is below the threshold; y may be x.
// The adjoint is the same kernel: the mask is recomputed, not kept. first: position of x[0] in the
// batch.
KERNEL dropout(const act* x, act* y, const int* keys, int n, int threshold, real scale,
               int first) {
  unsigned key = (unsigned)keys[0], second = (unsigned)keys[1];
  for (unsigned i = FIRST; i < (unsigned)n; i += STRIDE) {
    int hash = (int)(mix(mix((i + (unsigned)first) ^ key) + second) >> 8);
    y[i] = (real)x[i] * (hash >= threshold ? scale : (real)0);
  }
}
