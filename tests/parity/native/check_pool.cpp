// The thread pool under its own weight: every item of many short jobs exactly once, with more and fewer items than
// threads. Built with -fsanitize=thread where the compiler has it.
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "pool.h"

int main(int, char** argv) {
  const int jobs = std::atoi(argv[1]);
  for (int threads : {1, 2, 3, 8}) {
    motley::Pool pool(threads);
    for (int job = 0; job < jobs; ++job) {
      const int64_t n = job % 7 == 0 ? 1 + job % 300 : job % 9;
      std::vector<int> done(size_t(n), 0);      // not atomic: an item done twice or read too early is a race
      std::vector<int64_t> by(size_t(n), -1);
      pool.run(n, [&](int64_t item, int worker) {
        ++done[size_t(item)];
        by[size_t(item)] = worker;
      });
      for (int64_t i = 0; i < n; ++i)
        if (done[size_t(i)] != 1 || by[size_t(i)] < 0 || by[size_t(i)] >= threads) {
          std::printf("%d threads, job %d: item %lld of %lld was done %d times, by %lld\n", threads, job, (long long)i,
                      (long long)n, done[size_t(i)], (long long)by[size_t(i)]);
          return 1;
        }
    }
  }
  std::printf("every item once\n");
}
