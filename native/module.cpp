// Python's view of the device. Checks shapes (ValueError with the numbers), releases the GIL, calls device.h.
// The numpy-facing half, with docstrings, is src/motley/ops/native/native_ops.py.
#ifdef __linux__
#include <malloc.h>
#endif
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>


#include "arrays.h"
#include "isa.h"
#include "program.h"

namespace nb = nanobind;
using namespace motley;
using NoGil = nb::gil_scoped_release;

namespace {

using Watcher = std::optional<nb::callable>;  // called with the bytes done

Report report_to(const Watcher& watcher) {
  if (!watcher) return Report();
  return Report([&watcher](int64_t done) {
    nb::gil_scoped_acquire gil;
    (*watcher)(done);
  });
}

std::unique_ptr<Matrix> pack(Device& d, nb::handle data, int type, int64_t rows, int64_t cols, bool release,
                             const Watcher& watcher) {
  Array<const uint8_t> a(data);
  Report report = report_to(watcher);
  NoGil no_gil;
  return d.pack({a.data(), a.size(), type}, rows, cols, release, report);
}

std::unique_ptr<Matrix> stored(Device& d, nb::handle data, int type, int64_t rows, int64_t cols) {
  Array<const uint8_t> a(data);
  return d.stored({a.data(), a.size(), type}, rows, cols);
}

std::unique_ptr<ExpertSet> pack_experts(Device& d, nb::handle gate, int gate_type, nb::handle up, int up_type,
                                        nb::handle down, int down_type, int64_t n_experts, int64_t d_model,
                                        int64_t d_expert, const std::vector<int32_t>& owned, bool release,
                                        const Watcher& watcher) {
  Array<const uint8_t> g(gate), u(up), w(down);
  Report report = report_to(watcher);
  NoGil no_gil;
  return d.pack_experts({g.data(), g.size(), gate_type}, {u.data(), u.size(), up_type}, {w.data(), w.size(), down_type},
                        n_experts, d_model, d_expert, owned, release, report);
}

std::unique_ptr<ExpertSet> stored_experts(Device& d, nb::handle gate, int gate_type, nb::handle up, int up_type,
                                          nb::handle down, int down_type, int64_t n_experts, int64_t d_model,
                                          int64_t d_expert, const std::vector<int32_t>& owned) {
  Array<const uint8_t> g(gate), u(up), w(down);
  return d.stored_experts({g.data(), g.size(), gate_type}, {u.data(), u.size(), up_type},
                          {w.data(), w.size(), down_type}, n_experts, d_model, d_expert, owned);
}

void embed(Device& d, nb::handle table, int type, int64_t cols, nb::handle tokens, nb::handle out) {
  Array<const uint8_t> a(table);
  Array<const int32_t> t(tokens, 1);
  Array<float> o(out, 2);
  o.expect("out", t.size(), cols);
  perform({table, tokens, out}, [&d, type, cols, data = a.data(), bytes = a.size(), t = t.data(), T = t.size(),
                                 o = o.data()] { d.embed(data, bytes, type, cols, t, T, o); });
}

void rms_norm(Device& d, nb::handle x, nb::handle weight, float eps, nb::handle out) {
  Array<const float> a(x, 2), w(weight, 1);
  Array<float> o(out, 2);
  if (w.size() == 0 || a.dim(1) % w.size()) throw bad("rows of ", a.dim(1), " are not groups of ", w.size());
  o.expect("out", a.dim(0), a.dim(1));
  perform({x, weight, out}, [&d, eps, x = a.data(), groups = a.size() / w.size(), w = w.data(), width = w.size(),
                             o = o.data()] { d.rms_norm(x, groups, w, width, eps, o); });
}

void linear(Device& d, nb::handle x, nb::tuple weights, nb::tuple outs) {
  Array<const float> a(x, 2);
  std::vector<const Matrix*> w;
  std::vector<float*> out;
  for (size_t i = 0; i < weights.size(); ++i) {
    w.push_back(nb::cast<const Matrix*>(weights[i]));
    Array<float> o(outs[i], 2);
    o.expect("out", a.dim(0), w.back()->w.rows);
    out.push_back(o.data());
  }
  perform({x, weights, outs}, [&d, x = a.data(), T = a.dim(0), cols = a.dim(1), w = std::move(w),
                               out = std::move(out)] { d.linear(x, T, cols, w, out); });
}

void rope(Device& d, nb::handle x, int64_t head_dim, nb::handle positions, int64_t dim, double theta,
          bool interleaved) {
  Array<float> a(x, 2);
  Array<const int32_t> p(positions, 1);
  p.expect("positions", a.dim(0));
  if (head_dim < 1 || a.dim(1) % head_dim) throw bad("rows of ", a.dim(1), " are not heads of ", head_dim);
  perform({x, positions}, [&d, head_dim, dim, theta, interleaved, x = a.data(), T = a.dim(0),
                           heads = a.dim(1) / head_dim, p = p.data()] {
    d.rope(x, T, heads, head_dim, p, dim, theta, interleaved);
  });
}

void attention(Device& d, nb::handle q, nb::handle k, nb::handle v, nb::handle kv, nb::handle positions,
               nb::handle slots, float scale, nb::handle out) {
  Cache& cache = nb::cast<Cache&>(kv);
  Array<const float> qa(q, 2), ka(k, 2), va(v, 2);
  Array<const int32_t> p(positions, 1), s(slots, 1);
  Array<float> o(out, 2);
  int64_t T = qa.dim(0), width = cache.kv_heads * cache.head_dim;
  if (qa.dim(1) % cache.head_dim) throw bad("queries of ", qa.dim(1), " are not heads of ", cache.head_dim);
  ka.expect("k", T, width);
  va.expect("v", T, width);
  p.expect("positions", T);
  s.expect("slots", T);
  o.expect("out", T, qa.dim(1));
  perform({q, k, v, kv, positions, slots, out},
          [&d, &cache, scale, T, q = qa.data(), k = ka.data(), v = va.data(), p = p.data(), s = s.data(),
           heads = qa.dim(1) / cache.head_dim, o = o.data()] { d.attention(q, k, v, cache, p, s, T, heads, scale, o); });
}

void router(Device& d, nb::handle x, nb::handle matrix, int64_t n_used, bool normalize, nb::handle ids,
            nb::handle weights) {
  const Matrix& w = nb::cast<const Matrix&>(matrix);
  Array<const float> a(x, 2);
  Array<int32_t> i(ids, 2);
  Array<float> o(weights, 2);
  i.expect("ids", a.dim(0), n_used);
  o.expect("weights", a.dim(0), n_used);
  perform({x, matrix, ids, weights}, [&d, &w, n_used, normalize, x = a.data(), T = a.dim(0), cols = a.dim(1), i = i.data(),
                              o = o.data()] { d.router(x, T, cols, w, n_used, normalize, i, o); });
}

void experts(Device& d, nb::handle x, nb::handle ids, nb::handle weights, nb::handle owned, nb::handle out) {
  const ExpertSet& set = nb::cast<const ExpertSet&>(owned);
  Array<const float> a(x, 2), w(weights, 2);
  Array<const int32_t> i(ids, 2);
  Array<double> o(out, 2);
  if (i.dim(0) != a.dim(0)) throw bad("ids for ", i.dim(0), " tokens, x for ", a.dim(0));
  w.expect("weights", a.dim(0), i.dim(1));
  o.expect("out", a.dim(0), a.dim(1));
  perform({x, ids, weights, owned, out}, [&d, &set, x = a.data(), T = a.dim(0), width = a.dim(1), i = i.data(), w = w.data(),
                                   n_used = i.dim(1), o = o.data()] { d.experts(x, T, width, i, w, n_used, set, o); });
}

void combine(Device& d, nb::handle x, nb::list parts) {
  Array<float> a(x);
  std::vector<const double*> p;
  for (nb::handle part : parts) {
    Array<const double> array(part);
    array.expect("a part", a.size());
    p.push_back(array.data());
  }
  perform({x, parts}, [&d, x = a.data(), n = a.size(), p = std::move(p)] { d.combine(x, n, p); });
}

void add(Device& d, nb::handle x, nb::handle y) {
  Array<float> a(x);
  Array<const float> b(y);
  b.expect("y", a.size());
  perform({x, y}, [&d, x = a.data(), y = b.data(), n = a.size()] { d.add(x, y, n); });
}

void take(Device& d, nb::handle x, nb::handle rows, nb::handle out) {
  Array<const float> a(x, 2);
  Array<const int32_t> r(rows, 1);
  Array<float> o(out, 2);
  o.expect("out", r.size(), a.dim(1));
  perform({x, rows, out}, [&d, x = a.data(), T = a.dim(0), cols = a.dim(1), r = r.data(), n = r.size(), o = o.data()] {
    d.take(x, T, cols, r, n, o);
  });
}

}  // namespace

