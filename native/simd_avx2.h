// The vector layer for AVX2 with FMA and F16C, 16 lanes in two registers: the functions of simd_scalar.h, where their
// meaning is told. MOTLEY_VNNI: 1 where the CPU has AVX-VNNI too.
#pragma once
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

namespace motley {
namespace MOTLEY_ISA {

struct f32 { __m256 lo, hi; };
struct i32 { __m256i lo, hi; };
struct u8v { __m256i lo, hi; };

// An instruction on both halves
#define MOTLEY_1(f, a) {f(a.lo), f(a.hi)}
#define MOTLEY_2(f, a, b) {f(a.lo, b.lo), f(a.hi, b.hi)}
#define MOTLEY_3(f, a, b, c) {f(a.lo, b.lo, c.lo), f(a.hi, b.hi, c.hi)}

// Tokens that a tile of two row groups serves: 8 of the 16 registers hold running dot products.
constexpr int kTileTokens = 2;
// Independent accumulators of the probes: more than latency needs, no more than the registers hold.
constexpr int kProbeChains = 6;

// -- floats
static inline f32 set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
static inline f32 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
static inline void store(float* p, f32 a) {
  _mm256_storeu_ps(p, a.lo);
  _mm256_storeu_ps(p + 8, a.hi);
}
// Masked moves are slow on some CPUs: only for what is really a rest.
static inline i32 first(int n) {
  __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), all = _mm256_set1_epi32(n);
  return {_mm256_cmpgt_epi32(all, lane), _mm256_cmpgt_epi32(all, _mm256_add_epi32(lane, _mm256_set1_epi32(8)))};
}
static inline f32 load_n(const float* p, int n) {
  if (n == 16) return load(p);
  i32 m = first(n);
  return {_mm256_maskload_ps(p, m.lo), _mm256_maskload_ps(p + 8, m.hi)};
}
static inline void store_n(float* p, f32 a, int n) {
  if (n == 16) return store(p, a);
  i32 m = first(n);
  _mm256_maskstore_ps(p, m.lo, a.lo);
  _mm256_maskstore_ps(p + 8, m.hi, a.hi);
}
static inline f32 add(f32 a, f32 b) { return MOTLEY_2(_mm256_add_ps, a, b); }
static inline f32 sub(f32 a, f32 b) { return MOTLEY_2(_mm256_sub_ps, a, b); }
static inline f32 mul(f32 a, f32 b) { return MOTLEY_2(_mm256_mul_ps, a, b); }
static inline f32 div(f32 a, f32 b) { return MOTLEY_2(_mm256_div_ps, a, b); }
static inline f32 fma(f32 a, f32 b, f32 c) { return MOTLEY_3(_mm256_fmadd_ps, a, b, c); }
static inline f32 fnma(f32 a, f32 b, f32 c) { return MOTLEY_3(_mm256_fnmadd_ps, a, b, c); }
static inline f32 max(f32 a, f32 b) { return MOTLEY_2(_mm256_max_ps, a, b); }
static inline f32 min(f32 a, f32 b) { return MOTLEY_2(_mm256_min_ps, a, b); }
static inline float sum(f32 a) {
  __m256 eight = _mm256_add_ps(a.lo, a.hi);
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}
static inline float hmax(f32 a) {
  __m256 eight = _mm256_max_ps(a.lo, a.hi);
  __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}

// -- half precisions
static inline __m128i load_8x16(const uint16_t* p) { return _mm_loadu_si128((const __m128i*)p); }
static inline f32 load_f16(const uint16_t* p) {
  return {_mm256_cvtph_ps(load_8x16(p)), _mm256_cvtph_ps(load_8x16(p + 8))};
}
static inline void store_f16(uint16_t* p, f32 a) {
  _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph(a.lo, _MM_FROUND_TO_NEAREST_INT));
  _mm_storeu_si128((__m128i*)(p + 8), _mm256_cvtps_ph(a.hi, _MM_FROUND_TO_NEAREST_INT));
}
static inline __m256 from_bf16(__m128i h) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}
static inline f32 load_bf16(const uint16_t* p) { return {from_bf16(load_8x16(p)), from_bf16(load_8x16(p + 8))}; }

