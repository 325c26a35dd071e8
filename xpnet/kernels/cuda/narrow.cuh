// `act`, what layers store: in mixed precision a 16-bit float, else `real`. All computation is in
// `real`; act converts to it and rounds from it. Written out because NVRTC brings no headers.

#if defined(FLOAT16)

struct act {
  unsigned short bits;
  act() = default;
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
  act() = default;
  __device__ act(real x) {  // to nearest, ties to even
#if __CUDA_ARCH__ >= 800
    unsigned pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(0.0f), "f"(x));
    bits = (unsigned short)pair;
#else
    unsigned u = __float_as_uint(x);
    bool nan = x != x;
    bits = (unsigned short)(nan ? 0x7fc0u : (u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
#endif
  }
  __device__ operator real() const { return __uint_as_float((unsigned)bits << 16); }
};

#else

typedef real act;

#endif
