// Device: construction, weights, and the operations that need few lines. Experts, attention and probes have files of
// their own.
#include "device.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <new>

#include "isa.h"

namespace motley {

// ---------------------------------------------------------------- activations

void Acts::reserve(int64_t tokens, int64_t cols) {
  blocks_ = (cols + 4 * kBlock - 1) / (4 * kBlock) * 4;  // tiles of 128 at most, but for formats with blocks of 256
  stride_ = blocks_ + 1;  // odd: tokens that are read together do not fall into one set of the cache
  memory_.grow(size_t(tokens * stride_) * sizeof(ActBlock));
}

// ---------------------------------------------------------------- the device

Device::Device(int threads, const std::string& isa) : kernels_(choose_kernels(isa)) {
  if (threads < 1 || threads > 1024) throw bad("threads must be 1 to 1024, not ", threads);
  pool_ = std::make_unique<Pool>(threads);
}

void Device::close() {
  std::lock_guard<std::mutex> lock(mutex_);
  if (pool_->threads() > 1) pool_ = std::make_unique<Pool>(1);
  for (Acts* a : {&acts_, &hidden_}) *a = Acts();
  for (Buffer* b : {&scratch_, &hidden_floats_, &sums_, &pairs_}) *b = Buffer();
}

const FormatInfo& Device::format(int type) const {
  if (const FormatInfo* f = find_format(type)) return *f;
  throw bad("no kernel for GGUF tensor type ", type);
}

// ---------------------------------------------------------------- weights

void Report::add(int64_t bytes) {
  constexpr int64_t kStep = 8 << 20;  // at the slowest rate seen, 0.1 GB/s, ten times a second
  done_ += bytes;
  if (!tell_ || done_ - told_ < kStep) return;
  told_ = done_;
  tell_(done_);
}

// `copies` matrices [rows, cols] one after the other, as the source has them.
Packed Device::source_matrix(const Source& source, int64_t copies, int64_t rows, int64_t cols) const {
  const FormatInfo& f = format(source.type);
  if (rows < 1 || cols < 1 || cols % f.block)
    throw bad("a matrix [", rows, ", ", cols, "] does not fill blocks of ", f.block);
  const Packed m{&f, rows, cols, source.data, true};
  if (source.bytes != copies * m.bytes())
    throw bad(copies, " x [", rows, ", ", cols, "] of type ", source.type, " take ", copies * m.bytes(), " bytes, not ",
              source.bytes);
  return m;
}

void Device::pack_into(const Packed& from, uint8_t* to, bool release, Report& report) {
  const FormatInfo& f = *from.format;
  const int64_t groups = from.groups(), group = from.group_size(), stride = row_bytes(f, from.cols);
  const int64_t chunk = std::max<int64_t>(1, (1 << 18) / group);        // groups per item
  const int64_t segment = std::max<int64_t>(chunk, (1 << 24) / group);  // groups until the source's pages are dropped
  for (int64_t begin = 0; begin < groups; begin += segment) {
    const int64_t upto = std::min(groups, begin + segment);
    pool_->run((upto - begin + chunk - 1) / chunk, [&](int64_t item, int) {
      int64_t first = begin + item * chunk, end = std::min(upto, first + chunk);
      for (int64_t g = first; g < end; ++g) {
        const uint8_t* rows = from.data + g * kRows * stride;
        const int n = int(std::min<int64_t>(kRows, from.rows - g * kRows));
        kernels_->pack(f, rows, n, from.cols, to + g * group, rows + kRows * stride);
      }
    });
    const int64_t first_byte = begin * kRows * stride, end_byte = std::min(upto * kRows, from.rows) * stride;
    // Packed and source are never in memory together as a whole. One page earlier: the last segment shared it.
    if (release) {
      const int64_t page = std::max<int64_t>(0, first_byte - (1 << 16));
      release_file_pages(from.data + page, size_t(end_byte - page));
    }
    report.add(end_byte - first_byte);
  }
}

std::unique_ptr<Matrix> Device::stored(const Source& source, int64_t rows, int64_t cols) {
  auto m = std::make_unique<Matrix>();
  m->w = source_matrix(source, 1, rows, cols);
  return m;
}

std::unique_ptr<Matrix> Device::pack(const Source& source, int64_t rows, int64_t cols, bool release, Report& report) {
  std::lock_guard<std::mutex> lock(mutex_);
  const Packed from = source_matrix(source, 1, rows, cols);
  auto m = std::make_unique<Matrix>();
  m->w = Packed{from.format, rows, cols, nullptr};
  m->memory = Buffer(size_t(m->w.bytes()));
  m->w.data = m->memory.data();
  pack_into(from, m->memory.data(), release, report);
  return m;
}

std::unique_ptr<ExpertSet> Device::stored_experts(const Source& gate, const Source& up, const Source& down,
                                                  int64_t n_experts, int64_t d_model, int64_t d_expert,
                                                  const std::vector<int32_t>& owned) {
  auto set = std::make_unique<ExpertSet>();
  set->local.assign(size_t(n_experts), -1);
  for (int32_t e : owned) {
    if (e < 0 || e >= n_experts) throw bad("expert ", e, " is not one of the layer's ", n_experts);
    if (set->local[size_t(e)] >= 0) throw bad("expert ", e, " is owned twice");
    set->local[size_t(e)] = e;
  }
  set->gate = source_matrix(gate, n_experts, d_expert, d_model);
  set->up = source_matrix(up, n_experts, d_expert, d_model);
  set->down = source_matrix(down, n_experts, d_model, d_expert);
  return set;
}

std::unique_ptr<ExpertSet> Device::pack_experts(const Source& gate, const Source& up, const Source& down,
                                                int64_t n_experts, int64_t d_model, int64_t d_expert,
                                                const std::vector<int32_t>& owned, bool release, Report& report) {
  std::lock_guard<std::mutex> lock(mutex_);
  auto set = stored_experts(gate, up, down, n_experts, d_model, d_expert, owned);
  for (size_t i = 0; i < owned.size(); ++i) set->local[size_t(owned[i])] = int32_t(i);
  Packed* matrices[3] = {&set->gate, &set->up, &set->down};
  for (int m = 0; m < 3; ++m) {
    const Packed from = *matrices[m];
    Packed& to = *matrices[m];
    to.stored = false;
    set->memory[m] = Buffer(owned.size() * size_t(to.bytes()));
    to.data = set->memory[m].data();
    for (size_t i = 0; i < owned.size(); ++i)
      pack_into(ExpertSet::at(from, owned[i]), set->memory[m].data() + i * size_t(to.bytes()), release, report);
  }
  return set;
}

std::unique_ptr<Cache> Device::cache(int64_t slots, int64_t context, int64_t kv_heads, int64_t head_dim,
                                     int64_t value_dim, int64_t window, int64_t chunk, KvType type, bool one) {
  if (slots < 1 || context < 1 || kv_heads < 1 || head_dim < 1 || value_dim < 1 || window < 0 || chunk < 0)
    throw bad("no cache of ", slots, " slots, ", context, " positions, ", kv_heads, " heads of ", head_dim, " and ",
              value_dim, ", window ", window, ", chunk ", chunk);
  if (one && value_dim > head_dim) throw bad("values of ", value_dim, " are not the first elements of keys of ", head_dim);
  long double elements = (long double)slots * kv_heads * (context + 16) * ((long double)head_dim + value_dim + 32);
  if (elements > 1e15L) throw std::bad_alloc();  // before a product below wraps around
  auto c = std::make_unique<Cache>(
      Cache{slots, context, kv_heads, head_dim, value_dim, window, chunk, type, one, {}});
  c->memory = Buffer(size_t(slots * kv_heads * (c->key_bytes() + c->value_bytes()) + kKvSlack), Buffer::Pages::small);
  return c;
}

// ---------------------------------------------------------------- products

// Point quantised_ and floats_ at the T tokens of x, quantising them where integer weights will read them.
void Device::take_inputs(const float* x, int64_t T, int64_t cols, bool integer) {
  floats_.resize(size_t(T));
  for (int64_t t = 0; t < T; ++t) floats_[size_t(t)] = x + t * cols;
  if (!integer) return;
  acts_.reserve(T, cols);
  quantised_.resize(size_t(T));
  over_tokens(T, cols, [&](int64_t t, int) {
    kernels_->quantize(x + t * cols, cols, acts_.token(t), acts_.blocks());
    quantised_[size_t(t)] = acts_.token(t);
  });
}

// Room for every worker to pack a pair of row groups of `bytes`.
void Device::reserve_pairs(int64_t bytes) {
  pair_stride_ = (bytes + 63) / 64 * 64;
  pairs_.grow(size_t(pool_->threads() * pair_stride_));
}

// Pair p of w as the kernels read it: where it lies, or packed now into the worker's place if w is stored: until the
// next one. `next`: what the worker reads after it, if it is not the following pair.
RowPair Device::ready(const Packed& w, int64_t p, int worker, const uint8_t* next) {
  RowPair pair = w.pair(p, next);
  if (!w.stored) return pair;
  const int64_t group = kRows * row_bytes(*w.format, w.cols);
  uint8_t* to = pairs_.data() + worker * pair_stride_;
  for (int r = 0; r * kRows < pair.rows; ++r)
    kernels_->pack(*w.format, pair.data + r * group, std::min(kRows, pair.rows - r * kRows), w.cols,
                   to + r * pair.group_bytes, pair.next + r * group);
  pair.data = pair.next = to;
  return pair;
}

void Device::linear(const float* x, int64_t T, int64_t cols, const std::vector<const Matrix*>& w,
                    const std::vector<float*>& out) {
  Op op(*this);
  bool integer = false;
  for (const Matrix* m : w) {
    if (m->w.cols != cols) throw bad("x has ", cols, " columns, the weight ", m->w.cols);
    integer |= m->w.format->integer;
  }
  if (T == 0) return;
  take_inputs(x, T, cols, integer);

  int64_t largest = 0;
  for (const Matrix* m : w) largest = std::max(largest, m->w.stored ? m->w.pair_bytes() : 0);
  reserve_pairs(largest);

  // Items: a portion of the tokens and a run of row pairs, few bytes of them for few tokens; for many, so few that there are
  // items for all threads and so many that the portion's activations pay for their way into the cache.
  const int64_t portions = (T + kTogether - 1) / kTogether;
  std::vector<int64_t> chunk(w.size()), first_item(w.size() + 1, 0);
  for (size_t i = 0; i < w.size(); ++i) {
    const int64_t pairs = w[i]->w.pairs(), spare = pairs * portions / (4 * pool_->threads());  // four items a thread
    chunk[i] = std::max<int64_t>(1, T > 16 ? std::min<int64_t>(4, spare) : kItemBytes / w[i]->w.pair_bytes());
    first_item[i + 1] = first_item[i] + (w[i]->w.pairs() + chunk[i] - 1) / chunk[i];
  }
  pool_->run(first_item.back() * portions, [&](int64_t item, int worker) {
    const int64_t t = T * (item / first_item.back()) / portions, n = T * (item / first_item.back() + 1) / portions - t;
    item %= first_item.back();
    size_t i = 0;
    while (item >= first_item[i + 1]) ++i;
    const Packed& m = w[i]->w;
    GemmFn gemm = kernels_->gemm(m.format->format);
    int64_t first = (item - first_item[i]) * chunk[i], end = std::min(m.pairs(), first + chunk[i]);
    for (int64_t p = first; p < end; ++p)
      gemm(ready(m, p, worker), cols, inputs(m) + t, n, out[i] + t * m.rows + p * 2 * kRows, m.rows);
  });
}

// ---------------------------------------------------------------- small operations

void Device::embed(const uint8_t* table, int64_t bytes, int type, int64_t cols, const int32_t* tokens, int64_t T,
                   float* out) {
  Op op(*this);
  const FormatInfo& f = format(type);
  int64_t stride = row_bytes(f, cols), rows = stride ? bytes / stride : 0;
  for (int64_t t = 0; t < T; ++t)
    if (tokens[t] < 0 || tokens[t] >= rows) throw bad("token ", tokens[t], " is outside the table of ", rows);
  over_tokens(T, 4 * cols, [&](int64_t t, int) { decode_row(f, table + tokens[t] * stride, cols, out + t * cols); });
}

void Device::rms_norm(const float* x, int64_t groups, const float* w, int64_t width, float eps, float* out) {
  Op op(*this);
  over_tokens(groups, width, [&](int64_t g, int) { kernels_->rms_norm(x + g * width, w, width, eps, out + g * width); });
}

void Device::rope(float* x, int64_t T, int64_t heads, int64_t head_dim, const int32_t* positions,
                  const double* frequencies, int64_t half, int64_t start, double magnitude, bool interleaved) {
  Op op(*this);
  if (start < 0 || start + 2 * half > head_dim)
    throw bad("cannot rotate ", 2 * half, " elements from ", start, " on, of ", head_dim);
  auto is_asked_for = [&](const RopeTable& r) {
    return r.magnitude == magnitude && int64_t(r.frequencies.size()) == half && int64_t(r.positions.size()) == T &&
           std::equal(frequencies, frequencies + half, r.frequencies.begin()) &&
           std::equal(positions, positions + T, r.positions.begin());
  };
  if (!is_asked_for(ropes_[0])) std::swap(ropes_[0], ropes_[1]);
  RopeTable& r = ropes_[0];
  if (!is_asked_for(r)) {  // a step's layers ask for the same angles again and again
    r.positions.assign(positions, positions + T);
    r.frequencies.assign(frequencies, frequencies + half);
    r.magnitude = magnitude;
    r.cos.resize(size_t(T * half));
    r.sin.resize(size_t(T * half));
    for (int64_t i = 0; i < half; ++i)
      for (int64_t t = 0; t < T; ++t) {
        const double angle = double(positions[t]) * frequencies[i];
        r.cos[size_t(t * half + i)] = float(std::cos(angle) * magnitude);
        r.sin[size_t(t * half + i)] = float(std::sin(angle) * magnitude);
      }
  }
  int64_t a = interleaved ? 2 : 1, b = interleaved ? 1 : half;  // pair i: elements a i and a i + b
  over_tokens(T, heads * head_dim, [&](int64_t t, int) {
    const float *cos = r.cos.data() + t * half, *sin = r.sin.data() + t * half;  // dim 0: both empty
    for (int64_t h = 0; h < heads; ++h) {
      float* p = x + (t * heads + h) * head_dim + start;
      for (int64_t i = 0; i < half; ++i) {
        float u = p[a * i], v = p[a * i + b];
        p[a * i] = u * cos[i] - v * sin[i];
        p[a * i + b] = u * sin[i] + v * cos[i];
      }
    }
  });
}

void Device::combine(float* x, int64_t n, const std::vector<const double*>& parts) {
  Op op(*this);
  if (parts.empty()) return;
  over_tokens((n + 1023) / 1024, 1024, [&](int64_t block, int) {
    int64_t end = std::min(n, block * 1024 + 1024);
    for (int64_t i = block * 1024; i < end; ++i) {
      double total = parts[0][i];
      for (size_t p = 1; p < parts.size(); ++p) total += parts[p][i];
      x[i] += float(total);
    }
  });
}

void Device::add(float* x, const float* y, int64_t n) {
  Op op(*this);
  kernels_->add(x, y, n);
}

void Device::take(const float* x, int64_t T, int64_t cols, const int32_t* rows, int64_t n, float* out) {
  Op op(*this);
  for (int64_t i = 0; i < n; ++i) {
    if (rows[i] < 0 || rows[i] >= T) throw bad("row ", rows[i], " is outside the ", T);
    std::memcpy(out + i * cols, x + rows[i] * cols, size_t(cols) * sizeof(float));
  }
}

// f(first, n) for blocks of n elements.
template <class F>
void Device::over_blocks(int64_t n, F&& f) {
  constexpr int64_t kEach = 1024;
  over_tokens((n + kEach - 1) / kEach, kEach, [&](int64_t b, int) { f(b * kEach, std::min(kEach, n - b * kEach)); });
}

void Device::activate(Activation a, const float* gate, const float* up, int64_t n, float* out) {
  Op op(*this);
  over_blocks(n, [&](int64_t i, int64_t m) { kernels_->activate(a, gate + i, up + i, m, out + i); });
}

void Device::gate(float* x, int64_t T, int64_t width, const float* by, int64_t groups, Gate function) {
  Op op(*this);
  const int64_t each = width / groups;
  over_tokens(T, 2 * width, [&](int64_t t, int) {
    std::vector<float> factors(static_cast<size_t>(groups));
    kernels_->gate(function, by + t * groups, groups, factors.data());
    for (int64_t i = 0; i < width; ++i) x[t * width + i] *= factors[size_t(i / each)];
  });
}

void Device::temper(float* x, int64_t T, int64_t width, const int32_t* positions, double factor, int64_t length) {
  Op op(*this);
  over_tokens(T, width, [&](int64_t t, int) {
    const float by = float(1 + factor * std::log1p(double((int64_t(positions[t]) + 1) / length)));
    for (int64_t i = 0; i < width; ++i) x[t * width + i] *= by;
  });
}

void Device::scale(float* x, int64_t n, float factor) {
  Op op(*this);
  over_blocks(n, [&](int64_t i, int64_t m) {
    for (int64_t j = i; j < i + m; ++j) x[j] *= factor;
  });
}

void Device::softcap(float* x, int64_t n, float cap) {
  Op op(*this);
  over_blocks(n, [&](int64_t i, int64_t m) {
    for (int64_t j = i; j < i + m; ++j) x[j] = cap * std::tanh(x[j] / cap);
  });
}

void Device::add_bias(float* x, int64_t T, const float* bias, int64_t n) {
  Op op(*this);
  over_tokens(T, n, [&](int64_t t, int) { kernels_->add(x + t * n, bias, n); });
}

void Device::columns(const float* x, int64_t groups, int64_t width, int64_t first, int64_t end, float* out) {
  Op op(*this);
  const int64_t n = end - first;
  for (int64_t g = 0; g < groups; ++g) std::memcpy(out + g * n, x + g * width + first, size_t(n) * sizeof(float));
}

void Device::join(const float* x, int64_t width, const float* y, int64_t width_y, int64_t groups, float* out) {
  Op op(*this);
  for (int64_t g = 0; g < groups; ++g) {
    float* to = out + g * (width + width_y);
    std::memcpy(to, x + g * width, size_t(width) * sizeof(float));
    std::memcpy(to + width, y + g * width_y, size_t(width_y) * sizeof(float));
  }
}

// ---------------------------------------------------------------- one matrix a head

void Device::heads_linear(const float* x, int64_t T, int64_t heads, const Matrix& m, float* out) {
  Op op(*this);
  const Packed& w = m.w;
  const int64_t rows = w.rows / heads;
  if (w.rows % heads || rows % kRows || w.stored)
    throw bad("a matrix of ", w.rows, " rows is not ", heads, " packed ones of whole groups of ", kRows);
  take_inputs(x, T * heads, w.cols, w.format->integer);
  const void* const* all = inputs(w);
  std::vector<const void*> by_head(size_t(T * heads));
  for (int64_t h = 0; h < heads; ++h)
    for (int64_t t = 0; t < T; ++t) by_head[size_t(h * T + t)] = all[t * heads + h];
  GemmFn gemm = kernels_->gemm(w.format->format);
  const int64_t groups = rows / kRows, per_item = std::max<int64_t>(1, kItemBytes / w.group_size());
  const int64_t items = (groups + per_item - 1) / per_item;
  pool_->run(heads * items, [&](int64_t item, int) {
    const int64_t h = item / items, first = item % items * per_item, end = std::min(groups, first + per_item);
    for (int64_t g = first; g < end; ++g) {
      const uint8_t* data = w.data + (h * groups + g) * w.group_size();
      const RowPair group{data, w.group_size(), kRows, data + w.group_size()};
      for (int64_t t = 0, n, left = T; left > 0; t += n, left -= n) {
        n = portion(left);
        gemm(group, w.cols, by_head.data() + h * T + t, n, out + (t * heads + h) * rows + g * kRows, heads * rows);
      }
    }
  });
}

// ---------------------------------------------------------------- router

namespace {

// Insertion into the list of the best so far; strictly greater moves ahead, so the lower id stays first.
void best_first(const float* wanted, int64_t E, int64_t n_used, int32_t* ids) {
  int64_t n = 0;
  for (int64_t e = 0; e < E; ++e) {
    int64_t at = n;
    while (at > 0 && wanted[e] > wanted[ids[at - 1]]) --at;
    if (at >= n_used) continue;
    if (n < n_used) ++n;
    for (int64_t i = n - 1; i > at; --i) ids[i] = ids[i - 1];
    ids[at] = int32_t(e);
  }
}

// Minus infinity for all experts outside the groups whose best `group_sum` add up to most.
void keep_best_groups(float* wanted, int64_t E, const Routing& r) {
  const int64_t each = E / r.n_groups, counted = std::min(r.group_sum, each);
  std::vector<float> votes(size_t(r.n_groups), 0.0f), sorted(static_cast<size_t>(each));
  for (int64_t g = 0; g < r.n_groups; ++g) {
    std::copy(wanted + g * each, wanted + (g + 1) * each, sorted.begin());
    std::partial_sort(sorted.begin(), sorted.begin() + counted, sorted.end(), std::greater<float>());
    for (int64_t i = counted; i-- > 0;) votes[size_t(g)] += sorted[size_t(i)];  // the smallest first, as numpy has them
  }
  std::vector<int32_t> best(size_t(r.n_groups_used));
  best_first(votes.data(), r.n_groups, r.n_groups_used, best.data());
  for (int64_t g = 0; g < r.n_groups; ++g)
    if (std::find(best.begin(), best.end(), int32_t(g)) == best.end())
      std::fill(wanted + g * each, wanted + (g + 1) * each, -INFINITY);
}

}  // namespace

// logits [E] of one token to its experts; `wanted`: room for 2 E. A NaN counts as minus infinity; ties go to the lower id.
void Device::route_token(float* logits, int64_t E, const Routing& r, float* wanted, int32_t* ids, float* weights) const {
  float* scores = wanted + E;
  for (int64_t e = 0; e < E; ++e) {
    if (r.bias) logits[e] += r.bias[e];
    if (std::isnan(logits[e])) logits[e] = -INFINITY;
  }
  if (r.sigmoid) {
    kernels_->gate(Gate::Sigmoid, logits, E, scores);
  } else {
    float top = *std::max_element(logits, logits + E), total = 0;
    for (int64_t e = 0; e < E; ++e) scores[e] = logits[e] - top;
    kernels_->exp(scores, E, scores);
    for (int64_t e = 0; e < E; ++e) total += scores[e];
    for (int64_t e = 0; e < E; ++e) scores[e] /= total;
  }
  // Without a prior logits have the same order, and no ties of rounding.
  for (int64_t e = 0; e < E; ++e) wanted[e] = r.prior ? scores[e] + r.prior[e] : r.sigmoid ? scores[e] : logits[e];
  if (r.n_groups > 1) keep_best_groups(wanted, E, r);
  best_first(wanted, E, r.n_used, ids);
  float chosen = 0;
  for (int64_t i = 0; i < r.n_used; ++i) {
    weights[i] = scores[ids[i]];
    chosen += weights[i];
  }
  for (int64_t i = 0; i < r.n_used; ++i) {
    if (r.normalize) weights[i] /= chosen;
    weights[i] *= r.scale;
    if (r.gain) weights[i] *= r.gain[ids[i]];
  }
}

void Device::router(const float* x, int64_t T, int64_t cols, const Matrix& w, const Routing& r, int32_t* ids,
                    float* weights) {
  Op op(*this);
  int64_t E = w.w.rows;
  if (w.w.cols != cols) throw bad("x has ", cols, " columns, the router ", w.w.cols);
  if (r.n_used < 1 || r.n_used > E) throw bad("cannot choose ", r.n_used, " of ", E, " experts");
  if (r.n_groups < 1 || E % r.n_groups || r.n_groups_used < 1 || r.n_groups_used > r.n_groups ||
      r.n_used > r.n_groups_used * (E / r.n_groups))
    throw bad("cannot choose ", r.n_used, " of ", r.n_groups_used, " of ", r.n_groups, " groups of ", E, " experts");
  if (w.w.format->integer || w.w.stored) throw bad("the router needs packed float weights");
  auto* logits = reinterpret_cast<float*>(scratch_.grow(size_t(3 * T * E) * sizeof(float)));
  float* wanted = logits + T * E;
  take_inputs(x, T, cols, false);
  GemmFn gemm = kernels_->gemm(w.w.format->format);
  over_tokens(w.w.groups(), T * cols * kRows, [&](int64_t g, int) {  // packed; single groups: there are few
    const RowPair group{w.w.data + g * w.w.group_size(), w.w.group_size(), int(std::min<int64_t>(kRows, E - g * kRows)),
                        nullptr};
    gemm(group, cols, floats_.data(), T, logits + g * kRows, E);
  });
  over_tokens(T, E * 8, [&](int64_t t, int) {
    route_token(logits + t * E, E, r, wanted + 2 * t * E, ids + t * r.n_used, weights + t * r.n_used);
  });
}

}  // namespace motley
