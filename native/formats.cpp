// Decoding of stored rows. Layouts: formats.h. Block layouts: the GGUF specification and ggml's block structs (facts).
#include "formats.h"

#include <cstring>

namespace motley {
namespace {

const FormatInfo kFormats[] = {
    {Format::F32, 1, 4, 1, 64, false},        {Format::F16, 1, 2, 1, 32, false},
    {Format::BF16, 1, 2, 1, 32, false},       {Format::Q8_0, 32, 34, 64, 1088, true},
    {Format::Q4_0, 32, 18, 64, 576, true},    {Format::Q4_K, 256, 144, 256, 2368, true},
    {Format::Q5_K, 256, 176, 256, 2880, true}, {Format::Q6_K, 256, 210, 256, 3392, true},
    {Format::MXFP4, 32, 17, 128, 1088, true},
    // in Q8_0's and Q6_K's tiles
    {Format::Q5_0, 32, 22, 64, 1088, true},    {Format::IQ4_NL, 32, 18, 64, 1088, true},
    {Format::Q3_K, 256, 110, 256, 3392, true},
    // in Int8 tiles: a scale for 32, for 16, and with minima
    {Format::IQ1_S, 256, 50, 32, 576, true},   {Format::IQ2_XXS, 256, 66, 32, 576, true},
    {Format::IQ3_XXS, 256, 98, 32, 576, true}, {Format::IQ3_S, 256, 110, 32, 576, true},
    {Format::IQ4_XS, 256, 136, 32, 576, true},
    {Format::IQ1_M, 256, 56, 32, 640, true},   {Format::IQ2_XS, 256, 74, 32, 640, true},
    {Format::IQ2_S, 256, 82, 32, 640, true},   {Format::NVFP4, 64, 36, 32, 640, true},
    {Format::Q4_1, 32, 20, 32, 640, true},     {Format::Q5_1, 32, 24, 32, 640, true},
    {Format::Q2_K, 256, 84, 32, 768, true},
};

}  // namespace

float half(const uint8_t* p) {
  uint16_t h;
  std::memcpy(&h, p, 2);
  uint32_t sign = uint32_t(h & 0x8000) << 16, exponent = h >> 10 & 31, mantissa = h & 1023, bits;
  float f;
  if (exponent == 0) {
    f = float(mantissa) * 5.9604644775390625e-08f;  // 2^-24
    std::memcpy(&bits, &f, 4);
    bits |= sign;
  } else {
    bits = sign | (exponent == 31 ? 255u : exponent + 112) << 23 | mantissa << 13;
  }
  std::memcpy(&f, &bits, 4);
  return f;
}

namespace {

// The eight 6-bit scales and mins that Q4_K and Q5_K pack into 12 bytes.
void k_scales(const uint8_t* s, uint8_t scale[8], uint8_t min[8]) {
  for (int j = 0; j < 4; ++j) {
    scale[j] = s[j] & 63;
    min[j] = s[j + 4] & 63;
    scale[j + 4] = uint8_t((s[j + 8] & 15) | (s[j] >> 6) << 4);
    min[j + 4] = uint8_t((s[j + 8] >> 4) | (s[j + 4] >> 6) << 4);
  }
}

// -- decoding, one block each

void decode_q8_0(const uint8_t* b, float* y) {
  float d = half(b);
  for (int i = 0; i < 32; ++i) y[i] = d * float(int8_t(b[2 + i]));
}

void decode_q4_0(const uint8_t* b, float* y) {
  float d = half(b);
  for (int i = 0; i < 16; ++i) {
    y[i] = d * float((b[2 + i] & 15) - 8);
    y[i + 16] = d * float((b[2 + i] >> 4) - 8);
  }
}

// Q4_K, and Q5_K with its plane of high bits at `high` (nullptr: none).
void decode_q45_k(const uint8_t* b, const uint8_t* high, const uint8_t* q, float* y) {
  float d = half(b), dmin = half(b + 2);
  uint8_t scale[8], min[8];
  k_scales(b + 4, scale, min);
  for (int s = 0; s < 8; ++s) {
    float ds = d * float(scale[s]), m = dmin * float(min[s]);
    for (int i = 0; i < 32; ++i) {
      int v = q[s / 2 * 32 + i] >> (s & 1) * 4 & 15;
      if (high) v |= (high[i] >> s & 1) << 4;
      y[s * 32 + i] = ds * float(v) - m;
    }
  }
}

void decode_q6_k(const uint8_t* b, float* y) {
  float d = half(b + 208);
  for (int i = 0; i < 256; ++i) {
    int h = i / 128, k = i % 128 / 32, l = i % 32;  // half, quarter of it, element
    int low = b[h * 64 + (k & 1) * 32 + l] >> (k / 2) * 4 & 15;
    int high = b[128 + h * 32 + l] >> 2 * k & 3;
    y[i] = d * float(int8_t(b[192 + i / 16])) * float((low | high << 4) - 32);
  }
}

// 2^(e - 128), half the scale: subnormal for e of 0 and 1, NaN for 255
float half_scale(uint8_t e) {
  uint32_t bits = e == 255 ? 0x7fc00000u : e < 2 ? 0x200000u << e : uint32_t(e - 1) << 23;
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}

void decode_mxfp4(const uint8_t* b, float* y) {
  float d = half_scale(b[0]);
  for (int i = 0; i < 16; ++i) {
    y[i] = d * float(kMxfp4Values[b[1 + i] & 15] - 16);
    y[i + 16] = d * float(kMxfp4Values[b[1 + i] >> 4] - 16);
  }
}

void decode_int8(const FormatInfo& f, const uint8_t* b, float* y) {
  Int8Block blocks[kInt8Blocks];
  to_int8(f, b, blocks);
  for (int i = 0; i < f.block; ++i) {
    const Int8Block& block = blocks[i / 32];
    y[i] = block.scale[i % 32 / 16] * float(block.q[i % 32]) - block.minimum[i % 32 / 16];
  }
}

}  // namespace

const FormatInfo* find_format(int ggml_type) {
  for (const FormatInfo& f : kFormats)
    if (int(f.format) == ggml_type) return &f;
  return nullptr;
}

void decode_row(const FormatInfo& f, const uint8_t* row, int64_t cols, float* out) {
  for (int64_t k = 0; k < cols; k += f.block, row += f.block_bytes, out += f.block) {
    switch (f.format) {
      case Format::F32: std::memcpy(out, row, 4); break;
      case Format::F16: *out = half(row); break;
      case Format::BF16: {
        uint32_t bits = uint32_t(row[1]) << 24 | uint32_t(row[0]) << 16;
        std::memcpy(out, &bits, 4);
        break;
      }
      case Format::Q8_0: decode_q8_0(row, out); break;
      case Format::Q4_0: decode_q4_0(row, out); break;
      case Format::Q4_K: decode_q45_k(row, nullptr, row + 16, out); break;
      case Format::Q5_K: decode_q45_k(row, row + 16, row + 48, out); break;
      case Format::Q6_K: decode_q6_k(row, out); break;
      case Format::MXFP4: decode_mxfp4(row, out); break;
      default: decode_int8(f, row, out);
    }
  }
}

}  // namespace motley
