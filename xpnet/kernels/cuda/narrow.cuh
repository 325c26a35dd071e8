// What layers store in mixed precision: `act`, 16 bits of a float. It is read into and rounded from
// `real`, in which everything is computed; without mixed precision it is `real`. Written out here
// because NVRTC has no headers of its own.

#if defined(FLOAT16)

struct act {
  unsigned short bits;
#ifdef __CUDACC__
  __device__ act(real x) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x)); }
  __device__ operator real() const {
    real x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
  }
#else
  act(real x) : bits(float_to_half(x)) {}
  operator real() const { return half_to_float(bits); }
#endif
};

#elif defined(BFLOAT16)

struct act {
  unsigned short bits;
  __device__ act(real x) {  // to the nearest, of two as near to the even one
    unsigned u = __float_as_uint(x);
    bool nan = x != x;
    bits = (unsigned short)(nan ? 0x7fc0u : (u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
  }
  __device__ operator real() const { return __uint_as_float((unsigned)bits << 16); }
};

#else

typedef real act;

#endif

// y = x, rounded.
KERNEL narrowed(const real* x, act* y, int n) {
  for (unsigned i = FIRST; i < (unsigned)n; i += STRIDE) y[i] = x[i];
}