// A step's arrays come and go by the megabyte. glibc would give each back to the system and fault its pages in again:
// that was half of Python's time in a prompt.
void keep_freed_memory() {
#ifdef __GLIBC__
  mallopt(M_MMAP_THRESHOLD, 32 << 20);
  mallopt(M_TRIM_THRESHOLD, 64 << 20);
#endif
}

NB_MODULE(_native, m) {
  keep_freed_memory();
  nb::set_leak_warnings(false);  // a device alive at exit is not worth a page of warnings
  m.def("isas", &usable_isas);
  nb::class_<Matrix>(m, "Matrix")
      .def_prop_ro("rows", [](const Matrix& w) { return w.w.rows; })
      .def_prop_ro("cols", [](const Matrix& w) { return w.w.cols; })
      .def_prop_ro("n_bytes", [](const Matrix& w) { return w.memory.size(); });
  nb::class_<ExpertSet>(m, "ExpertSet").def_prop_ro("n_bytes", [](const ExpertSet& s) {
    return s.memory[0].size() + s.memory[1].size() + s.memory[2].size();
  });
  nb::class_<Cache>(m, "Cache");
  nb::class_<Program>(m, "Program")
      .def("start", &Program::start)
      .def("stop", &Program::stop)
      .def("mark", &Program::mark)
      .def("call", &Program::call)
      .def("begin", &Program::begin)
      .def("next", &Program::next)
      .def("marks", &Program::marks);
  nb::class_<Device>(m, "Device")
      .def(nb::init<int, const std::string&, bool>())
      .def_prop_ro("isa", &Device::isa)
      .def_prop_ro("threads", &Device::threads)
      .def("busy_seconds", &Device::busy_seconds)
      .def("close", &Device::close, nb::call_guard<NoGil>())
      .def("pack", &pack)
      .def("pack_experts", &pack_experts)
      // What is not packed stays in the arrays: they live as long as it does.
      .def("stored", &stored, nb::keep_alive<0, 2>())
      .def("stored_experts", &stored_experts, nb::keep_alive<0, 2>(), nb::keep_alive<0, 4>(), nb::keep_alive<0, 6>())
      .def("cache", &Device::cache)
      .def("embed", &embed)
      .def("rms_norm", &rms_norm)
      .def("linear", &linear)
      .def("rope", &rope)
      .def("attention", &attention)
      .def("router", &router)
      .def("experts", &experts)
      .def("combine", &combine)
      .def("add", &add)
      .def("take", &take)
      .def("program", [](const Device& d) { return new Program(d); }, nb::keep_alive<0, 1>())
      .def("read_gb_s", &Device::read_gb_s, nb::call_guard<NoGil>())
      .def("int8_gops", &Device::int8_gops, nb::call_guard<NoGil>())
      .def("f32_gflops", &Device::f32_gflops, nb::call_guard<NoGil>());
}
