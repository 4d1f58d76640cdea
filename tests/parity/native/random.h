// Random and hostile inputs for the checks, the same on every machine.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

struct Random {
  uint64_t state = 88172645463325252u;
  uint32_t bits() {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return uint32_t(state >> 16);
  }
  int between(int from, int to) { return from + int(bits() % uint32_t(to - from + 1)); }  // both included
  float sane() { return float(int32_t(bits())) * 4.6566128730773926e-10f * 3.0f; }       // -3 to 3

  // One of: a special value, any bits at all, something near 1, a tie of f16, a sane value.
  float hostile() {
    static const float specials[] = {0.0f, -0.0f, 1.0f, -1.0f, INFINITY, -INFINITY, NAN, -NAN, 1e-45f, -1e-45f,
                                     1.17549435e-38f, 1e-40f, 3.4028235e38f, -3.4028235e38f, 65504.0f, 65519.99f,
                                     65520.0f, -65520.0f, 5.9604645e-8f, 2.9802322e-8f, 2.9802326e-8f, 6.1035156e-5f,
                                     87.0f, -87.0f, 88.8f, -104.0f, 8388608.0f, 12582912.0f, 16777217.0f, 0.5f, 1e-30f};
    uint32_t b = bits();
    switch (between(0, 4)) {
      case 0: return specials[size_t(between(0, int(sizeof(specials) / sizeof(float)) - 1))];
      case 1: break;
      case 2: b = (b & 0x807fffffu) | uint32_t(between(120, 134)) << 23; break;
      case 3: b = (b & 0x807fe000u) | uint32_t(between(100, 145)) << 23 | 0x1000u; break;
      default: return sane();
    }
    float f;
    std::memcpy(&f, &b, 4);
    return f;
  }
};

// The same bits; any NaN is as good as another.
inline bool same(float a, float b) { return (std::isnan(a) && std::isnan(b)) || std::memcmp(&a, &b, 4) == 0; }
inline bool same(double a, double b) { return (std::isnan(a) && std::isnan(b)) || std::memcmp(&a, &b, 8) == 0; }
