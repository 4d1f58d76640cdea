// All kernels of every instruction set that this CPU runs against the portable ones, to the bit: all formats, odd sizes,
// one token and many, hostile values.
//
// usage: check_kernels BEST   the instruction set that must be chosen here; exits with 1 and says what differs.
#include <algorithm>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <vector>

#include "isa.h"
#include "random.h"

using namespace motley;

namespace {

int failures = 0;
Random rng;

template <class T> void compare(const char* isa, const std::string& what, const std::vector<T>& want, const std::vector<T>& got) {
  for (size_t i = 0; i < want.size(); ++i) {
    if constexpr (std::is_floating_point_v<T>) {
      if (same(want[i], got[i])) continue;
    } else {
      if (want[i] == got[i]) continue;
    }
    ++failures;
    std::printf("%s: %s: element %zu is %.9g, not %.9g\n", isa, what.c_str(), i, double(got[i]), double(want[i]));
    return;
  }
}

std::vector<float> sane(int64_t n) {
  std::vector<float> x(static_cast<size_t>(n));
  for (float& e : x) e = rng.sane();
  return x;
}
std::vector<float> hostile(int64_t n) {
  std::vector<float> x(static_cast<size_t>(n));
  for (float& e : x) e = rng.hostile();
  return x;
}

// Quantised activations of n tokens, and their parts one by one
struct Acts {
  std::vector<ActBlock> blocks;
  std::vector<const void*> token;
  std::vector<int8_t> q;
  std::vector<float> d, dsum;
  std::vector<int32_t> offsets;

