// Device: construction, weights, and the operations that need few lines. Experts, attention and probes have files of
// their own.
#include "device.h"

#include <algorithm>
#include <cmath>
#include <cstring>
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

Device::Device(int threads, const std::string& isa, bool half_kv)
    : kernels_(choose_kernels(isa)), half_kv_(half_kv) {
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

std::unique_ptr<Cache> Device::cache(int64_t slots, int64_t context, int64_t kv_heads,
                                     int64_t head_dim) {
  if (slots < 1 || context < 1 || kv_heads < 1 || head_dim < 1)
    throw bad("no cache of ", slots, " slots, ", context, " positions, ", kv_heads,
              " heads of ", head_dim);
  long double elements = (long double)slots * kv_heads * (context + 16) * (head_dim + 16) * 2;
  if (elements > 1e15L) throw std::bad_alloc();  // before a product below wraps around
  auto c = std::make_unique<Cache>(Cache{slots, context, kv_heads, head_dim, half_kv_, {}});
  c->memory = Buffer(size_t(slots * kv_heads * (c->key_bytes() + c->value_bytes())), Buffer::Pages::small);
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

void Device::rope(float* x, int64_t T, int64_t heads, int64_t head_dim, const int32_t* positions, int64_t dim,
                  double theta, bool interleaved) {
  Op op(*this);
  if (dim < 0 || dim % 2 || dim > head_dim) throw bad("cannot rotate ", dim, " of ", head_dim, " elements");
  int64_t half = dim / 2;
  RopeTable& r = rope_;
  bool same = r.dim == dim && r.theta == theta && int64_t(r.positions.size()) == T &&
              std::equal(positions, positions + T, r.positions.begin());
  if (!same) {  // a step's layers ask for the same angles again and again
    r.positions.assign(positions, positions + T);
    r.dim = dim;
    r.theta = theta;
    r.cos.resize(size_t(T * half));
    r.sin.resize(size_t(T * half));
    for (int64_t i = 0; i < half; ++i) {
      double frequency = std::pow(theta, -2.0 * double(i) / double(dim));
      for (int64_t t = 0; t < T; ++t) {
        r.cos[size_t(t * half + i)] = float(std::cos(double(positions[t]) * frequency));
        r.sin[size_t(t * half + i)] = float(std::sin(double(positions[t]) * frequency));
      }
    }
  }
  int64_t a = interleaved ? 2 : 1, b = interleaved ? 1 : half;  // pair i: elements a i and a i + b
  over_tokens(T, heads * head_dim, [&](int64_t t, int) {
    const float *cos = r.cos.data() + t * half, *sin = r.sin.data() + t * half;  // dim 0: both empty
    for (int64_t h = 0; h < heads; ++h) {
      float* p = x + (t * heads + h) * head_dim;
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

// ---------------------------------------------------------------- router

// logits [E] of one token to its n_used experts. A NaN counts as minus infinity; ties go to the lower id.
void Device::route_token(float* logits, int64_t E, int64_t n_used, bool normalize, int32_t* ids,
                         float* weights) const {
  for (int64_t e = 0; e < E; ++e)
    if (std::isnan(logits[e])) logits[e] = -INFINITY;
  // Insertion into the list of the best so far; strictly greater moves ahead, so the lower id stays first.
  int64_t n = 0;
  for (int64_t e = 0; e < E; ++e) {
    int64_t at = n;
    while (at > 0 && logits[e] > logits[ids[at - 1]]) --at;
    if (at >= n_used) continue;
    if (n < n_used) ++n;
    for (int64_t i = n - 1; i > at; --i) ids[i] = ids[i - 1];
    ids[at] = int32_t(e);
  }
  float top = logits[ids[0]], total = 0, chosen = 0;
  for (int64_t e = 0; e < E; ++e) logits[e] -= top;
  kernels_->exp(logits, E, logits);
  for (int64_t e = 0; e < E; ++e) total += logits[e];
  for (int64_t i = 0; i < n_used; ++i) {
    weights[i] = logits[ids[i]] / total;
    chosen += weights[i];
  }
  if (normalize)
    for (int64_t i = 0; i < n_used; ++i) weights[i] /= chosen;
}

void Device::router(const float* x, int64_t T, int64_t cols, const Matrix& w, int64_t n_used, bool normalize,
                    int32_t* ids, float* weights) {
  Op op(*this);
  int64_t E = w.w.rows;
  if (w.w.cols != cols) throw bad("x has ", cols, " columns, the router ", w.w.cols);
  if (n_used < 1 || n_used > E) throw bad("cannot choose ", n_used, " of ", E, " experts");
  if (w.w.format->integer || w.w.stored) throw bad("the router needs packed float weights");
  auto* logits = reinterpret_cast<float*>(scratch_.grow(size_t(T * E) * sizeof(float)));
  take_inputs(x, T, cols, false);
  GemmFn gemm = kernels_->gemm(w.w.format->format);
  over_tokens(w.w.groups(), T * cols * kRows, [&](int64_t g, int) {  // packed; single groups: there are few
    const RowPair group{w.w.data + g * w.w.group_size(), w.w.group_size(), int(std::min<int64_t>(kRows, E - g * kRows)),
                        nullptr};
    gemm(group, cols, floats_.data(), T, logits + g * kRows, E);
  });
  over_tokens(T, E * 8, [&](int64_t t, int) {
    route_token(logits + t * E, E, n_used, normalize, ids + t * n_used, weights + t * n_used);
  });
}

}  // namespace motley
