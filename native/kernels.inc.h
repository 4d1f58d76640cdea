// The kernels, written once against the vector layer and compiled once per instruction set: the including file
// defines MOTLEY_ISA and includes its simd_*.h first. Packed layouts: formats.h.
//
// One order of arithmetic for everybody (exactness): per block of 32 an exact integer dot product, then one float
// fused multiply-add into the row's lane, blocks in order along K. The number of tokens that go together only changes
// how often a weight is loaded, so a token's result never depends on its company.
#include "kernels.h"
#include "pack.inc.h"

namespace motley {
namespace MOTLEY_ISA {

// Weights stream from memory: ask for them this many bytes ahead (measured: 1 to 4 KB are alike).
constexpr int kAhead = 4096;

// Loops over tokens and lanes of an accumulator array: only when unrolled does the array live in registers.
#if defined(MOTLEY_UNROLL)  // the backend knows better
#elif defined(__clang__)
#define MOTLEY_UNROLL _Pragma("unroll")
#else
#define MOTLEY_UNROLL _Pragma("GCC unroll 16")
#endif
#define MOTLEY_EACH(t, n) MOTLEY_UNROLL for (int t = 0; t < (n); ++t)

#ifndef MOTLEY_PAIRS  // 1: the layer has no dot product of four bytes, but dot2, add_dot2 and add_twos
#define MOTLEY_PAIRS 0
#endif

static inline void prefetch_lines(const uint8_t* p, int n_bytes) {
  for (int i = 0; i < n_bytes; i += 64) prefetch(p + i);
}

// ---------------------------------------------------------------- integer formats
// A format says how its packed tile (layouts: formats.h) reads, block B of 32 elements by block:
//   vec<B>(w, j)        elements 4j .. 4j+3 of the 16 rows, as unsigned bytes, kMost at most; zero is at kZero
//   scale<B>(w)         the rows' scales; with kMinimum also minimum<B>(w): weight = scale * q - minimum
//   half_scale<B>(w, h) with kHalves: an integer scale more for each half of 16 elements
//   scale<B>(w, h), minimum<B>(w, h) with kApart: halves of 16 elements are summed apart
// Everything else is written once, for all formats and any number of tokens.

struct Plain {
  static constexpr bool kMinimum = false, kHalves = false, kApart = false, kStreams = true, kWidens = true;
  static inline i32 dot(i32 acc, u8v w, const int8_t* x) { return dot4(acc, w, x); }
};
struct WithMinimum : Plain { static constexpr bool kMinimum = true; };
struct WithHalves : Plain { static constexpr bool kHalves = true; };

struct Q8_0 : Plain {
  static constexpr int tile = 64, bytes = 1088, kZero = 128, kMost = 255;
  static inline i32 dot(i32 acc, u8v w, const int8_t* x) { return dot4_biased(acc, w, x); }
  template <int B> static inline u8v vec(const uint8_t* w, int j) { return load_bytes(w + 64 + B * 512 + 64 * j); }
  template <int B> static inline f32 scale(const uint8_t* w) { return load_f16((const uint16_t*)(w + 32 * B)); }
};

struct Q4_0 : Plain {
  static constexpr int tile = 64, bytes = 576, kZero = 8, kMost = 15;
  template <int B> static inline u8v vec(const uint8_t* w, int j) {
    u8v both = load_bytes(w + 64 + B * 256 + 64 * (j & 3));
    return j < 4 ? mask(both, 15) : shift_mask<4>(both, 15);
  }
  template <int B> static inline f32 scale(const uint8_t* w) { return load_f16((const uint16_t*)(w + 32 * B)); }
};

// 2^(e - 128) of 16 rows: the float of bits e << 23, which is 2^(e - 127), less half of itself. At the lower end 2^-127
// is subnormal; for 255 infinity less infinity is the NaN that it stands for.
static inline f32 mxfp4_scale(const uint8_t* exponents) {
  i32 e = addi(load_i8((const int8_t*)exponents), set1i(128));
  f32 scale = float_of(maxi(shli<23>(e), set1i(0x400000)));
  return fnma(scale, set1(0.5f), scale);
}

struct MXFP4 : Plain {
  static constexpr int tile = 128, bytes = 1088, kZero = 16, kMost = 28;
  template <int B> static inline u8v vec(const uint8_t* w, int j) {
    u8v both = load_bytes(w + 64 + B * 256 + 64 * (j & 3));
    return lookup(table16(kMxfp4Values), j < 4 ? mask(both, 15) : shift_mask<4>(both, 15));
  }
  template <int B> static inline f32 scale(const uint8_t* w) { return mxfp4_scale(w + 16 * B); }
};

struct Q4_K : WithMinimum {
  static constexpr int tile = 256, bytes = 2368, kZero = 0, kMost = 15;
  template <int B> static inline u8v vec(const uint8_t* w, int j) {  // pairs of blocks share vectors
    u8v both = load_bytes(w + 320 + B / 2 * 512 + 64 * j);
    return B & 1 ? shift_mask<4>(both, 15) : mask(both, 15);
  }
  template <int B> static inline f32 scale(const uint8_t* w) {
    return mul(load_f16((const uint16_t*)w), to_float(load_u8(w + 64 + 16 * B)));
  }
  template <int B> static inline f32 minimum(const uint8_t* w) {
    return mul(load_f16((const uint16_t*)(w + 32)), to_float(load_u8(w + 192 + 16 * B)));
  }
};

struct Q5_K : Q4_K {
  static constexpr int bytes = 2880, kMost = 31;
  template <int B> static inline u8v vec(const uint8_t* w, int j) {  // bit B of the plane of fifth bits, moved to bit 4
    return either(Q4_K::vec<B>(w, j), shift_mask<B - 4>(load_bytes(w + 2368 + 64 * j), 16));
  }
};

struct Q6_K : WithHalves {
  static constexpr int tile = 256, bytes = 3392, kZero = 32, kMost = 63;
  template <int B> static inline u8v vec(const uint8_t* w, int j) {
    constexpr int Q = B % 4;  // of four blocks that share a plane of 2-bit tops; two share nibbles
    const uint8_t* v = w + 320 + B / 4 * 1536 + 64 * j;
    u8v both = load_bytes(v + (Q & 1) * 512);
    return either(Q / 2 ? shift_mask<4>(both, 15) : mask(both, 15), shift_mask<2 * Q - 4>(load_bytes(v + 1024), 48));
  }
  template <int B> static inline f32 scale(const uint8_t* w) { return load_f16((const uint16_t*)w); }
  template <int B> static inline i32 half_scale(const uint8_t* w, int half) {
    return load_i8((const int8_t*)w + 64 + 16 * (2 * B + half));
  }
};

// The tiles for everybody: nothing is left to take apart, so they are not widened.
struct Int8 : Plain {
  static constexpr int tile = kBlock, bytes = 576, kZero = 128, kMost = 255;
  static constexpr bool kWidens = false;
  static inline i32 dot(i32 acc, u8v w, const int8_t* x) { return dot4_biased(acc, w, x); }
  template <int B> static inline u8v vec(const uint8_t* w, int j) { return load_bytes(w + 64 * j); }
  template <int B> static inline f32 scale(const uint8_t* w) { return load((const float*)(w + 512)); }
};
struct Int8Min : Int8 {
  static constexpr int bytes = 640;
  static constexpr bool kMinimum = true;
  template <int B> static inline f32 minimum(const uint8_t* w) { return load((const float*)(w + 576)); }
};
struct Int8Halves : Int8 {
  static constexpr int bytes = 640;
  static constexpr bool kApart = true;
  template <int B> static inline f32 scale(const uint8_t* w, int half) {
    return load((const float*)(w + 512 + 64 * half));
  }
};
struct Int8HalvesMin : Int8Halves {
  static constexpr int bytes = 768;
  static constexpr bool kMinimum = true;
  template <int B> static inline f32 minimum(const uint8_t* w, int half) {
    return load((const float*)(w + 640 + 64 * half));
  }
};

// A block of format F made ready for many tokens: 8 vectors of bytes | f32 scale[16] | f32 minimum[16], or i32 half
// scales [2][16]. Its arithmetic is F's own.
template <class F> struct Widened {
  static constexpr int tile = kBlock, bytes = 704, kZero = F::kZero, kMost = F::kMost;
  static constexpr bool kMinimum = F::kMinimum, kHalves = F::kHalves, kApart = false, kStreams = false;
  static inline i32 dot(i32 acc, u8v w, const int8_t* x) { return F::dot(acc, w, x); }
  template <int B> static inline u8v vec(const uint8_t* w, int j) { return load_bytes(w + 64 * j); }
  template <int B> static inline f32 scale(const uint8_t* w) { return load((const float*)(w + 512)); }
  template <int B> static inline f32 minimum(const uint8_t* w) { return load((const float*)(w + 576)); }
  template <int B> static inline i32 half_scale(const uint8_t* w, int half) {
    return bits_of(load((const float*)(w + 576 + 64 * half)));
  }
};

// What an accumulator starts with so that bytes with their zero at Zero give the right sum
template <int Zero> static inline i32 start(const ActBlock& x) {
  if (Zero == 0) return set1i(0);
  if (Zero == 128) return start_biased(x.off8);
  return Zero == 16 ? shli<1>(set1i(x.off8)) : set1i(x.off8);
}

using Tokens = const ActBlock* const*;

// acc[r][t] += vectors From .. To-1 of block B of row group r times token t's activations
template <class F, int N, int G, int B, int From, int To>
static inline void dots(i32 (&acc)[G][N], const uint8_t* const* w, Tokens x, int64_t b) {
#if MOTLEY_PAIRS
  // Sums of two products that stay in 16 bits together: 8 of Q4, 4 of Q5 and MXFP4, 2 of Q6
  constexpr int fit = 32767 / (2 * 127 * F::kMost), together = fit < To - From ? fit : To - From;
  if constexpr (together > 1) {
    static_assert((To - From) % together == 0);
    MOTLEY_UNROLL for (int first = From; first < To; first += together) {
      i16 twos[G][N];
      MOTLEY_UNROLL for (int j = first; j < first + together; ++j) {
        MOTLEY_EACH(r, G) {
          u8v v = F::template vec<B>(w[r], j);
          MOTLEY_EACH(t, N) {
            const int8_t* four = x[t][b].q + 4 * j;
            twos[r][t] = j == first ? dot2(v, four) : add_dot2(twos[r][t], v, four);
          }
        }
      }
      MOTLEY_EACH(r, G) MOTLEY_EACH(t, N) acc[r][t] = add_twos(acc[r][t], twos[r][t]);
    }
    return;
  }
#endif
  MOTLEY_UNROLL for (int j = From; j < To; ++j) {
    u8v v[G];
    MOTLEY_EACH(r, G) v[r] = F::template vec<B>(w[r], j);
    MOTLEY_EACH(t, N) MOTLEY_EACH(r, G) acc[r][t] = F::dot(acc[r][t], v[r], x[t][b].q + 4 * j);
  }
}

// f[r][t] += half H of block B of G row groups times that of block b of N tokens
template <class F, int N, int G, int B, int H>
static inline void add_half(f32 (*f)[N], const uint8_t* const* w, Tokens x, int64_t b) {
  static_assert(F::kZero == 128);
  i32 acc[G][N];
  MOTLEY_EACH(t, N) MOTLEY_EACH(r, G) acc[r][t] = start_biased(x[t][b].off32[H] / 4);
  dots<F, N, G, B, 4 * H, 4 * H + 4>(acc, w, x, b);
  MOTLEY_EACH(r, G) {
    f32 scale = F::template scale<B>(w[r], H);
    MOTLEY_EACH(t, N) f[r][t] = fma(mul(to_float(acc[r][t]), scale), set1(x[t][b].d), f[r][t]);
    if constexpr (F::kMinimum) {
      f32 minimum = F::template minimum<B>(w[r], H);
      MOTLEY_EACH(t, N) f[r][t] = fnma(minimum, set1(x[t][b].dsums[H]), f[r][t]);
    }
  }
}

// f[r][t] += block B of G row groups times block b of N tokens, summed as one
template <class F, int N, int G, int B>
static inline void add_whole(f32 (*f)[N], const uint8_t* const* w, Tokens x, int64_t b) {
  i32 acc[G][N];
  if constexpr (F::kHalves) {
    i32 second[G][N];
    MOTLEY_EACH(t, N) MOTLEY_EACH(r, G) acc[r][t] = set1i(x[t][b].off32[0]);
    MOTLEY_EACH(t, N) MOTLEY_EACH(r, G) second[r][t] = set1i(x[t][b].off32[1]);
    dots<F, N, G, B, 0, 4>(acc, w, x, b);
    dots<F, N, G, B, 4, 8>(second, w, x, b);
    MOTLEY_EACH(r, G) {
      i32 s0 = F::template half_scale<B>(w[r], 0), s1 = F::template half_scale<B>(w[r], 1);
      MOTLEY_EACH(t, N) acc[r][t] = addi(muli(acc[r][t], s0), muli(second[r][t], s1));
    }
  } else {
    MOTLEY_EACH(t, N) MOTLEY_EACH(r, G) acc[r][t] = start<F::kZero>(x[t][b]);
    dots<F, N, G, B, 0, 8>(acc, w, x, b);
  }
  MOTLEY_EACH(r, G) {
    f32 scale = F::template scale<B>(w[r]);
    MOTLEY_EACH(t, N) f[r][t] = fma(mul(to_float(acc[r][t]), scale), set1(x[t][b].d), f[r][t]);
    if constexpr (F::kMinimum) {
      f32 minimum = F::template minimum<B>(w[r]);
      MOTLEY_EACH(t, N) f[r][t] = fnma(minimum, set1(x[t][b].dsum), f[r][t]);
    }
  }
}

// f[r][t] += block B of two row groups times block b of N tokens
template <class F, int N, int B>
static inline void add_block(f32 (&f)[2][N], const uint8_t* const* w, Tokens x, int64_t b) {
  // Where sums pass through 16 bits, large weights need registers on the way: one group at a time
  constexpr int G = MOTLEY_PAIRS && F::kMost > 31 ? 1 : 2;
  MOTLEY_UNROLL for (int r = 0; r < 2; r += G) {
    if constexpr (F::kApart) {
      add_half<F, N, G, B, 0>(f + r, w + r, x, b);
      add_half<F, N, G, B, 1>(f + r, w + r, x, b);
    } else {
      add_whole<F, N, G, B>(f + r, w + r, x, b);
    }
  }
}

// All blocks of a tile, each compiled for its own shifts
template <class F, int N, int B = 0>
static inline void add_tile(f32 (&f)[2][N], const uint8_t* const* w, const uint8_t* const* ahead, Tokens x,
                            int64_t b) {
  if constexpr (F::kStreams) {
    constexpr int part = F::bytes / (F::tile / kBlock);
    MOTLEY_EACH(r, 2) prefetch_lines(ahead[r] + B * part, part);
  }
  add_block<F, N, B>(f, w, x, b + B);
  if constexpr ((B + 1) * kBlock < F::tile) add_tile<F, N, B + 1>(f, w, ahead, x, b);
}

// What is asked for while tile `i` of a pair is worked on by portion `share` of `portions` of the tokens. One portion
// streams: a little further on, in the next pair at the end. Several portions find the pair in the cache after the first
// one, and share the next pair out among them, so that memory works all the time.
static inline const uint8_t* coming(const RowPair& w, int64_t i, int64_t tile_bytes, int64_t share, int64_t portions) {
  if (portions > 1) return i % portions == share ? w.next + i * tile_bytes : w.data;
  const int64_t at = i * tile_bytes + kAhead;
  return at < w.group_bytes ? w.data + at : w.next + at - w.group_bytes;
}

// Tokens 0 .. N-1 over `cols` elements from block b on: out (+)= w * x. `add`: the sum so far is in out.
template <class F, int N>
static void int_tile(const RowPair& w, int64_t cols, Tokens x, int64_t b, bool add, int64_t share, int64_t portions,
                      float* out, int64_t ld) {
  const int rows[2] = {w.rows < 16 ? w.rows : 16, w.rows - 16};
  const uint8_t* at[2] = {w.data, w.data + (w.rows > 16 ? w.group_bytes : 0)};  // one group alone stands for both
  f32 f[2][N];
  MOTLEY_EACH(r, 2) MOTLEY_EACH(t, N) f[r][t] = add && rows[r] > 0 ? load_n(out + t * ld + 16 * r, rows[r]) : set1(0);
  for (int64_t i = 0; i * F::tile < cols; ++i, b += F::tile / kBlock) {
    const uint8_t* ahead[2] = {nullptr, nullptr};
    if constexpr (F::kStreams) {
      ahead[0] = coming(w, i, F::bytes, share, portions);
      ahead[1] = ahead[0] + w.group_bytes;
    }
    add_tile<F, N>(f, at, ahead, x, b);
    at[0] += F::bytes;
    at[1] += F::bytes;
  }
  MOTLEY_EACH(r, 2) {
    if (rows[r] <= 0) break;
    MOTLEY_EACH(t, N) store_n(out + t * ld + 16 * r, f[r][t], rows[r]);
  }
}

// int_tile for a number of tokens that is known at run time, N at most
template <class F, int N>
static inline void tile_of(int64_t n, const RowPair& w, int64_t cols, Tokens x, int64_t b, bool add, int64_t share,
                            int64_t portions, float* out, int64_t ld) {
  if (n == N) return int_tile<F, N>(w, cols, x, b, add, share, portions, out, ld);
  if constexpr (N > 1) tile_of<F, N - 1>(n, w, cols, x, b, add, share, portions, out, ld);
}

// As many tokens at a time as the registers bear, in portions of nearly equal size. `meanwhile(i, n)` runs after portion
// i of n.
template <class F, class Meanwhile>
static inline void int_tokens(const RowPair& w, int64_t cols, Tokens x, int64_t b, bool add, int64_t n, float* out,
                              int64_t ld, Meanwhile meanwhile) {
  constexpr int most = F::kHalves ? (2 * kTileTokens + 2) / 3 : kTileTokens;  // halves have accumulators of their own
  const int64_t portions = (n + most - 1) / most;
  for (int64_t i = 0; i < portions; ++i) {
    const int64_t now = n / (portions - i);
    tile_of<F, most>(now, w, cols, x, b, add, i, portions, out, ld);
    meanwhile(i, portions);
    n -= now;
    x += now;
    out += now * ld;
  }
}

template <class F, int B = 0>
static inline void widen_tile(const uint8_t* w, uint8_t* to) {
  MOTLEY_EACH(j, 8) store_bytes(to + 64 * j, F::template vec<B>(w, j));
  store((float*)(to + 512), F::template scale<B>(w));
  if constexpr (F::kMinimum) store((float*)(to + 576), F::template minimum<B>(w));
  if constexpr (F::kHalves)
    MOTLEY_EACH(h, 2) store((float*)(to + 576 + 64 * h), float_of(F::template half_scale<B>(w, h)));
  if constexpr ((B + 1) * kBlock < F::tile) widen_tile<F, B + 1>(w, to + Widened<F>::bytes);
}

// Few tokens read the tiles as they are. For many the bits are taken apart once, a slab of K at a time that stays in
// the first cache, and the next slab is asked for while this one is worked on; the sums wait in `out` between slabs.
constexpr int kWidenFrom = 16;
constexpr int kSlab = 512;

template <class F>
static void widened_gemm(const RowPair& w, int64_t cols, Tokens x, int64_t n, float* out, int64_t ld) {
  using W = Widened<F>;
  constexpr int64_t slab_bytes = kSlab / F::tile * F::bytes, wide_bytes = kSlab / kBlock * W::bytes;
  alignas(64) uint8_t slab[2 * wide_bytes];
  const RowPair wide = {slab, wide_bytes, w.rows, slab};
  for (int64_t k = 0; k < cols; k += kSlab) {
    const int64_t now = cols - k < kSlab ? cols - k : kSlab;
    const uint8_t* from = w.data + k / F::tile * F::bytes;
    for (int64_t r = 0; 16 * r < w.rows; ++r)
      for (int64_t i = 0; i < now; i += F::tile)
        widen_tile<F>(from + r * w.group_bytes + i / F::tile * F::bytes, slab + r * wide_bytes + i / kBlock * W::bytes);
    const uint8_t* ahead = k + kSlab < cols ? from + slab_bytes : w.next;
    int_tokens<W>(wide, now, x, k / kBlock, k > 0, n, out, ld, [&](int64_t i, int64_t portions) {
      const int64_t first = slab_bytes * i / portions, end = slab_bytes * (i + 1) / portions;
      MOTLEY_EACH(r, 2) prefetch_lines(ahead + r * w.group_bytes + first, int(end - first));
    });
  }
}

template <class F>
static void int_gemm(const RowPair& w, int64_t cols, const void* const* x, int64_t n, float* out, int64_t ld) {
  if constexpr (F::kWidens) {
    if (n >= kWidenFrom) return widened_gemm<F>(w, cols, (Tokens)x, n, out, ld);
  }
  int_tokens<F>(w, cols, (Tokens)x, 0, false, n, out, ld, [](int64_t, int64_t) {});
}

// ---------------------------------------------------------------- float formats
// Four chains of fused multiply-adds, element k on chain k mod 4, joined as (0 + 1) + (2 + 3).

struct F32 {
  static constexpr int bytes = 64;
  static inline f32 get(const uint8_t* w) { return load((const float*)w); }
};
struct F16 {
  static constexpr int bytes = 32;
  static inline f32 get(const uint8_t* w) { return load_f16((const uint16_t*)w); }
};
struct BF16 {
  static constexpr int bytes = 32;
  static inline f32 get(const uint8_t* w) { return load_bf16((const uint16_t*)w); }
};

template <class Format, int N>
static void float_tile(const uint8_t* w, int64_t cols, const float* const* x, float* out, int64_t ld, int rows) {
  f32 f[4][N];
  MOTLEY_EACH(c, 4) MOTLEY_EACH(t, N) f[c][t] = set1(0);
  int64_t k = 0;
  for (; k + 4 <= cols; k += 4, w += 4 * Format::bytes) {
    prefetch_lines(w + kAhead, 4 * Format::bytes);
    MOTLEY_EACH(c, 4) {
      f32 v = Format::get(w + c * Format::bytes);
      MOTLEY_EACH(t, N) f[c][t] = fma(v, set1(x[t][k + c]), f[c][t]);
    }
  }
  MOTLEY_EACH(c, 3) {
    if (k + c >= cols) break;
    f32 v = Format::get(w + c * Format::bytes);
    MOTLEY_EACH(t, N) f[c][t] = fma(v, set1(x[t][k + c]), f[c][t]);
  }
  MOTLEY_EACH(t, N) store_n(out + t * ld, add(add(f[0][t], f[1][t]), add(f[2][t], f[3][t])), rows);
}

template <class Format>
static void float_gemm(const RowPair& w, int64_t cols, const void* const* x, int64_t n, float* out, int64_t ld) {
  for (int first = 0; first < w.rows; first += 16) {
    const uint8_t* group = w.data + first / 16 * w.group_bytes;
    const float* const* in = (const float* const*)x;
    const int rows = w.rows - first < 16 ? w.rows - first : 16;
    float* to = out + first;
    int64_t t = 0;  // four at most: 16 accumulators
    for (; t + 4 <= n; t += 4) float_tile<Format, 4>(group, cols, in + t, to + t * ld, ld, rows);
    for (; t + 2 <= n; t += 2) float_tile<Format, 2>(group, cols, in + t, to + t * ld, ld, rows);
    for (; t < n; ++t) float_tile<Format, 1>(group, cols, in + t, to + t * ld, ld, rows);
  }
}

// ---------------------------------------------------------------- activations

static void quantize_block(f32 lo, f32 hi, ActBlock& out) {
  const i32 no_sign = set1i(0x7fffffff);
  // |x| as integers: ordered like the floats, and a NaN comes out on top instead of getting lost
  int32_t bits = hmaxi(maxi(andi(bits_of(lo), no_sign), andi(bits_of(hi), no_sign)));
  float amax, d = 0, inverse = 0;
  memcpy(&amax, &bits, 4);
  if (bits >= 0x7f800000) {
    d = __builtin_nanf("");  // NaN or infinity inside: the products must not look sound
  } else if (amax > 1e-30f) {
    d = amax / 127.0f;
    inverse = 127.0f / amax;
  }
  // Adding 1.5 * 2^23 rounds to the nearest even integer, which is then the low bits.
  const f32 magic = set1(12582912.0f);
  i32 q[2] = {set1i(0), set1i(0)};
  if (inverse != 0) {
    const i32 bias = set1i(-0x4b400000);
    q[0] = addi(bits_of(fma(lo, set1(inverse), magic)), bias);
    q[1] = addi(bits_of(fma(hi, set1(inverse), magic)), bias);
  }
  store_i8(out.q, q[0]);
  store_i8(out.q + 16, q[1]);
  const int32_t sum0 = sumi(q[0]), sum1 = sumi(q[1]);
  out.d = d;
  out.dsum = d * (float)(sum0 + sum1);
  out.dsums[0] = d * (float)sum0;
  out.dsums[1] = d * (float)sum1;
  out.off8 = -8 * (sum0 + sum1);
  out.off32[0] = -32 * sum0;
  out.off32[1] = -32 * sum1;
}

static void quantize(const float* x, int64_t n, ActBlock* out, int64_t n_blocks) {
  for (int64_t b = 0; b < n_blocks; ++b, x += kBlock, n -= kBlock) {
    if (n >= kBlock) {
      quantize_block(load(x), load(x + 16), out[b]);
    } else {
      int lo = n < 0 ? 0 : n < 16 ? (int)n : 16, hi = n > 16 ? (int)n - 16 : 0;
      quantize_block(load_n(x, lo), load_n(x + 16, hi), out[b]);
    }
  }
}

// exp, relative error below 3e-7: 2^n by exponent bits, 2^f (|f| <= 1/2) by a polynomial. Clamped to +-87; a NaN stays.
static inline f32 exp_lanes(f32 x) {
  x = max(set1(-87.0f), x);
  x = min(set1(87.0f), x);
  const f32 magic = set1(12582912.0f);
  f32 shifted = fma(x, set1(1.44269504f), magic);
  f32 n = sub(shifted, magic);
  f32 r = fnma(n, set1(0.693359375f), x);   // ln 2 in two parts
  r = fnma(n, set1(-2.12194440e-4f), r);
  f32 p = set1(1.0f / 5040);
  p = fma(p, r, set1(1.0f / 720));
  p = fma(p, r, set1(1.0f / 120));
  p = fma(p, r, set1(1.0f / 24));
  p = fma(p, r, set1(1.0f / 6));
  p = fma(p, r, set1(0.5f));
  p = fma(p, r, set1(1.0f));
  p = fma(p, r, set1(1.0f));
  return mul(p, float_of(shli<23>(addi(bits_of(shifted), set1i(127 - 0x4b400000)))));
}

static void exp_all(const float* x, int64_t n, float* out) {
  for (int64_t i = 0; i < n; i += 16) {
    int m = n - i < 16 ? (int)(n - i) : 16;
    store_n(out + i, exp_lanes(load_n(x + i, m)), m);
  }
}

static inline f32 sigmoid(f32 x) { return div(set1(1), add(set1(1), exp_lanes(sub(set1(0), x)))); }

static inline f32 silu(f32 x) { return div(x, add(set1(1), exp_lanes(sub(set1(0), x)))); }

// gelu by tanh: x sigmoid(2 sqrt(2/pi) (x + 0.044715 x^3)), which is the same function
static inline f32 gelu(f32 x) {
  f32 inner = mul(mul(x, set1(1.5957691216057308f)), fma(mul(x, x), set1(0.044715f), set1(1)));
  return div(x, add(set1(1), exp_lanes(sub(set1(0), inner))));
}

static void activate(Activation a, const float* gate, const float* up, int64_t n, float* out) {
  for (int64_t i = 0; i < n; i += 16) {
    int m = n - i < 16 ? (int)(n - i) : 16;
    f32 g = load_n(gate + i, m), u = load_n(up + i, m);
    if (a == Activation::Silu) g = silu(g);
    else if (a == Activation::Gelu) g = gelu(g);
    else {
      g = min(g, set1(7));
      u = add(max(min(u, set1(7)), set1(-7)), set1(1));
      g = mul(g, sigmoid(mul(g, set1(1.702f))));
    }
    store_n(out + i, mul(g, u), m);
  }
}

static void gate_by(Gate function, const float* by, int64_t n, float* out) {
  for (int64_t i = 0; i < n; i += 16) {
    int m = n - i < 16 ? (int)(n - i) : 16;
    f32 v = load_n(by + i, m);
    store_n(out + i, function == Gate::Sigmoid ? sigmoid(v) : function == Gate::Silu ? silu(v) : v, m);
  }
}

static void rms_norm(const float* x, const float* w, int64_t n, float eps, float* out) {
  f32 squares = set1(0);
  for (int64_t i = 0; i < n; i += 16) {
    f32 v = load_n(x + i, n - i < 16 ? (int)(n - i) : 16);
    squares = fma(v, v, squares);
  }
  f32 scale = set1(1.0f / __builtin_sqrtf(sum(squares) / (float)n + eps));
  for (int64_t i = 0; i < n; i += 16) {
    int m = n - i < 16 ? (int)(n - i) : 16;
    store_n(out + i, mul(mul(load_n(x + i, m), scale), load_n(w + i, m)), m);
  }
}

// ---------------------------------------------------------------- gated delta rule

static void convolve(const float* const* rows, const float* w, int64_t ld, int64_t taps, int64_t n, float* out) {
  for (int64_t i = 0; i < n; i += 16) {
    int m = n - i < 16 ? (int)(n - i) : 16;
    f32 total = set1(0);
    for (int64_t t = 0; t < taps; ++t) total = fma(load_n(rows[t] + i, m), load_n(w + t * ld + i, m), total);
    store_n(out + i, silu(total), m);
  }
}

static void unit(float* x, int64_t n, float eps, float length) {
  f32 squares = set1(0);
  for (int64_t i = 0; i < n; i += 16) {
    f32 v = load_n(x + i, n - i < 16 ? (int)(n - i) : 16);
    squares = fma(v, v, squares);
  }
  f32 scale = set1(length / __builtin_sqrtf(sum(squares) + eps));
  for (int64_t i = 0; i < n; i += 16) {
    int m = n - i < 16 ? (int)(n - i) : 16;
    store_n(x + i, mul(load_n(x + i, m), scale), m);
  }
}

static void delta_step(float* state, const float* q, const float* k, const float* v, float decay, float beta, int64_t N,
                       int64_t M, float* out) {
  for (int64_t j = 0; j < M; j += 16) {
    int m = M - j < 16 ? (int)(M - j) : 16;
    f32 found = set1(0), read = set1(0);
    for (int64_t n = 0; n < N; ++n) found = fma(mul(load_n(state + n * M + j, m), set1(decay)), set1(k[n]), found);
    f32 delta = mul(sub(load_n(v + j, m), found), set1(beta));
    for (int64_t n = 0; n < N; ++n) {
      f32 s = fma(set1(k[n]), delta, mul(load_n(state + n * M + j, m), set1(decay)));
      store_n(state + n * M + j, s, m);
      read = fma(s, set1(q[n]), read);
    }
    store_n(out + j, read, m);
  }
}

static void add_all(float* x, const float* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) x[i] += y[i];
}

static void accumulate(double* y, const float* x, float weight, int n) {
  for (int i = 0; i < n; ++i) y[i] += (double)weight * (double)x[i];
}

}  // namespace MOTLEY_ISA
}  // namespace motley

