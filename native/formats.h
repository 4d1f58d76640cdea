// Weight formats: GGUF's stored blocks, and the packed tiles that the kernels read.
//
// A packed matrix is a sequence of row groups, 16 rows each (the last one padded with rows of zero bytes); a group is a sequence of
// tiles along K. Inside a tile every 64-byte vector holds 4 consecutive elements (bytes, or nibble or bit planes of
// them) of each of the 16 rows: exactly what one dot-product instruction takes, with 4 activations broadcast. GGUF
// stores its planes so that packing moves whole 4-byte words and never unpacks a nibble.
//
//   tile    K    bytes  parts (f16 are half-precision scales of the 16 rows)
//   Q8_0    64   1088   2 x f16[16] | 2 x 8 vectors (q + 128)
//   Q4_0    64    576   2 x f16[16] | 2 x 4 vectors (low nibble: elements 0..15 of the block, high: 16..31)
//   Q4_K   256   2368   f16 d[16], dmin[16] | u8 scale[8][16] | u8 min[8][16] | 4 x 8 vectors (low: even sub-block)
//   Q5_K   256   2880   as Q4_K | 8 vectors: bit s is the fifth bit of sub-block s
//   Q6_K   256   3392   f16 d[16], 32 unused | i8 scale[16][16] | per half: 8 + 8 nibble vectors, 8 of 2-bit planes
//   MXFP4  128   1088   i8 exponent[4][16], e - 128 | 4 x 4 vectors, as Q4_0's
//   Int8    32    576   8 vectors (q + 128) | f32 scale[16]; with Halves 640: scale[2][16], for 16 elements each
//   ...Min        640   as above | f32 minimum[16]; with Halves 768: minimum[2][16]
//   F32      1     64   f32[16]
//   F16, BF16  1   32   u16[16]
//
// Formats without tiles of their own take those of one that holds each of their weights exactly: Q5_0 and IQ4_NL Q8_0's,
// Q3_K Q6_K's, all others the Int8 tiles, by way of Int8Block.
#pragma once
#include <cstddef>
#include <cstdint>

namespace motley {

constexpr int kRows = 16;  // rows in a group

// The values are GGUF's tensor type ids.
enum class Format : int {
  F32 = 0, F16 = 1, Q4_0 = 2, Q4_1 = 3, Q5_0 = 6, Q5_1 = 7, Q8_0 = 8, Q2_K = 10, Q3_K = 11, Q4_K = 12, Q5_K = 13,
  Q6_K = 14, IQ2_XXS = 16, IQ2_XS = 17, IQ3_XXS = 18, IQ1_S = 19, IQ4_NL = 20, IQ3_S = 21, IQ2_S = 22, IQ4_XS = 23,
  IQ1_M = 29, BF16 = 30, MXFP4 = 39, NVFP4 = 40
};

struct FormatInfo {
  Format format;
  int block, block_bytes;       // stored: elements and bytes
  int tile, tile_bytes;         // packed: elements along K and bytes, of 16 rows
  bool integer;                 // int8 activations and integer dot products
};

// What the nibbles of MXFP4 mean, doubled to be integers and 16 added to be unsigned: value = 2^(e - 128) * (v - 16).
constexpr uint8_t kMxfp4Values[16] = {16, 17, 18, 19, 20, 22, 24, 28, 16, 15, 14, 13, 12, 10, 8, 4};

// 32 weights of a format without tiles of its own: scale[h] * q - minimum[h], h for each half.
struct Int8Block {
  int8_t q[32];
  float scale[2], minimum[2];
};
constexpr int kInt8Blocks = 8;  // in a stored block, at most

// A stored block of such a format as f.block / 32 of these.
void to_int8(const FormatInfo& f, const uint8_t* block, Int8Block* out);

// A stored block of Q5_0 or IQ4_NL as one of Q8_0, and one of Q3_K as one of Q6_K: the same scales and values.
void to_q8_0(const FormatInfo& f, const uint8_t* block, uint8_t* out);
void to_q6_k(const FormatInfo& f, const uint8_t* block, uint8_t* out);

float half(const uint8_t* p);  // half precision to float

// nullptr when unknown.
const FormatInfo* find_format(int ggml_type);

// One stored row [cols] to float32, bit for bit the GGUF reference's values.
void decode_row(const FormatInfo& f, const uint8_t* row, int64_t cols, float* out);

inline int64_t row_bytes(const FormatInfo& f, int64_t cols) { return cols / f.block * f.block_bytes; }
inline int64_t group_tiles(const FormatInfo& f, int64_t cols) { return (cols + f.tile - 1) / f.tile; }
inline int64_t group_bytes(const FormatInfo& f, int64_t cols) { return group_tiles(f, cols) * f.tile_bytes; }

}  // namespace motley
