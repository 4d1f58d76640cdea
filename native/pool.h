// A persistent thread pool for many short jobs: spin a little, then yield, then park.
//
// `run(n, f)` calls f(item, worker) for items 0..n-1 on the caller and the workers and returns when all are done.
// Each worker starts with a run of neighbouring items of its own, so that what it asks of memory ahead of time is what
// it reads next; who has finished takes from the ends of the others' runs. A run is one atomic word, and a claim that
// succeeds is one of the current job whatever the claimer saw before: a worker that wakes late finds nothing, or helps,
// and can do no harm. Nobody waits for a worker, only for items: one that the system does not schedule costs nothing but
// its help.
// A forked child has no workers; its jobs run on the caller alone.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

namespace motley {

class Pool {
 public:
  explicit Pool(int threads);  // the caller counts as one
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int threads() const { return threads_; }

  // One job at a time: callers serialise. f must not throw.
  template <class F>
  void run(int64_t n, F&& f) {
    using Fn = std::remove_reference_t<F>;
    run_raw(n, [](void* context, int64_t item, int worker) { (*static_cast<Fn*>(context))(item, worker); },
            const_cast<void*>(static_cast<const void*>(&f)));
  }

 private:
  using Raw = void (*)(void* context, int64_t item, int worker);
  void run_raw(int64_t n, Raw fn, void* context);
  void worker(int index);
  void end_workers();
  void work(int index);  // claim and do items until there are none
  void park(uint32_t seen);

  const int threads_;
  bool crowded_;       // more threads than cores: spinning would take time from whoever works
  int fork_count_;     // of this process when the workers were started

  struct alignas(64) Items {
    std::atomic<uint64_t> left{0};  // end (32 bits) | next item (32)
  };
  bool claim(Items& from, bool first, int64_t* item);  // its first or its last

  std::vector<Items> items_;  // of each worker
  alignas(64) std::atomic<uint32_t> jobs_{0};  // so far; it may wrap
  alignas(64) std::atomic<int64_t> done_{0};
  Raw fn_ = nullptr;
  void* context_ = nullptr;

  alignas(64) std::atomic<int> parked_{0};
  std::atomic<bool> stop_{false};

  // On the heap, because a forked child must abandon it: destroying a condition variable waits for its waiters, and
  // the child has copies of waiters that never wake.
  struct Crew {
    std::vector<std::thread> workers;
    std::mutex mutex;
    std::condition_variable wake;
  };
  std::unique_ptr<Crew> crew_ = std::make_unique<Crew>();
};

}  // namespace motley
