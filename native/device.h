// Device: the operations of `ops/protocol.py` on this CPU, over plain pointers. module.cpp binds it to Python.
//
// Every operation takes the lock, so a device serves one caller at a time; time inside is counted as busy.
// Work is cut into items along rows, tokens and heads, never along a dot product's K (exactness).
#pragma once
#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels.h"
#include "memory.h"
#include "pool.h"

namespace motley {

// A bad argument, with the numbers: Python sees a ValueError.
template <class... Parts>
std::invalid_argument bad(const Parts&... parts) {
  std::string text;
  auto append = [&text](const auto& p) {
    if constexpr (std::is_arithmetic_v<std::decay_t<decltype(p)>>) text += std::to_string(p);
    else text += p;
  };
  (append(parts), ...);
  return std::invalid_argument(text);
}

// About what an item of work reads where few tokens make memory the limit: little, so that nobody waits long at the
// end. A worker's items are neighbours (pool.h), so their borders cost nothing.
constexpr int64_t kItemBytes = 1 << 15;

// A matrix somewhere in memory: packed, or `stored` as the file has it, to be packed a few rows at a time when used.
struct Packed {
  const FormatInfo* format = nullptr;
  int64_t rows = 0, cols = 0;
  const uint8_t* data = nullptr;
  bool stored = false;

  int64_t groups() const { return (rows + kRows - 1) / kRows; }
  int64_t group_size() const { return group_bytes(*format, cols); }
  int64_t stored_bytes() const { return rows * row_bytes(*format, cols); }
  int64_t bytes() const { return stored ? stored_bytes() : groups() * group_size(); }
  int64_t pairs() const { return (groups() + 1) / 2; }
  int64_t pair_bytes() const { return 2 * group_size(); }  // packed
  // Two row groups, 32 rows, where they lie; `next`: what will be read after them, the following pair if nothing is said.
  RowPair pair(int64_t p, const uint8_t* next = nullptr) const {
    const int64_t bytes = stored ? 2 * kRows * row_bytes(*format, cols) : pair_bytes(), left = rows - p * 2 * kRows;
    const uint8_t* at = data + p * bytes;
    return {at, group_size(), int(left < 2 * kRows ? left : 2 * kRows), next ? next : at + bytes};
  }
};

struct Matrix {
  Packed w;
  Buffer memory;  // of a packed one
};

// Long work tells its watcher how far it is, every few megabytes. The watcher may throw: the work ends there.
class Report {
 public:
  explicit Report(std::function<void(int64_t)> tell = nullptr) : tell_(std::move(tell)) {}
  void add(int64_t bytes);

 private:
  std::function<void(int64_t)> tell_;  // all bytes done so far
  int64_t done_ = 0, told_ = 0;
};

// The owned experts of one layer. gate, up: [F, D]; down: [D, F]; `data` is the first expert's that is there: of the
// owned when packed, of all when stored.
struct ExpertSet {
  Packed gate, up, down;
  Activation activation = Activation::Silu;
  std::vector<float> biases[3];  // of gate, up [E][F], down [E][D], by global id; empty: none
  Buffer memory[3];
  std::vector<int32_t> local;  // global id -> index of an owned expert among those that are there, or -1

  static Packed at(const Packed& p, int64_t index) {
    Packed one = p;
    one.data += index * p.bytes();
    return one;
  }
};

// One layer's keys and values, [slot][kv head]: keys in tiles of 16 positions, values in rows (attend.inc.h). Untouched
// positions cost no memory.
struct Cache {
  int64_t slots, context, kv_heads, head_dim, value_dim;
  int64_t window, chunk;  // which positions a token attends to: ops/protocol.py's Span
  KvType type;
  bool one;  // values are the keys' first elements, kept once
  Buffer memory;

  // So many tokens are stored before the first of them attends: a window's memory needs no more than that beside it.
  static constexpr int64_t kTogether = 256;

  int64_t row_dim() const { return ((one ? head_dim : value_dim) + 15) / 16 * 16; }
  // Positions kept, whole tiles of 16.
  int64_t capacity() const {
    int64_t most = context;
    if (window && window + kTogether < most) most = window + kTogether;
    if (chunk && chunk + kTogether < most) most = chunk + kTogether;
    return (most + 15) / 16 * 16;
  }
  int64_t first(int64_t position) const {
    int64_t first = window && position >= window ? position - window + 1 : 0;
    int64_t begin = chunk ? position - position % chunk : 0;
    return first > begin ? first : begin;
  }
  int64_t key_bytes() const { return one ? 0 : capacity() / 16 * kv_tile_bytes(type, head_dim); }
  int64_t value_bytes() const { return capacity() * kv_row_bytes(type, row_dim()); }
  uint8_t* keys(int64_t slot, int64_t head) const {
    return memory.data() + (slot * kv_heads + head) * (key_bytes() + value_bytes());
  }
  uint8_t* values(int64_t slot, int64_t head) const { return keys(slot, head) + key_bytes(); }
};

// One gated delta rule layer's memory of each slot: a state [N][M] of each value head, and the inputs that the convolution
// remembers [taps - 1][channels], the latest last.
struct DeltaState {
  int64_t slots, k_heads, v_heads, k_dim, v_dim, taps;
  float eps;
  bool tiled;  // value head i uses key head i % k_heads
  Buffer memory;

