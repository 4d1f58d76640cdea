// The gated delta rule over each sequence: convolution, unit lengths, and the recurrence, token after token.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "device.h"

namespace motley {

std::unique_ptr<DeltaState> Device::delta_state(int64_t slots, int64_t k_heads, int64_t v_heads, int64_t k_dim,
                                                int64_t v_dim, int64_t taps, float eps, bool tiled) {
  if (slots < 1 || k_heads < 1 || v_heads < 1 || v_heads % k_heads || k_dim < 1 || v_dim < 1 || taps < 1)
    throw bad("no state of ", slots, " slots, ", k_heads, " key heads of ", k_dim, ", ", v_heads, " value heads of ",
              v_dim, ", ", taps, " taps");
  if ((long double)slots * (v_heads + taps) * (k_dim + 4) * (v_dim + 4) > 1e14L) throw std::bad_alloc();
  auto s = std::make_unique<DeltaState>(DeltaState{slots, k_heads, v_heads, k_dim, v_dim, taps, eps, tiled, {}});
  s->memory = Buffer(size_t(slots * s->slot_floats()) * sizeof(float), Buffer::Pages::small);
  return s;
}

void Device::delta_net(const float* qkv, const float* write, const float* keep, const float* conv, const float* dt,
                       const float* rate, DeltaState& s, const int32_t* positions, const int32_t* slots, int64_t T,
                       float* out) {
  Op op(*this);
  const int64_t C = s.channels(), V = s.v_heads, N = s.k_dim, M = s.v_dim, taps = s.taps, keys = s.k_heads * N;
  for (int64_t t = 0; t < T; ++t)
    if (slots[t] < 0 || slots[t] >= s.slots) throw bad("slot ", slots[t], " is outside the ", s.slots);

  auto* mixed = reinterpret_cast<float*>(scratch_.grow(size_t(T * C) * sizeof(float)));
  for (const Run& run : find_runs(positions, slots, T)) {
    float* inputs = s.inputs(slots[run.first]);
    if (positions[run.first] == 0) std::memset(s.state(slots[run.first], 0), 0, size_t(s.slot_floats()) * sizeof(float));

    // Convolution over this run's inputs and those remembered. An item is some channels of all tokens.
    constexpr int64_t kEach = 512;
    pool_->run((C + kEach - 1) / kEach, [&](int64_t item, int) {
      const int64_t c = item * kEach, n = std::min(kEach, C - c);
      std::vector<const float*> rows(static_cast<size_t>(taps));
      for (int64_t t = 0; t < run.n; ++t) {
        for (int64_t j = 0; j < taps; ++j) {
          const int64_t at = t + j - (taps - 1);  // of this run; before it: remembered
          rows[size_t(j)] = (at < 0 ? inputs + (at + taps - 1) * C : qkv + (run.first + at) * C) + c;
        }
        kernels_->convolve(rows.data(), conv + c, C, taps, n, mixed + (run.first + t) * C + c);
      }
      // The last taps - 1 inputs, of which some may be old ones: ascending, so that none is written over before it is read.
      for (int64_t j = 0; j < taps - 1; ++j) {
        const int64_t at = run.n + j - (taps - 1);
        std::memmove(inputs + j * C + c, (at < 0 ? inputs + (at + taps - 1) * C : qkv + (run.first + at) * C) + c,
                     size_t(n) * sizeof(float));
      }
    });
    over_tokens(run.n * s.k_heads, 2 * N, [&](int64_t i, int) {
      float* q = mixed + (run.first + i / s.k_heads) * C + i % s.k_heads * N;
      kernels_->unit(q, N, s.eps, float(1 / std::sqrt(double(N))));
      kernels_->unit(q + keys, N, s.eps, 1.0f);
    });
    // Heads know nothing of each other; a head's tokens follow each other.
    pool_->run(V, [&](int64_t h, int) {
      const int64_t key_head = s.tiled ? h % s.k_heads : h / (V / s.k_heads);
      float* state = s.state(slots[run.first], h);
      for (int64_t t = run.first; t < run.first + run.n; ++t) {
        const float *q = mixed + t * C + key_head * N, *k = q + keys, *v = mixed + t * C + 2 * keys + h * M;
        const double x = double(keep[t * V + h]) + double(dt[h]);
        const double softplus = x > 30 ? x : std::log1p(std::exp(x));
        const float decay = float(std::exp(double(rate[h]) * softplus));
        const float beta = float(1 / (1 + std::exp(-double(write[t * V + h]))));
        kernels_->delta_step(state, q, k, v, decay, beta, N, M, out + (t * V + h) * M);
      }
    });
  }
}

}  // namespace motley
