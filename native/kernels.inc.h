// The kernels, written once against the vector layer and compiled once per instruction set: the including file
// defines MOTLEY_ISA and includes its simd_*.h first. Packed layouts: formats.h.
//
// One order of arithmetic for everybody (exactness): per block of 32 an exact integer dot product, then one float
// fused multiply-add into the row's lane, blocks in order along K. The number of tokens in a panel only changes how
// often a weight is loaded, so a token's result never depends on its company.
#include "kernels.h"
#include "pack.inc.h"

namespace motley {
namespace MOTLEY_ISA {

// Weights stream from memory: ask for them this many bytes ahead (measured: 1 to 4 KB are alike).
constexpr int kAhead = 2048;

// Loops over tokens and lanes of an accumulator array: only when unrolled does the array live in registers.
#if defined(MOTLEY_UNROLL)  // the backend knows better
#elif defined(__clang__)
#define MOTLEY_UNROLL _Pragma("unroll")
#else
#define MOTLEY_UNROLL _Pragma("GCC unroll 16")
#endif
#define MOTLEY_EACH(t, n) MOTLEY_UNROLL for (int t = 0; t < (n); ++t)

static inline void prefetch_ahead(const uint8_t* p, int n_bytes) {
  for (int i = 0; i < n_bytes; i += 64) prefetch(p + kAhead + i);
}

// ---------------------------------------------------------------- integer formats
// Each format has `accumulate(tile, x, block0, f)`: add one tile's product to the n row accumulators f.

// acc[t] += w (4 elements of 16 rows) times elements 4j..4j+3 of block b of each token
template <int N>
static inline void dot(i32* acc, u8v w, const Panel& x, int64_t b, int j) {
  const int8_t* q = x.q + b * N * kBlock + 4 * j;
  MOTLEY_EACH(t, N) acc[t] = dot4(acc[t], w, q + t * kBlock);
}

// The same with weights stored as w + 128; acc starts from start_biased
template <int N>
static inline void dot_biased(i32* acc, u8v w, const Panel& x, int64_t b, int j) {
  const int8_t* q = x.q + b * N * kBlock + 4 * j;
  MOTLEY_EACH(t, N) acc[t] = dot4_biased(acc[t], w, q + t * kBlock);
}

// f[t] += weight scale * activation scale * integer sum
template <int N>
static inline void scale_in(f32* f, const i32* acc, f32 w_scale, const Panel& x, int64_t b) {
  MOTLEY_EACH(t, N) f[t] = fma(mul(to_float(acc[t]), w_scale), set1(x.d[b * N + t]), f[t]);
}

struct Q8_0 {
  static constexpr int tile = 64, bytes = 1088;
  template <int N> static inline void accumulate(const uint8_t* w, const Panel& x, int64_t block0, f32* f) {
    for (int h = 0; h < 2; ++h) {
      int64_t b = block0 + h;
      const uint8_t* v = w + 64 + h * 512;
      prefetch_ahead(v, 512 + 32);
      i32 acc[N];
      MOTLEY_EACH(t, N) acc[t] = start_biased(x.off8[b * N + t]);
      MOTLEY_EACH(j, 8) dot_biased<N>(acc, load_bytes(v + 64 * j), x, b, j);
      scale_in<N>(f, acc, load_f16((const uint16_t*)(w + 32 * h)), x, b);
    }
  }
};

struct Q4_0 {
  static constexpr int tile = 64, bytes = 576;
  template <int N> static inline void accumulate(const uint8_t* w, const Panel& x, int64_t block0, f32* f) {
    for (int h = 0; h < 2; ++h) {
      int64_t b = block0 + h;
      const uint8_t* v = w + 64 + h * 256;
      prefetch_ahead(v, 256 + 32);
      i32 acc[N];
      MOTLEY_EACH(t, N) acc[t] = set1i(x.off8[b * N + t]);
      MOTLEY_EACH(j, 4) {
        u8v both = load_bytes(v + 64 * j);
        dot<N>(acc, mask(both, 15), x, b, j);
        dot<N>(acc, shift_mask<4>(both, 15), x, b, j + 4);
      }
      scale_in<N>(f, acc, load_f16((const uint16_t*)(w + 32 * h)), x, b);
    }
  }
};

// 2^(e - 128) of 16 rows: the float of bits e << 23, which is 2^(e - 127), less half of itself. At the lower end 2^-127
// is subnormal; for 255 infinity less infinity is the NaN that it stands for.
static inline f32 mxfp4_scale(const uint8_t* exponents) {
  i32 e = addi(load_i8((const int8_t*)exponents), set1i(128));
  f32 scale = float_of(maxi(shli<23>(e), set1i(0x400000)));
  return fnma(scale, set1(0.5f), scale);
}

struct MXFP4 {
  static constexpr int tile = 128, bytes = 1088;
  template <int N> static inline void accumulate(const uint8_t* w, const Panel& x, int64_t block0, f32* f) {
    const u8v values = table16(kMxfp4Values);
    for (int h = 0; h < 4; ++h) {
      int64_t b = block0 + h;
      const uint8_t* v = w + 64 + h * 256;
      prefetch_ahead(v, 256 + 16);
      i32 acc[N];
      MOTLEY_EACH(t, N) acc[t] = shli<1>(set1i(x.off8[b * N + t]));  // -16 * sum
      MOTLEY_EACH(j, 4) {
        u8v both = load_bytes(v + 64 * j);
        dot<N>(acc, lookup(values, mask(both, 15)), x, b, j);
        dot<N>(acc, lookup(values, shift_mask<4>(both, 15)), x, b, j + 4);
      }
      scale_in<N>(f, acc, mxfp4_scale(w + 16 * h), x, b);
    }
  }
};

// Scale and minimum of sub-block S for Q4_K and Q5_K: w = scale * q - minimum
template <int N>
static inline void k_scale_in(f32* f, const i32* acc, const uint8_t* w, int s, const Panel& x, int64_t b) {
  f32 scale = mul(load_f16((const uint16_t*)w), to_float(load_u8(w + 64 + 16 * s)));
  f32 minimum = mul(load_f16((const uint16_t*)(w + 32)), to_float(load_u8(w + 192 + 16 * s)));
  scale_in<N>(f, acc, scale, x, b);
  MOTLEY_EACH(t, N) f[t] = fnma(minimum, set1(x.dsum[b * N + t]), f[t]);
}

// The eight sub-blocks of a tile of format K, each compiled for its own shifts
template <int N, class K>
static inline void sub_blocks(const uint8_t* w, const Panel& x, int64_t b, f32* f) {
  K::template sub_block<N, 0>(w, x, b + 0, f);
  K::template sub_block<N, 1>(w, x, b + 1, f);
  K::template sub_block<N, 2>(w, x, b + 2, f);
  K::template sub_block<N, 3>(w, x, b + 3, f);
  K::template sub_block<N, 4>(w, x, b + 4, f);
  K::template sub_block<N, 5>(w, x, b + 5, f);
  K::template sub_block<N, 6>(w, x, b + 6, f);
  K::template sub_block<N, 7>(w, x, b + 7, f);
}

// The nibbles of sub-block S: vectors are shared by pairs of sub-blocks, the even one's are the low nibbles
template <int S> static inline u8v nibbles(const uint8_t* w, int j) {
  u8v both = load_bytes(w + 320 + S / 2 * 512 + 64 * j);
  return S & 1 ? shift_mask<4>(both, 15) : mask(both, 15);
}

struct Q4_K {
  static constexpr int tile = 256, bytes = 2368;
  template <int N, int S> static inline void sub_block(const uint8_t* w, const Panel& x, int64_t b, f32* f) {
    prefetch_ahead(w + S * 296, 296);
    i32 acc[N];
    MOTLEY_EACH(t, N) acc[t] = set1i(0);
    MOTLEY_EACH(j, 8) dot<N>(acc, nibbles<S>(w, j), x, b, j);
    k_scale_in<N>(f, acc, w, S, x, b);
  }
  template <int N> static inline void accumulate(const uint8_t* w, const Panel& x, int64_t b, f32* f) {
    sub_blocks<N, Q4_K>(w, x, b, f);
  }
};

struct Q5_K {
  static constexpr int tile = 256, bytes = 2880;
  template <int N, int S> static inline void sub_block(const uint8_t* w, const Panel& x, int64_t b, f32* f) {
    prefetch_ahead(w + S * 360, 360);
    i32 acc[N];
    MOTLEY_EACH(t, N) acc[t] = set1i(0);
    MOTLEY_EACH(j, 8) {
      u8v fifth = shift_mask<S - 4>(load_bytes(w + 2368 + 64 * j), 16);  // bit S of the plane, moved to bit 4
      dot<N>(acc, either(nibbles<S>(w, j), fifth), x, b, j);
    }
    k_scale_in<N>(f, acc, w, S, x, b);
  }
  template <int N> static inline void accumulate(const uint8_t* w, const Panel& x, int64_t b, f32* f) {
    sub_blocks<N, Q5_K>(w, x, b, f);
  }
};

struct Q6_K {
  static constexpr int tile = 256, bytes = 3392;
  // Quarter Q of a half: nibbles Q & 1 (vectors 0..7 or 8..15), low or high by Q / 2; top bits 2Q, 2Q + 1.
  template <int N, int Q>
  static inline void quarter(const uint8_t* w, int half, const Panel& x, int64_t b, f32* f) {
    const uint8_t* v = w + 320 + half * 1536;
    prefetch_ahead(w + (half * 4 + Q) * 424, 424);
    i32 acc[2][N];
    MOTLEY_EACH(i, 2) {  // 16 elements with a scale of their own
      MOTLEY_EACH(t, N) acc[i][t] = set1i(x.off32[(b * 2 + i) * N + t]);
      MOTLEY_UNROLL for (int j = 4 * i; j < 4 * i + 4; ++j) {
        u8v both = load_bytes(v + (Q & 1) * 512 + 64 * j);
        u8v low = Q / 2 ? shift_mask<4>(both, 15) : mask(both, 15);
        dot<N>(acc[i], either(low, shift_mask<2 * Q - 4>(load_bytes(v + 1024 + 64 * j), 48)), x, b, j);
      }
      i32 scale = load_i8((const int8_t*)w + 64 + 16 * (half * 8 + Q * 2 + i));
      MOTLEY_EACH(t, N) acc[i][t] = muli(acc[i][t], scale);
    }
    MOTLEY_EACH(t, N) acc[0][t] = addi(acc[0][t], acc[1][t]);
    scale_in<N>(f, acc[0], load_f16((const uint16_t*)w), x, b);
  }
  template <int N> static inline void accumulate(const uint8_t* w, const Panel& x, int64_t b, f32* f) {
    for (int half = 0; half < 2; ++half, b += 4) {
      quarter<N, 0>(w, half, x, b + 0, f);
      quarter<N, 1>(w, half, x, b + 1, f);
      quarter<N, 2>(w, half, x, b + 2, f);
      quarter<N, 3>(w, half, x, b + 3, f);
    }
  }
};

template <class Format, int N>
static void int_panel(const uint8_t* w, int64_t cols, const Panel& x, float* out, int64_t ld, int rows) {
  f32 f[N];
  MOTLEY_EACH(t, N) f[t] = set1(0);
  for (int64_t k = 0; k < cols; k += Format::tile, w += Format::bytes)
    Format::template accumulate<N>(w, x, k / kBlock, f);
  MOTLEY_EACH(t, N) store_n(out + t * ld, f[t], rows);
}

template <class Format>
static void int_gemm(const uint8_t* w, int64_t cols, const Panel& x, float* out, int64_t ld, int rows) {
  switch (x.n) {
    case 1: return int_panel<Format, 1>(w, cols, x, out, ld, rows);
    case 2: return int_panel<Format, 2>(w, cols, x, out, ld, rows);
    case 4: return int_panel<Format, 4>(w, cols, x, out, ld, rows);
    case 8: return int_panel<Format, 8>(w, cols, x, out, ld, rows);
  }
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
static void float_panel(const uint8_t* w, int64_t cols, const float* const* x, float* out, int64_t ld, int rows) {
  f32 f[4][N];
  MOTLEY_EACH(c, 4) MOTLEY_EACH(t, N) f[c][t] = set1(0);
  int64_t k = 0;
  for (; k + 4 <= cols; k += 4, w += 4 * Format::bytes) {
    prefetch_ahead(w, 4 * Format::bytes);
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
static void float_gemm(const uint8_t* w, int64_t cols, const Panel& x, float* out, int64_t ld, int rows) {
  int t = 0;  // four at most: 16 accumulators
  for (; t + 4 <= x.n; t += 4) float_panel<Format, 4>(w, cols, x.x + t, out + t * ld, ld, rows);
  for (; t + 2 <= x.n; t += 2) float_panel<Format, 2>(w, cols, x.x + t, out + t * ld, ld, rows);
  for (; t < x.n; ++t) float_panel<Format, 1>(w, cols, x.x + t, out + t * ld, ld, rows);
}

// ---------------------------------------------------------------- activations

static void quantize_block(f32 lo, f32 hi, Panel& p, int t, int64_t b) {
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
  int n = p.n;
  int8_t* out = p.q + (b * n + t) * kBlock;
  store_i8(out, q[0]);
  store_i8(out + 16, q[1]);
  int32_t sum0 = sumi(q[0]), sum1 = sumi(q[1]);
  p.d[b * n + t] = d;
  p.dsum[b * n + t] = d * (float)(sum0 + sum1);
  p.off8[b * n + t] = -8 * (sum0 + sum1);
  p.off32[(b * 2 + 0) * n + t] = -32 * sum0;
  p.off32[(b * 2 + 1) * n + t] = -32 * sum1;
}

static void quantize(const float* x, int64_t n, Panel& p, int t, int64_t block0, int64_t n_blocks) {
  for (int64_t b = block0; b < block0 + n_blocks; ++b, x += kBlock, n -= kBlock) {
    if (n >= kBlock) {
      quantize_block(load(x), load(x + 16), p, t, b);
    } else {
      int lo = n < 0 ? 0 : n < 16 ? (int)n : 16, hi = n > 16 ? (int)n - 16 : 0;
      quantize_block(load_n(x, lo), load_n(x + 16, hi), p, t, b);
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

static void silu_mul(const float* gate, const float* up, int64_t n, float* out) {
  for (int64_t i = 0; i < n; i += 16) {
    int m = n - i < 16 ? (int)(n - i) : 16;
    f32 g = load_n(gate + i, m);
    f32 s = div(g, add(set1(1), exp_lanes(sub(set1(0), g))));
    store_n(out + i, mul(s, load_n(up + i, m)), m);
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

static void add_all(float* x, const float* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) x[i] += y[i];
}

static void accumulate(double* y, const float* x, float weight, int n) {
  for (int i = 0; i < n; ++i) y[i] += (double)weight * (double)x[i];
}

// ---------------------------------------------------------------- attention

struct HalfKv {
  using type = uint16_t;
  static inline f32 get(const type* p) { return load_f16(p); }
  static inline void put(type* p, f32 v) { store_f16(p, v); }
};
struct FloatKv {
  using type = float;
  static inline f32 get(const type* p) { return load(p); }
  static inline void put(type* p, f32 v) { store(p, v); }
};

template <class Kv>
static void store_position(const KvShape& s, const float* k, const float* v, void* keys, void* values, int64_t pos) {
  using T = typename Kv::type;
  T* column = (T*)keys + pos / 16 * 16 * s.head_dim + pos % 16;  // one of a tile's 16 columns
  T* row = (T*)values + pos * s.padded_dim;
  T narrow[16];
  for (int i = 0; i < s.head_dim; i += 16) {
    int m = s.head_dim - i < 16 ? s.head_dim - i : 16;
    Kv::put(narrow, load_n(k + i, m));
    for (int l = 0; l < m; ++l) column[(i + l) * 16] = narrow[l];
    Kv::put(row + i, load_n(v + i, m));
  }
}

static void store_kv(bool half, const KvShape& s, const float* k, const float* v, void* keys, void* values,
                     int64_t pos) {
  if (half) store_position<HalfKv>(s, k, v, keys, values, pos);
  else store_position<FloatKv>(s, k, v, keys, values, pos);
}

// scores[i][p] = scale * q_i . k_p for whole tiles of 16 positions; element n on chain n mod 4, as above
template <class Kv, int Q>
static void score_tiles(const KvShape& s, const float* const* q, const typename Kv::type* keys, int64_t n_tiles,
                        float scale, float* scores, int64_t ld) {
  int dim = s.head_dim;
  for (int64_t tile = 0; tile < n_tiles; ++tile, keys += 16 * dim) {
    f32 f[4][Q];
    MOTLEY_EACH(c, 4) MOTLEY_EACH(i, Q) f[c][i] = set1(0);
    int n = 0;
    for (; n + 4 <= dim; n += 4)
      MOTLEY_EACH(c, 4) {
        f32 k = Kv::get(keys + (n + c) * 16);
        MOTLEY_EACH(i, Q) f[c][i] = fma(k, set1(q[i][n + c]), f[c][i]);
      }
    MOTLEY_EACH(c, 3) {
      if (n + c >= dim) break;
      f32 k = Kv::get(keys + (n + c) * 16);
      MOTLEY_EACH(i, Q) f[c][i] = fma(k, set1(q[i][n + c]), f[c][i]);
    }
    MOTLEY_EACH(i, Q)
      store(scores + i * ld + tile * 16, mul(add(add(f[0][i], f[1][i]), add(f[2][i], f[3][i])), set1(scale)));
  }
}

// In place: exp(score - maximum) over the first `limit`; zeros up to the end of the tile. Returns the sum.
static float softmax_sum(float* scores, int64_t limit) {
  int64_t whole = limit / 16 * 16, rest = limit - whole;
  for (int64_t p = limit; p < whole + 16 && rest; ++p) scores[p] = -__builtin_inff();
  int64_t end = rest ? whole + 16 : whole;
  f32 top = load(scores);
  for (int64_t p = 16; p < end; p += 16) top = max(top, load(scores + p));
  f32 maximum = set1(hmax(top)), total = set1(0);
  for (int64_t p = 0; p < end; p += 16) {
    f32 e = exp_lanes(sub(load(scores + p), maximum));
    if (p == whole) {  // the masked lanes: exactly zero
      store(scores + p, e);
      e = load_n(scores + p, (int)rest);
    }
    store(scores + p, e);
    total = add(total, e);
  }
  return sum(total);
}

// acc += sum over positions [from, to) of weight * value, V vectors of 16 lanes from element n0 on, Q queries
template <class Kv, int Q, int V>
static inline void weigh(const typename Kv::type* values, int64_t stride, int64_t from, int64_t to,
                         const float* weights, int64_t ld, f32 acc[Q][V]) {
  for (int64_t p = from; p < to; ++p) {
    const typename Kv::type* row = values + p * stride;
    MOTLEY_EACH(j, V) {
      f32 v = Kv::get(row + 16 * j);
      MOTLEY_EACH(i, Q) acc[i][j] = fma(v, set1(weights[i * ld + p]), acc[i][j]);
    }
  }
}

template <class Kv, int Q, int V>
static void mix_values(const KvShape& s, int n0, const typename Kv::type* values, const int64_t* limit,
                       const float* weights, int64_t ld, const float* sums, float* const* out) {
  using T = typename Kv::type;
  f32 acc[Q][V];
  MOTLEY_EACH(i, Q) MOTLEY_EACH(j, V) acc[i][j] = set1(0);
  const T* base = values + n0;
  // All queries together as far as the first one sees, then each alone: nobody reads a later token's value.
  weigh<Kv, Q, V>(base, s.padded_dim, 0, limit[0], weights, ld, acc);
  for (int i = 1; i < Q; ++i)
    weigh<Kv, 1, V>(base, s.padded_dim, limit[0], limit[i], weights + i * ld, ld, acc + i);
  MOTLEY_EACH(i, Q)
    MOTLEY_EACH(j, V) {
      int n = n0 + 16 * j, m = s.head_dim - n;
      if (m > 0) store_n(out[i] + n, div(acc[i][j], set1(sums[i])), m < 16 ? m : 16);
    }
}

template <class Kv, int Q>
static void attend_some(const KvShape& s, const float* const* q, const int64_t* limit, const void* keys,
                        const void* values, float scale, float* scratch, float* const* out) {
  using T = typename Kv::type;
  int64_t n_tiles = (limit[Q - 1] + 15) / 16, ld = n_tiles * 16;
  score_tiles<Kv, Q>(s, q, (const T*)keys, n_tiles, scale, scratch, ld);
  float sums[Q];
  for (int i = 0; i < Q; ++i) sums[i] = softmax_sum(scratch + i * ld, limit[i]);
  constexpr int V = Q == 1 ? 8 : 4;  // as many accumulators as registers bear
  int n = 0;
  for (; n + 16 * V <= s.padded_dim; n += 16 * V)
    mix_values<Kv, Q, V>(s, n, (const T*)values, limit, scratch, ld, sums, out);
  for (; n < s.padded_dim; n += 16) mix_values<Kv, Q, 1>(s, n, (const T*)values, limit, scratch, ld, sums, out);
}

template <class Kv>
static void attend_all(const KvShape& s, const float* const* q, const int64_t* limit, const void* keys,
                       const void* values, float scale, float* scratch, float* const* out) {
  int i = 0;
  for (; i + 4 <= s.n_queries; i += 4) attend_some<Kv, 4>(s, q + i, limit + i, keys, values, scale, scratch, out + i);
  for (; i + 2 <= s.n_queries; i += 2) attend_some<Kv, 2>(s, q + i, limit + i, keys, values, scale, scratch, out + i);
  for (; i < s.n_queries; ++i) attend_some<Kv, 1>(s, q + i, limit + i, keys, values, scale, scratch, out + i);
}

static void attend(bool half, const KvShape& s, const float* const* q, const int64_t* limit, const void* keys,
                   const void* values, float scale, float* scratch, float* const* out) {
  if (half) attend_all<HalfKv>(s, q, limit, keys, values, scale, scratch, out);
  else attend_all<FloatKv>(s, q, limit, keys, values, scale, scratch, out);
}

// ---------------------------------------------------------------- probes

static int64_t read_bytes(const uint8_t* p, int64_t n) {
  i32 a = set1i(0), b = a, c = a, d = a;
  for (int64_t i = 0; i < n; i += 256) {
    prefetch_ahead(p + i, 256);
    a = addi(a, bits_of(load((const float*)(p + i))));
    b = addi(b, bits_of(load((const float*)(p + i + 64))));
    c = addi(c, bits_of(load((const float*)(p + i + 128))));
    d = addi(d, bits_of(load((const float*)(p + i + 192))));
  }
  return sumi(addi(addi(a, b), addi(c, d)));
}

// The inner step of the matrix products with everything in registers: what the units can do.
static int32_t int8_tile(int64_t rounds) {
  alignas(64) uint8_t w[64];
  alignas(64) int8_t x[64];
  for (int i = 0; i < 64; ++i) { w[i] = (uint8_t)i; x[i] = (int8_t)(i - 32); }
  i32 acc[kProbeChains];
  MOTLEY_EACH(t, kProbeChains) acc[t] = set1i(t);
  u8v v = load_bytes(w);
  for (int64_t r = 0; r < rounds; ++r) MOTLEY_EACH(t, kProbeChains) acc[t] = dot4(acc[t], v, x + 4 * t);
  MOTLEY_EACH(t, kProbeChains - 1) acc[0] = addi(acc[0], acc[t + 1]);
  return sumi(acc[0]);
}

static float f32_tile(int64_t rounds) {
  alignas(64) float x[16];
  for (int i = 0; i < 16; ++i) x[i] = 0.5f + (float)i * 0.01f;
  f32 acc[kProbeChains], v = load(x);
  MOTLEY_EACH(t, kProbeChains) acc[t] = set1((float)t);
  for (int64_t r = 0; r < rounds; ++r) MOTLEY_EACH(t, kProbeChains) acc[t] = fma(v, set1(x[t]), acc[t]);
  MOTLEY_EACH(t, kProbeChains - 1) acc[0] = add(acc[0], acc[t + 1]);
  return sum(acc[0]);
}

constexpr Kernels make_kernels(const char* name) {
  return Kernels{name,
                 float_gemm<F32>, float_gemm<F16>, float_gemm<BF16>,
                 int_gemm<Q8_0>, int_gemm<Q4_0>, int_gemm<Q4_K>, int_gemm<Q5_K>, int_gemm<Q6_K>, int_gemm<MXFP4>,
                 pack, quantize, rms_norm, silu_mul, add_all, accumulate, exp_all,
                 store_kv, attend, read_bytes, int8_tile, f32_tile};
}

}  // namespace MOTLEY_ISA
}  // namespace motley
