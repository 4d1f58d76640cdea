// Attention over the cache: store the step's keys and values, then each query over its own past.
#include <algorithm>
#include <cmath>

#include "device.h"

namespace motley {

std::vector<Run> find_runs(const int32_t* positions, const int32_t* slots, int64_t T) {
  std::vector<Run> runs;
  for (int64_t t = 0; t < T; ++t) {
    bool follows = t > 0 && slots[t] == slots[t - 1] && positions[t] == positions[t - 1] + 1;
    if (follows) ++runs.back().n;
    else runs.push_back({t, 1});
  }
  return runs;
}

namespace {

bool one_token_per_slot(const std::vector<Run>& runs, const int32_t* slots, int64_t n_slots) {
  std::vector<bool> seen(size_t(n_slots), false);
  for (const Run& r : runs) {
    size_t slot = size_t(slots[r.first]);
    if (r.n > 1 || seen[slot]) return false;
    seen[slot] = true;
  }
  return true;
}

}  // namespace

void Device::attention(const float* q, const float* k, const float* v, Cache& cache,
                       const int32_t* positions, const int32_t* slots, int64_t T, int64_t q_heads, float scale,
                       const float* sinks, float* out) {
  Op op(*this);
  if (q_heads < 1 || q_heads % cache.kv_heads)
    throw bad(q_heads, " query heads do not divide among ", cache.kv_heads, " key heads");
  int64_t longest = 0;
  for (int64_t t = 0; t < T; ++t) {
    if (slots[t] < 0 || slots[t] >= cache.slots) throw bad("slot ", slots[t], " is outside the ", cache.slots);
    if (positions[t] < 0 || positions[t] >= cache.context)
      throw bad("position ", positions[t], " is outside the context of ", cache.context);
    longest = std::max<int64_t>(longest, positions[t] + 1 - cache.first(positions[t]));
  }

  const int64_t K = cache.kv_heads, N = cache.head_dim, M = cache.value_dim, group = q_heads / K;
  const KvShape shape{int(N), int(M), int(cache.row_dim()), cache.capacity(), 0, cache.one};
  auto store = [&](int64_t t, int64_t head) {
    kernels_->store_kv(cache.type, shape, k + (t * K + head) * N, v + (t * K + head) * M,
                       cache.keys(slots[t], head), cache.values(slots[t], head), positions[t]);
  };

  // An item is a key head, a few consecutive tokens and all of the group's queries or some: several queries share what is
  // read. A decode step stores its token in the same item where there is one for each; otherwise all keys are stored first.
  const std::vector<Run> runs = find_runs(positions, slots, T);
  const bool decode = one_token_per_slot(runs, slots, cache.slots);
  const int64_t together = std::max<int64_t>(1, 16 / group);
  constexpr int64_t kMost = 64, kMostOfRows = 32;  // queries of an item; rows are turned for all, whose weights wait meanwhile
  auto heads_of_item = [&](int64_t n_pieces) {
    int64_t heads = std::min(group, cache.one ? kMostOfRows : kMost);
    while (heads > 4 && n_pieces * K * ((group + heads - 1) / heads) < pool_->threads()) heads = (heads / 2 + 3) / 4 * 4;
    return heads;
  };

  const int64_t ld = (longest + together + 15) / 16 * 16 + 16;
  const int64_t per_worker = cache.one ? kMostOfRows * (ld + 1) + 16 * cache.row_dim() : 4 * ld;
  auto* scratch = reinterpret_cast<float*>(scratch_.grow(size_t(per_worker * pool_->threads()) * sizeof(float)));
  auto attend_pieces = [&](const std::vector<Run>& pieces) {
    const int64_t per_item = heads_of_item(int64_t(pieces.size())), shares = (group + per_item - 1) / per_item;
    const bool stores = decode && shares == 1;
    if (decode && !stores)
      for (int64_t i = 0; i < T * K; ++i) store(i / K, i % K);
    auto attend = [&](int64_t item, int worker) {
      // A head's pieces one after the other: its keys and values stay in the cache, and every worker has long and short.
      const Run& r = pieces[size_t(item / shares % int64_t(pieces.size()))];
      const int64_t head = item / shares / int64_t(pieces.size()), slot = slots[r.first];
      const int64_t h0 = item % shares * per_item, heads = std::min(per_item, group - h0);
      if (stores) store(r.first, head);
      const float* queries[kMost];
      float* outs[kMost];
      Seen seen[kMost];
      int64_t n = 0;
      for (int64_t t = r.first; t < r.first + r.n; ++t)
        for (int64_t h = 0; h < heads; ++h, ++n) {
          const int64_t at = t * q_heads + head * group + h0 + h;
          queries[n] = q + at * N;
          outs[n] = out + at * M;
          seen[n] = {cache.first(positions[t]), positions[t] + 1, sinks ? sinks[at % q_heads] : -INFINITY};
        }
      KvShape s = shape;
      s.n_queries = int(n);
      kernels_->attend(cache.type, s, queries, seen, cache.keys(slot, head), cache.values(slot, head), scale,
                       scratch + worker * per_worker, outs);
    };
    const int64_t n_items = int64_t(pieces.size()) * K * shares;
    if (n_items * per_item * longest * N < (1 << 16)) {  // short pasts: not worth waking anybody
      for (int64_t i = 0; i < n_items; ++i) attend(i, 0);
    } else {
      pool_->run(n_items, attend);
    }
  };
  if (decode) {
    attend_pieces(runs);
    return;
  }
  // Where old positions make room for new ones, no more of a run is stored at a time than leaves its past in place.
  std::vector<Run> portions;
  if (cache.capacity() >= cache.context) {
    portions.push_back({0, T});
  } else {
    for (const Run& r : runs)
      for (int64_t t = 0; t < r.n; t += Cache::kTogether)
        portions.push_back({r.first + t, std::min(Cache::kTogether, r.n - t)});
  }
  for (const Run& portion : portions) {
    const int64_t end = portion.first + portion.n;
    over_tokens(K, portion.n * N * 8, [&](int64_t head, int) {
      for (int64_t t = portion.first; t < end; ++t) store(t, head);
    });
    std::vector<Run> pieces;
    for (const Run& r : runs) {
      const int64_t last = std::min(end, r.first + r.n);
      for (int64_t t = std::max(portion.first, r.first); t < last; t += together)
        pieces.push_back({t, std::min(together, last - t)});
    }
    attend_pieces(pieces);
  }
}

}  // namespace motley
