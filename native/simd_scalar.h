// The vector layer, portable: 16 lanes by the vector extensions of GCC and Clang, which they compile for any CPU.
//
// Every backend gives identical bits for the same inputs: fused multiply-adds are explicit, reductions have one fixed
// tree, and conversions round to nearest even. Only a NaN's own bits may differ. A new instruction set is a new header
// with these same functions. No C++ library templates in here: a backend compiled for a newer CPU must not leave inline
// functions that the linker could pick for everybody.
#pragma once
#include <stdint.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the packed weights are little-endian"
#endif

namespace motley {
namespace MOTLEY_ISA {

typedef float f32 __attribute__((vector_size(64)));
typedef int32_t i32 __attribute__((vector_size(64)));
typedef uint32_t u32 __attribute__((vector_size(64)));
typedef uint8_t u8v __attribute__((vector_size(64)));

#define MOTLEY_LANES for (int l = 0; l < 16; ++l)

// An i32 is a mask where its lanes are 0 or -1: what comparisons give.
static inline i32 choose(i32 mask, i32 yes, i32 no) { return (mask & yes) | (~mask & no); }

// Tokens that a tile of two row groups serves: as many accumulators as registers bear, and not many copies to compile.
constexpr int kTileTokens = 2;
// Independent accumulators of the probes: more than latency needs, no more than the registers hold.
constexpr int kProbeChains = 2;

// -- floats
static inline f32 set1(float x) { return x - f32{}; }  // -0 - 0 is -0
static inline f32 load(const float* p) { f32 r; memcpy(&r, p, 64); return r; }
static inline f32 load_n(const float* p, int n) {
  f32 r{};
  for (int l = 0; l < n; ++l) r[l] = p[l];
  return r;
}
static inline void store(float* p, f32 a) { memcpy(p, &a, 64); }
static inline void store_n(float* p, f32 a, int n) { for (int l = 0; l < n; ++l) p[l] = a[l]; }
static inline f32 add(f32 a, f32 b) { return a + b; }
static inline f32 sub(f32 a, f32 b) { return a - b; }
static inline f32 mul(f32 a, f32 b) { return a * b; }
static inline f32 div(f32 a, f32 b) { return a / b; }
// a * b + c rounded once, without an instruction for it. In double the product is exact; the sum is made to round to
// odd (of the two neighbours of an inexact result, the one whose last bit is set), so that rounding to float, 29 bits
// further up, sees on which side of every tie the exact result lies.
static inline float fma_lane(float a, float b, float c) {
  double p = (double)a * (double)b, s = p + (double)c, c_in_s = s - p;
  double lost = (p - (s - c_in_s)) + ((double)c - c_in_s);  // NaN where s is infinite: neither comparison holds
  int64_t bits;
  memcpy(&bits, &s, 8);
  int64_t even = ~bits & 1, away = (lost > 0) == (s > 0) ? 1 : -1;
  bits += ((lost > 0) | (lost < 0)) ? even * away : 0;
  memcpy(&s, &bits, 8);
  return (float)s;
}
// The plain way is wrong only where the sum in double lies half way between two floats, or below the normal ones: then
// lane by lane. Out of line: inlined a thousand times, this is most of the compile time.
__attribute__((noinline)) static void fma_lanes(const f32* a, const f32* b, f32* c) {
  typedef float floats __attribute__((vector_size(8)));  // two at a time: what any 128-bit unit does well
  typedef double doubles __attribute__((vector_size(16)));
  typedef int32_t words __attribute__((vector_size(16)));
  const float *x = (const float*)a, *y = (const float*)b;
  float out[16], *z = (float*)c;
  words doubtful{};
  for (int l = 0; l < 16; l += 2) {
    floats fx, fy, fz;
    memcpy(&fx, x + l, 8);
    memcpy(&fy, y + l, 8);
    memcpy(&fz, z + l, 8);
    doubles sum = __builtin_convertvector(fx, doubles) * __builtin_convertvector(fy, doubles) +
                  __builtin_convertvector(fz, doubles);
    doubles size = (doubles)((words)sum & words{-1, 0x7fffffff, -1, 0x7fffffff});
    doubtful |= ((words)sum & words{0x1fffffff, 0, 0x1fffffff, 0}) == words{0x10000000, 1, 0x10000000, 1};
    doubtful |= (words)((size <= 1.1754943508222875e-38) & (size > 0));
    fz = __builtin_convertvector(sum, floats);
    memcpy(out + l, &fz, 8);
  }
  if (doubtful[0] | doubtful[1] | doubtful[2] | doubtful[3]) MOTLEY_LANES out[l] = fma_lane(x[l], y[l], z[l]);
  memcpy(c, out, 64);
}
static inline f32 fma(f32 a, f32 b, f32 c) { fma_lanes(&a, &b, &c); return c; }
static inline f32 fnma(f32 a, f32 b, f32 c) { return fma(-a, b, c); }  // c - a * b
// A NaN in either gives b, as x86 has it: max(limit, x) keeps x's NaN.
static inline f32 max(f32 a, f32 b) { return (f32)choose(a > b, (i32)a, (i32)b); }
static inline f32 min(f32 a, f32 b) { return (f32)choose(a < b, (i32)a, (i32)b); }
// lanes l and l + 8, then + 4, + 2, + 1
static inline float sum(f32 a) {
  for (int h = 8; h; h >>= 1) for (int l = 0; l < h; ++l) a[l] += a[l + h];
  return a[0];
}
static inline float hmax(f32 a) {
  for (int h = 8; h; h >>= 1) for (int l = 0; l < h; ++l) a[l] = a[l] > a[l + h] ? a[l] : a[l + h];
  return a[0];
}

// -- half precisions
static inline i32 load_16(const uint16_t* p) {
  i32 r;
  MOTLEY_LANES r[l] = p[l];
  return r;
}
static inline f32 load_f16(const uint16_t* p) {
  i32 h = load_16(p), sign = (h & 0x8000) << 16, exponent = h >> 10 & 31, mantissa = h & 1023;
  i32 normal = ((exponent + 112) << 23) | mantissa << 13;
  i32 special = 0x7f800000 | mantissa << 13 | ((mantissa != 0) & 0x400000);
  f32 tiny = __builtin_convertvector(mantissa, f32) * 5.9604644775390625e-08f;  // zero or subnormal: 2^-24 each
  return (f32)(sign | choose(exponent == 31, special, choose(exponent == 0, (i32)tiny, normal)));
}
static inline uint16_t to_f16(float f) {
  uint32_t bits;
  memcpy(&bits, &f, 4);
  uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return (uint16_t)(sign | 0x7e00 | (magnitude >> 13 & 0x3ff));
  if (magnitude >= 0x477ff000u) return (uint16_t)(sign | 0x7c00);  // rounds past the largest half
  if (magnitude < 0x38800000u) {  // subnormal: adding 0.5 rounds to a multiple of 2^-24, to nearest even
    float scaled;
    memcpy(&scaled, &magnitude, 4);
    scaled += 0.5f;
    memcpy(&magnitude, &scaled, 4);
    return (uint16_t)(sign | (magnitude - 0x3f000000u));
  }
  magnitude += 0xfffu + (magnitude >> 13 & 1);
  return (uint16_t)(sign | ((magnitude - 0x38000000u) >> 13));
}
static inline void store_f16(uint16_t* p, f32 a) { MOTLEY_LANES p[l] = to_f16(a[l]); }
static inline f32 load_bf16(const uint16_t* p) { return (f32)(load_16(p) << 16); }

// -- 32-bit integers; they wrap
static inline i32 set1i(int32_t x) { return x + i32{}; }
static inline i32 load_u8(const uint8_t* p) { i32 r; MOTLEY_LANES r[l] = p[l]; return r; }
static inline i32 load_i8(const int8_t* p) { i32 r; MOTLEY_LANES r[l] = p[l]; return r; }
static inline void store_i8(int8_t* p, i32 a) { MOTLEY_LANES p[l] = (int8_t)a[l]; }
static inline i32 addi(i32 a, i32 b) { return (i32)((u32)a + (u32)b); }
static inline i32 muli(i32 a, i32 b) { return (i32)((u32)a * (u32)b); }
static inline i32 andi(i32 a, i32 b) { return a & b; }
static inline i32 maxi(i32 a, i32 b) { return choose(a > b, a, b); }
template <int K> static inline i32 shli(i32 a) { return (i32)((u32)a << K); }
static inline int32_t sumi(i32 a) { uint32_t s = 0; MOTLEY_LANES s += (uint32_t)a[l]; return (int32_t)s; }
static inline int32_t hmaxi(i32 a) { int32_t m = a[0]; MOTLEY_LANES m = a[l] > m ? a[l] : m; return m; }
static inline f32 to_float(i32 a) { return __builtin_convertvector(a, f32); }
static inline i32 bits_of(f32 a) { return (i32)a; }
static inline f32 float_of(i32 a) { return (f32)a; }

// -- bytes: packed weights, 4 bytes of each of 16 rows
static inline u8v load_bytes(const uint8_t* p) { u8v r; memcpy(&r, p, 64); return r; }
static inline u8v mask(u8v a, uint8_t m) { return a & m; }
static inline u8v either(u8v a, u8v b) { return a | b; }
// shift each byte by K (right when positive, left when negative) and keep the bits of m, none of which was shifted in
template <int K> static inline u8v shift_mask(u8v a, uint8_t m) {
  if (K >= 0) return a >> (K & 7) & m;
  return a << (-K & 7) & m;
}
// a table of 16 bytes, and its entries for bytes below 16
static inline u8v table16(const uint8_t* p) { u8v r; for (int i = 0; i < 64; ++i) r[i] = p[i & 15]; return r; }
static inline u8v lookup(u8v table, u8v a) { for (int i = 0; i < 64; ++i) a[i] = table[a[i]]; return a; }
// lane l += sum over j of w[4 l + j] * x[j]: weights from 0 to 63 times four activations from -127 to 127
typedef int16_t i16 __attribute__((vector_size(64)));
static inline i32 dot_pairs(i32 acc, i16 even, i16 odd, const int8_t* x) {
  i16 x_even = (i16)set1i((int32_t)((uint16_t)x[0] | (uint32_t)(uint16_t)x[2] << 16));
  i16 x_odd = (i16)set1i((int32_t)((uint16_t)x[1] | (uint32_t)(uint16_t)x[3] << 16));
  i32 sums = (i32)(even * x_even + odd * x_odd);  // of two products each: 16 bits hold them, even -128 * 127 * 2
  return acc + (sums << 16 >> 16) + (sums >> 16);
}
static inline i32 dot4(i32 acc, u8v w, const int8_t* x) {
  return dot_pairs(acc, (i16)w & 255, (i16)w >> 8 & 255, x);
}
// The same with weights w[] - 128, w from 0 to 255. An instruction that wants unsigned weights may take them as they are
// and let the sum start from -128 times that of the activations, off8 being -8 times it; others start from 0.
static inline i32 start_biased(int32_t) { return set1i(0); }
static inline i32 dot4_biased(i32 acc, u8v w, const int8_t* x) {
  i16 v = (i16)(w ^ 0x80);
  return dot_pairs(acc, v << 8 >> 8, v >> 8, x);
}
static inline void prefetch(const void* p) { __builtin_prefetch(p); }

// -- packing
static inline void store_bytes(uint8_t* p, u8v a) { memcpy(p, &a, 64); }
static inline u8v flip(u8v a, uint8_t m) { return a ^ m; }
// 16 bytes of each of 16 rows: byte 4 l + j of out[w] is byte 4 w + j of row l
static inline void interleave4(const uint8_t* rows, int64_t stride, u8v out[4]) {
  for (int w = 0; w < 4; ++w) MOTLEY_LANES memcpy((uint8_t*)&out[w] + 4 * l, rows + l * stride + 4 * w, 4);
}
// byte 4 l + j of a becomes byte 16 j + l
static inline u8v bytes_apart(u8v a) {
  u8v r;
  for (int j = 0; j < 4; ++j) MOTLEY_LANES r[16 * j + l] = a[4 * l + j];
  return r;
}
// the same with 16-bit halves: half 2 l + j becomes half 16 j + l
static inline u8v halves_apart(u8v a) {
  u8v r;
  for (int j = 0; j < 2; ++j) MOTLEY_LANES memcpy((uint8_t*)&r + 32 * j + 2 * l, (uint8_t*)&a + 4 * l + 2 * j, 2);
  return r;
}

#undef MOTLEY_LANES
}  // namespace MOTLEY_ISA
}  // namespace motley
