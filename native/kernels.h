// The table of kernels of one instruction set. kernels.inc.h implements it, once per set.
#pragma once
#include <cstdint>

#include "formats.h"

namespace motley {

constexpr int kBlock = 32;     // activations are quantised to int8 in blocks of 32

// A block of one token's activations as the integer kernels read it: one cache line, so that a token is one stream.
struct alignas(64) ActBlock {
  int8_t q[kBlock];
  float d;           // x = d * q
  float dsum;        // d * sum(q), for formats that subtract a minimum
  float dsums[2];    // the same of each half
  int32_t off8;      // -8 * sum(q), for unsigned weights with their zero at 8 (or 16, 128)
  int32_t off32[2];  // -32 * sum(q) of each half, for Q6_K
};

// Callers give this many tokens at a time at most: their sums stay in the first cache, their activations in the second.
constexpr int64_t kTogether = 96;
// How many of `left` tokens to take now, so that no portion is much smaller than the others.
inline int64_t portion(int64_t left) { return left / ((left + kTogether - 1) / kTogether); }

// Two packed row groups side by side, or one (rows <= 16), and what this thread will read after them.
struct RowPair {
  const uint8_t* data;
  int64_t group_bytes;
  int rows;             // that are real, 1 to 32
  const uint8_t* next;  // asked for ahead of time
};

// out[t * ld + r] = sum over K of w[r][k] * x[t][k] for n tokens. x[t]: ActBlock [] for integer formats, padded with
// zeros to whole tiles; float32 [cols] for the others.
using GemmFn = void (*)(const RowPair& w, int64_t cols, const void* const* x, int64_t n, float* out, int64_t ld);

// How keys and values are stored: floats, or int8 in blocks of 32 elements with an f16 scale (GGUF's Q8_0).
enum class KvType : int { F32 = 0, F16 = 1, Q8_0 = 2 };

struct KvShape {
  int head_dim;      // N, of queries and keys
  int value_dim;     // M
  int row_dim;       // elements of a stored row: M up to a multiple of 16, or N where the rows are all there is
  int64_t capacity;  // positions that are kept, a multiple of 16: position p lies where p % capacity is
  int n_queries;     // queries that share the keys: consecutive tokens x heads of the group
  bool one;          // the values are the keys' first elements: rows hold both, and there are no tiles
};

// Of a row of values, of a tile of 16 positions' keys.
static inline int64_t kv_row_bytes(KvType type, int64_t dim) {
  return type == KvType::Q8_0 ? dim + (dim + 31) / 32 * 2 : dim * (type == KvType::F16 ? 2 : 4);
}
static inline int64_t kv_tile_bytes(KvType type, int64_t dim) {
  return type == KvType::Q8_0 ? dim * 16 + (dim + 31) / 32 * 32 : dim * 16 * (type == KvType::F16 ? 2 : 4);
}
constexpr int64_t kKvSlack = 64;  // bytes after the last row that may be read, never used

// What one query attends to: positions [first, end), and `sink`, a logit without a value (minus infinity: none).
struct Seen {
  int64_t first, end;
  float sink;
};

// The values are ops/protocol.py's.
enum class Activation : int { Silu = 0, Gelu = 1, Clamped = 2 };
enum class Gate : int { None = 0, Sigmoid = 1, Silu = 2 };

struct Kernels {
  const char* name;
  GemmFn gemm_f32, gemm_f16, gemm_bf16, gemm_q8_0, gemm_q4_0, gemm_q4_k, gemm_q5_k, gemm_q6_k, gemm_mxfp4,
      gemm_int8, gemm_int8_min, gemm_int8_halves, gemm_int8_halves_min;

  // Pack `n_rows` (1 to 16) stored rows of `cols` elements, one after the other, into a group: all that kernels read of it
  // is written. `next` is memory that will be read next, as much as 16 rows have; nullptr: none.
  void (*pack)(const FormatInfo& f, const uint8_t* rows, int n_rows, int64_t cols, uint8_t* group, const uint8_t* next);

