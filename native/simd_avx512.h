// The vector layer for AVX-512 with VNNI: the functions of simd_scalar.h, where their meaning is told.
#pragma once
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

namespace motley {
namespace MOTLEY_ISA {

using f32 = __m512;
using i32 = __m512i;
using u8v = __m512i;

static inline __mmask16 first(int n) { return (__mmask16)((1u << n) - 1); }

// Tokens that a tile of two row groups serves: 12 sums and 12 running dot products in 32 registers.
constexpr int kTileTokens = 6;
// Independent accumulators of the probes: more than latency needs, no more than the registers hold.
constexpr int kProbeChains = 12;

// -- floats
static inline f32 set1(float x) { return _mm512_set1_ps(x); }
static inline f32 load(const float* p) { return _mm512_loadu_ps(p); }
static inline f32 load_n(const float* p, int n) { return _mm512_maskz_loadu_ps(first(n), p); }
static inline void store(float* p, f32 a) { _mm512_storeu_ps(p, a); }
static inline void store_n(float* p, f32 a, int n) { _mm512_mask_storeu_ps(p, first(n), a); }
static inline f32 add(f32 a, f32 b) { return _mm512_add_ps(a, b); }
static inline f32 sub(f32 a, f32 b) { return _mm512_sub_ps(a, b); }
static inline f32 mul(f32 a, f32 b) { return _mm512_mul_ps(a, b); }
static inline f32 div(f32 a, f32 b) { return _mm512_div_ps(a, b); }
static inline f32 fma(f32 a, f32 b, f32 c) { return _mm512_fmadd_ps(a, b, c); }
static inline f32 fnma(f32 a, f32 b, f32 c) { return _mm512_fnmadd_ps(a, b, c); }
static inline f32 max(f32 a, f32 b) { return _mm512_max_ps(a, b); }
static inline f32 min(f32 a, f32 b) { return _mm512_min_ps(a, b); }
static inline float sum(f32 a) {
  a = _mm512_add_ps(a, _mm512_shuffle_f32x4(a, a, 0x4e));
  a = _mm512_add_ps(a, _mm512_shuffle_f32x4(a, a, 0xb1));
  a = _mm512_add_ps(a, _mm512_permute_ps(a, 0x4e));
  a = _mm512_add_ps(a, _mm512_permute_ps(a, 0xb1));
  return _mm512_cvtss_f32(a);
}
static inline float hmax(f32 a) {
  a = _mm512_max_ps(a, _mm512_shuffle_f32x4(a, a, 0x4e));
  a = _mm512_max_ps(a, _mm512_shuffle_f32x4(a, a, 0xb1));
  a = _mm512_max_ps(a, _mm512_permute_ps(a, 0x4e));
  a = _mm512_max_ps(a, _mm512_permute_ps(a, 0xb1));
  return _mm512_cvtss_f32(a);
}

// -- half precisions
static inline f32 load_f16(const uint16_t* p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)); }
static inline void store_f16(uint16_t* p, f32 a) {
  _mm256_storeu_si256((__m256i*)p, _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
static inline f32 load_bf16(const uint16_t* p) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16));
}

// -- 32-bit integers
static inline i32 set1i(int32_t x) { return _mm512_set1_epi32(x); }
static inline i32 load_u8(const uint8_t* p) { return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p)); }
static inline i32 load_i8(const int8_t* p) { return _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)); }
static inline void store_i8(int8_t* p, i32 a) { _mm_storeu_si128((__m128i*)p, _mm512_cvtepi32_epi8(a)); }
static inline i32 addi(i32 a, i32 b) { return _mm512_add_epi32(a, b); }
static inline i32 muli(i32 a, i32 b) { return _mm512_mullo_epi32(a, b); }
static inline i32 andi(i32 a, i32 b) { return _mm512_and_si512(a, b); }
static inline i32 maxi(i32 a, i32 b) { return _mm512_max_epi32(a, b); }
template <int K> static inline i32 shli(i32 a) { return _mm512_slli_epi32(a, K); }
static inline int32_t sumi(i32 a) { return _mm512_reduce_add_epi32(a); }
static inline int32_t hmaxi(i32 a) { return _mm512_reduce_max_epi32(a); }
static inline f32 to_float(i32 a) { return _mm512_cvtepi32_ps(a); }
static inline i32 bits_of(f32 a) { return _mm512_castps_si512(a); }
static inline f32 float_of(i32 a) { return _mm512_castsi512_ps(a); }