// -- 32-bit integers
static inline __m128i load_8(const void* p) { return _mm_loadl_epi64((const __m128i*)p); }
static inline i32 set1i(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
static inline i32 load_u8(const uint8_t* p) {
  return {_mm256_cvtepu8_epi32(load_8(p)), _mm256_cvtepu8_epi32(load_8(p + 8))};
}
static inline i32 load_i8(const int8_t* p) {
  return {_mm256_cvtepi8_epi32(load_8(p)), _mm256_cvtepi8_epi32(load_8(p + 8))};
}
static inline void store_i8(int8_t* p, i32 a) {
  const __m256i low_bytes = _mm256_set1_epi32(0xff);
  __m256i words = _mm256_packus_epi32(_mm256_and_si256(a.lo, low_bytes), _mm256_and_si256(a.hi, low_bytes));
  words = _mm256_permute4x64_epi64(words, 0xd8);  // packing works in each half of the register
  _mm_storeu_si128((__m128i*)p, _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}
static inline i32 addi(i32 a, i32 b) { return MOTLEY_2(_mm256_add_epi32, a, b); }
static inline i32 muli(i32 a, i32 b) { return MOTLEY_2(_mm256_mullo_epi32, a, b); }
static inline i32 andi(i32 a, i32 b) { return MOTLEY_2(_mm256_and_si256, a, b); }
static inline i32 maxi(i32 a, i32 b) { return MOTLEY_2(_mm256_max_epi32, a, b); }
template <int K> static inline i32 shli(i32 a) { return {_mm256_slli_epi32(a.lo, K), _mm256_slli_epi32(a.hi, K)}; }
static inline int32_t sumi(i32 a) {
  __m256i eight = _mm256_add_epi32(a.lo, a.hi);
  __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
}
static inline int32_t hmaxi(i32 a) {
  __m256i eight = _mm256_max_epi32(a.lo, a.hi);
  __m128i four = _mm_max_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  return _mm_cvtsi128_si32(_mm_max_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
}
static inline f32 to_float(i32 a) { return MOTLEY_1(_mm256_cvtepi32_ps, a); }
static inline i32 bits_of(f32 a) { return MOTLEY_1(_mm256_castps_si256, a); }
static inline f32 float_of(i32 a) { return MOTLEY_1(_mm256_castsi256_ps, a); }

// -- bytes
static inline u8v set1b(uint8_t x) { return {_mm256_set1_epi8((char)x), _mm256_set1_epi8((char)x)}; }
static inline u8v load_bytes(const uint8_t* p) {
  return {_mm256_loadu_si256((const __m256i*)p), _mm256_loadu_si256((const __m256i*)(p + 32))};
}
static inline u8v mask(u8v a, uint8_t m) { return MOTLEY_2(_mm256_and_si256, a, set1b(m)); }
static inline u8v either(u8v a, u8v b) { return MOTLEY_2(_mm256_or_si256, a, b); }
// There is no byte shift: shift 16 bits at a time; the mask drops what came over from the neighbour.
template <int K> static inline u8v shift_mask(u8v a, uint8_t m) {
  if (K >= 0) return mask({_mm256_srli_epi16(a.lo, K & 7), _mm256_srli_epi16(a.hi, K & 7)}, m);
  return mask({_mm256_slli_epi16(a.lo, -K & 7), _mm256_slli_epi16(a.hi, -K & 7)}, m);
}
static inline u8v table16(const uint8_t* p) {
  __m256i t = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)p));
  return {t, t};
}
static inline u8v lookup(u8v table, u8v a) { return MOTLEY_2(_mm256_shuffle_epi8, table, a); }
static inline __m256i broadcast4(const int8_t* x) {
  int32_t four;
  memcpy(&four, x, 4);
  return _mm256_set1_epi32(four);
}
#if MOTLEY_VNNI
static inline i32 dot4(i32 acc, u8v w, const int8_t* x) {
  __m256i four = broadcast4(x);
  return {_mm256_dpbusd_avx_epi32(acc.lo, w.lo, four), _mm256_dpbusd_avx_epi32(acc.hi, w.hi, four)};
}
static inline i32 start_biased(int32_t off8) { return shli<4>(set1i(off8)); }
static inline i32 dot4_biased(i32 acc, u8v w, const int8_t* x) { return dot4(acc, w, x); }
#else
#define MOTLEY_PAIRS 1
// 32 sums of two products in 16 bits: 63 * 127 * 2 and 128 * 127 * 2 still fit, 255 * 127 * 2 would not. So biased bytes
// become signed ones again, and their signs move to the activations. Of small weights several such sums fit.
// Assembly, each sum with its addition: GCC 12 spends 37 s on the intrinsics, and takes products far ahead of additions,
// so that they wait in memory.
struct i16 { __m256i lo, hi; };
static inline __m256i dot2_8(__m256i w, __m256i x) {
  __m256i twos;
  __asm__("vpmaddubsw %2, %1, %0" : "=x"(twos) : "x"(w), "x"(x));
  return twos;
}
static inline __m256i add_dot2_8(__m256i acc, __m256i w, __m256i x) {
  __m256i twos;
  __asm__("vpmaddubsw %3, %2, %1\n\tvpaddw %1, %0, %0" : "+x"(acc), "=&x"(twos) : "x"(w), "x"(x));
  return acc;
}
static inline __m256i add_twos_8(__m256i acc, __m256i twos) {
  __asm__("vpmaddwd %2, %1, %1\n\tvpaddd %1, %0, %0" : "+x"(acc), "+x"(twos) : "x"(_mm256_set1_epi16(1)));
  return acc;
}
static inline i16 dot2(u8v w, const int8_t* x) {
  __m256i four = broadcast4(x);
  return {dot2_8(w.lo, four), dot2_8(w.hi, four)};
}
static inline i16 add_dot2(i16 acc, u8v w, const int8_t* x) {
  __m256i four = broadcast4(x);
  return {add_dot2_8(acc.lo, w.lo, four), add_dot2_8(acc.hi, w.hi, four)};
}
static inline i32 add_twos(i32 acc, i16 twos) { return MOTLEY_2(add_twos_8, acc, twos); }
static inline __m256i dot4_8(__m256i acc, __m256i w, __m256i x) {
  __m256i fours;
  __asm__("vpmaddubsw %3, %2, %1\n\tvpmaddwd %4, %1, %1\n\tvpaddd %1, %0, %0"
          : "+x"(acc), "=&x"(fours) : "x"(w), "x"(x), "x"(_mm256_set1_epi16(1)));
  return acc;
}
static inline __m256i dot4_8_signed(__m256i acc, __m256i w, __m256i size, __m256i x) {
  __m256i fours;
  __asm__("vpsignb %2, %4, %1\n\tvpmaddubsw %1, %3, %1\n\tvpmaddwd %5, %1, %1\n\tvpaddd %1, %0, %0"
          : "+x"(acc), "=&x"(fours) : "x"(w), "x"(size), "x"(x), "x"(_mm256_set1_epi16(1)));
  return acc;
}
static inline i32 dot4(i32 acc, u8v w, const int8_t* x) {
  __m256i four = broadcast4(x);
  return {dot4_8(acc.lo, w.lo, four), dot4_8(acc.hi, w.hi, four)};
}
static inline i32 start_biased(int32_t) { return set1i(0); }
static inline i32 dot4_biased(i32 acc, u8v w, const int8_t* x) {
  __m256i four = broadcast4(x), top = _mm256_set1_epi8((char)0x80);
  __m256i lo = _mm256_xor_si256(w.lo, top), hi = _mm256_xor_si256(w.hi, top);
  return {dot4_8_signed(acc.lo, lo, _mm256_abs_epi8(lo), four), dot4_8_signed(acc.hi, hi, _mm256_abs_epi8(hi), four)};
}
#endif
// Not the intrinsic: GCC 12 takes a loop of prefetches for an empty one and removes it.
static inline void prefetch(const void* p) { __asm__ volatile("prefetcht0 %0" : : "m"(*(const char*)p)); }