  // Quantise `n` floats, and zeros after them, as n_blocks blocks.
  // Round to nearest even; a block that holds a NaN or infinity gets d = NaN, one with all |x| < 1e-30 gets zeros.
  void (*quantize)(const float* x, int64_t n, ActBlock* out, int64_t n_blocks);
  void (*rms_norm)(const float* x, const float* w, int64_t n, float eps, float* out);
  void (*activate)(Activation a, const float* gate, const float* up, int64_t n, float* out);
  void (*gate)(Gate function, const float* by, int64_t n, float* out);  // the function alone
  void (*add)(float* x, const float* y, int64_t n);
  // Of a gated delta rule layer: out[c] = silu(sum over taps of rows[tap][c] * w[tap * ld + c]); x to the given length; one
  // token of one head: S [N][M] *= decay, S += beta k (v - S k), out [M] = S q.
  void (*convolve)(const float* const* rows, const float* w, int64_t ld, int64_t taps, int64_t n, float* out);
  void (*unit)(float* x, int64_t n, float eps, float length);
  void (*delta_step)(float* state, const float* q, const float* k, const float* v, float decay, float beta, int64_t N,
                     int64_t M, float* out);
  void (*accumulate)(double* y, const float* x, float weight, int n);  // y += weight * x, exact products
  void (*exp)(const float* x, int64_t n, float* out);

  // Keys live in tiles of 16 positions, [tile][N][16]; values in rows: attend.inc.h. Where rows are all, `v` is not read.
  void (*store_kv)(KvType type, const KvShape& s, const float* k, const float* v, void* keys, void* values, int64_t pos);
  // Query i (float [N]) attends to seen[i]; firsts and ends ascend and differ by less than a few tokens.
  // scratch: 4 x (the last's end - the first's first, up to a multiple of 16, and 16 more) floats; where rows are all,
  // n_queries instead of 4, and (16 row_dim + n_queries) more.
  void (*attend)(KvType type, const KvShape& s, const float* const* q, const Seen* seen, const void* keys,
                 const void* values, float scale, float* scratch, float* const* out);

  int64_t (*read)(const uint8_t* p, int64_t n);          // xor over n bytes (a multiple of 256): bandwidth
  int32_t (*int8_tile)(int64_t rounds);                  // dot products from registers
  float (*f32_tile)(int64_t rounds);

  GemmFn gemm(Format f) const {
    switch (f) {
      case Format::F32: return gemm_f32;
      case Format::F16: return gemm_f16;
      case Format::BF16: return gemm_bf16;
      case Format::Q8_0: return gemm_q8_0;
      case Format::Q4_0: return gemm_q4_0;
      case Format::Q4_K: return gemm_q4_k;
      case Format::Q5_K: return gemm_q5_k;
      case Format::Q6_K: return gemm_q6_k;
      case Format::MXFP4: return gemm_mxfp4;
      // formats in other formats' tiles: formats.h
      case Format::Q5_0:
      case Format::IQ4_NL: return gemm_q8_0;
      case Format::Q3_K: return gemm_q6_k;
      case Format::IQ1_S:
      case Format::IQ2_XXS:
      case Format::IQ3_XXS:
      case Format::IQ3_S:
      case Format::IQ4_XS: return gemm_int8;
      case Format::IQ1_M:
      case Format::IQ2_XS:
      case Format::IQ2_S:
      case Format::NVFP4: return gemm_int8_halves;
      case Format::Q4_1:
      case Format::Q5_1: return gemm_int8_min;
      case Format::Q2_K: return gemm_int8_halves_min;
    }
    return nullptr;
  }
};

constexpr int kProbeSteps = 12;  // vectors in a round of the tiles
constexpr int64_t kProbeInt8Macs = kProbeSteps * 64;
constexpr int64_t kProbeF32Macs = kProbeSteps * 16;

extern const Kernels kScalarKernels;
extern const Kernels kAvx2Kernels, kAvx2VnniKernels, kAvx512Kernels;            // x86-64: see isa.cpp
extern const Kernels kNeonKernels, kNeonDotprodKernels, kNeonI8mmKernels;  // AArch64

}  // namespace motley
