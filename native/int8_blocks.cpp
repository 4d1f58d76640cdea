// Formats without tiles of their own, block by block in a form that has: small integers with their scales, exactly.
// Block layouts: src/motley/formats/blocks.py; the order of the float operations is the GGUF reference's.
#include <cstring>
#include <string>
#include <vector>

#include "formats.h"

namespace motley {
namespace {

// ---------------------------------------------------------------- grids

struct Grid {
  const char* name;
  int width, n_levels;
  int8_t levels[8];
  const char* points;  // a bit map in hexadecimal
};

const Grid kGrids[] = {
#include "../src/motley/formats/iq_grids.inc"
};

// The points of a grid one after the other.
std::vector<int8_t> points_of(const char* name) {
  std::vector<int8_t> points;
  for (const Grid& grid : kGrids) {
    if (std::string(grid.name) != name) continue;
    for (int n = 0; grid.points[n / 4]; ++n) {  // bit n: of byte n / 8, whose high digit is written first
      const char c = grid.points[n / 4 ^ 1];
      const int digit = c <= '9' ? c - '0' : c - 'a' + 10;
      if (!(digit >> n % 4 & 1)) continue;
      for (int i = 0, rest = n; i < grid.width; ++i, rest /= grid.n_levels)
        points.push_back(grid.levels[rest % grid.n_levels]);
    }
  }
  return points;
}

const int8_t* grid(Format f) {
  using Points = const std::vector<int8_t>;
  static Points iq2_xxs = points_of("IQ2_XXS"), iq2_xs = points_of("IQ2_XS"), iq2_s = points_of("IQ2_S"),
                iq3_xxs = points_of("IQ3_XXS"), iq3_s = points_of("IQ3_S"), iq1_s = points_of("IQ1_S");
  switch (f) {
    case Format::IQ2_XXS: return iq2_xxs.data();
    case Format::IQ2_XS: return iq2_xs.data();
    case Format::IQ2_S: return iq2_s.data();
    case Format::IQ3_XXS: return iq3_xxs.data();
    case Format::IQ3_S: return iq3_s.data();
    default: return iq1_s.data();
  }
}

// ---------------------------------------------------------------- parts of blocks

uint32_t word16(const uint8_t* p) { return uint32_t(p[0]) | uint32_t(p[1]) << 8; }
uint32_t word32(const uint8_t* p) { return word16(p) | word16(p + 2) << 16; }
int nibble(const uint8_t* p, int i) { return p[i / 2] >> (i & 1) * 4 & 15; }  // two in a byte, the low one first

// The same for both halves
void set_scale(Int8Block& out, float scale, float minimum = 0) {
  out.scale[0] = out.scale[1] = scale;
  out.minimum[0] = out.minimum[1] = minimum;
}

// 32 values from 16 bytes: the low nibbles, then the high ones
void set_nibbles(Int8Block& out, const uint8_t* qs) {
  for (int i = 0; i < 16; ++i) {
    out.q[i] = int8_t(qs[i] & 15);
    out.q[i + 16] = int8_t(qs[i] >> 4);
  }
}

uint64_t bytes8(const void* p) {
  uint64_t bytes;
  std::memcpy(&bytes, p, 8);
  return bytes;
}
uint64_t bytes4(const void* p) {
  uint32_t bytes;
  std::memcpy(&bytes, p, 4);
  return bytes;
}

// Byte i is bit i of a byte.
constexpr uint64_t kOnes = 0x0101010101010101;
uint64_t bits_apart(uint64_t bits) { return (((bits & 255) * kOnes & 0x8040201008040201) + 127 * kOnes) >> 7 & kOnes; }

// The same with a fifth bit each at `high`, and what stands for zero taken off
void set_five_bits(Int8Block& out, const uint8_t* qs, const uint8_t* high, int zero) {
  set_nibbles(out, qs);
  for (int i = 0; i < 4; ++i) {
    const uint64_t q = bytes8(out.q + 8 * i) | bits_apart(high[i]) << 4;
    std::memcpy(out.q + 8 * i, &q, 8);
  }
  for (int i = 0; i < 32; ++i) out.q[i] = int8_t(out.q[i] - zero);
}

constexpr int8_t kIq4Values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

void set_iq4(Int8Block& out, const uint8_t* qs) {
  for (int i = 0; i < 16; ++i) {
    out.q[i] = kIq4Values[qs[i] & 15];
    out.q[i + 16] = kIq4Values[qs[i] >> 4];
  }
}

// Eight values above 0, a byte each, with their signs, a bit each, 1 for minus. All at once: minus x is the complement
// of x and one more, and no byte carries into the next.
void set_signed(int8_t* q, uint64_t values, uint32_t signs) {
  const uint64_t minus = bits_apart(signs), both = (values ^ minus * 255) + minus;
  std::memcpy(q, &both, 8);
}

// Seven signs are stored; the eighth makes the number of minus signs even.
uint32_t eight_signs(uint32_t seven) {
  seven &= 127;
  uint32_t parity = seven ^ seven >> 4;
  parity ^= parity >> 2;
  return seven | ((parity ^ parity >> 1) & 1) << 7;
}

// ---------------------------------------------------------------- formats

void from_q2_k(const uint8_t* b, Int8Block* out) {
  const float d = half(b + 80), dmin = half(b + 82);
  for (int s = 0; s < 8; ++s) {
    for (int h = 0; h < 2; ++h) {
      out[s].scale[h] = d * float(b[2 * s + h] & 15);
      out[s].minimum[h] = dmin * float(b[2 * s + h] >> 4);
    }
    const uint8_t* qs = b + 16 + s / 4 * 32;
    for (int i = 0; i < 32; ++i) out[s].q[i] = int8_t(qs[i] >> s % 4 * 2 & 3);
  }
}

int q3_k_scale(const uint8_t* s, int i) {
  const int low = i < 8 ? s[i] & 15 : s[i - 8] >> 4;
  return (low | (s[8 + i % 4] >> i / 4 * 2 & 3) << 4) - 32;
}

// Elements 32 s .. 32 s + 31, 4 added
void q3_k_values(const uint8_t* b, int s, uint8_t* q) {
  const uint8_t* qs = b + 32 + s / 4 * 32;
  for (int i = 0; i < 32; ++i) q[i] = uint8_t((qs[i] >> s % 4 * 2 & 3) | (b[i] >> s & 1) << 2);
}

void from_q3_k(const uint8_t* b, Int8Block* out) {
  const float d = half(b + 108);
  for (int s = 0; s < 8; ++s) {
    set_scale(out[s], 0);
    for (int h = 0; h < 2; ++h) out[s].scale[h] = d * float(q3_k_scale(b + 96, 2 * s + h));
    uint8_t q[32];
    q3_k_values(b, s, q);
    for (int i = 0; i < 32; ++i) out[s].q[i] = int8_t(q[i] - 4);
  }
}

void from_iq4_xs(const uint8_t* b, Int8Block* out) {
  const float d = half(b);
  for (int s = 0; s < 8; ++s) {
    const int scale = nibble(b + 4, s) | int(word16(b + 2) >> 2 * s & 3) << 4;
    set_scale(out[s], d * float(scale - 32));
    set_iq4(out[s], b + 8 + 16 * s);
  }
}

void from_iq2_xxs(const uint8_t* b, Int8Block* out) {
  const float d = half(b);
  const int8_t* points = grid(Format::IQ2_XXS);
  for (int s = 0; s < 8; ++s) {
    const uint8_t* index = b + 2 + 8 * s;
    const uint32_t signs = word32(index + 4);
    set_scale(out[s], d * (0.5f + float(signs >> 28)) * 0.25f);
    for (int j = 0; j < 4; ++j)
      set_signed(out[s].q + 8 * j, bytes8(points + 8 * index[j]), eight_signs(signs >> 7 * j));
  }
}

// Scales of 16 values, two in a byte
void set_iq2_scales(const uint8_t* scales, float d, Int8Block* out) {
  for (int s = 0; s < 16; ++s) {
    out[s / 2].scale[s % 2] = d * (0.5f + float(nibble(scales, s))) * 0.25f;
    out[s / 2].minimum[s % 2] = 0;
  }
}

void from_iq2_xs(const uint8_t* b, Int8Block* out) {
  set_iq2_scales(b + 66, half(b), out);
  const int8_t* points = grid(Format::IQ2_XS);
  for (int j = 0; j < 32; ++j) {
    const uint32_t q = word16(b + 2 + 2 * j);
    set_signed(out[j / 4].q + j % 4 * 8, bytes8(points + 8 * (q & 511)), eight_signs(q >> 9));
  }
}

void from_iq2_s(const uint8_t* b, Int8Block* out) {
  set_iq2_scales(b + 74, half(b), out);
  const int8_t* points = grid(Format::IQ2_S);
  for (int j = 0; j < 32; ++j) {
    const int index = b[2 + j] | (b[66 + j / 4] >> j % 4 * 2 & 3) << 8;
    set_signed(out[j / 4].q + j % 4 * 8, bytes8(points + 8 * index), b[34 + j]);
  }
}

void from_iq3_xxs(const uint8_t* b, Int8Block* out) {
  const float d = half(b);
  const int8_t* points = grid(Format::IQ3_XXS);
  for (int s = 0; s < 8; ++s) {
    const uint8_t* index = b + 2 + 8 * s;
    const uint32_t signs = word32(b + 66 + 4 * s);
    set_scale(out[s], d * (0.5f + float(signs >> 28)) * 0.5f);
    for (int j = 0; j < 4; ++j) {
      const uint64_t both = bytes4(points + 4 * index[2 * j]) | bytes4(points + 4 * index[2 * j + 1]) << 32;
      set_signed(out[s].q + 8 * j, both, eight_signs(signs >> 7 * j));
    }
  }
}

void from_iq3_s(const uint8_t* b, Int8Block* out) {
  const float d = half(b);
  const int8_t* points = grid(Format::IQ3_S);
  for (int s = 0; s < 8; ++s) {
    set_scale(out[s], d * float(1 + 2 * nibble(b + 106, s)));
    auto point = [&](int j) { return bytes4(points + 4 * (b[2 + 8 * s + j] | (b[66 + s] >> j & 1) << 8)); };
    for (int j = 0; j < 4; ++j)
      set_signed(out[s].q + 8 * j, point(2 * j) | point(2 * j + 1) << 32, b[74 + 4 * s + j]);
  }
}

// 8 values of IQ1: the point and an eighth more or less, in eighths
void set_eighths(int8_t* q, const int8_t* point, bool less) {
  for (int i = 0; i < 8; ++i) q[i] = int8_t(8 * point[i] + (less ? -1 : 1));
}

void from_iq1_s(const uint8_t* b, Int8Block* out) {
  const float d = half(b);
  const int8_t* points = grid(Format::IQ1_S);
  for (int s = 0; s < 8; ++s) {
    const uint32_t high = word16(b + 34 + 2 * s);
    set_scale(out[s], d * float(2 * (high >> 12 & 7) + 1) * 0.125f);
    for (int j = 0; j < 4; ++j)
      set_eighths(out[s].q + 8 * j, points + 8 * (b[2 + 4 * s + j] | (high >> 3 * j & 7) << 8), high >> 15);
  }
}

void from_iq1_m(const uint8_t* b, Int8Block* out) {
  const uint8_t* scales = b + 48;
  uint8_t d_bytes[2];  // a quarter of it in the top of each word
  for (int i = 0; i < 2; ++i) d_bytes[i] = uint8_t(scales[4 * i + 1] >> 4 | (scales[4 * i + 3] & 0xf0));
  const float d = half(d_bytes);
  for (int s = 0; s < 16; ++s) {
    const uint32_t scale = word16(scales + s / 4 * 2) >> s % 4 * 3 & 7;
    out[s / 2].scale[s % 2] = d * float(2 * scale + 1) * 0.125f;
    out[s / 2].minimum[s % 2] = 0;
  }
  const int8_t* points = grid(Format::IQ1_S);
  for (int j = 0; j < 32; ++j) {
    const int high = nibble(b + 32, j);
    set_eighths(out[j / 4].q + j % 4 * 8, points + 8 * (b[j] | (high & 7) << 8), high & 8);
  }
}

// Half of an E4M3 (bias 7) without its sign; 0x7f is 0, as in ggml
float e4m3_half(uint8_t x) {
  const int exponent = x >> 3 & 15, mantissa = x & 7;
  if (x == 0x7f) return 0;
  if (exponent == 0) return float(mantissa) * 0.0009765625f;  // 2^-10
  return float(mantissa + 8) * float(1 << exponent) * 0.00048828125f;  // 2^-11
}

void from_nvfp4(const uint8_t* b, Int8Block* out) {
  for (int s = 0; s < 4; ++s) {
    Int8Block& block = out[s / 2];
    block.scale[s % 2] = e4m3_half(b[s]);
    block.minimum[s % 2] = 0;
    for (int i = 0; i < 16; ++i) {
      const uint8_t both = b[4 + 8 * s + i % 8];
      block.q[s % 2 * 16 + i] = int8_t(kMxfp4Values[i < 8 ? both & 15 : both >> 4] - 16);
    }
  }
}

}  // namespace

void to_int8(const FormatInfo& f, const uint8_t* b, Int8Block* out) {
  switch (f.format) {
    case Format::Q4_1:
      set_scale(*out, half(b), -half(b + 2));
      return set_nibbles(*out, b + 4);
    case Format::Q5_0:
      set_scale(*out, half(b));
      return set_five_bits(*out, b + 6, b + 2, 16);
    case Format::Q5_1:
      set_scale(*out, half(b), -half(b + 2));
      return set_five_bits(*out, b + 8, b + 4, 0);
    case Format::IQ4_NL:
      set_scale(*out, half(b));
      return set_iq4(*out, b + 2);
    case Format::Q2_K: return from_q2_k(b, out);
    case Format::Q3_K: return from_q3_k(b, out);
    case Format::IQ4_XS: return from_iq4_xs(b, out);
    case Format::IQ2_XXS: return from_iq2_xxs(b, out);
    case Format::IQ2_XS: return from_iq2_xs(b, out);
    case Format::IQ2_S: return from_iq2_s(b, out);
    case Format::IQ3_XXS: return from_iq3_xxs(b, out);
    case Format::IQ3_S: return from_iq3_s(b, out);
    case Format::IQ1_S: return from_iq1_s(b, out);
    case Format::IQ1_M: return from_iq1_m(b, out);
    case Format::NVFP4: return from_nvfp4(b, out);
    // these have tiles of their own
    case Format::F32: case Format::F16: case Format::BF16: case Format::Q8_0: case Format::Q4_0: case Format::Q4_K:
    case Format::Q5_K: case Format::Q6_K: case Format::MXFP4: return;
  }
}

void to_q8_0(const FormatInfo& f, const uint8_t* block, uint8_t* out) {
  Int8Block values;
  to_int8(f, block, &values);
  std::memcpy(out, block, 2);  // d is the first of each
  std::memcpy(out + 2, values.q, 32);
}

void to_q6_k(const FormatInfo&, const uint8_t* block, uint8_t* out) {
  std::memset(out, 0, 192);
  for (int s = 0; s < 8; ++s) {
    const int h = s / 4, k = s % 4;  // as in decode_q6_k
    uint8_t q[32], *low = out + h * 64 + (k & 1) * 32, *high = out + 128 + h * 32;
    q3_k_values(block, s, q);
    for (int i = 0; i < 32; ++i) {
      const int six = q[i] + 28;  // 4 to be taken off, 32 in Q6_K
      low[i] |= uint8_t((six & 15) << k / 2 * 4);
      high[i] |= uint8_t(six >> 4 << 2 * k);
    }
  }
  for (int s = 0; s < 16; ++s) out[192 + s] = uint8_t(q3_k_scale(block + 96, s));
  std::memcpy(out + 208, block + 108, 2);
}

}  // namespace motley