// -- packing
static inline void store_bytes(uint8_t* p, u8v a) {
  _mm256_storeu_si256((__m256i*)p, a.lo);
  _mm256_storeu_si256((__m256i*)(p + 32), a.hi);
}
static inline u8v flip(u8v a, uint8_t m) { return MOTLEY_2(_mm256_xor_si256, a, set1b(m)); }
// 16 bytes each of rows r and r + 4
static inline __m256i two_rows(const uint8_t* p, int64_t stride) {
  __m256i v = _mm256_castsi128_si256(_mm_loadu_si128((const __m128i*)p));
  return _mm256_inserti128_si256(v, _mm_loadu_si128((const __m128i*)(p + 4 * stride)), 1);
}
// A 4x4 transpose inside each 128-bit lane, for 8 rows
static inline void interleave4_8(const uint8_t* rows, int64_t stride, __m256i out[4]) {
  __m256i a = two_rows(rows, stride), b = two_rows(rows + stride, stride);
  __m256i c = two_rows(rows + 2 * stride, stride), d = two_rows(rows + 3 * stride, stride);
  __m256i ab = _mm256_unpacklo_epi32(a, b), cd = _mm256_unpacklo_epi32(c, d);
  out[0] = _mm256_unpacklo_epi64(ab, cd);
  out[1] = _mm256_unpackhi_epi64(ab, cd);
  ab = _mm256_unpackhi_epi32(a, b);
  cd = _mm256_unpackhi_epi32(c, d);
  out[2] = _mm256_unpacklo_epi64(ab, cd);
  out[3] = _mm256_unpackhi_epi64(ab, cd);
}
static inline void interleave4(const uint8_t* rows, int64_t stride, u8v out[4]) {
  __m256i lo[4], hi[4];
  interleave4_8(rows, stride, lo);
  interleave4_8(rows + 8 * stride, stride, hi);
  for (int w = 0; w < 4; ++w) out[w] = {lo[w], hi[w]};
}
static inline __m256i bytes_apart_8(__m256i a) {
  const __m256i in_lane = _mm256_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15,
                                           0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  return _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(a, in_lane), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}
static inline u8v bytes_apart(u8v a) {
  __m256i lo = bytes_apart_8(a.lo), hi = bytes_apart_8(a.hi);
  __m256i even = _mm256_unpacklo_epi64(lo, hi), odd = _mm256_unpackhi_epi64(lo, hi);
  return {_mm256_permute2x128_si256(even, odd, 0x20), _mm256_permute2x128_si256(even, odd, 0x31)};
}
static inline u8v halves_apart(u8v a) {
  const __m256i low_half = _mm256_set1_epi32(0xffff);
  __m256i even = _mm256_packus_epi32(_mm256_and_si256(a.lo, low_half), _mm256_and_si256(a.hi, low_half));
  __m256i odd = _mm256_packus_epi32(_mm256_srli_epi32(a.lo, 16), _mm256_srli_epi32(a.hi, 16));
  return {_mm256_permute4x64_epi64(even, 0xd8), _mm256_permute4x64_epi64(odd, 0xd8)};
}

#undef MOTLEY_1
#undef MOTLEY_2
#undef MOTLEY_3
}  // namespace MOTLEY_ISA
}  // namespace motley
