// A stream of bytes in memory that two processes share: one writes, one reads, nobody locks.
//
// Two counters, of bytes written and of bytes read: each side writes its own, and keeps it to itself as well; of the
// other's it believes only what is possible (std::invalid_argument otherwise), so that a hostile process can't lead a
// copy out of the ring. Bytes are copied out before anybody looks at them. A ring that was read empty is written from
// its beginning again: small frames stay in the caches instead of walking through the whole ring.
//
// Who is about to sleep says so, looks once more, and sleeps by means of its own; the other side sees it and wakes it.
#pragma once
#include <atomic>
#include <cstdint>

namespace motley {

enum class Side { writer, reader };

class Ring {
 public:
  static constexpr int64_t kLine = 128;  // of one writer: caches fetch lines in pairs
  static constexpr int64_t kControlBytes = 4 * kLine;
  static constexpr int64_t kPieceBytes = 256 << 10;  // one is copied out while the next is copied in

  // `control`: kControlBytes, aligned to kLine, zero when the first side begins. `data`: the ring itself.
  Ring(uint8_t* control, uint8_t* data, uint64_t size);

  // The writer: how much goes in now, writing some of it, and letting the reader have what was written.
  int64_t room();
  void write(const uint8_t* bytes, int64_t n);  // n <= room()
  void publish() { tail_.store(done_, std::memory_order_release); }

  // The reader: up to n bytes, and at most a piece; looks for `seconds` before it returns 0.
  int64_t read(uint8_t* bytes, int64_t n, double seconds);

  bool may_sleep(Side own);  // false: there is something to do; else the other side now sees this one asleep
  void woke(Side own) { asleep(own).store(0, std::memory_order_relaxed); }
  bool sleeps(Side other);  // after `publish` or `read`

 private:
  std::atomic<uint64_t>& asleep(Side side) { return side == Side::writer ? writer_sleeps_ : reader_sleeps_; }
  uint64_t used() const;  // of the writer
  uint64_t there() const;  // of the reader

  std::atomic<uint64_t>&tail_, &base_, &head_, &writer_sleeps_, &reader_sleeps_;
  uint8_t* const data_;
  const uint64_t size_;
  uint64_t done_ = 0;  // bytes that this side wrote, or read
  uint64_t start_ = 0;  // of the writer: its count when it last began at the beginning
};

}  // namespace motley
