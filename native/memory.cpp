#include "memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <new>
#include <utility>

namespace motley {
namespace {

constexpr size_t kHuge = size_t(2) << 20;

size_t round_up(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }

size_t page_size() {
  static const size_t size = size_t(sysconf(_SC_PAGESIZE));
  return size;
}

}  // namespace

Buffer::Buffer(size_t bytes, Pages pages) {
  if (bytes == 0) return;
  size_ = round_up(bytes, page_size());
  size_t slack = pages == Pages::huge && size_ >= kHuge ? kHuge : 0;
  void* p = mmap(nullptr, size_ + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) throw std::bad_alloc();
  data_ = static_cast<uint8_t*>(p);
  if (slack) {  // cut to a 2 MB boundary
    size_t before = round_up(size_t(data_), kHuge) - size_t(data_);
    if (before) munmap(data_, before);
    data_ += before;
    if (slack - before) munmap(data_ + size_, slack - before);
  }
#if defined(MADV_HUGEPAGE)
  madvise(data_, size_, slack ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
#endif
}

Buffer::~Buffer() {
  if (data_) munmap(data_, size_);
}

Buffer::Buffer(Buffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

uint8_t* Buffer::grow(size_t bytes) {
  if (bytes > size_) *this = Buffer(bytes + bytes / 2);
  return data_;
}

void release_file_pages(const void* p, size_t bytes) {
  size_t page = page_size();
  size_t from = round_up(size_t(p), page), to = (size_t(p) + bytes) / page * page;
  if (to > from) madvise(reinterpret_cast<void*>(from), to - from, MADV_DONTNEED);
}

}  // namespace motley
