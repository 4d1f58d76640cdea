// The vector layer, portable: plain arrays of 16 lanes that any compiler can vectorise.
//
// Every backend gives identical bits for the same inputs: fused multiply-adds are explicit, reductions have one fixed
// tree, and conversions round to nearest even. A new instruction set is a new header with these same functions.
// No C++ library templates in here: a backend compiled for a newer CPU must not leave inline functions that the
// linker could pick for everybody.
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>

namespace motley {
namespace MOTLEY_ISA {

struct f32 { float v[16]; };
struct i32 { int32_t v[16]; };
struct u8v { uint8_t v[64]; };

#define MOTLEY_LANES for (int l = 0; l < 16; ++l)

// -- floats
static inline f32 set1(float x) { f32 r; MOTLEY_LANES r.v[l] = x; return r; }
static inline f32 load(const float* p) { f32 r; memcpy(r.v, p, 64); return r; }
static inline f32 load_n(const float* p, int n) { f32 r; MOTLEY_LANES r.v[l] = l < n ? p[l] : 0.0f; return r; }
static inline void store(float* p, f32 a) { memcpy(p, a.v, 64); }
static inline void store_n(float* p, f32 a, int n) { for (int l = 0; l < n; ++l) p[l] = a.v[l]; }
static inline f32 add(f32 a, f32 b) { MOTLEY_LANES a.v[l] += b.v[l]; return a; }
static inline f32 sub(f32 a, f32 b) { MOTLEY_LANES a.v[l] -= b.v[l]; return a; }
static inline f32 mul(f32 a, f32 b) { MOTLEY_LANES a.v[l] *= b.v[l]; return a; }
static inline f32 div(f32 a, f32 b) { MOTLEY_LANES a.v[l] /= b.v[l]; return a; }
// a * b + c and c - a * b, rounded once
static inline f32 fma(f32 a, f32 b, f32 c) { MOTLEY_LANES c.v[l] = fmaf(a.v[l], b.v[l], c.v[l]); return c; }
static inline f32 fnma(f32 a, f32 b, f32 c) { MOTLEY_LANES c.v[l] = fmaf(-a.v[l], b.v[l], c.v[l]); return c; }
// A NaN in either gives b, as x86 has it: max(limit, x) keeps x's NaN.
static inline f32 max(f32 a, f32 b) { MOTLEY_LANES b.v[l] = a.v[l] > b.v[l] ? a.v[l] : b.v[l]; return b; }
static inline f32 min(f32 a, f32 b) { MOTLEY_LANES b.v[l] = a.v[l] < b.v[l] ? a.v[l] : b.v[l]; return b; }
// lanes l and l + 8, then + 4, + 2, + 1
static inline float sum(f32 a) {
  for (int h = 8; h; h >>= 1) for (int l = 0; l < h; ++l) a.v[l] += a.v[l + h];
  return a.v[0];
}
static inline float hmax(f32 a) {
  for (int h = 8; h; h >>= 1) for (int l = 0; l < h; ++l) a.v[l] = a.v[l] > a.v[l + h] ? a.v[l] : a.v[l + h];
  return a.v[0];
}

// -- half precisions
static inline float from_f16(uint16_t h) {
  uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, mantissa = h & 1023, bits;
  if (exponent == 31) {
    bits = sign | 0x7f800000u | mantissa << 13 | (mantissa ? 0x400000u : 0);
  } else if (exponent) {
    bits = sign | (exponent + 112) << 23 | mantissa << 13;
  } else {  // zero or subnormal: mantissa * 2^-24 is exact
    float f = (float)mantissa * 5.9604644775390625e-08f;
    memcpy(&bits, &f, 4);
    bits |= sign;
  }
  float f;
  memcpy(&f, &bits, 4);
  return f;
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
static inline f32 load_f16(const uint16_t* p) { f32 r; MOTLEY_LANES r.v[l] = from_f16(p[l]); return r; }
static inline void store_f16(uint16_t* p, f32 a) { MOTLEY_LANES p[l] = to_f16(a.v[l]); }
static inline f32 load_bf16(const uint16_t* p) {
  f32 r;
  MOTLEY_LANES { uint32_t bits = (uint32_t)p[l] << 16; memcpy(&r.v[l], &bits, 4); }
  return r;
}

// -- 32-bit integers; they wrap
static inline i32 set1i(int32_t x) { i32 r; MOTLEY_LANES r.v[l] = x; return r; }
static inline i32 load_u8(const uint8_t* p) { i32 r; MOTLEY_LANES r.v[l] = p[l]; return r; }
static inline i32 load_i8(const int8_t* p) { i32 r; MOTLEY_LANES r.v[l] = p[l]; return r; }
static inline void store_i8(int8_t* p, i32 a) { MOTLEY_LANES p[l] = (int8_t)a.v[l]; }
static inline i32 addi(i32 a, i32 b) { MOTLEY_LANES a.v[l] = (int32_t)((uint32_t)a.v[l] + (uint32_t)b.v[l]); return a; }
static inline i32 muli(i32 a, i32 b) { MOTLEY_LANES a.v[l] = (int32_t)((uint32_t)a.v[l] * (uint32_t)b.v[l]); return a; }
static inline i32 andi(i32 a, i32 b) { MOTLEY_LANES a.v[l] &= b.v[l]; return a; }
static inline i32 maxi(i32 a, i32 b) { MOTLEY_LANES a.v[l] = a.v[l] > b.v[l] ? a.v[l] : b.v[l]; return a; }
template <int K> static inline i32 shli(i32 a) { MOTLEY_LANES a.v[l] = (int32_t)((uint32_t)a.v[l] << K); return a; }
static inline int32_t sumi(i32 a) { int32_t s = 0; MOTLEY_LANES s += a.v[l]; return s; }
static inline int32_t hmaxi(i32 a) { int32_t m = a.v[0]; MOTLEY_LANES m = a.v[l] > m ? a.v[l] : m; return m; }
static inline f32 to_float(i32 a) { f32 r; MOTLEY_LANES r.v[l] = (float)a.v[l]; return r; }
static inline i32 bits_of(f32 a) { i32 r; memcpy(r.v, a.v, 64); return r; }
static inline f32 float_of(i32 a) { f32 r; memcpy(r.v, a.v, 64); return r; }

// -- bytes: packed weights, 4 bytes of each of 16 rows
static inline u8v load_bytes(const uint8_t* p) { u8v r; memcpy(r.v, p, 64); return r; }
static inline u8v mask(u8v a, uint8_t m) { for (int i = 0; i < 64; ++i) a.v[i] &= m; return a; }
static inline u8v either(u8v a, u8v b) { for (int i = 0; i < 64; ++i) a.v[i] |= b.v[i]; return a; }
// shift each byte by K (right when positive, left when negative) and keep the bits of m
template <int K> static inline u8v shift_mask(u8v a, uint8_t m) {
  for (int i = 0; i < 64; ++i) a.v[i] = (uint8_t)(K >= 0 ? a.v[i] >> (K & 7) : a.v[i] << (-K & 7)) & m;
  return a;
}
// a table of 16 bytes, and its entries for bytes below 16
static inline u8v table16(const uint8_t* p) { u8v r; for (int i = 0; i < 64; ++i) r.v[i] = p[i & 15]; return r; }
static inline u8v lookup(u8v table, u8v a) { for (int i = 0; i < 64; ++i) a.v[i] = table.v[a.v[i]]; return a; }
// lane l += sum over j of w[4 l + j] * x[j]: unsigned weights times four signed activations
static inline i32 dot4(i32 acc, u8v w, const int8_t* x) {
  MOTLEY_LANES for (int j = 0; j < 4; ++j) acc.v[l] += (int32_t)w.v[4 * l + j] * x[j];
  return acc;
}
static inline void prefetch(const void* p) { __builtin_prefetch(p); }

// -- packing
static inline void store_bytes(uint8_t* p, u8v a) { memcpy(p, a.v, 64); }
static inline u8v flip(u8v a, uint8_t m) { for (int i = 0; i < 64; ++i) a.v[i] ^= m; return a; }
// 16 bytes of each of 16 rows: byte 4 l + j of out[w] is byte 4 w + j of row l
static inline void interleave4(const uint8_t* rows, int64_t stride, u8v out[4]) {
  for (int w = 0; w < 4; ++w) MOTLEY_LANES memcpy(out[w].v + 4 * l, rows + l * stride + 4 * w, 4);
}
// byte 4 l + j of a becomes byte 16 j + l
static inline u8v bytes_apart(u8v a) {
  u8v r;
  for (int j = 0; j < 4; ++j) MOTLEY_LANES r.v[16 * j + l] = a.v[4 * l + j];
  return r;
}
// the same with 16-bit halves: half 2 l + j becomes half 16 j + l
static inline u8v halves_apart(u8v a) {
  u8v r;
  for (int j = 0; j < 2; ++j) MOTLEY_LANES memcpy(r.v + 32 * j + 2 * l, a.v + 4 * l + 2 * j, 2);
  return r;
}

#undef MOTLEY_LANES
}  // namespace MOTLEY_ISA
}  // namespace motley
