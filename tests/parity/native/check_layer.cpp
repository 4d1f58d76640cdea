// Every function of one vector layer against its portable twin, to the bit, on random and hostile values.
//
// Compile with -DLAYER='"simd_x.h"' -DNAME=x and the layer's flags; exits with 1 and says what differs.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>

#include "random.h"

#define MOTLEY_ISA scalar
#include "simd_scalar.h"
#undef MOTLEY_ISA
#define MOTLEY_ISA NAME
#include LAYER

namespace s = motley::scalar;
namespace t = motley::NAME;

namespace {

int failures = 0;
Random rng;

void fail(const char* what, int lane, double want, double got) {
  if (++failures <= 20) std::printf("%s: lane %d is %.9g, not %.9g\n", what, lane, got, want);
}

struct Lanes {
  float f[16];
  int32_t i[16];
  uint8_t b[64];
};

Lanes hostile() {
  Lanes r;
  for (int l = 0; l < 16; ++l) {
    r.f[l] = rng.hostile();
    r.i[l] = rng.between(0, 3) ? int32_t(rng.bits()) : rng.between(-300, 300);
  }
  for (uint8_t& b : r.b) b = uint8_t(rng.bits());
  return r;
}

void compare(const char* what, const float* want, const float* got, int n = 16) {
  for (int l = 0; l < n; ++l)
    if (!same(want[l], got[l])) fail(what, l, want[l], got[l]);
}
template <class T> void compare_exactly(const char* what, const T* want, const T* got, int n) {
  for (int l = 0; l < n; ++l)
    if (want[l] != got[l]) fail(what, l, want[l], got[l]);
}

// Values travel through memory, so that each layer sees them in its own type.
s::i32 load_i32(s::i32*, const int32_t* p) { return s::bits_of(s::load((const float*)p)); }
t::i32 load_i32(t::i32*, const int32_t* p) { return t::bits_of(t::load((const float*)p)); }
void store_i32(int32_t* p, s::i32 a) { s::store((float*)p, s::float_of(a)); }
void store_i32(int32_t* p, t::i32 a) { t::store((float*)p, t::float_of(a)); }

// `x`, `y`, `z`: floats; `i`, `j`: integers; `v`, `u`: bytes; `expression` is in terms of the layer `L`
#define INPUTS(L)                                                                                               \
  L::f32 x = L::load(a.f), y = L::load(b.f), z = L::load(c.f);                                                  \
  L::i32 i = load_i32((L::i32*)nullptr, a.i), j = load_i32((L::i32*)nullptr, b.i);                              \
  L::u8v v = L::load_bytes(a.b), u = L::load_bytes(b.b);                                                        \
  (void)x, (void)y, (void)z, (void)i, (void)j, (void)v, (void)u
#define EITHER_LAYER(type, n, store_result, comparison, name, ...)                                              \
  {                                                                                                             \
    type want[n] = {}, got[n] = {};                                                                             \
    { namespace L = motley::scalar; INPUTS(L); store_result(L, want, (__VA_ARGS__)); }                          \
    { namespace L = motley::NAME; INPUTS(L); store_result(L, got, (__VA_ARGS__)); }                             \
    comparison(name, want, got, n);                                                                             \
  }
#define STORE_F32(L, to, e) L::store(to, e)
#define STORE_I32(L, to, e) store_i32(to, e)
#define STORE_U8(L, to, e) L::store_bytes(to, e)
#define STORE_ONE(L, to, e) to[0] = e
#define FLOATS(name, ...) EITHER_LAYER(float, 16, STORE_F32, compare, name, __VA_ARGS__)
#define FLOAT(name, ...) EITHER_LAYER(float, 1, STORE_ONE, compare, name, __VA_ARGS__)
#define INTS(name, ...) EITHER_LAYER(int32_t, 16, STORE_I32, compare_exactly, name, __VA_ARGS__)
#define INT(name, ...) EITHER_LAYER(int32_t, 1, STORE_ONE, compare_exactly, name, __VA_ARGS__)
#define BYTES(name, ...) EITHER_LAYER(uint8_t, 64, STORE_U8, compare_exactly, name, __VA_ARGS__)

template <int K> void check_shifts(const Lanes& a, const Lanes& b, const Lanes& c) {
  const uint8_t m = b.b[0] & uint8_t(K >= 0 ? 255 >> (K & 7) : 255 << (-K & 7));
  BYTES("shift_mask", L::shift_mask<K>(v, m));
  if constexpr (K >= 0) INTS("shli", L::shli<3 * K + 2>(i));
  if constexpr (K < 7) check_shifts<K + 1>(a, b, c);
}

void check_values() {
  const Lanes a = hostile(), b = hostile(), c = hostile();
  FLOATS("set1", L::set1(a.f[3]));
  FLOATS("add", L::add(x, y));
  FLOATS("sub", L::sub(x, y));
  FLOATS("mul", L::mul(x, y));
  FLOATS("div", L::div(x, y));
  FLOATS("fma", L::fma(x, y, z));
  FLOATS("fnma", L::fnma(x, y, z));
  FLOATS("max", L::max(x, y));
  FLOATS("min", L::min(x, y));
  FLOAT("sum", L::sum(x));
  FLOAT("hmax", L::hmax(x));
  FLOATS("to_float", L::to_float(i));
  FLOATS("float_of", L::float_of(i));
  FLOATS("load_bf16", L::load_bf16((const uint16_t*)a.b));
  INTS("set1i", L::set1i(a.i[5]));
  INTS("load_u8", L::load_u8(a.b + 3));
  INTS("load_i8", L::load_i8((const int8_t*)a.b + 3));
  INTS("addi", L::addi(i, j));
  INTS("muli", L::muli(i, j));
  INTS("andi", L::andi(i, j));
  INTS("maxi", L::maxi(i, j));
  INTS("bits_of", L::bits_of(x));
  INT("sumi", L::sumi(i));
  INT("hmaxi", L::hmaxi(i));
  BYTES("mask", L::mask(v, b.b[0]));
  BYTES("flip", L::flip(v, b.b[0]));
  BYTES("either", L::either(v, u));
  BYTES("lookup", L::lookup(L::table16(b.b), L::mask(v, 15)));
  BYTES("bytes_apart", L::bytes_apart(v));
  BYTES("halves_apart", L::halves_apart(v));
  check_shifts<-7>(a, b, c);
  int8_t small[16], small_got[16];
  s::store_i8(small, load_i32((s::i32*)nullptr, a.i));
  t::store_i8(small_got, load_i32((t::i32*)nullptr, a.i));
  compare_exactly("store_i8", small, small_got, 16);

  // The portable fused multiply-add is made of other operations: here the C library has the say.
  float fused[16], portable[16];
  s::store(portable, s::fma(s::load(a.f), s::load(b.f), s::load(c.f)));
  for (int l = 0; l < 16; ++l) fused[l] = std::fma(a.f[l], b.f[l], c.f[l]);
  compare("portable fma", fused, portable);
}

void check_sums_near_cancellation() {
  Lanes a = hostile(), b = hostile(), c;
  for (int l = 0; l < 16; ++l) {
    a.f[l] = rng.sane();
    b.f[l] = rng.sane();
    float near = -a.f[l] * b.f[l];
    uint32_t bits;
    std::memcpy(&bits, &near, 4);
    bits += uint32_t(rng.between(-3, 3));
    std::memcpy(&c.f[l], &bits, 4);
    c.i[l] = 0;
  }
  std::memset(c.b, 0, 64);
  FLOATS("fma", L::fma(x, y, z));
  FLOATS("fnma", L::fnma(x, y, z));
}

// Weights and activations as the kernels have them, the extremes often.
void check_dots() {
  Lanes a = hostile(), b = hostile(), c = hostile();
  int8_t q[4];
  int32_t sum = 0;
  const bool extreme = rng.between(0, 1);
  for (int8_t& e : q) sum += e = int8_t(extreme ? (rng.between(0, 1) ? 127 : -127) : rng.between(-127, 127));
  for (uint8_t& w : b.b) w = uint8_t(rng.between(0, 3) ? rng.between(0, 255) : rng.between(0, 1) * 255);
  for (int l = 0; l < 64; ++l) a.b[l] = rng.between(0, 3) ? b.b[l] & 63 : 63;
  INTS("dot4", L::dot4(i, v, q));
  INTS("dot4_biased", L::dot4_biased(L::start_biased(-8 * sum), u, q));
}

void check_halves() {
  for (int h = 0; h < 1 << 16; h += 16) {
    uint16_t halves[16];
    for (int l = 0; l < 16; ++l) halves[l] = uint16_t(h + l);
    float want[16], got[16];
    s::store(want, s::load_f16(halves));
    t::store(got, t::load_f16(halves));
    compare("load_f16", want, got);
  }
  for (int round = 0; round < 20000; ++round) {
    float f[16], back_want[16], back_got[16];
    uint16_t want[16], got[16];
    for (float& e : f) e = rng.hostile();
    s::store_f16(want, s::load(f));
    t::store_f16(got, t::load(f));
    for (int l = 0; l < 16; ++l) {  // as floats: any NaN will do
      if (std::isnan(f[l]) && (want[l] & 0x7fff) > 0x7c00 && (got[l] & 0x7fff) > 0x7c00) got[l] = want[l];
      back_want[l] = want[l];
      back_got[l] = got[l];
    }
    compare("store_f16", back_want, back_got);
  }
}

// Partial loads and stores touch nothing outside, not even where there is no memory.
void check_bounds() {
  const size_t page = size_t(sysconf(_SC_PAGESIZE));
  auto* p = (uint8_t*)mmap(nullptr, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED || mprotect(p + page, page, PROT_NONE) != 0) fail("mmap", 0, 0, 0);
  for (int n = 0; n <= 16; ++n) {
    float* end = (float*)(p + page) - n;
    const Lanes a = hostile(), b = hostile(), c = hostile();
    std::memcpy(end, b.f, size_t(n) * 4);
    FLOATS("load_n", L::load_n(end, n));
    t::store_n(end, t::load(a.f), n);
    compare("store_n", a.f, end, n);
    float want[16] = {}, got[16] = {};
    std::memcpy(want, a.f, size_t(n) * 4);
    t::store_n(got, t::load(a.f), n);
    compare("beyond store_n", want, got);
  }
}

void check_interleave() {
  uint8_t rows[16 * 37 + 16];
  for (uint8_t& r : rows) r = uint8_t(rng.bits());
  s::u8v want[4];
  t::u8v got[4];
  s::interleave4(rows + 1, 37, want);
  t::interleave4(rows + 1, 37, got);
  for (int w = 0; w < 4; ++w) {
    uint8_t a[64], b[64];
    s::store_bytes(a, want[w]);
    t::store_bytes(b, got[w]);
    compare_exactly("interleave4", a, b, 64);
  }
}

}  // namespace

int main() {
  for (int round = 0; round < 4000; ++round) {
    check_values();
    check_sums_near_cancellation();
    check_dots();
  }
  check_halves();
  check_bounds();
  for (int round = 0; round < 100; ++round) check_interleave();
  std::printf("%s: %d differences\n", LAYER, failures);
  return failures != 0;
}
