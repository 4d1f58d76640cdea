// See pool.h. Spinning covers the gaps between the operations of a step (a few microseconds each), parking covers
// the gaps between steps: an idle pool burns no CPU.
#include "pool.h"

#include <chrono>

#if defined(__x86_64__)
#include <immintrin.h>
#endif
#if !defined(_WIN32)
#include <pthread.h>
#endif

namespace motley {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kItemBits = 32;
constexpr uint64_t kItemMask = (uint64_t(1) << kItemBits) - 1;
constexpr auto kSpin = std::chrono::microseconds(30);    // with the pause instruction
constexpr auto kYield = std::chrono::microseconds(100);  // then giving the core away in between, until parking

std::atomic<int> forks{0};

void count_forks() {
#if !defined(_WIN32)
  static const int once = pthread_atfork(nullptr, nullptr, [] { forks.fetch_add(1); });
  (void)once;
#endif
}

void pause_cpu() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

// Wait until `ready()`: spin, then yield. False when `limit` passed.
template <class Ready>
bool wait_for(Ready ready, bool crowded, std::chrono::microseconds limit) {
  for (int i = 0; i < 200; ++i) {
    if (ready()) return true;
    pause_cpu();
  }
  const auto start = Clock::now();
  const auto spin = crowded ? std::chrono::microseconds(0) : kSpin;
  for (;;) {
    for (int i = 0; i < 32; ++i) {
      if (ready()) return true;
      pause_cpu();
    }
    auto passed = Clock::now() - start;
    if (passed > limit) return false;
    if (passed > spin) std::this_thread::yield();
  }
}

}  // namespace

Pool::Pool(int threads) : threads_(threads < 1 ? 1 : threads), items_(size_t(threads_)) {
  count_forks();
  fork_count_ = forks.load();
  unsigned cores = std::thread::hardware_concurrency();
  crowded_ = cores != 0 && unsigned(threads_) > cores;
  try {
    for (int i = 1; i < threads_; ++i) crew_->workers.emplace_back([this, i] { worker(i); });
  } catch (...) {  // the system has no thread more
    end_workers();
    throw;
  }
}

void Pool::end_workers() {
  stop_ = true;
  { std::lock_guard<std::mutex> lock(crew_->mutex); }
  crew_->wake.notify_all();
  for (std::thread& t : crew_->workers) t.join();
}

Pool::~Pool() {
  if (fork_count_ != forks.load()) {  // the workers never existed in this process
    (void)crew_.release();
    return;
  }
  end_workers();
}

bool Pool::claim(Items& from, bool first, int64_t* item) {
  uint64_t left = from.left.load(std::memory_order_acquire);
  for (;;) {
    const uint64_t next = left & kItemMask, end = left >> kItemBits;
    if (next >= end) return false;
    const uint64_t rest = first ? left + 1 : left - (uint64_t(1) << kItemBits);
    if (!from.left.compare_exchange_weak(left, rest, std::memory_order_acq_rel)) continue;
    *item = int64_t(first ? next : end - 1);
    return true;
  }
}

void Pool::work(int index) {
  for (int i = 0; i < threads_; ++i) {
    Items& from = items_[size_t((index + i) % threads_)];
    // A successful claim: the job cannot end, nor fn_ change, before the item is counted as done.
    for (int64_t item; claim(from, i == 0, &item); done_.fetch_add(1, std::memory_order_release))
      fn_(context_, item, index);
  }
}

void Pool::run_raw(int64_t n, Raw fn, void* context) {
  if (threads_ == 1 || n < 2 || fork_count_ != forks.load(std::memory_order_relaxed)) {
    for (int64_t i = 0; i < n; ++i) fn(context, i, 0);
    return;
  }
  fn_ = fn;
  context_ = context;
  done_.store(0, std::memory_order_relaxed);
  for (int64_t w = 0; w < threads_; ++w) {
    const uint64_t first = uint64_t(n * w / threads_), end = uint64_t(n * (w + 1) / threads_);
    items_[size_t(w)].left.store(end << kItemBits | first, std::memory_order_release);
  }
  jobs_.fetch_add(1);  // sequentially consistent, as parked_: no wake-up is lost
  if (parked_.load() > 0) {
    { std::lock_guard<std::mutex> lock(crew_->mutex); }
    crew_->wake.notify_all();
  }
  work(0);
  auto finished = [&] { return done_.load(std::memory_order_acquire) == n; };
  while (!wait_for(finished, crowded_, std::chrono::hours(1))) {
  }
}

void Pool::park(uint32_t seen) {
  std::unique_lock<std::mutex> lock(crew_->mutex);
  parked_.fetch_add(1);
  crew_->wake.wait(lock, [&] { return stop_.load() || jobs_.load() != seen; });
  parked_.fetch_sub(1);
}

void Pool::worker(int index) {
  uint32_t seen = 0;
  while (!stop_.load(std::memory_order_relaxed)) {
    auto changed = [&] { return jobs_.load(std::memory_order_acquire) != seen || stop_.load(std::memory_order_relaxed); };
    auto limit = crowded_ ? std::chrono::microseconds(5) : std::chrono::microseconds(kYield);
    if (!wait_for(changed, crowded_, limit)) park(seen);
    seen = jobs_.load(std::memory_order_acquire);
    work(index);
  }
}

}  // namespace motley
