// Memory for weights, caches and scratch.
#pragma once
#include <cstddef>
#include <cstdint>

namespace motley {

// Anonymous zeroed memory straight from the system, freed with the object. Throws std::bad_alloc.
class Buffer {
 public:
  enum class Pages {
    huge,  // 2 MB aligned and asked to be huge: weights are read end to end, and the TLB is small
    small  // only what is touched gets memory: caches
  };
  Buffer() = default;
  explicit Buffer(size_t bytes, Pages pages = Pages::huge);
  ~Buffer();
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;

  uint8_t* data() const { return data_; }
  size_t size() const { return size_; }

  // Scratch: at least `bytes` long; contents are lost when it has to grow.
  uint8_t* grow(size_t bytes);

 private:
  uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

// Drop the resident pages that lie wholly inside [p, p + bytes). Only for read-only mappings of a file, which the
// system reads again when asked: anonymous memory would lose its contents.
void release_file_pages(const void* p, size_t bytes);

}  // namespace motley
