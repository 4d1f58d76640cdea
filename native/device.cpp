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
  tokens_ = tokens;
  blocks_ = (cols + 4 * kBlock - 1) / (4 * kBlock) * 4;  // tiles of 128 at most, but for formats with blocks of 256
  constexpr int64_t per_block = kBlock + 2 * sizeof(float) + 3 * sizeof(int32_t);
  memory_.grow(size_t(tokens_ * blocks_ * per_block));
}

Panel Acts::panel(int64_t first, int n) const {
  // Five arrays one after the other, each [tokens * blocks] of its element.
  int64_t all = tokens_ * blocks_, at = first * blocks_;
  uint8_t* p = memory_.data();
  auto* fours = reinterpret_cast<uint32_t*>(p + all * kBlock);
  Panel out;
  out.n = n;
  out.q = reinterpret_cast<int8_t*>(p) + at * kBlock;
  out.d = reinterpret_cast<float*>(fours) + at;
  out.dsum = reinterpret_cast<float*>(fours + all) + at;
  out.off8 = reinterpret_cast<int32_t*>(fours + 2 * all) + at;
  out.off32 = reinterpret_cast<int32_t*>(fours + 3 * all) + 2 * at;
  return out;
}

void copy_token(const Panel& from, int t, Panel& to, int u, int64_t blocks) {
  for (int64_t b = 0; b < blocks; ++b) {
    int64_t i = b * from.n + t, j = b * to.n + u;
    std::memcpy(to.q + j * kBlock, from.q + i * kBlock, kBlock);
    to.d[j] = from.d[i];
    to.dsum[j] = from.dsum[i];
    to.off8[j] = from.off8[i];
    to.off32[(2 * b) * to.n + u] = from.off32[(2 * b) * from.n + t];
    to.off32[(2 * b + 1) * to.n + u] = from.off32[(2 * b + 1) * from.n + t];
  }
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
  slices_ = {};
  for (Acts* a : {&acts_, &gathered_, &hidden_}) *a = Acts();
  for (Buffer* b : {&scratch_, &hidden_floats_}) *b = Buffer();
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
        kernels_->pack(f, rows, n, from.cols, to + g * group, g + 1 < end ? rows + kRows * stride : nullptr);
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

// Cut T tokens into panels of 8, 4, 2 and 1 in slices_, quantising into acts_ where integer weights will read them.
// `plain`: panels of one token each, to be gathered later.
void Device::split_panels(const float* x, int64_t T, int64_t cols, bool integer, bool plain) {
  slices_.clear();
  if (integer) acts_.reserve(T, cols);
  for (int64_t t = 0; t < T;) {
    int n = plain ? 1 : kMaxPanel;
    while (n > T - t) n /= 2;
    Slice s;
    if (integer) s.panel = acts_.panel(t, n);
    s.panel.n = n;
    s.first = t;
    for (int i = 0; i < n; ++i) s.panel.x[i] = x + (t + i) * cols;
    slices_.push_back(s);
    t += n;
  }
  if (!integer) return;
  over_tokens(int64_t(slices_.size()), cols * (plain ? 1 : std::min<int64_t>(T, kMaxPanel)), [&](int64_t i, int) {
    Slice& s = slices_[size_t(i)];
    for (int t = 0; t < s.panel.n; ++t) kernels_->quantize(s.panel.x[t], cols, s.panel, t, 0, acts_.blocks());
  });
}

// Room for every worker to pack `slots` groups of `bytes` each.
void Device::reserve_groups(int64_t slots, int64_t bytes) {
  group_slots_ = slots;
  group_stride_ = (bytes + 63) / 64 * 64;
  groups_.grow(size_t(pool_->threads() * slots * group_stride_));
}

// A row group of w as the kernels read it: where it lies, or packed now into the worker's slot if w is stored.
const uint8_t* Device::ready(const Packed& w, int64_t g, int worker, int slot) {
  if (!w.stored) return w.group(g);
  const int64_t stride = row_bytes(*w.format, w.cols);
  const uint8_t* rows = w.data + g * kRows * stride;
  uint8_t* to = groups_.data() + (worker * group_slots_ + slot) * group_stride_;
  kernels_->pack(*w.format, rows, w.rows_of(g), w.cols, to, rows + kRows * stride);
  return to;
}

// One row group times all tokens of slices_; out [T, rows].
void Device::product(const Packed& w, int64_t group, int worker, float* out) {
  GemmFn gemm = kernels_->gemm(w.format->format);
  const uint8_t* data = ready(w, group, worker, 0);
  int rows = w.rows_of(group);
  for (const Slice& s : slices_) gemm(data, w.cols, s.panel, out + s.first * w.rows + group * kRows, w.rows, rows);
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
  split_panels(x, T, cols, integer, false);

  // Items: runs of row groups of about 64 KB, smaller when many tokens make each group long work.
  int64_t largest = 0;
  for (const Matrix* m : w) largest = std::max(largest, m->w.stored ? m->w.group_size() : 0);
  reserve_groups(1, largest);
  std::vector<int64_t> chunk(w.size()), first_item(w.size() + 1, 0);
  for (size_t i = 0; i < w.size(); ++i) {
    chunk[i] = T > 16 ? 1 : std::max<int64_t>(1, (1 << 16) / w[i]->w.group_size());
    first_item[i + 1] = first_item[i] + (w[i]->w.groups() + chunk[i] - 1) / chunk[i];
  }
  pool_->run(first_item.back(), [&](int64_t item, int worker) {
    size_t i = 0;
    while (item >= first_item[i + 1]) ++i;
    const Packed& m = w[i]->w;
    int64_t first = (item - first_item[i]) * chunk[i], end = std::min(m.groups(), first + chunk[i]);
    for (int64_t g = first; g < end; ++g) product(m, g, worker, out[i]);
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
  if (w.w.format->integer) throw bad("the router needs float weights");
  auto* logits = reinterpret_cast<float*>(scratch_.grow(size_t(T * E) * sizeof(float)));
  split_panels(x, T, cols, false, false);
  over_tokens(w.w.groups(), T * cols * kRows / 4, [&](int64_t g, int) { product(w.w, g, 0, logits); });  // packed
  over_tokens(T, E * 8, [&](int64_t t, int) {
    route_token(logits + t * E, E, n_used, normalize, ids + t * n_used, weights + t * n_used);
  });
}

}  // namespace motley
