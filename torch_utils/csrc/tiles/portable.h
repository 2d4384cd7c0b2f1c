// What lets one source be a CUDA kernel's body for nvcc and a plain function for g++.
//
// Kernels are written as phases: functions of one thread's number, with a barrier between them.
// nvcc runs a phase on all threads of a block; the emulator (emulate.cpp) runs it for each thread
// in turn and watches every access.

#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define ANIMEDRAG_FN __host__ __device__ __forceinline__
#define ANIMEDRAG_UNROLL _Pragma("unroll")
#define ANIMEDRAG_PRAGMA(text) _Pragma(#text)
#define ANIMEDRAG_UNROLL_BY(times) ANIMEDRAG_PRAGMA(unroll times)
#else
#include <cstring>
#define ANIMEDRAG_FN inline
#define ANIMEDRAG_UNROLL
#define ANIMEDRAG_UNROLL_BY(times)
#endif

namespace animedrag {

ANIMEDRAG_FN constexpr int floor_div(int a, int b) {
  return a >= 0 ? a / b : -((-a + b - 1) / b);
}
ANIMEDRAG_FN constexpr int floor_mod(int a, int b) { return a - floor_div(a, b) * b; }
ANIMEDRAG_FN constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }
ANIMEDRAG_FN constexpr int round_up(int a, int b) { return ceil_div(a, b) * b; }
ANIMEDRAG_FN constexpr int least(int a, int b) { return a < b ? a : b; }
ANIMEDRAG_FN constexpr int most(int a, int b) { return a > b ? a : b; }
ANIMEDRAG_FN constexpr int common_divisor(int a, int b) { return b ? common_divisor(b, a % b) : a; }
ANIMEDRAG_FN constexpr int common_multiple(int a, int b) { return a / common_divisor(a, b) * b; }

// What an image's numbers are. Arithmetic is in float, for kDouble in double.
enum class Element : int { kFloat, kHalf, kBfloat, kDouble };

// 16-bit floating-point numbers by their bits, so that both compilers know them.
struct Half {
  std::uint16_t bits;
};
struct Bfloat {
  std::uint16_t bits;
};

#if defined(__CUDA_ARCH__)

ANIMEDRAG_FN float widen(Half h) { return __half2float(__ushort_as_half(h.bits)); }
ANIMEDRAG_FN float widen(Bfloat b) { return __uint_as_float(static_cast<unsigned>(b.bits) << 16); }
ANIMEDRAG_FN void narrow(float v, Half& h) { h.bits = __half_as_ushort(__float2half_rn(v)); }
ANIMEDRAG_FN void narrow(float v, Bfloat& b) {
  b.bits = __bfloat16_as_ushort(__float2bfloat16_rn(v));
}

#elif defined(__CUDACC__)

// nvcc's pass for the host: never called there, only parsed.
ANIMEDRAG_FN float widen(Half) { return 0; }
ANIMEDRAG_FN float widen(Bfloat) { return 0; }
ANIMEDRAG_FN void narrow(float, Half&) {}
ANIMEDRAG_FN void narrow(float, Bfloat&) {}

#else

inline float from_bits(std::uint32_t bits) {
  float v;
  std::memcpy(&v, &bits, 4);
  return v;
}
inline std::uint32_t to_bits(float v) {
  std::uint32_t bits;
  std::memcpy(&bits, &v, 4);
  return bits;
}
inline float widen(Half h) {
  const std::uint32_t sign = (h.bits & 0x8000u) << 16, rest = h.bits & 0x7fffu;
  if (rest >= 0x7c00u) return from_bits(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
  // Exponents differ by 112; the product also normalises the subnormal numbers.
  const float magnitude = from_bits(rest << 13) * from_bits(0x77800000u);  // 2^112
  return from_bits(sign | to_bits(magnitude));
}
inline float widen(Bfloat b) { return from_bits(static_cast<std::uint32_t>(b.bits) << 16); }
inline void narrow(float v, Half& h) {
  const std::uint32_t bits = to_bits(v), sign = (bits >> 16) & 0x8000u;
  const std::uint32_t size = bits & 0x7fffffffu;
  if (size > 0x7f800000u) {
    h.bits = static_cast<std::uint16_t>(sign | 0x7e00u);
  } else if (size >= 0x477ff000u) {  // rounds to 2^16 or more
    h.bits = static_cast<std::uint16_t>(sign | 0x7c00u);
  } else if (size < 0x38800000u) {  // below 2^-14: adding 0.5 leaves the bits, rounded, at the end
    h.bits = static_cast<std::uint16_t>(sign | (to_bits(from_bits(size) + 0.5f) - 0x3f000000u));
  } else {  // to nearest, ties to even
    h.bits = static_cast<std::uint16_t>(
        sign | ((size - 0x38000000u + 0xfffu + ((size >> 13) & 1u)) >> 13));
  }
}
inline void narrow(float v, Bfloat& b) {
  const std::uint32_t bits = to_bits(v);
  b.bits = static_cast<std::uint16_t>(
      v != v ? 0x7fc0u : (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

#endif

ANIMEDRAG_FN float widen(float v) { return v; }
ANIMEDRAG_FN double widen(double v) { return v; }
ANIMEDRAG_FN void narrow(float v, float& out) { out = v; }
ANIMEDRAG_FN void narrow(double v, double& out) { out = v; }

// Division by a number that is known before the kernel starts (Granlund and Montgomery 1994):
// n / d == (n * magic) >> shift for every 0 <= n < 2^31.
struct Divisor {
  std::uint32_t value;
  std::uint32_t shift;
  std::uint64_t magic;

  static Divisor of(std::uint32_t d) {
    std::uint32_t bits = 0;
    while ((std::uint64_t{1} << bits) < d) ++bits;
    const std::uint32_t shift = 31 + bits;
    return {d, shift, ((std::uint64_t{1} << shift) + d - 1) / d};
  }
  ANIMEDRAG_FN std::uint32_t operator()(std::uint32_t n) const {
    return static_cast<std::uint32_t>((n * magic) >> shift);
  }
};

}  // namespace animedrag
