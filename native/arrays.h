// Numpy arrays as pointers, through Python's buffer protocol: about 0.1 us each, a tenth of what DLPack costs.
#pragma once
#include <nanobind/nanobind.h>

#include <string>

#include "device.h"

namespace motley {

template <class T> constexpr const char* kFormat = "";
template <> inline constexpr const char* kFormat<float> = "f";
template <> inline constexpr const char* kFormat<double> = "d";
template <> inline constexpr const char* kFormat<int32_t> = "i";
template <> inline constexpr const char* kFormat<uint8_t> = "B";

// A C-contiguous array of T (const T: read-only will do), held while the operation runs.
template <class T>
class Array {
 public:
  using Element = std::remove_const_t<T>;

  explicit Array(nanobind::handle h, int ndim = 0) {
    int flags = PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | (std::is_const_v<T> ? 0 : PyBUF_WRITABLE);
    if (PyObject_GetBuffer(h.ptr(), &view_, flags) != 0) nanobind::raise_python_error();
    std::string format = view_.format ? view_.format : "B";
    bool right = format == kFormat<Element> || (std::is_same_v<Element, int32_t> && format == "l" && view_.itemsize == 4);
    int got = view_.ndim;
    if (right && (ndim == 0 || got == ndim)) return;
    PyBuffer_Release(&view_);
    if (!right) throw bad("an array of type '", format, "' where '", kFormat<Element>, "' is needed");
    throw bad("an array of ", got, " dimensions where ", ndim, " are needed");
  }
  ~Array() { PyBuffer_Release(&view_); }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;

  T* data() const { return static_cast<T*>(view_.buf); }
  int64_t size() const { return view_.len / int64_t(sizeof(T)); }
  int64_t dim(int i) const { return view_.shape[i]; }
  // Throws unless the array is [rows, cols].
  void expect(const char* what, int64_t rows, int64_t cols) const {
    if (view_.ndim != 2 || dim(0) != rows || dim(1) != cols)
      throw bad(what, " has ", size(), " elements, not [", rows, ", ", cols, "]");
  }
  void expect(const char* what, int64_t n) const {
    if (size() != n) throw bad(what, " has ", size(), " elements, not ", n);
  }

 private:
  Py_buffer view_;
};

// The bytes of anything C-contiguous, whatever it holds.
class Bytes {
 public:
  explicit Bytes(nanobind::handle h) {
    if (PyObject_GetBuffer(h.ptr(), &view_, PyBUF_C_CONTIGUOUS) != 0) nanobind::raise_python_error();
  }
  ~Bytes() { PyBuffer_Release(&view_); }
  Bytes(const Bytes&) = delete;
  Bytes& operator=(const Bytes&) = delete;

  const uint8_t* data() const { return static_cast<const uint8_t*>(view_.buf); }
  int64_t size() const { return view_.len; }

 private:
  Py_buffer view_;
};

}  // namespace motley