  Acts(const Kernels& k, const std::vector<float>& x, int64_t cols, int n) {
    const int64_t each = (cols + 255) / 256 * 8;
    blocks.resize(size_t(n * each));
    for (int t = 0; t < n; ++t) {
      k.quantize(x.data() + t * cols, cols, &blocks[size_t(t * each)], each);
      token.push_back(&blocks[size_t(t * each)]);
    }
    for (const ActBlock& b : blocks) {
      q.insert(q.end(), b.q, b.q + kBlock);
      d.push_back(b.d);
      dsum.insert(dsum.end(), {b.dsum, b.dsums[0], b.dsums[1]});
      offsets.insert(offsets.end(), {b.off8, b.off32[0], b.off32[1]});
    }
  }
};

// Stored blocks of random bytes: scales of any size, infinities and NaN among them where `wild`.
std::vector<uint8_t> stored_rows(const FormatInfo& f, int rows, int64_t cols, bool wild) {
  std::vector<uint8_t> bytes(size_t(rows * row_bytes(f, cols)));
  for (uint8_t& b : bytes) b = uint8_t(rng.bits());
  if (wild) return bytes;
  for (size_t at = 0; at < bytes.size(); at += size_t(f.block_bytes)) {
    auto half = [&](size_t offset) { bytes[at + offset + 1] = uint8_t(0x20 + (bytes[at + offset + 1] & 0x97)); };
    switch (f.format) {
      case Format::F32: bytes[at + 3] = uint8_t(0x3e + (bytes[at + 3] & 0x81)); break;
      case Format::F16: half(0); break;
      case Format::BF16: bytes[at + 1] = uint8_t(0x3e + (bytes[at + 1] & 0x81)); break;
      case Format::Q4_1:
      case Format::Q5_1:
      case Format::Q4_K:
      case Format::Q5_K: half(2); half(0); break;
      case Format::Q2_K: half(80); half(82); break;
      case Format::Q3_K: half(108); break;
      case Format::Q6_K: half(208); break;
      case Format::IQ1_M: bytes[at + 55] = 0x20; break;  // the top four bits of its scale
      case Format::NVFP4: break;
      case Format::MXFP4: bytes[at] = uint8_t(120 + (bytes[at] & 7)); break;
      default: half(0);
    }
  }
  return bytes;
}

void check_format(const Kernels& k, Format format, int rows, int64_t cols, bool wild) {
  const FormatInfo& f = *find_format(int(format));
  cols = (cols + f.block - 1) / f.block * f.block;
  const std::string what = "format " + std::to_string(int(format)) + " [" + std::to_string(rows) + ", " + std::to_string(cols) + "]";
  const std::vector<uint8_t> bytes = stored_rows(f, rows, cols, wild);
  const int64_t group = group_bytes(f, cols);
  std::vector<uint8_t> want_pair(size_t(2 * group)), pair(want_pair.size());
  for (int first = 0; first < rows; first += kRows) {
    const uint8_t* from = bytes.data() + first * row_bytes(f, cols);
    const int n = rows - first < kRows ? rows - first : kRows;
    kScalarKernels.pack(f, from, n, cols, want_pair.data() + first / kRows * group, nullptr);
    k.pack(f, from, n, cols, pair.data() + first / kRows * group, nullptr);
  }
  compare(k.name, what + " packed", want_pair, pair);
  const RowPair w{want_pair.data(), group, rows, want_pair.data()};
  for (int n : {1, 2, 3, 6, 11, 19}) {  // one tile, several, and so many that weights are widened
    const std::vector<float> x = wild ? hostile(n * cols) : sane(n * cols);
    Acts want_acts(kScalarKernels, x, cols, n), acts(k, x, cols, n);
    compare(k.name, "quantised", want_acts.q, acts.q);
    compare(k.name, "scales", want_acts.d, acts.d);
    compare(k.name, "scaled sums", want_acts.dsum, acts.dsum);
    compare(k.name, "offsets", want_acts.offsets, acts.offsets);
    std::vector<const void*> floats;
    for (int t = 0; t < n; ++t) floats.push_back(x.data() + t * cols);
    const void* const* in = f.integer ? want_acts.token.data() : floats.data();
    std::vector<float> want(size_t(n * rows)), got(want.size());
    kScalarKernels.gemm(format)(w, cols, in, n, want.data(), rows);
    k.gemm(format)(w, cols, in, n, got.data(), rows);
    compare(k.name, what + " x " + std::to_string(n), want, got);
  }
}

void check_vectors(const Kernels& k, int64_t n) {
  const Kernels& s = kScalarKernels;
  for (bool wild : {false, true}) {
    const std::vector<float> x = wild ? hostile(n) : sane(n), y = wild ? hostile(n) : sane(n);
    const std::string size = " of " + std::to_string(n);
    std::vector<float> want(x), got(x);
    s.rms_norm(x.data(), y.data(), n, 1e-6f, want.data());
    k.rms_norm(x.data(), y.data(), n, 1e-6f, got.data());
    compare(k.name, "rms_norm" + size, want, got);
    for (Activation a : {Activation::Silu, Activation::Gelu, Activation::Clamped}) {
      s.activate(a, x.data(), y.data(), n, want.data());
      k.activate(a, x.data(), y.data(), n, got.data());
      compare(k.name, "activation " + std::to_string(int(a)) + size, want, got);
    }
    for (Gate g : {Gate::None, Gate::Sigmoid, Gate::Silu}) {
      s.gate(g, x.data(), n, want.data());
      k.gate(g, x.data(), n, got.data());
      compare(k.name, "gate " + std::to_string(int(g)) + size, want, got);
    }
    const float* rows[3] = {x.data(), y.data(), x.data()};
    std::vector<float> taps = sane(3 * n);
    s.convolve(rows, taps.data(), n, 3, n, want.data());
    k.convolve(rows, taps.data(), n, 3, n, got.data());
    compare(k.name, "convolve" + size, want, got);
    want = got = x;
    s.unit(want.data(), n, 1e-6f, 0.5f);
    k.unit(got.data(), n, 1e-6f, 0.5f);
    compare(k.name, "unit" + size, want, got);
    std::vector<float> before = sane(3 * n), after(before), key = sane(3);  // N = 3, M = n
    s.delta_step(before.data(), key.data(), key.data(), x.data(), 0.9f, 0.4f, 3, n, want.data());
    k.delta_step(after.data(), key.data(), key.data(), x.data(), 0.9f, 0.4f, 3, n, got.data());
    compare(k.name, "delta_step" + size, want, got);
    compare(k.name, "state" + size, before, after);
    s.exp(x.data(), n, want.data());
    k.exp(x.data(), n, got.data());
    compare(k.name, "exp" + size, want, got);
    s.add(want.data(), y.data(), n);
    k.add(got.data(), y.data(), n);
    compare(k.name, "add" + size, want, got);
    std::vector<double> want_sum(size_t(n), 0.25), got_sum(want_sum);
    s.accumulate(want_sum.data(), x.data(), 0.3f, int(n));
    k.accumulate(got_sum.data(), x.data(), 0.3f, int(n));
    compare(k.name, "accumulate" + size, want_sum, got_sum);
  }
}

// `window`: 0 none; keys then lie in a ring of 48 positions. `one`: values are the keys' first elements.
void check_attention(const Kernels& k, KvType type, bool one, int head_dim, int n_queries, bool wild, int window) {
  const Kernels& s = kScalarKernels;
  const int value_dim = window ? head_dim / 2 + 1 : head_dim, row_dim = ((one ? head_dim : value_dim) + 15) / 16 * 16;
  const int positions = 37 + n_queries, context = window ? 48 : 64;
  const KvShape shape{head_dim, value_dim, row_dim, context, n_queries, one};
  std::vector<uint8_t> keys[2], values[2];
  for (int i = 0; i < 2; ++i) {
    keys[i].resize(one ? 0 : size_t(context / 16 * kv_tile_bytes(type, head_dim)));
    values[i].resize(size_t(context * kv_row_bytes(type, row_dim) + kKvSlack));
  }
  for (int p = 0; p < positions; ++p) {
    const std::vector<float> key = wild ? hostile(head_dim) : sane(head_dim), value = wild ? hostile(value_dim) : sane(value_dim);
    s.store_kv(type, shape, key.data(), value.data(), keys[0].data(), values[0].data(), p);
    k.store_kv(type, shape, key.data(), value.data(), keys[1].data(), values[1].data(), p);
  }
  if (!wild) {  // the bits of a stored NaN are free
    compare(k.name, "keys", keys[0], keys[1]);
    compare(k.name, "values", values[0], values[1]);
  }
  const std::vector<float> q = sane(n_queries * head_dim);
  std::vector<float> scratch(size_t(std::max(n_queries, 4) * 81 + 16 * row_dim)), out[2];
  std::vector<const float*> queries;
  std::vector<Seen> seen;
  for (int i = 0; i < n_queries; ++i) {
    queries.push_back(q.data() + i * head_dim);
    const int64_t end = positions - (n_queries - 1 - i) / 2;
    seen.push_back({window ? end - window : 0, end, window ? 0.5f * float(i) : -__builtin_inff()});
  }
  for (int i = 0; i < 2; ++i) {
    out[i].resize(size_t(n_queries * value_dim));
    std::vector<float*> to;
    for (int j = 0; j < n_queries; ++j) to.push_back(out[i].data() + j * value_dim);
    (i ? k : s).attend(type, shape, queries.data(), seen.data(), keys[0].data(), values[0].data(), 0.3f, scratch.data(),
                       to.data());
  }
  compare(k.name, "attention of " + std::to_string(n_queries) + " x " + std::to_string(head_dim), out[0], out[1]);
}

void check(const Kernels& k) {
  for (Format f : {Format::F32, Format::F16, Format::BF16, Format::Q8_0, Format::Q4_0, Format::Q4_K, Format::Q5_K,
                   Format::Q6_K, Format::MXFP4, Format::Q4_1, Format::Q5_0, Format::Q5_1, Format::Q2_K, Format::Q3_K,
                   Format::IQ4_NL, Format::IQ4_XS, Format::IQ2_XXS, Format::IQ2_XS, Format::IQ2_S, Format::IQ3_XXS,
                   Format::IQ3_S, Format::IQ1_S, Format::IQ1_M, Format::NVFP4})
    for (bool wild : {false, true}) {
      check_format(k, f, 32, 3 * 256, wild);
      check_format(k, f, 21, 7 * 32 + (f == Format::F32 ? 3 : 0), wild);
      check_format(k, f, 5, 256, wild);
    }
  for (int64_t n : {1, 15, 16, 17, 111}) check_vectors(k, n);
  for (KvType type : {KvType::F32, KvType::F16, KvType::Q8_0})
    for (bool one : {false, true})
      for (int head_dim : {16, 40, 128})
        for (int n : {1, 2, 3, 4, 7})
          for (int window : {0, 21}) check_attention(k, type, one, head_dim, n, n == 3, window);
  std::vector<uint8_t> bytes(4096 + 8192);
  for (uint8_t& b : bytes) b = uint8_t(rng.bits());
  compare<int64_t>(k.name, "read", {kScalarKernels.read(bytes.data(), 4096)}, {k.read(bytes.data(), 4096)});
  compare<int32_t>(k.name, "int8_tile", {kScalarKernels.int8_tile(9)}, {k.int8_tile(9)});
}

// Whatever cannot be had is refused in one sentence that names what can.
void check_refusals() {
  const std::vector<std::string> usable = usable_isas();
  for (const char* name : {"avx512", "avx2-vnni", "avx2", "neon-i8mm", "neon-dotprod", "neon", "scalar", "sse", " "}) {
    bool refused = false;
    try {
      choose_kernels(name);
    } catch (const std::invalid_argument& error) {
      refused = std::string(error.what()).find("take one of " + usable[0]) != std::string::npos;
    }
    if (refused == (std::find(usable.begin(), usable.end(), name) == usable.end())) continue;
    ++failures;
    std::printf("'%s': wrongly refused or had\n", name);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::string best = choose_kernels("")->name;
  if (argc != 2 || best != argv[1]) {
    std::printf("chose %s, not %s\n", best.c_str(), argc > 1 ? argv[1] : "(none named)");
    return 1;
  }
  check_refusals();
  for (const std::string& name : usable_isas()) {
    if (name == "scalar") continue;
    check(*choose_kernels(name));
    std::printf("%s: %d differences so far\n", name.c_str(), failures);
  }
  return failures != 0;
}
