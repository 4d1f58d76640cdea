// Attention over a cache, for every way of storing it: part of kernels.inc.h, compiled once per instruction set.
//
// A query's arithmetic follows its own positions in ascending order, whatever shares the work with it, and whichever way
// the cache is laid out. What is stored in fewer bits is read as the floats it stands for.
#pragma once
#include "kernels.h"

namespace motley {
namespace MOTLEY_ISA {

// How one storage type reads and writes. Keys come in tiles of 16 positions, blocks of 32 elements one after the other:
//   scale(block), key(block, scale, n)   element n of the block, of 16 positions
//   put_keys(tile, lane, x, n)           one position's keys into a tile
// and values in rows:
//   scales(row, dim, n0, d), value(row, dim, n0, j, d)   16 elements from n0 + 16 j on; n0 a multiple of 16
//   put_row(row, dim, x, n)                              n elements, and zeros up to dim
//   turn(rows, stride, dim, tile)                        16 rows as a tile of floats, [dim][16]
template <class T, class Vectors> struct FloatsKv {
  using Scale = int;  // none
  static constexpr int kWidth = sizeof(T);
  static constexpr int64_t kKeyBlock = 32 * 16 * sizeof(T);
  static inline Scale scale(const uint8_t*) { return 0; }
  static inline f32 key(const uint8_t* block, Scale, int n) { return Vectors::get((const T*)block + n * 16); }
  static inline void put_keys(uint8_t* tile, int lane, const float* x, int n) {
    T narrow[16];
    for (int i = 0; i < n; i += 16) {
      const int m = n - i < 16 ? n - i : 16;
      Vectors::put(narrow, load_n(x + i, m));
      for (int l = 0; l < m; ++l) ((T*)tile)[(i + l) * 16 + lane] = narrow[l];
    }
  }
  static inline void scales(const uint8_t*, int, int, float*) {}
  static inline f32 value(const uint8_t* row, int, int n0, int j, const float*) {
    return Vectors::get((const T*)row + n0 + 16 * j);
  }
  static inline void put_row(uint8_t* row, int, const float* x, int n) {
    for (int i = 0; i < n; i += 16) Vectors::put((T*)row + i, load_n(x + i, n - i < 16 ? n - i : 16));
  }
};

struct FloatVectors {
  static inline f32 get(const float* p) { return load(p); }
  static inline void put(float* p, f32 v) { store(p, v); }
};
struct FloatKv : FloatsKv<float, FloatVectors> {
  static inline void turn(const uint8_t* rows, int64_t stride, int dim, float* tile) {
    for (int n = 0; n < dim; n += 4) {
      u8v words[4];
      interleave4(rows + n * 4, stride, words);
      MOTLEY_EACH(w, 4) store_bytes((uint8_t*)(tile + (n + w) * 16), words[w]);
    }
  }
};

struct HalfVectors {
  static inline f32 get(const uint16_t* p) { return load_f16(p); }
  static inline void put(uint16_t* p, f32 v) { store_f16(p, v); }
};
struct HalfKv : FloatsKv<uint16_t, HalfVectors> {
  static inline void turn(const uint8_t* rows, int64_t stride, int dim, float* tile) {
    alignas(64) uint16_t pair[32];
    for (int n = 0; n < dim; n += 8) {
      u8v words[4];
      interleave4(rows + n * 2, stride, words);
      MOTLEY_EACH(w, 4) {
        store_bytes((uint8_t*)pair, halves_apart(words[w]));
        store(tile + (n + 2 * w) * 16, load_f16(pair));
        store(tile + (n + 2 * w + 1) * 16, load_f16(pair + 16));
      }
    }
  }
};

// Blocks of 32 elements of one position: int8, and their scale as f16; a last block may be shorter. In a tile a block is 16
// scales and [32][16] bytes; a row is all its scales, then the bytes.
struct Q8Kv {
  using Scale = f32;
  static constexpr int kWidth = 1;
  static constexpr int64_t kKeyBlock = 32 + 32 * 16;
  static inline Scale scale(const uint8_t* block) { return load_f16((const uint16_t*)block); }
  static inline f32 key(const uint8_t* block, Scale d, int n) {
    return mul(to_float(load_i8((const int8_t*)block + 32 + n * 16)), d);
  }
  // The scale is rounded first, and the elements follow it. A NaN or infinity makes all of the block NaN.
  static inline uint16_t quantise(const float* x, int n, int8_t* q) {
    const f32 lo = load_n(x, n < 16 ? n : 16), hi = load_n(x + 16, n < 16 ? 0 : n < 32 ? n - 16 : 16);
    const i32 no_sign = set1i(0x7fffffff);
    const int32_t bits = hmaxi(maxi(andi(bits_of(lo), no_sign), andi(bits_of(hi), no_sign)));
    float most;
    memcpy(&most, &bits, 4);
    alignas(64) uint16_t narrow[16];
    alignas(64) float rounded[16];
    store_f16(narrow, set1(bits >= 0x7f800000 ? __builtin_nanf("") : most / 127.0f));
    store(rounded, load_f16(narrow));
    const bool sound = rounded[0] > 0 && rounded[0] <= 65504.0f;
    const f32 inverse = set1(sound ? 1.0f / rounded[0] : 0), limit = set1(127), magic = set1(12582912.0f);
    const i32 bias = set1i(-0x4b400000);
    const f32 x2[2] = {lo, hi};
    for (int h = 0; h < 2; ++h) {
      f32 v = max(min(mul(x2[h], inverse), limit), sub(set1(0), limit));
      store_i8(q + 16 * h, sound ? addi(bits_of(add(v, magic)), bias) : set1i(0));
    }
    return narrow[0];
  }
  static inline void put_keys(uint8_t* tile, int lane, const float* x, int n) {
    alignas(64) int8_t q[32];
    for (int i = 0; i < n; i += 32) {
      const int m = n - i < 32 ? n - i : 32;
      uint8_t* block = tile + i / 32 * kKeyBlock;
      ((uint16_t*)block)[lane] = quantise(x + i, m, q);
      for (int l = 0; l < m; ++l) block[32 + l * 16 + lane] = (uint8_t)q[l];
    }
  }
  static inline int blocks(int dim) { return (dim + 31) / 32; }
  static inline void scales(const uint8_t* row, int, int n0, float* d) {
    store(d, load_f16((const uint16_t*)row + n0 / 32));  // those of the 16 blocks from n0 on, or what follows them
  }
  static inline f32 value(const uint8_t* row, int dim, int n0, int j, const float* d) {
    const int8_t* q = (const int8_t*)row + 2 * blocks(dim) + n0 + 16 * j;
    return mul(to_float(load_i8(q)), set1(d[(n0 % 32 + 16 * j) / 32]));
  }
  static inline void put_row(uint8_t* row, int dim, const float* x, int n) {
    alignas(64) int8_t q[32];
    for (int i = 0; i < dim; i += 32) {
      ((uint16_t*)row)[i / 32] = quantise(x + i, n - i < 32 ? n - i : 32, q);
      memcpy(row + 2 * blocks(dim) + i, q, size_t(dim - i < 32 ? dim - i : 32));
    }
  }
  static inline void turn(const uint8_t* rows, int64_t stride, int dim, float* tile) {
    alignas(64) int8_t bytes[64];
    alignas(64) uint16_t narrow[16];
    f32 d = set1(0);
    for (int n = 0; n < dim; n += 16) {
      if (n % 32 == 0) {
        for (int l = 0; l < 16; ++l) memcpy(narrow + l, rows + l * stride + n / 32 * 2, 2);
        d = load_f16(narrow);
      }
      u8v words[4];
      interleave4(rows + 2 * blocks(dim) + n, stride, words);
      MOTLEY_EACH(w, 4) {
        store_bytes((uint8_t*)bytes, bytes_apart(words[w]));
        MOTLEY_EACH(j, 4) store(tile + (n + 4 * w + j) * 16, mul(to_float(load_i8(bytes + 16 * j)), d));
      }
    }
  }
};

template <class Kv>
static void store_position(KvType type, const KvShape& s, const float* k, const float* v, uint8_t* keys, uint8_t* values,
                           int64_t pos) {
  pos %= s.capacity;
  uint8_t* row = values + pos * kv_row_bytes(type, s.row_dim);
  if (s.one) return Kv::put_row(row, s.row_dim, k, s.head_dim);
  Kv::put_keys(keys + pos / 16 * kv_tile_bytes(type, s.head_dim), int(pos % 16), k, s.head_dim);
  Kv::put_row(row, s.row_dim, v, s.value_dim);
}

static void store_kv(KvType type, const KvShape& s, const float* k, const float* v, void* keys, void* values,
                     int64_t pos) {
  uint8_t *ks = (uint8_t*)keys, *vs = (uint8_t*)values;
  if (type == KvType::F16) store_position<HalfKv>(type, s, k, v, ks, vs, pos);
  else if (type == KvType::Q8_0) store_position<Q8Kv>(type, s, k, v, ks, vs, pos);
  else store_position<FloatKv>(type, s, k, v, ks, vs, pos);
}

// scores[i][p] = scale * q_i . k_p for one tile of 16 positions; element n on chain n mod 4, as everywhere
template <class Kv, int Q>
static inline void score_tile(int dim, const float* const* q, const uint8_t* keys, float scale, float* scores,
                              int64_t ld) {
  f32 f[4][Q];
  MOTLEY_EACH(c, 4) MOTLEY_EACH(i, Q) f[c][i] = set1(0);
  for (int n0 = 0; n0 < dim; n0 += 32, keys += Kv::kKeyBlock) {
    const auto d = Kv::scale(keys);
    const int m = dim - n0 < 32 ? dim - n0 : 32;
    int n = 0;
    for (; n + 4 <= m; n += 4) {
      prefetch_lines(keys + n * 16 * Kv::kWidth + kAhead, 4 * 16 * Kv::kWidth);
      MOTLEY_EACH(c, 4) {
        f32 k = Kv::key(keys, d, n + c);
        MOTLEY_EACH(i, Q) f[c][i] = fma(k, set1(q[i][n0 + n + c]), f[c][i]);
      }
    }
    MOTLEY_EACH(c, 3) {
      if (n + c >= m) break;
      f32 k = Kv::key(keys, d, n + c);
      MOTLEY_EACH(i, Q) f[c][i] = fma(k, set1(q[i][n0 + n + c]), f[c][i]);
    }
  }
  MOTLEY_EACH(i, Q) store(scores + i * ld, mul(add(add(f[0][i], f[1][i]), add(f[2][i], f[3][i])), set1(scale)));
}

// In place: exp(score - maximum) over [first, end), zeros around them up to whole tiles of 16. Returns the sum, with the
// sink's share. Which lane a position falls on depends on nothing but the position.
static float softmax_sum(float* scores, int64_t first, int64_t end, float sink) {
  int64_t from = first / 16 * 16, upto = (end + 15) / 16 * 16;
  for (int64_t p = from; p < first; ++p) scores[p] = -__builtin_inff();
  for (int64_t p = end; p < upto; ++p) scores[p] = -__builtin_inff();
  f32 top = load(scores + from);
  for (int64_t p = from + 16; p < upto; p += 16) top = max(top, load(scores + p));
  float highest = hmax(top);
  f32 maximum = set1(sink > highest ? sink : highest), total = set1(0);
  for (int64_t p = from; p < upto; p += 16) {
    f32 e = exp_lanes(sub(load(scores + p), maximum));
    store(scores + p, e);
    if (p < first || p + 16 > end) {  // the masked lanes: exactly zero
      for (int64_t i = p; i < first; ++i) scores[i] = 0;
      for (int64_t i = end > p ? end : p; i < p + 16; ++i) scores[i] = 0;
      e = load(scores + p);
    }
    total = add(total, e);
  }
  if (sink == -__builtin_inff()) return sum(total);
  alignas(64) float tail[16];
  store(tail, exp_lanes(sub(set1(sink), maximum)));
  return sum(total) + tail[0];
}

// acc += sum over positions [from, to) of weight * value, V vectors of 16 lanes from element n0 on, Q queries
template <class Kv, int Q, int V>
static inline void weigh(const KvShape& s, int64_t row_bytes, int n0, const uint8_t* values, int64_t from, int64_t to,
                         const float* weights, int64_t ld, f32 acc[Q][V]) {
  alignas(64) float d[16];
  while (from < to) {
    const int64_t lap = from / s.capacity * s.capacity;
    const int64_t upto = to < lap + s.capacity ? to : lap + s.capacity;
    for (int64_t p = from; p < upto; ++p) {
      const uint8_t* row = values + (p - lap) * row_bytes;
      prefetch_lines(row + n0 * Kv::kWidth + kAhead, 16 * V * Kv::kWidth);
      Kv::scales(row, s.row_dim, n0, d);
      MOTLEY_EACH(j, V) {
        f32 v = Kv::value(row, s.row_dim, n0, j, d);
        MOTLEY_EACH(i, Q) acc[i][j] = fma(v, set1(weights[i * ld + p]), acc[i][j]);
      }
    }
    from = upto;
  }
}

// What of the positions is looked at: `out` goes on from what it holds, unless it begins here, and is divided by the sums
// where it ends.
struct Part {
  int64_t from, to;
  bool begins, ends;
};

// weights[i * ld + p]: of query i for position p
template <class Kv, int Q, int V>
static void mix_values(const KvShape& s, int64_t row_bytes, int n0, const uint8_t* values, const Seen* seen,
                       const Part& part, const float* weights, int64_t ld, const float* sums, float* const* out) {
  f32 acc[Q][V];
  MOTLEY_EACH(i, Q)
    MOTLEY_EACH(j, V) {
      const int n = n0 + 16 * j, m = s.value_dim - n;
      acc[i][j] = part.begins || m <= 0 ? set1(0) : load_n(out[i] + n, m < 16 ? m : 16);
    }
  // What all queries see they read together; what lies before and behind each reads alone: nobody reads a value that it
  // does not see, and each query's order is ascending.
  int64_t firsts[Q], ends[Q];
  for (int i = 0; i < Q; ++i) {
    firsts[i] = seen[i].first > part.from ? seen[i].first : part.from;
    ends[i] = seen[i].end < part.to ? seen[i].end : part.to;
  }
  int64_t first = firsts[Q - 1], end = ends[0];
  if (end < first) end = first;
  for (int i = 0; i < Q; ++i)
    weigh<Kv, 1, V>(s, row_bytes, n0, values, firsts[i], first < ends[i] ? first : ends[i], weights + i * ld, ld, acc + i);
  weigh<Kv, Q, V>(s, row_bytes, n0, values, first, end, weights, ld, acc);
  for (int i = 0; i < Q; ++i) weigh<Kv, 1, V>(s, row_bytes, n0, values, end, ends[i], weights + i * ld, ld, acc + i);
  MOTLEY_EACH(i, Q)
    MOTLEY_EACH(j, V) {
      const int n = n0 + 16 * j, m = s.value_dim - n;
      if (m > 0) store_n(out[i] + n, part.ends ? div(acc[i][j], set1(sums[i])) : acc[i][j], m < 16 ? m : 16);
    }
}

template <class Kv, int Q>
static void mix_all(KvType type, const KvShape& s, const uint8_t* values, const Seen* seen, const Part& part,
                    const float* weights, int64_t ld, const float* sums, float* const* out) {
  const int64_t row_bytes = kv_row_bytes(type, s.row_dim);
  constexpr int V = Q == 1 ? 8 : 4;  // as many accumulators as registers bear
  int n = 0;
  for (; n + 16 * V <= s.value_dim; n += 16 * V)
    mix_values<Kv, Q, V>(s, row_bytes, n, values, seen, part, weights, ld, sums, out);
  for (; n < s.value_dim; n += 16)
    mix_values<Kv, Q, 1>(s, row_bytes, n, values, seen, part, weights, ld, sums, out);
}

// Work of 4, 2 or 1 queries at a time: f(constant of how many, the first).
template <int N> struct Count { static constexpr int value = N; };
template <class F> static inline void by_fours(int n, F&& f) {
  int i = 0;
  for (; i + 4 <= n; i += 4) f(Count<4>(), i);
  for (; i + 2 <= n; i += 2) f(Count<2>(), i);
  for (; i < n; ++i) f(Count<1>(), i);
}

// Keys in tiles, values in rows
template <class Kv>
static void attend_tiles(KvType type, const KvShape& s, const float* const* q, const Seen* all, const uint8_t* keys,
                         const uint8_t* values, float scale, float* scratch, float* const* out) {
  const int64_t tile_bytes = kv_tile_bytes(type, s.head_dim), kept = s.capacity / 16;
  by_fours(s.n_queries, [&](auto count, int at) {
    constexpr int Q = decltype(count)::value;
    const Seen* seen = all + at;
    const int64_t first_tile = seen[0].first / 16, n_tiles = (seen[Q - 1].end + 15) / 16 - first_tile, ld = n_tiles * 16;
    for (int64_t tile = 0; tile < n_tiles; ++tile)
      score_tile<Kv, Q>(s.head_dim, q + at, keys + (first_tile + tile) % kept * tile_bytes, scale, scratch + tile * 16, ld);
    const int64_t before = first_tile * 16;
    float sums[Q];
    for (int i = 0; i < Q; ++i)
      sums[i] = softmax_sum(scratch + i * ld, seen[i].first - before, seen[i].end - before, seen[i].sink);
    const Part whole{seen[0].first, seen[Q - 1].end, true, true};
    mix_all<Kv, Q>(type, s, values, seen, whole, scratch - before, ld, sums, out + at);
  });
}

// Everything in rows, which are keys, and values in their first elements. Many queries share them: a tile is turned once
// for all, and of the rows as many are weighed at a time as the second cache holds.
template <class Kv>
static void attend_rows(KvType type, const KvShape& s, const float* const* q, const Seen* seen, const uint8_t* rows,
                        float scale, float* scratch, float* const* out) {
  constexpr int64_t kRowsTogether = 64;
  const int64_t row_bytes = kv_row_bytes(type, s.row_dim), first = seen[0].first, end = seen[s.n_queries - 1].end;
  const int64_t first_tile = first / 16, n_tiles = (end + 15) / 16 - first_tile, ld = n_tiles * 16;
  float *tile = scratch + s.n_queries * ld, *sums = tile + s.row_dim * 16;
  for (int64_t t = 0; t < n_tiles; ++t) {
    Kv::turn(rows + (first_tile + t) * 16 % s.capacity * row_bytes, row_bytes, s.row_dim, tile);
    by_fours(s.n_queries, [&](auto count, int at) {
      constexpr int Q = decltype(count)::value;
      score_tile<FloatKv, Q>(s.head_dim, q + at, (const uint8_t*)tile, scale, scratch + at * ld + t * 16, ld);
    });
  }
  const int64_t before = first_tile * 16;
  for (int i = 0; i < s.n_queries; ++i)
    sums[i] = softmax_sum(scratch + i * ld, seen[i].first - before, seen[i].end - before, seen[i].sink);
  for (int64_t from = first; from < end; from += kRowsTogether) {
    const Part part{from, from + kRowsTogether, from == first, from + kRowsTogether >= end};
    by_fours(s.n_queries, [&](auto count, int at) {
      constexpr int Q = decltype(count)::value;
      mix_all<Kv, Q>(type, s, rows, seen + at, part, scratch + at * ld - before, ld, sums + at, out + at);
    });
  }
}

template <class Kv>
static void attend_as(KvType type, const KvShape& s, const float* const* q, const Seen* seen, const void* keys,
                      const void* values, float scale, float* scratch, float* const* out) {
  if (s.one) attend_rows<Kv>(type, s, q, seen, (const uint8_t*)values, scale, scratch, out);
  else attend_tiles<Kv>(type, s, q, seen, (const uint8_t*)keys, (const uint8_t*)values, scale, scratch, out);
}

static void attend(KvType type, const KvShape& s, const float* const* q, const Seen* seen, const void* keys,
                   const void* values, float scale, float* scratch, float* const* out) {
  if (type == KvType::F16) attend_as<HalfKv>(type, s, q, seen, keys, values, scale, scratch, out);
  else if (type == KvType::Q8_0) attend_as<Q8Kv>(type, s, q, seen, keys, values, scale, scratch, out);
  else attend_as<FloatKv>(type, s, q, seen, keys, values, scale, scratch, out);
}

}  // namespace MOTLEY_ISA
}  // namespace motley
