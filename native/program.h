// A step's operations, remembered with their arrays while they run for the first time, to be run again from one call:
// between two operations Python costs some microseconds each, cold, because the weights have swept the caches.
#pragma once
#include <nanobind/nanobind.h>

#include <chrono>
#include <functional>
#include <initializer_list>
#include <utility>
#include <vector>

#include "device.h"

namespace motley {

class Program {
 public:
  explicit Program(const Device& device) : device_(device) {}
  Program(const Program&) = delete;  // `mark` points back

  // The program that this thread's operations are added to; nullptr: none.
  static inline thread_local Program* recording = nullptr;

  void start() {
    if (recording) throw bad("this thread records already");
    recording = this;
  }
  void stop() { recording = nullptr; }

  void add(std::initializer_list<nanobind::handle> used, std::function<void()> step) {
    for (nanobind::handle object : used) used_.push_back(nanobind::borrow(object));
    steps_.push_back(std::move(step));
  }

  // From here on another part of the step: `run` will note the time.
  void mark() {
    steps_.push_back([this] {
      marks_.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count());
      marks_.push_back(device_.busy_seconds());
    });
  }

  // Do the host's own part of the step now, and again in its place at every run: an exchange with other devices, say.
  // What it does with this device meanwhile is not remembered.
  void call(nanobind::callable work) {
    Program* outer = recording;
    recording = nullptr;
    try {
      work();
    } catch (...) {
      recording = outer;
      throw;
    }
    recording = outer;
    host_.emplace_back(steps_.size(), std::move(work));
  }

  // Everything again, on what the arrays hold now, up to the host's next part, which is given back to be called; None at
  // the end. `begin` first.
  nanobind::object next() {
    size_t end = at_host_ < host_.size() ? host_[at_host_].first : steps_.size();
    {
      nanobind::gil_scoped_release no_gil;
      for (; at_ < end; ++at_) steps_[at_]();
    }
    if (at_host_ == host_.size()) return nanobind::none();
    return host_[at_host_++].second;
  }

  void begin() {
    at_ = at_host_ = 0;
    marks_.clear();
    start_ = std::chrono::steady_clock::now();
  }

  // By mark of this run: seconds since it began, the device's busy seconds.
  const std::vector<double>& marks() const { return marks_; }

 private:
  const Device& device_;
  std::vector<std::function<void()>> steps_;
  std::vector<std::pair<size_t, nanobind::callable>> host_;  // before which step, in their order
  size_t at_ = 0, at_host_ = 0;
  std::vector<nanobind::object> used_;  // arrays, weights and caches that the steps point into
  std::vector<double> marks_;
  std::chrono::steady_clock::time_point start_;
};

// Do an operation that uses these objects without the GIL, and remember it if this thread records.
template <class Step>
void perform(std::initializer_list<nanobind::handle> used, Step step) {
  {
    nanobind::gil_scoped_release no_gil;
    step();
  }
  if (Program::recording) Program::recording->add(used, std::move(step));
}

}  // namespace motley