  int64_t channels() const { return 2 * k_heads * k_dim + v_heads * v_dim; }
  int64_t slot_floats() const { return v_heads * k_dim * v_dim + (taps - 1) * channels(); }
  float* state(int64_t slot, int64_t head) const {
    return reinterpret_cast<float*>(memory.data()) + slot * slot_floats() + head * k_dim * v_dim;
  }
  float* inputs(int64_t slot) const { return state(slot, v_heads); }
};

// How a router chooses: ops/protocol.py's Routing and RouterVectors, each vector [E] or nullptr.
struct Routing {
  int64_t n_used;
  bool normalize, sigmoid;
  float scale;
  int64_t n_groups, n_groups_used, group_sum;
  const float *bias, *prior, *gain;
};

// Consecutive positions of one slot: tokens [first, first + n).
struct Run {
  int64_t first, n;
};
std::vector<Run> find_runs(const int32_t* positions, const int32_t* slots, int64_t T);

// Quantised activations of many tokens.
class Acts {
 public:
  void reserve(int64_t tokens, int64_t cols);
  ActBlock* token(int64_t t) const { return reinterpret_cast<ActBlock*>(memory_.data()) + t * stride_; }
  int64_t blocks() const { return blocks_; }

 private:
  int64_t blocks_ = 0, stride_ = 0;  // per token, in blocks of 32; padded to a multiple of 4 of them
  Buffer memory_;
};

class Device {
 public:
  // isa: a name of isa.cpp; "" takes the best this CPU has.
  Device(int threads, const std::string& isa);

  const char* isa() const { return kernels_->name; }
  int threads() const { return pool_->threads(); }
  double busy_seconds() const { return double(busy_ns_.load()) * 1e-9; }
  void close();

  // -- weights; `release`: the source is a read-only file mapping whose pages can be dropped once packed
  struct Source {
    const uint8_t* data;
    int64_t bytes;
    int type;
  };
  std::unique_ptr<Matrix> pack(const Source& source, int64_t rows, int64_t cols, bool release, Report& report);
  std::unique_ptr<ExpertSet> pack_experts(const Source& gate, const Source& up, const Source& down, int64_t n_experts,
                                          int64_t d_model, int64_t d_expert, const std::vector<int32_t>& owned,
                                          bool release, Report& report);
  // The same without packing: the source must stay where it is.
  std::unique_ptr<Matrix> stored(const Source& source, int64_t rows, int64_t cols);
  std::unique_ptr<ExpertSet> stored_experts(const Source& gate, const Source& up, const Source& down,
                                            int64_t n_experts, int64_t d_model, int64_t d_expert,
                                            const std::vector<int32_t>& owned);
  std::unique_ptr<Cache> cache(int64_t slots, int64_t context, int64_t kv_heads, int64_t head_dim, int64_t value_dim,
                               int64_t window, int64_t chunk, KvType type, bool one);
  std::unique_ptr<DeltaState> delta_state(int64_t slots, int64_t k_heads, int64_t v_heads, int64_t k_dim, int64_t v_dim,
                                          int64_t taps, float eps, bool tiled);

