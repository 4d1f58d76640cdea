// The vector layer for AArch64, 16 lanes in four registers: the functions of simd_scalar.h, where their meaning is told.
// MOTLEY_NEON: 0 for any AArch64 CPU, 1 with the dot product extension, 2 with I8MM.
#pragma once
#include <arm_neon.h>
#include <stdint.h>
#include <string.h>

namespace motley {
namespace MOTLEY_ISA {

struct f32 { float32x4_t a, b, c, d; };
struct i32 { int32x4_t a, b, c, d; };
struct u8v { uint8x16_t a, b, c, d; };

// A function on all quarters
#define MOTLEY_1(f, x) {f(x.a), f(x.b), f(x.c), f(x.d)}
#define MOTLEY_2(f, x, y) {f(x.a, y.a), f(x.b, y.b), f(x.c, y.c), f(x.d, y.d)}
#define MOTLEY_3(f, x, y, z) {f(x.a, y.a, z.a), f(x.b, y.b, z.b), f(x.c, y.c, z.c), f(x.d, y.d, z.d)}
#define MOTLEY_ALL(v) {v, v, v, v}  // v: evaluated once by the compiler, as it has no effects

// Tokens that a tile of two row groups serves: 16 of the 32 registers hold running dot products.
constexpr int kTileTokens = 2;
// Independent accumulators of the probes: more than latency needs, no more than the registers hold.
constexpr int kProbeChains = 6;

// -- floats
static inline f32 set1(float x) { return MOTLEY_ALL(vdupq_n_f32(x)); }
static inline f32 load(const float* p) { return {vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)}; }
static inline void store(float* p, f32 a) {
  vst1q_f32(p, a.a);
  vst1q_f32(p + 4, a.b);
  vst1q_f32(p + 8, a.c);
  vst1q_f32(p + 12, a.d);
}
static inline f32 load_n(const float* p, int n) {
  if (n == 16) return load(p);
  float some[16] = {};
  for (int l = 0; l < n; ++l) some[l] = p[l];
  return load(some);
}
static inline void store_n(float* p, f32 a, int n) {
  if (n == 16) return store(p, a);
  float all[16];
  store(all, a);
  for (int l = 0; l < n; ++l) p[l] = all[l];
}
static inline f32 add(f32 a, f32 b) { return MOTLEY_2(vaddq_f32, a, b); }
static inline f32 sub(f32 a, f32 b) { return MOTLEY_2(vsubq_f32, a, b); }
static inline f32 mul(f32 a, f32 b) { return MOTLEY_2(vmulq_f32, a, b); }
static inline f32 div(f32 a, f32 b) { return MOTLEY_2(vdivq_f32, a, b); }
static inline f32 fma(f32 a, f32 b, f32 c) { return MOTLEY_3(vfmaq_f32, c, a, b); }
static inline f32 fnma(f32 a, f32 b, f32 c) { return MOTLEY_3(vfmsq_f32, c, a, b); }
// Not vmaxq and vminq: a NaN in either must give b, and so must zeros of either sign.
static inline float32x4_t max4(float32x4_t a, float32x4_t b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
static inline float32x4_t min4(float32x4_t a, float32x4_t b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
static inline f32 max(f32 a, f32 b) { return MOTLEY_2(max4, a, b); }
static inline f32 min(f32 a, f32 b) { return MOTLEY_2(min4, a, b); }
static inline float sum(f32 a) {
  float32x4_t four = vaddq_f32(vaddq_f32(a.a, a.c), vaddq_f32(a.b, a.d));
  float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
  return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}
static inline float hmax(f32 a) {
  float32x4_t four = max4(max4(a.a, a.c), max4(a.b, a.d));
  float32x4_t two = max4(four, vextq_f32(four, four, 2));
  return vgetq_lane_f32(max4(two, vextq_f32(two, two, 1)), 0);
}

// -- half precisions
static inline float32x4_t from_f16(const uint16_t* p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
static inline uint16x4_t to_f16(float32x4_t a) { return vreinterpret_u16_f16(vcvt_f16_f32(a)); }
static inline float32x4_t from_bf16(const uint16_t* p) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16)); }
static inline f32 load_f16(const uint16_t* p) { return {from_f16(p), from_f16(p + 4), from_f16(p + 8), from_f16(p + 12)}; }
static inline void store_f16(uint16_t* p, f32 a) {
  vst1q_u16(p, vcombine_u16(to_f16(a.a), to_f16(a.b)));
  vst1q_u16(p + 8, vcombine_u16(to_f16(a.c), to_f16(a.d)));
}
static inline f32 load_bf16(const uint16_t* p) {
  return {from_bf16(p), from_bf16(p + 4), from_bf16(p + 8), from_bf16(p + 12)};
}

// -- 32-bit integers
static inline i32 set1i(int32_t x) { return MOTLEY_ALL(vdupq_n_s32(x)); }
static inline i32 widen(int16x8_t lo, int16x8_t hi) {
  return {vmovl_s16(vget_low_s16(lo)), vmovl_high_s16(lo), vmovl_s16(vget_low_s16(hi)), vmovl_high_s16(hi)};
}
static inline i32 load_u8(const uint8_t* p) {
  uint8x16_t v = vld1q_u8(p);
  return widen(vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(v))), vreinterpretq_s16_u16(vmovl_high_u8(v)));
}
static inline i32 load_i8(const int8_t* p) {
  int8x16_t v = vld1q_s8(p);
  return widen(vmovl_s8(vget_low_s8(v)), vmovl_high_s8(v));
}
static inline void store_i8(int8_t* p, i32 a) {
  int16x8_t lo = vuzp1q_s16(vreinterpretq_s16_s32(a.a), vreinterpretq_s16_s32(a.b));
  int16x8_t hi = vuzp1q_s16(vreinterpretq_s16_s32(a.c), vreinterpretq_s16_s32(a.d));
  vst1q_s8(p, vuzp1q_s8(vreinterpretq_s8_s16(lo), vreinterpretq_s8_s16(hi)));
}
static inline i32 addi(i32 a, i32 b) { return MOTLEY_2(vaddq_s32, a, b); }
static inline i32 muli(i32 a, i32 b) { return MOTLEY_2(vmulq_s32, a, b); }
static inline i32 andi(i32 a, i32 b) { return MOTLEY_2(vandq_s32, a, b); }
static inline i32 maxi(i32 a, i32 b) { return MOTLEY_2(vmaxq_s32, a, b); }
template <int K> static inline i32 shli(i32 a) {
  return {vshlq_n_s32(a.a, K), vshlq_n_s32(a.b, K), vshlq_n_s32(a.c, K), vshlq_n_s32(a.d, K)};
}
static inline int32_t sumi(i32 a) { return vaddvq_s32(vaddq_s32(vaddq_s32(a.a, a.b), vaddq_s32(a.c, a.d))); }
static inline int32_t hmaxi(i32 a) { return vmaxvq_s32(vmaxq_s32(vmaxq_s32(a.a, a.b), vmaxq_s32(a.c, a.d))); }
static inline f32 to_float(i32 a) { return MOTLEY_1(vcvtq_f32_s32, a); }
static inline i32 bits_of(f32 a) { return MOTLEY_1(vreinterpretq_s32_f32, a); }
static inline f32 float_of(i32 a) { return MOTLEY_1(vreinterpretq_f32_s32, a); }