// -- bytes
static inline u8v load_bytes(const uint8_t* p) { return _mm512_loadu_si512(p); }
static inline void store_bytes(uint8_t* p, u8v a) { _mm512_storeu_si512(p, a); }
static inline u8v mask(u8v a, uint8_t m) { return _mm512_and_si512(a, _mm512_set1_epi8((char)m)); }
static inline u8v either(u8v a, u8v b) { return _mm512_or_si512(a, b); }
// There is no byte shift: shift 16 bits at a time; the mask drops what came over from the neighbour.
template <int K> static inline u8v shift_mask(u8v a, uint8_t m) {
  return mask(K >= 0 ? _mm512_srli_epi16(a, K & 7) : _mm512_slli_epi16(a, -K & 7), m);
}
static inline u8v table16(const uint8_t* p) { return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i*)p)); }
static inline u8v lookup(u8v table, u8v a) { return _mm512_shuffle_epi8(table, a); }
static inline i32 dot4(i32 acc, u8v w, const int8_t* x) {
  int32_t four;
  memcpy(&four, x, 4);
  return _mm512_dpbusd_epi32(acc, w, _mm512_set1_epi32(four));
}
static inline i32 start_biased(int32_t off8) { return shli<4>(set1i(off8)); }
static inline i32 dot4_biased(i32 acc, u8v w, const int8_t* x) { return dot4(acc, w, x); }
// Not the intrinsic: GCC 12 takes a loop of prefetches for an empty one and removes it.
static inline void prefetch(const void* p) { __asm__ volatile("prefetcht0 %0" : : "m"(*(const char*)p)); }

// -- packing
static inline u8v flip(u8v a, uint8_t m) { return _mm512_xor_si512(a, _mm512_set1_epi8((char)m)); }
// 16 bytes each of rows r, r + 4, r + 8 and r + 12
static inline __m512i every_fourth(const uint8_t* p, int64_t stride) {
  __m512i v = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i*)p));
  v = _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i*)(p + 4 * stride)), 1);
  v = _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i*)(p + 8 * stride)), 2);
  return _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i*)(p + 12 * stride)), 3);
}
// A 4x4 transpose inside each 128-bit lane: lane g then holds rows 4 g to 4 g + 3 in order.
static inline void interleave4(const uint8_t* rows, int64_t stride, u8v out[4]) {
  __m512i a = every_fourth(rows, stride), b = every_fourth(rows + stride, stride);
  __m512i c = every_fourth(rows + 2 * stride, stride), d = every_fourth(rows + 3 * stride, stride);
  __m512i ab = _mm512_unpacklo_epi32(a, b), cd = _mm512_unpacklo_epi32(c, d);
  out[0] = _mm512_unpacklo_epi64(ab, cd);
  out[1] = _mm512_unpackhi_epi64(ab, cd);
  ab = _mm512_unpackhi_epi32(a, b);
  cd = _mm512_unpackhi_epi32(c, d);
  out[2] = _mm512_unpacklo_epi64(ab, cd);
  out[3] = _mm512_unpackhi_epi64(ab, cd);
}
static inline u8v bytes_apart(u8v a) {
  const __m512i in_lane = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  const __m512i across = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  return _mm512_permutexvar_epi32(across, _mm512_shuffle_epi8(a, in_lane));
}
static inline u8v halves_apart(u8v a) {
  return _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi32_epi16(a)),
                            _mm512_cvtepi32_epi16(_mm512_srli_epi32(a, 16)), 1);
}

}  // namespace MOTLEY_ISA
}  // namespace motley