  // -- operations; T tokens first, all row-major
  void embed(const uint8_t* table, int64_t bytes, int type, int64_t cols, const int32_t* tokens, int64_t T, float* out);
  void rms_norm(const float* x, int64_t groups, const float* w, int64_t width, float eps, float* out);
  void linear(const float* x, int64_t T, int64_t cols, const std::vector<const Matrix*>& w,
              const std::vector<float*>& out);
  void rope(float* x, int64_t T, int64_t heads, int64_t head_dim, const int32_t* positions, const double* frequencies,
            int64_t pairs, int64_t start, double magnitude, bool interleaved);
  void attention(const float* q, const float* k, const float* v, Cache& cache, const int32_t* positions,
                 const int32_t* slots, int64_t T, int64_t q_heads, float scale, const float* sinks, float* out);
  // conv [taps][channels]; dt, rate [V]; write, keep [T][V]
  void delta_net(const float* qkv, const float* write, const float* keep, const float* conv, const float* dt,
                 const float* rate, DeltaState& state, const int32_t* positions, const int32_t* slots, int64_t T,
                 float* out);
  void router(const float* x, int64_t T, int64_t cols, const Matrix& w, const Routing& routing, int32_t* ids,
              float* weights);
  // w: the matrices of all heads one below the other
  void heads_linear(const float* x, int64_t T, int64_t heads, const Matrix& w, float* out);
  void activate(Activation a, const float* gate, const float* up, int64_t n, float* out);
  void gate(float* x, int64_t T, int64_t width, const float* by, int64_t groups, Gate function);
  void temper(float* x, int64_t T, int64_t width, const int32_t* positions, double factor, int64_t length);
  void scale(float* x, int64_t n, float factor);
  void softcap(float* x, int64_t n, float cap);
  void add_bias(float* x, int64_t T, const float* bias, int64_t n);
  void columns(const float* x, int64_t groups, int64_t width, int64_t first, int64_t end, float* out);
  void join(const float* x, int64_t width, const float* y, int64_t width_y, int64_t groups, float* out);
  void experts(const float* x, int64_t T, int64_t d_model, const int32_t* ids, const float* weights, int64_t n_used,
               const ExpertSet& set, double* y);
  void combine(float* x, int64_t n, const std::vector<const double*>& parts);
  void add(float* x, const float* y, int64_t n);
  void take(const float* x, int64_t T, int64_t cols, const int32_t* rows, int64_t n, float* out);

  // -- probes
  double read_gb_s(int64_t bytes, int reps);  // median
  double int8_gops();
  double f32_gflops();

 private:
  class Op;  // lock and clock of one operation

  const FormatInfo& format(int type) const;
  Packed source_matrix(const Source& source, int64_t copies, int64_t rows, int64_t cols) const;
  void pack_into(const Packed& from, uint8_t* to, bool release, Report& report);
  void take_inputs(const float* x, int64_t T, int64_t cols, bool integer);
  const void* const* inputs(const Packed& w) const { return w.format->integer ? quantised_.data() : floats_.data(); }
  void reserve_pairs(int64_t bytes);
  RowPair ready(const Packed& w, int64_t pair, int worker, const uint8_t* next = nullptr);
  template <class F> void over_blocks(int64_t n, F&& f);
  template <class F> void over_tokens(int64_t T, int64_t work_per_token, F&& f);
  void route_token(float* logits, int64_t E, const Routing& r, float* wanted, int32_t* ids, float* weights) const;
  template <class F> double rate(F&& work, double work_done, int reps);

  const Kernels* kernels_;
  std::unique_ptr<Pool> pool_;
  std::mutex mutex_;
  std::atomic<int64_t> busy_ns_{0};

  // scratch, kept between operations
  std::vector<const void*> quantised_, floats_;  // each token's activations, both ways
  Acts acts_, hidden_;
  Buffer scratch_, hidden_floats_, sums_;
  Buffer pairs_;  // of stored matrices, packed for the moment: [worker]
  int64_t pair_stride_ = 0;
  struct RopeTable {
    std::vector<int32_t> positions;
    std::vector<double> frequencies;
    double magnitude = 0;
    std::vector<float> cos, sin;
  } ropes_[2];  // the latest first: models have two at most, by turns
};

class Device::Op {
 public:
  explicit Op(Device& d) : device_(d), lock_(d.mutex_), start_(std::chrono::steady_clock::now()) {}
  ~Op() {
    auto passed = std::chrono::steady_clock::now() - start_;
    device_.busy_ns_ += std::chrono::duration_cast<std::chrono::nanoseconds>(passed).count();
  }

 private:
  Device& device_;
  std::lock_guard<std::mutex> lock_;
  std::chrono::steady_clock::time_point start_;
};

// f(token) for all tokens; in parallel where the work (in elements touched) pays for waking the pool.
template <class F>
void Device::over_tokens(int64_t T, int64_t work_per_token, F&& f) {
  constexpr int64_t kWorthwhile = 1 << 15;
  if (T * work_per_token < 2 * kWorthwhile) {
    for (int64_t t = 0; t < T; ++t) f(t, 0);
    return;
  }
  int64_t chunk = kWorthwhile / (work_per_token + 1) + 1;
  pool_->run((T + chunk - 1) / chunk, [&](int64_t item, int worker) {
    int64_t end = item * chunk + chunk < T ? item * chunk + chunk : T;
    for (int64_t t = item * chunk; t < end; ++t) f(t, worker);
  });
}

}  // namespace motley
