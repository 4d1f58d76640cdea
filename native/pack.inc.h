// Packing stored rows into the tiles of formats.h, 16 rows at a time; compiled once per instruction set, after its
// simd_*.h. Fast enough to be done again at every use: that is how weights are read straight from the file.
#include "formats.h"

namespace motley {
namespace MOTLEY_ISA {

// 4 N bytes of each row, from `rows` on, to N vectors. N is a multiple of 4.
template <int N>
static inline void interleave(const uint8_t* rows, int64_t stride, uint8_t* out) {
  for (int j = 0; j < N; j += 4, out += 256) {
    u8v v[4];
    interleave4(rows + 4 * j, stride, v);
    store_bytes(out, v[0]);
    store_bytes(out + 64, v[1]);
    store_bytes(out + 128, v[2]);
    store_bytes(out + 192, v[3]);
  }
}

static inline void interleave_halves(const uint8_t* rows, int64_t stride, uint8_t* out) {
  for (int l = 0; l < kRows; ++l) memcpy(out + 2 * l, rows + l * stride, 2);
}

static inline void interleave_words(const uint8_t* rows, int64_t stride, uint8_t* out) {
  for (int l = 0; l < kRows; ++l) memcpy(out + 4 * l, rows + l * stride, 4);
}

// Each format has `pack(block, stride, b, group)`: block b of the 16 rows.

struct PackQ8_0 {
  static constexpr int block = 32, block_bytes = 34;
  static inline void pack(const uint8_t* block, int64_t stride, int64_t b, uint8_t* group) {
    uint8_t *tile = group + b / 2 * 1088, *out = tile + 64 + (b & 1) * 512;
    interleave_halves(block, stride, tile + (b & 1) * 32);
    for (int half = 0; half < 2; ++half) {
      u8v v[4];
      interleave4(block + 2 + 16 * half, stride, v);
      for (int j = 0; j < 4; ++j, out += 64) store_bytes(out, flip(v[j], 0x80));  // q + 128: unsigned
    }
  }
};

struct PackQ4_0 {
  static constexpr int block_bytes = 18;
  static inline void pack(const uint8_t* block, int64_t stride, int64_t b, uint8_t* group) {
    uint8_t* tile = group + b / 2 * 576;
    interleave_halves(block, stride, tile + (b & 1) * 32);
    interleave<4>(block + 2, stride, tile + 64 + (b & 1) * 256);
  }
};

// The first 16 bytes of a Q4_K or Q5_K block: d, dmin, and eight 6-bit scales and mins: the low four of each in a word
// of their own, with the top bits of the other four above them; those have their low bits as nibbles of the last word.
static inline void pack_k_scales(const uint8_t* block, int64_t stride, uint8_t* tile) {
  u8v v[4];
  interleave4(block, stride, v);
  store_bytes(tile, halves_apart(v[0]));
  store_bytes(tile + 64, bytes_apart(mask(v[1], 63)));
  store_bytes(tile + 128, bytes_apart(either(mask(v[3], 15), shift_mask<2>(v[1], 48))));
  store_bytes(tile + 192, bytes_apart(mask(v[2], 63)));
  store_bytes(tile + 256, bytes_apart(either(shift_mask<4>(v[3], 15), shift_mask<2>(v[2], 48))));
}

struct PackQ4_K {
  static constexpr int block_bytes = 144;
  static inline void pack(const uint8_t* block, int64_t stride, int64_t b, uint8_t* group) {
    uint8_t* tile = group + b * 2368;
    pack_k_scales(block, stride, tile);
    interleave<32>(block + 16, stride, tile + 320);
  }
};

struct PackQ5_K {
  static constexpr int block_bytes = 176;
  static inline void pack(const uint8_t* block, int64_t stride, int64_t b, uint8_t* group) {
    uint8_t* tile = group + b * 2880;
    pack_k_scales(block, stride, tile);
    interleave<8>(block + 16, stride, tile + 2368);
    interleave<32>(block + 48, stride, tile + 320);
  }
};

struct PackQ6_K {
  static constexpr int block = 256, block_bytes = 210;
  static inline void pack(const uint8_t* block, int64_t stride, int64_t b, uint8_t* group) {
    uint8_t* tile = group + b * 3392;
    for (int half = 0; half < 2; ++half) {
      interleave<16>(block + half * 64, stride, tile + 320 + half * 1536);
      interleave<8>(block + 128 + half * 32, stride, tile + 320 + half * 1536 + 1024);
    }
    u8v v[4];
    interleave4(block + 192, stride, v);
    for (int j = 0; j < 4; ++j) store_bytes(tile + 64 + 64 * j, bytes_apart(v[j]));
    interleave_halves(block + 208, stride, tile);
  }
};

// Zeros are stored with the smallest scale, which is subnormal: multiplying with it takes a processor a hundred times
// longer. Any scale will do for them; 2^0 is stored as 0, which padding has too.
static inline void scale_zeros(const u8v v[4], uint8_t* exponents) {
  uint32_t values[kRows];  // what each row has beside signs
  store_bytes((uint8_t*)values, mask(either(either(v[0], v[1]), either(v[2], v[3])), 0x77));
  for (int l = 0; l < kRows; ++l)
    if (!values[l] && exponents[l] != 127) exponents[l] = 0;
}

struct PackMXFP4 {
  static constexpr int block_bytes = 17;
  static inline void pack(const uint8_t* block, int64_t stride, int64_t b, uint8_t* group) {
    uint8_t *tile = group + b / 4 * 1088, *exponents = tile + (b & 3) * 16, *out = tile + 64 + (b & 3) * 256;
    u8v v[4];
    interleave4(block + 1, stride, v);
    for (int j = 0; j < 4; ++j) store_bytes(out + 64 * j, v[j]);
    uint8_t least = 255;
    for (int l = 0; l < kRows; ++l) {
      uint8_t e = block[l * stride];
      exponents[l] = (uint8_t)(e - 128);
      least = e < least ? e : least;
    }
    if (least < 2) scale_zeros(v, exponents);
  }
};

// Int8Blocks: a scale for each half or one for both, and minima in the same number or none.
template <int Scales, bool Minima>
struct PackInt8 {
  static constexpr int block = 32, block_bytes = sizeof(Int8Block);
  static inline void pack(const uint8_t* blocks, int64_t stride, int64_t b, uint8_t* group) {
    uint8_t* out = group + b * (512 + 64 * Scales * (1 + Minima));
    for (int half = 0; half < 2; ++half) {
      u8v v[4];
      interleave4(blocks + 16 * half, stride, v);
      for (int j = 0; j < 4; ++j, out += 64) store_bytes(out, flip(v[j], 0x80));
    }
    for (int s = 0; s < Scales; ++s, out += 64) interleave_words(blocks + 32 + 4 * s, stride, out);
    for (int s = 0; s < Scales * Minima; ++s, out += 64) interleave_words(blocks + 40 + 4 * s, stride, out);
  }
};

// A block is 16 bytes of a row: 4 or 8 columns.
struct PackF32 {
  static constexpr int block_bytes = 16;
  static inline void pack(const uint8_t* block, int64_t stride, int64_t b, uint8_t* group) {
    interleave<4>(block, stride, group + b * 256);
  }
};

struct PackHalves {
  static constexpr int block_bytes = 16;
  static inline void pack(const uint8_t* block, int64_t stride, int64_t b, uint8_t* group) {
    u8v v[4];
    interleave4(block, stride, v);
    for (int j = 0; j < 4; ++j) store_bytes(group + b * 256 + 64 * j, halves_apart(v[j]));
  }
};

// What is packed: `n` of a group's 16 rows, `stride` bytes each; `next`, if any, is memory to fetch meanwhile, as much
// as the rows have.
struct Stored {
  const uint8_t* rows;
  int64_t stride;
  int n;
  const uint8_t* next;
};

// The same `bytes` (at most 256) of each row, from `at` on, one after the other; rows that are missing are zeros.
static inline void gather(const Stored& s, int64_t at, int bytes, int stride, uint8_t* out) {
  memset(out, 0, (size_t)(kRows * stride));
  for (int l = 0; l < s.n; ++l) memcpy(out + l * stride, s.rows + l * s.stride + at, (size_t)bytes);
}

// All blocks that the rows have whole
template <class P>
static void pack_blocks(const Stored& s, uint8_t* group) {
  const int64_t n_blocks = s.stride / P::block_bytes;
  uint8_t copy[kRows * P::block_bytes];
  for (int64_t b = 0; b < n_blocks; ++b) {
    if (s.next)
      for (int i = 0; i < kRows * P::block_bytes; i += 64) __builtin_prefetch(s.next + b * kRows * P::block_bytes + i, 0, 2);
    if (s.n == kRows) {
      P::pack(s.rows + b * P::block_bytes, s.stride, b, group);
    } else {
      gather(s, b * P::block_bytes, P::block_bytes, P::block_bytes, copy);
      P::pack(copy, P::block_bytes, b, group);
    }
  }
}

// Several blocks in a tile: where the last tile has fewer, the rest of it is zeros.
template <class P>
static void pack_tiles(const FormatInfo& f, const Stored& s, uint8_t* group) {
  const int64_t n_blocks = s.stride / P::block_bytes, per_tile = f.tile / f.block;
  if (n_blocks % per_tile) memset(group + n_blocks / per_tile * f.tile_bytes, 0, (size_t)f.tile_bytes);
  pack_blocks<P>(s, group);
}

// The rows' blocks become blocks that P packs, one or several each, and are packed as those.
template <class P, void (*Convert)(const FormatInfo&, const uint8_t*, uint8_t*)>
static void pack_converted(const FormatInfo& f, const Stored& s, uint8_t* group) {
  const int64_t n_blocks = s.stride / f.block_bytes, cols = n_blocks * f.block;
  const int n = f.block / P::block, stride = n * P::block_bytes;
  alignas(64) uint8_t copy[kRows * kInt8Blocks * sizeof(Int8Block)];
  memset(copy, 0, (size_t)(kRows * stride));  // rows that are missing
  if (cols % f.tile) memset(group + cols / f.tile * f.tile_bytes, 0, (size_t)f.tile_bytes);
  for (int64_t b = 0; b < n_blocks; ++b) {
    for (int l = 0; l < s.n; ++l) Convert(f, s.rows + l * s.stride + b * f.block_bytes, copy + l * stride);
    for (int i = 0; i < n; ++i) P::pack(copy + i * P::block_bytes, stride, b * n + i, group);
    if (s.next)
      for (int i = 0; i < kRows * f.block_bytes; i += 64)
        __builtin_prefetch(s.next + b * kRows * f.block_bytes + i, 0, 2);
  }
}

static inline void to_int8_bytes(const FormatInfo& f, const uint8_t* block, uint8_t* out) {
  to_int8(f, block, (Int8Block*)out);
}

template <class P>
static void pack_columns(const Stored& s, uint8_t* group) {
  pack_blocks<P>(s, group);
  const int64_t whole = s.stride / 16 * 16;
  const int rest = (int)(s.stride - whole);
  if (!rest) return;
  uint8_t copy[kRows * 16], last[256];
  gather(s, whole, rest, 16, copy);
  P::pack(copy, 16, 0, last);
  memcpy(group + whole * kRows, last, (size_t)(rest * kRows));
}

static void pack(const FormatInfo& f, const uint8_t* rows, int n_rows, int64_t cols, uint8_t* group,
                 const uint8_t* next) {
  const Stored s{rows, cols / f.block * f.block_bytes, n_rows, next};
  switch (f.format) {
    case Format::F32: return pack_columns<PackF32>(s, group);
    case Format::F16:
    case Format::BF16: return pack_columns<PackHalves>(s, group);
    case Format::Q8_0: return pack_tiles<PackQ8_0>(f, s, group);
    case Format::Q4_0: return pack_tiles<PackQ4_0>(f, s, group);
    case Format::Q4_K: return pack_blocks<PackQ4_K>(s, group);
    case Format::Q5_K: return pack_blocks<PackQ5_K>(s, group);
    case Format::Q6_K: return pack_blocks<PackQ6_K>(s, group);
    case Format::MXFP4: return pack_tiles<PackMXFP4>(f, s, group);
    case Format::Q5_0:
    case Format::IQ4_NL: return pack_converted<PackQ8_0, to_q8_0>(f, s, group);
    case Format::Q3_K: return pack_converted<PackQ6_K, to_q6_k>(f, s, group);
    case Format::IQ1_S:
    case Format::IQ2_XXS:
    case Format::IQ3_XXS:
    case Format::IQ3_S:
    case Format::IQ4_XS: return pack_converted<PackInt8<1, false>, to_int8_bytes>(f, s, group);
    case Format::IQ1_M:
    case Format::IQ2_XS:
    case Format::IQ2_S:
    case Format::NVFP4: return pack_converted<PackInt8<2, false>, to_int8_bytes>(f, s, group);
    case Format::Q4_1:
    case Format::Q5_1: return pack_converted<PackInt8<1, true>, to_int8_bytes>(f, s, group);
    case Format::Q2_K: return pack_converted<PackInt8<2, true>, to_int8_bytes>(f, s, group);
  }
}

}  // namespace MOTLEY_ISA
}  // namespace motley
