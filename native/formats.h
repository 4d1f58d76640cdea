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
//   F32      1     64   f32[16]
//   F16, BF16  1   32   u16[16]
#pragma once
#include <cstddef>
#include <cstdint>

namespace motley {

constexpr int kRows = 16;  // rows in a group

// The values are GGUF's tensor type ids.
enum class Format : int {
  F32 = 0, F16 = 1, Q4_0 = 2, Q8_0 = 8, Q4_K = 12, Q5_K = 13, Q6_K = 14, BF16 = 30, MXFP4 = 39
};

struct FormatInfo {
  Format format;
  int block, block_bytes;       // stored: elements and bytes
  int tile, tile_bytes;         // packed: elements along K and bytes, of 16 rows
  bool integer;                 // int8 activations and integer dot products
};

// What the nibbles of MXFP4 mean, doubled to be integers and 16 added to be unsigned: value = 2^(e - 128) * (v - 16).
constexpr uint8_t kMxfp4Values[16] = {16, 17, 18, 19, 20, 22, 24, 28, 16, 15, 14, 13, 12, 10, 8, 4};

// nullptr when unknown.
const FormatInfo* find_format(int ggml_type);

// One stored row [cols] to float32, bit for bit the GGUF reference's values.
void decode_row(const FormatInfo& f, const uint8_t* row, int64_t cols, float* out);

inline int64_t row_bytes(const FormatInfo& f, int64_t cols) { return cols / f.block * f.block_bytes; }
inline int64_t group_tiles(const FormatInfo& f, int64_t cols) { return (cols + f.tile - 1) / f.tile; }
inline int64_t group_bytes(const FormatInfo& f, int64_t cols) { return group_tiles(f, cols) * f.tile_bytes; }

}  // namespace motley