#include "attend.inc.h"

namespace motley {
namespace MOTLEY_ISA {

// ---------------------------------------------------------------- probes

static int64_t read_bytes(const uint8_t* p, int64_t n) {
  i32 a = set1i(0), b = a, c = a, d = a;
  for (int64_t i = 0; i < n; i += 256) {
    prefetch_lines(p + i + kAhead, 256);
    a = addi(a, bits_of(load((const float*)(p + i))));
    b = addi(b, bits_of(load((const float*)(p + i + 64))));
    c = addi(c, bits_of(load((const float*)(p + i + 128))));
    d = addi(d, bits_of(load((const float*)(p + i + 192))));
  }
  return sumi(addi(addi(a, b), addi(c, d)));
}

// The inner step of the matrix products with everything in registers: what the units can do.
static int32_t int8_tile(int64_t rounds) {
  alignas(64) uint8_t w[128];
  alignas(64) int8_t x[64];
  for (int i = 0; i < 64; ++i) { w[i] = w[127 - i] = (uint8_t)(i & 15); x[i] = (int8_t)(i - 32); }
  i32 acc[kProbeChains];
  MOTLEY_EACH(t, kProbeChains) acc[t] = set1i(0);
#if MOTLEY_PAIRS
  constexpr int chains = kProbeChains / 2;  // the others' registers hold sums of 8 products in 16 bits, as for Q4
  for (int64_t r = 0; r < rounds; r += 2) {
    i16 twos[chains];
    MOTLEY_EACH(half, 2) {
      u8v v = load_bytes(w + (r / 2 + half & 1) * 64);  // others each round, so that no product is made once for all
      MOTLEY_EACH(t, kProbeSteps)
        twos[t % chains] = half + t / chains ? add_dot2(twos[t % chains], v, x + 4 * t) : dot2(v, x + 4 * t);
    }
    MOTLEY_EACH(t, chains) acc[t] = add_twos(acc[t], twos[t]);
  }
#else
  for (int64_t r = 0; r < rounds; ++r) {
    u8v v = load_bytes(w + (r & 1) * 64);  // another one each round: where dot4 is several instructions, none is saved
    MOTLEY_EACH(t, kProbeSteps) acc[t % kProbeChains] = dot4(acc[t % kProbeChains], v, x + 4 * t);
  }
#endif
  MOTLEY_EACH(t, kProbeChains - 1) acc[0] = addi(acc[0], acc[t + 1]);
  return sumi(acc[0]);
}

static float f32_tile(int64_t rounds) {
  alignas(64) float x[16];
  for (int i = 0; i < 16; ++i) x[i] = 0.5f + (float)i * 0.01f;
  f32 acc[kProbeChains], v = load(x);
  MOTLEY_EACH(t, kProbeChains) acc[t] = set1(0);
  for (int64_t r = 0; r < rounds; ++r)
    MOTLEY_EACH(t, kProbeSteps) acc[t % kProbeChains] = fma(v, set1(x[t]), acc[t % kProbeChains]);
  MOTLEY_EACH(t, kProbeChains - 1) acc[0] = add(acc[0], acc[t + 1]);
  return sum(acc[0]);
}

constexpr Kernels make_kernels(const char* name) {
  return Kernels{name,
                 float_gemm<F32>, float_gemm<F16>, float_gemm<BF16>,
                 int_gemm<Q8_0>, int_gemm<Q4_0>, int_gemm<Q4_K>, int_gemm<Q5_K>, int_gemm<Q6_K>, int_gemm<MXFP4>,
                 int_gemm<Int8>, int_gemm<Int8Min>, int_gemm<Int8Halves>, int_gemm<Int8HalvesMin>,
                 pack, quantize, rms_norm, activate, gate_by, add_all, convolve, unit, delta_step, accumulate, exp_all,
                 store_kv, attend, read_bytes, int8_tile, f32_tile};
}

}  // namespace MOTLEY_ISA
}  // namespace motley
