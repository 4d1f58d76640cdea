#include "ring.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <stdexcept>
#include <string>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace motley {
namespace {

using Cell = std::atomic<uint64_t>;
static_assert(Cell::is_always_lock_free && sizeof(Cell) == 8, "the counters are shared by processes");

Cell& cell(uint8_t* control, int64_t at) { return *reinterpret_cast<Cell*>(control + at); }

void relax() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  __asm__ __volatile__("yield");
#endif
}

uint64_t possible(uint64_t bytes, uint64_t size) {
  if (bytes > size) throw std::invalid_argument(std::to_string(bytes) + " bytes in a ring of " + std::to_string(size));
  return bytes;
}

}  // namespace

// The writer's two counters lie on one line: the reader needs both.
Ring::Ring(uint8_t* control, uint8_t* data, uint64_t size)
    : tail_(cell(control, 0)),
      base_(cell(control, 8)),
      head_(cell(control, kLine)),
      writer_sleeps_(cell(control, 2 * kLine)),
      reader_sleeps_(cell(control, 3 * kLine)),
      data_(data),
      size_(size) {}

uint64_t Ring::used() const { return possible(done_ - head_.load(std::memory_order_acquire), size_); }

uint64_t Ring::there() const { return possible(tail_.load(std::memory_order_acquire) - done_, size_); }

int64_t Ring::room() {
  uint64_t n = used();
  // Read empty: the reader looks at `base_` only after it saw more, and will then see this.
  if (n == 0) base_.store(start_ = done_, std::memory_order_relaxed);
  return int64_t(size_ - n);
}

void Ring::write(const uint8_t* bytes, int64_t n) {
  uint64_t at = (done_ - start_) % size_, first = std::min<uint64_t>(n, size_ - at);
  std::memcpy(data_ + at, bytes, first);
  std::memcpy(data_, bytes + first, n - first);
  done_ += n;
}

int64_t Ring::read(uint8_t* bytes, int64_t n, double seconds) {
  using Clock = std::chrono::steady_clock;
  uint64_t ready = there();
  if (!ready && seconds > 0) {
    auto stop = Clock::now() + std::chrono::duration<double>(seconds);
    do {
      for (int i = 0; i < 16 && !ready; ++i) {
        relax();
        ready = there();
      }
    } while (!ready && Clock::now() < stop);
  }
  uint64_t at = (done_ - base_.load(std::memory_order_relaxed)) % size_;
  uint64_t take = std::min({ready, uint64_t(n), uint64_t(kPieceBytes), size_ - at});
  if (!take) return 0;
  std::memcpy(bytes, data_ + at, take);
  done_ += take;
  head_.store(done_, std::memory_order_release);
  return int64_t(take);
}

bool Ring::may_sleep(Side own) {
  asleep(own).store(1, std::memory_order_relaxed);
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (own == Side::writer ? used() == size_ : there() == 0) return true;
  woke(own);
  return false;
}

bool Ring::sleeps(Side other) {
  std::atomic_thread_fence(std::memory_order_seq_cst);
  return asleep(other).load(std::memory_order_relaxed) != 0;
}

}  // namespace motley