// -- bytes
static inline u8v set1b(uint8_t x) { return MOTLEY_ALL(vdupq_n_u8(x)); }
static inline u8v load_bytes(const uint8_t* p) { return {vld1q_u8(p), vld1q_u8(p + 16), vld1q_u8(p + 32), vld1q_u8(p + 48)}; }
static inline u8v mask(u8v a, uint8_t m) { return MOTLEY_2(vandq_u8, a, set1b(m)); }
static inline u8v either(u8v a, u8v b) { return MOTLEY_2(vorrq_u8, a, b); }
template <int K> static inline uint8x16_t shift_16(uint8x16_t a) {
  if constexpr (K > 0) return vshrq_n_u8(a, K);
  else return vshlq_n_u8(a, -K);
}
template <int K> static inline u8v shift_mask(u8v a, uint8_t m) { return mask(MOTLEY_1(shift_16<K>, a), m); }
static inline u8v table16(const uint8_t* p) { return MOTLEY_ALL(vld1q_u8(p)); }
static inline u8v lookup(u8v table, u8v a) { return MOTLEY_2(vqtbl1q_u8, table, a); }
static inline int8x16_t broadcast4(const int8_t* x) {
  int32_t four;
  memcpy(&four, x, 4);
  return vreinterpretq_s8_s32(vdupq_n_s32(four));
}
// acc += 4 weights of 4 rows times the 4 activations in each quarter of x. The weights are below 64, or w - 128.
static inline int32x4_t dot4_4(int32x4_t acc, int8x16_t w, int8x16_t x) {
#if MOTLEY_NEON
  return vdotq_s32(acc, w, x);
#else  // sums of two products fit 16 bits, even -128 * 127 * 2
  int16x8_t lo = vmull_s8(vget_low_s8(w), vget_low_s8(x)), hi = vmull_high_s8(w, x);
  return vpadalq_s16(acc, vpaddq_s16(lo, hi));
#endif
}
static inline i32 dot4_signed(i32 acc, u8v w, const int8_t* x) {
  int8x16_t four = broadcast4(x);
  return {dot4_4(acc.a, vreinterpretq_s8_u8(w.a), four), dot4_4(acc.b, vreinterpretq_s8_u8(w.b), four),
          dot4_4(acc.c, vreinterpretq_s8_u8(w.c), four), dot4_4(acc.d, vreinterpretq_s8_u8(w.d), four)};
}
static inline u8v flip(u8v a, uint8_t m) { return MOTLEY_2(veorq_u8, a, set1b(m)); }
#if MOTLEY_NEON == 2
static inline i32 dot4(i32 acc, u8v w, const int8_t* x) {
  int8x16_t four = broadcast4(x);
  return {vusdotq_s32(acc.a, w.a, four), vusdotq_s32(acc.b, w.b, four), vusdotq_s32(acc.c, w.c, four),
          vusdotq_s32(acc.d, w.d, four)};
}
static inline i32 start_biased(int32_t off8) { return set1i(16 * off8); }
static inline i32 dot4_biased(i32 acc, u8v w, const int8_t* x) { return dot4(acc, w, x); }
#else  // signed products only: biased bytes become what they were
static inline i32 dot4(i32 acc, u8v w, const int8_t* x) { return dot4_signed(acc, w, x); }
static inline i32 start_biased(int32_t) { return set1i(0); }
static inline i32 dot4_biased(i32 acc, u8v w, const int8_t* x) { return dot4_signed(acc, flip(w, 0x80), x); }
#endif
static inline void prefetch(const void* p) { __builtin_prefetch(p); }

