// The experts of one layer: activation(gate x, up x), then down, for every (token, expert) pair that is owned here.
//
// Pairs are grouped by expert, so that an expert's weights are read once however many tokens chose it. Two parallel
// passes: the first makes hidden activations, 32 rows of gate and up at a time, and quantises them at once (32 is a
// quantisation block); the second multiplies by down and adds in float64. Each output element belongs to one item,
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
  int64_t id, index;     // among all, and among those that are there
  int64_t first_pair, n_pairs;
};

}  // namespace

void Device::experts(const float* x, int64_t T, int64_t d_model, const int32_t* ids, const float* weights,
                     int64_t n_used, const ExpertSet& set, double* y) {
  Op op(*this);
  const int64_t D = set.gate.cols, F = set.gate.rows, E = int64_t(set.local.size());
  const bool biased = !set.biases[0].empty();
  if (d_model != D) throw bad("x has ", d_model, " columns, the experts ", D);
  for (int64_t i = 0; i < T * n_used; ++i)
    if (ids[i] < -1 || ids[i] >= E) throw bad("expert ", ids[i], " is outside the layer's ", E);

  // Count and sort the pairs by owned index: experts ascending, tokens ascending within.
  std::vector<int64_t> start(size_t(E) + 1, 0);
  for (int64_t i = 0; i < T * n_used; ++i)
    if (ids[i] >= 0) ++start[size_t(ids[i]) + 1];  // -1: somebody else computes it
  std::vector<Chosen> chosen;
  int64_t n_pairs = 0;
  for (int64_t e = 0; e < E; ++e) {
    int64_t n = start[size_t(e) + 1];
    start[size_t(e)] = n_pairs;
    if (set.local[size_t(e)] < 0 || n == 0) continue;
    chosen.push_back({e, set.local[size_t(e)], n_pairs, n});
    n_pairs += n;
  }
  if (n_pairs == 0) {
    std::memset(y, 0, size_t(T * D) * sizeof(double));
    return;
  }
  std::vector<Pair> pairs(static_cast<size_t>(n_pairs));
  for (int64_t i = 0; i < T * n_used; ++i) {
    if (ids[i] < 0 || set.local[size_t(ids[i])] < 0) continue;
    pairs[size_t(start[size_t(ids[i])]++)] = {i / n_used, weights[i]};
  }

  // Inputs: each token quantised once; then what each pair reads, and where its hidden activations go.
  const bool int_in = set.gate.format->integer || set.up.format->integer, int_hidden = set.down.format->integer;
  take_inputs(x, T, D, int_in);
  std::vector<const void*> quantised(size_t(int_in ? n_pairs : 0)), floats(static_cast<size_t>(n_pairs)),
      hidden(static_cast<size_t>(n_pairs));
  if (int_hidden) hidden_.reserve(n_pairs, F);
  else hidden_floats_.grow(size_t(n_pairs * F) * sizeof(float));
  auto* hidden_floats = reinterpret_cast<float*>(hidden_floats_.data());
  for (int64_t i = 0; i < n_pairs; ++i) {
    const size_t token = size_t(pairs[size_t(i)].token);
    if (int_in) quantised[size_t(i)] = quantised_[token];
    floats[size_t(i)] = floats_[token];
    hidden[size_t(i)] = int_hidden ? static_cast<void*>(hidden_.token(i)) : hidden_floats + i * F;
  }
  auto inputs_of = [&](const Packed& w) { return w.format->integer ? quantised.data() : floats.data(); };

  // Pass 1: an item is an expert and some blocks of 32 hidden rows.
  const int64_t blocks = (F + kBlock - 1) / kBlock;
  const int64_t per_item = T > 16 ? 1 : std::max<int64_t>(1, kItemBytes / (set.gate.pair_bytes() + set.up.pair_bytes()));
  const int64_t items = (blocks + per_item - 1) / per_item;
  GemmFn gate_gemm = kernels_->gemm(set.gate.format->format), up_gemm = kernels_->gemm(set.up.format->format);
  if (set.gate.stored) reserve_pairs(std::max({set.gate.pair_bytes(), set.up.pair_bytes(), set.down.pair_bytes()}));
  pool_->run(int64_t(chosen.size()) * items, [&](int64_t item, int worker) {
    const Chosen& c = chosen[size_t(item / items)];
    const Packed gate = ExpertSet::at(set.gate, c.index), up = ExpertSet::at(set.up, c.index);
    const int64_t first = item % items * per_item, end = std::min(blocks, first + per_item);
    alignas(64) float g[kTogether * kBlock], u[kTogether * kBlock];
    for (int64_t b = first; b < end; ++b) {
      const int rows = gate.pair(b).rows;
      for (int64_t i = c.first_pair, n, left = c.n_pairs; left > 0; i += n, left -= n) {
        n = portion(left);
        gate_gemm(ready(gate, b, worker, up.pair(b).data), D, inputs_of(set.gate) + i, n, g, kBlock);
        up_gemm(ready(up, b, worker, gate.pair(b + 1).data), D, inputs_of(set.up) + i, n, u, kBlock);
        for (int64_t t = 0; t < n; ++t) {
          float* value = g + t * kBlock;
          if (biased) {
            kernels_->add(value, set.biases[0].data() + c.id * F + b * kBlock, rows);
            kernels_->add(u + t * kBlock, set.biases[1].data() + c.id * F + b * kBlock, rows);
          }
          kernels_->activate(set.activation, value, u + t * kBlock, rows, value);
          if (int_hidden)
            kernels_->quantize(value, rows, hidden_.token(i + t) + b, b + 1 < blocks ? 1 : hidden_.blocks() - b);
          else
            std::memcpy(hidden_floats + (i + t) * F + b * kBlock, value, size_t(rows) * sizeof(float));
        }
      }
    }
  });

  // Pass 2: an item is a pair of row groups of the output, over all chosen experts. Its sums are made side by side and
  // copied to y at the end: y's rows lie so far apart that they push each other out of the caches.
  GemmFn down_gemm = kernels_->gemm(set.down.format->format);
  sums_.grow(size_t(pool_->threads() * T * kBlock) * sizeof(double));
  pool_->run(set.down.pairs(), [&](int64_t p, int worker) {
    auto* sums = reinterpret_cast<double*>(sums_.data()) + worker * T * kBlock;
    std::memset(sums, 0, size_t(T * kBlock) * sizeof(double));
    alignas(64) float part[kTogether * kBlock];
    int rows = 0;
    for (size_t e = 0; e < chosen.size(); ++e) {
      const Chosen& c = chosen[e];
      const bool last = e + 1 == chosen.size();
      const Packed next = ExpertSet::at(set.down, chosen[last ? 0 : e + 1].index);
      const RowPair w = ready(ExpertSet::at(set.down, c.index), p, worker, next.pair(last ? p + 1 : p).data);
      rows = w.rows;
      for (int64_t i = c.first_pair, n, left = c.n_pairs; left > 0; i += n, left -= n) {
        n = portion(left);
        down_gemm(w, F, hidden.data() + i, n, part, kBlock);
        for (int64_t t = 0; t < n; ++t) {
          const Pair& pair = pairs[size_t(i + t)];
          if (biased) kernels_->add(part + t * kBlock, set.biases[2].data() + c.id * D + p * kBlock, rows);
          kernels_->accumulate(sums + pair.token * kBlock, part + t * kBlock, pair.weight, rows);
        }
      }
    }
    for (int64_t t = 0; t < T; ++t)
      std::memcpy(y + t * D + p * kBlock, sums + t * kBlock, size_t(rows) * sizeof(double));
  });
}

}  // namespace motley
