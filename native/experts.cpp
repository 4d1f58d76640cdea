// The experts of one layer: silu(gate x) * up x, then down, for every (token, expert) pair that is owned here.
//
// Pairs are grouped by expert, so that an expert's weights are read once however many tokens chose it. Two parallel
// passes: the first makes hidden activations, 32 rows of gate and up at a time, and quantises them at once (32 is a
// quantisation block); the second multiplies by down and adds into float64. Each output element belongs to one item,
// which goes through the experts in ascending order: the sum's order depends on nothing but the token's choice.
#include <algorithm>
#include <cstring>

#include "device.h"

namespace motley {
namespace {

struct Pair {
  int64_t token;
  float weight;
};

struct Chosen {  // an expert that some token chose
  int64_t index;         // among the owned
  int64_t first_pair, n_pairs;
  size_t first_slice, n_slices;
};

}  // namespace

void Device::experts(const float* x, int64_t T, int64_t d_model, const int32_t* ids, const float* weights,
                     int64_t n_used, const ExpertSet& set, double* y) {
  Op op(*this);
  const int64_t D = set.gate.cols, F = set.gate.rows, E = int64_t(set.local.size());
  if (d_model != D) throw bad("x has ", d_model, " columns, the experts ", D);
  for (int64_t i = 0; i < T * n_used; ++i)
    if (ids[i] < 0 || ids[i] >= E) throw bad("expert ", ids[i], " is outside the layer's ", E);
  std::memset(y, 0, size_t(T * D) * sizeof(double));

  // Count and sort the pairs by owned index: experts ascending, tokens ascending within.
  std::vector<int64_t> start(size_t(E) + 1, 0);
  for (int64_t i = 0; i < T * n_used; ++i) ++start[size_t(ids[i]) + 1];
  std::vector<Chosen> chosen;
  int64_t n_pairs = 0;
  for (int64_t e = 0; e < E; ++e) {
    int64_t n = start[size_t(e) + 1];
    start[size_t(e)] = n_pairs;
    if (set.local[size_t(e)] < 0 || n == 0) continue;
    chosen.push_back({set.local[size_t(e)], n_pairs, n, 0, 0});
    n_pairs += n;
  }
  if (n_pairs == 0) return;
  std::vector<Pair> pairs(static_cast<size_t>(n_pairs));
  for (int64_t i = 0; i < T * n_used; ++i) {
    if (set.local[size_t(ids[i])] < 0) continue;
    pairs[size_t(start[size_t(ids[i])]++)] = {i / n_used, weights[i]};
  }

  // Inputs: each token quantised once, then gathered into the panels of each expert.
  const bool int_in = set.gate.format->integer || set.up.format->integer, int_hidden = set.down.format->integer;
  split_panels(x, T, D, int_in, true);
  if (int_in) gathered_.reserve(n_pairs, D);
  if (int_hidden) hidden_.reserve(n_pairs, F);
  else hidden_floats_.grow(size_t(n_pairs * F) * sizeof(float));
  std::vector<Slice> slices;
  for (Chosen& c : chosen) {
    c.first_slice = slices.size();
    for (int64_t i = 0; i < c.n_pairs;) {
      int n = kMaxPanel;
      while (n > c.n_pairs - i) n /= 2;
      int64_t first = c.first_pair + i, token = pairs[size_t(first)].token;
      Slice s;
      if (int_in) s.panel = n == 1 ? slices_[size_t(token)].panel : gathered_.panel(first, n);
      s.panel.n = n;
      s.first = first;
      for (int u = 0; u < n; ++u) s.panel.x[u] = x + pairs[size_t(first + u)].token * D;
      slices.push_back(s);
      i += n;
    }
    c.n_slices = slices.size() - c.first_slice;
  }
  if (int_in && n_pairs > int64_t(chosen.size()))
    over_tokens(int64_t(slices.size()), D, [&](int64_t i, int) {
      Slice& s = slices[size_t(i)];
      for (int u = 0; s.panel.n > 1 && u < s.panel.n; ++u)
        copy_token(slices_[size_t(pairs[size_t(s.first + u)].token)].panel, 0, s.panel, u, acts_.blocks());
    });
  auto* hidden_floats = reinterpret_cast<float*>(hidden_floats_.data());
  auto hidden_panel = [&](const Slice& s) {
    Panel p;
    if (int_hidden) p = hidden_.panel(s.first, s.panel.n);
    p.n = s.panel.n;
    for (int u = 0; u < p.n; ++u) p.x[u] = hidden_floats + (s.first + u) * F;
    return p;
  };

  // Pass 1: an item is an expert and some blocks of 32 hidden rows.
  const int64_t blocks = (F + kBlock - 1) / kBlock;
  const int64_t per_item = T > 16 ? 1 : std::max<int64_t>(1, (1 << 16) / (2 * (set.gate.group_size() + set.up.group_size())));
  const int64_t items = (blocks + per_item - 1) / per_item;
  GemmFn gate_gemm = kernels_->gemm(set.gate.format->format), up_gemm = kernels_->gemm(set.up.format->format);
  reserve_groups(4, std::max({set.gate.group_size(), set.up.group_size(), set.down.group_size()}));
  pool_->run(int64_t(chosen.size()) * items, [&](int64_t item, int worker) {
    const Chosen& c = chosen[size_t(item / items)];
    Packed gate = ExpertSet::at(set.gate, c.index), up = ExpertSet::at(set.up, c.index);
    int64_t first = item % items * per_item, end = std::min(blocks, first + per_item);
    alignas(64) float g[kMaxPanel * kBlock], u[kMaxPanel * kBlock];
    for (int64_t b = first; b < end; ++b) {
      const int64_t rows = std::min<int64_t>(kBlock, F - b * kBlock);
      const uint8_t *gates[2], *ups[2];
      for (int half = 0; half * kRows < rows; ++half) {
        gates[half] = ready(gate, 2 * b + half, worker, half);
        ups[half] = ready(up, 2 * b + half, worker, 2 + half);
      }
      for (size_t i = c.first_slice; i < c.first_slice + c.n_slices; ++i) {
        const Slice& s = slices[i];
        for (int64_t half = 0; half * kRows < rows; ++half) {
          int64_t group = 2 * b + half;
          gate_gemm(gates[half], D, s.panel, g + half * kRows, kBlock, gate.rows_of(group));
          up_gemm(ups[half], D, s.panel, u + half * kRows, kBlock, up.rows_of(group));
        }
        Panel h = hidden_panel(s);
        for (int t = 0; t < s.panel.n; ++t) {
          float* value = g + t * kBlock;
          kernels_->silu_mul(value, u + t * kBlock, rows, value);
          if (int_hidden) kernels_->quantize(value, rows, h, t, b, b + 1 < blocks ? 1 : hidden_.blocks() - b);
          else std::memcpy(hidden_floats + (s.first + t) * F + b * kBlock, value, size_t(rows) * sizeof(float));
        }
      }
    }
  });

  // Pass 2: an item is some row groups of the output, over all chosen experts.
  const int64_t groups = set.down.groups();
  const int64_t per_item2 = T > 16 ? 1 : std::max<int64_t>(1, (1 << 16) / set.down.group_size());
  GemmFn down_gemm = kernels_->gemm(set.down.format->format);
  pool_->run((groups + per_item2 - 1) / per_item2, [&](int64_t item, int worker) {
    int64_t first = item * per_item2, end = std::min(groups, first + per_item2);
    alignas(64) float part[kMaxPanel * kRows];
    for (const Chosen& c : chosen) {
      Packed down = ExpertSet::at(set.down, c.index);
      for (int64_t g = first; g < end; ++g) {
        const uint8_t* data = ready(down, g, worker, 0);
        for (size_t i = c.first_slice; i < c.first_slice + c.n_slices; ++i) {
          const Slice& s = slices[i];
          down_gemm(data, F, hidden_panel(s), part, kRows, down.rows_of(g));
          for (int t = 0; t < s.panel.n; ++t) {
            const Pair& p = pairs[size_t(s.first + t)];
            kernels_->accumulate(y + p.token * D + g * kRows, part + t * kRows, p.weight, down.rows_of(g));
          }
        }
      }
    }
  });
}

}  // namespace motley