// -- packing
static inline void store_bytes(uint8_t* p, u8v a) {
  vst1q_u8(p, a.a);
  vst1q_u8(p + 16, a.b);
  vst1q_u8(p + 32, a.c);
  vst1q_u8(p + 48, a.d);
}
// A 4x4 transpose: word w of 4 rows to out[w]
static inline void interleave4_4(const uint8_t* rows, int64_t stride, uint8x16_t out[4]) {
  uint32x4_t a = vreinterpretq_u32_u8(vld1q_u8(rows)), b = vreinterpretq_u32_u8(vld1q_u8(rows + stride));
  uint32x4_t c = vreinterpretq_u32_u8(vld1q_u8(rows + 2 * stride)), d = vreinterpretq_u32_u8(vld1q_u8(rows + 3 * stride));
  uint64x2_t ab = vreinterpretq_u64_u32(vzip1q_u32(a, b)), cd = vreinterpretq_u64_u32(vzip1q_u32(c, d));
  out[0] = vreinterpretq_u8_u64(vzip1q_u64(ab, cd));
  out[1] = vreinterpretq_u8_u64(vzip2q_u64(ab, cd));
  ab = vreinterpretq_u64_u32(vzip2q_u32(a, b));
  cd = vreinterpretq_u64_u32(vzip2q_u32(c, d));
  out[2] = vreinterpretq_u8_u64(vzip1q_u64(ab, cd));
  out[3] = vreinterpretq_u8_u64(vzip2q_u64(ab, cd));
}
static inline void interleave4(const uint8_t* rows, int64_t stride, u8v out[4]) {
  uint8x16_t a[4], b[4], c[4], d[4];
  interleave4_4(rows, stride, a);
  interleave4_4(rows + 4 * stride, stride, b);
  interleave4_4(rows + 8 * stride, stride, c);
  interleave4_4(rows + 12 * stride, stride, d);
  for (int w = 0; w < 4; ++w) out[w] = {a[w], b[w], c[w], d[w]};
}
static inline u8v bytes_apart(u8v a) {
  uint8x16_t even_lo = vuzp1q_u8(a.a, a.b), even_hi = vuzp1q_u8(a.c, a.d);
  uint8x16_t odd_lo = vuzp2q_u8(a.a, a.b), odd_hi = vuzp2q_u8(a.c, a.d);
  return {vuzp1q_u8(even_lo, even_hi), vuzp1q_u8(odd_lo, odd_hi), vuzp2q_u8(even_lo, even_hi),
          vuzp2q_u8(odd_lo, odd_hi)};
}
static inline u8v halves_apart(u8v v) {
  uint16x8_t a = vreinterpretq_u16_u8(v.a), b = vreinterpretq_u16_u8(v.b);
  uint16x8_t c = vreinterpretq_u16_u8(v.c), d = vreinterpretq_u16_u8(v.d);
  return {vreinterpretq_u8_u16(vuzp1q_u16(a, b)), vreinterpretq_u8_u16(vuzp1q_u16(c, d)),
          vreinterpretq_u8_u16(vuzp2q_u16(a, b)), vreinterpretq_u8_u16(vuzp2q_u16(c, d))};
}

#undef MOTLEY_1
#undef MOTLEY_2
#undef MOTLEY_3
#undef MOTLEY_ALL
}  // namespace MOTLEY_ISA
}  // namespace motley
