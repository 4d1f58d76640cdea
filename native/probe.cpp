// What this machine can do: the ceilings that predictions and benchmarks are held against.
#include <algorithm>

#include "device.h"

namespace motley {

// Median of work_done / seconds over `reps` runs of `work`, after one for warming up.
template <class F>
double Device::rate(F&& work, double work_done, int reps) {
  std::vector<double> rates;
  work();
  for (int i = 0; i < reps; ++i) {
    auto start = std::chrono::steady_clock::now();
    work();
    std::chrono::duration<double> passed = std::chrono::steady_clock::now() - start;
    rates.push_back(work_done / passed.count());
  }
  std::sort(rates.begin(), rates.end());
  return rates[rates.size() / 2];
}

double Device::read_gb_s(int64_t bytes, int reps) {
  Op op(*this);
  constexpr int64_t kPiece = 1 << 20;
  if (bytes < kPiece || reps < 1) throw bad("cannot measure reading ", bytes, " bytes ", reps, " times");
  bytes = bytes / kPiece * kPiece;
  Buffer memory(size_t(bytes) + 4096);  // the kernel prefetches a little beyond the end
  uint8_t* p = memory.data();
  pool_->run(bytes / kPiece, [&](int64_t i, int) { std::fill(p + i * kPiece, p + (i + 1) * kPiece, uint8_t(i)); });
  std::atomic<int64_t> sink{0};
  auto work = [&] {
    pool_->run(bytes / kPiece, [&](int64_t i, int) { sink += kernels_->read(p + i * kPiece, kPiece); });
  };
  return rate(work, double(bytes) * 1e-9, reps);
}

double Device::int8_gops() {
  Op op(*this);
  constexpr int64_t kRounds = 1 << 16;
  int64_t items = 16 * pool_->threads();
  std::atomic<int64_t> sink{0};
  auto work = [&] { pool_->run(items, [&](int64_t, int) { sink += kernels_->int8_tile(kRounds); }); };
  return rate(work, 2e-9 * double(kProbeInt8Macs * kRounds * items), 7);
}

double Device::f32_gflops() {
  Op op(*this);
  constexpr int64_t kRounds = 1 << 16;
  int64_t items = 16 * pool_->threads();
  std::atomic<int64_t> sink{0};
  auto work = [&] { pool_->run(items, [&](int64_t, int) { sink += int64_t(kernels_->f32_tile(kRounds) > 0); }); };
  return rate(work, 2e-9 * double(kProbeF32Macs * kRounds * items), 7);
}

}  // namespace motley
