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
#include "ring.h"

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

void rope(Device& d, nb::handle x, int64_t head_dim, nb::handle positions, nb::handle frequencies, int64_t start,
          double magnitude, bool interleaved) {
  Array<float> a(x, 2);
  Array<const int32_t> p(positions, 1);
  Array<const double> f(frequencies, 1);
  p.expect("positions", a.dim(0));
  if (head_dim < 1 || a.dim(1) % head_dim) throw bad("rows of ", a.dim(1), " are not heads of ", head_dim);
  perform({x, positions, frequencies},
          [&d, head_dim, start, magnitude, interleaved, x = a.data(), T = a.dim(0), heads = a.dim(1) / head_dim,
           p = p.data(), f = f.data(), pairs = f.size()] {
            d.rope(x, T, heads, head_dim, p, f, pairs, start, magnitude, interleaved);
          });
}

// The vector's data, or nullptr for None; n: its length.
const float* vector_or_null(nb::handle h, const char* what, int64_t n) {
  if (h.is_none()) return nullptr;
  Array<const float> a(h, 1);
  a.expect(what, n);
  return a.data();
}

void attention(Device& d, nb::handle q, nb::handle k, nb::handle v, nb::handle kv, nb::handle positions,
               nb::handle slots, float scale, nb::handle sinks, nb::handle out) {
  Cache& cache = nb::cast<Cache&>(kv);
  Array<const float> qa(q, 2), ka(k, 2), va(v, 2);
  Array<const int32_t> p(positions, 1), s(slots, 1);
  Array<float> o(out, 2);
  int64_t T = qa.dim(0);
  if (qa.dim(1) % cache.head_dim) throw bad("queries of ", qa.dim(1), " are not heads of ", cache.head_dim);
  const int64_t heads = qa.dim(1) / cache.head_dim;
  ka.expect("k", T, cache.kv_heads * cache.head_dim);
  va.expect("v", T, cache.kv_heads * cache.value_dim);
  p.expect("positions", T);
  s.expect("slots", T);
  o.expect("out", T, heads * cache.value_dim);
  const float* sunk = vector_or_null(sinks, "sinks", heads);
  perform({q, k, v, kv, positions, slots, sinks, out},
          [&d, &cache, scale, T, q = qa.data(), k = ka.data(), v = va.data(), p = p.data(), s = s.data(), heads, sunk,
           o = o.data()] { d.attention(q, k, v, cache, p, s, T, heads, scale, sunk, o); });
}

void delta_net(Device& d, nb::handle qkv, nb::handle write, nb::handle keep, nb::handle conv, nb::handle dt,
               nb::handle rate, nb::handle states, nb::handle positions, nb::handle slots, nb::handle out) {
  DeltaState& state = nb::cast<DeltaState&>(states);
  Array<const float> x(qkv, 2), w(write, 2), k(keep, 2), c(conv, 2), t(dt, 1), r(rate, 1);
  Array<const int32_t> p(positions, 1), s(slots, 1);
  Array<float> o(out, 2);
  const int64_t T = x.dim(0);
  x.expect("qkv", T, state.channels());
  w.expect("write", T, state.v_heads);
  k.expect("keep", T, state.v_heads);
  c.expect("conv", state.taps, state.channels());
  t.expect("dt", state.v_heads);
  r.expect("rate", state.v_heads);
  p.expect("positions", T);
  s.expect("slots", T);
  o.expect("out", T, state.v_heads * state.v_dim);
  perform({qkv, write, keep, conv, dt, rate, states, positions, slots, out},
          [&d, &state, T, x = x.data(), w = w.data(), k = k.data(), c = c.data(), t = t.data(), r = r.data(),
           p = p.data(), s = s.data(), o = o.data()] { d.delta_net(x, w, k, c, t, r, state, p, s, T, o); });
}

void router(Device& d, nb::handle x, nb::handle matrix, int64_t n_used, bool normalize, bool sigmoid, float scale,
            int64_t n_groups, int64_t n_groups_used, int64_t group_sum, nb::handle bias, nb::handle prior,
            nb::handle gain, nb::handle ids, nb::handle weights) {
  const Matrix& w = nb::cast<const Matrix&>(matrix);
  Array<const float> a(x, 2);
  Array<int32_t> i(ids, 2);
  Array<float> o(weights, 2);
  i.expect("ids", a.dim(0), n_used);
  o.expect("weights", a.dim(0), n_used);
  const int64_t E = w.w.rows;
  const Routing routing{n_used,    normalize, sigmoid, scale, n_groups, n_groups_used, group_sum,
                        vector_or_null(bias, "bias", E), vector_or_null(prior, "prior", E),
                        vector_or_null(gain, "gain", E)};
  perform({x, matrix, bias, prior, gain, ids, weights},
          [&d, &w, routing, x = a.data(), T = a.dim(0), cols = a.dim(1), i = i.data(), o = o.data()] {
            d.router(x, T, cols, w, routing, i, o);
          });
}

void heads_linear(Device& d, nb::handle x, nb::handle matrix, int64_t heads, nb::handle out) {
  const Matrix& w = nb::cast<const Matrix&>(matrix);
  Array<const float> a(x, 2);
  Array<float> o(out, 2);
  if (heads < 1 || a.dim(1) != heads * w.w.cols) throw bad("rows of ", a.dim(1), " are not ", heads, " heads of ", w.w.cols);
  o.expect("out", a.dim(0), w.w.rows);
  perform({x, matrix, out}, [&d, &w, heads, x = a.data(), T = a.dim(0), o = o.data()] {
    d.heads_linear(x, T, heads, w, o);
  });
}

void activate(Device& d, int activation, nb::handle gate, nb::handle up, nb::handle out) {
  Array<const float> g(gate), u(up);
  Array<float> o(out);
  u.expect("up", g.size());
  o.expect("out", g.size());
  perform({gate, up, out}, [&d, activation, g = g.data(), u = u.data(), n = g.size(), o = o.data()] {
    d.activate(Activation(activation), g, u, n, o);
  });
}

void gate(Device& d, nb::handle x, nb::handle by, int function) {
  Array<float> a(x, 2);
  Array<const float> b(by, 2);
  b.expect("by", a.dim(0), b.dim(1));
  if (b.dim(1) < 1 || a.dim(1) % b.dim(1)) throw bad("rows of ", a.dim(1), " are not ", b.dim(1), " groups");
  perform({x, by}, [&d, function, x = a.data(), T = a.dim(0), width = a.dim(1), by = b.data(), groups = b.dim(1)] {
    d.gate(x, T, width, by, groups, Gate(function));
  });
}

void temper(Device& d, nb::handle x, nb::handle positions, double factor, int64_t length) {
  Array<float> a(x, 2);
  Array<const int32_t> p(positions, 1);
  p.expect("positions", a.dim(0));
  if (length < 1) throw bad("no tempering over ", length, " positions");
  perform({x, positions}, [&d, factor, length, x = a.data(), T = a.dim(0), width = a.dim(1), p = p.data()] {
    d.temper(x, T, width, p, factor, length);
  });
}

void scale(Device& d, nb::handle x, float factor) {
  Array<float> a(x);
  perform({x}, [&d, factor, x = a.data(), n = a.size()] { d.scale(x, n, factor); });
}

void softcap(Device& d, nb::handle x, float cap) {
  Array<float> a(x);
  perform({x}, [&d, cap, x = a.data(), n = a.size()] { d.softcap(x, n, cap); });
}

void add_bias(Device& d, nb::handle x, nb::handle bias) {
  Array<float> a(x, 2);
  Array<const float> b(bias, 1);
  b.expect("bias", a.dim(1));
  perform({x, bias}, [&d, x = a.data(), T = a.dim(0), b = b.data(), n = a.dim(1)] { d.add_bias(x, T, b, n); });
}

void columns(Device& d, nb::handle x, int64_t width, int64_t first, int64_t end, nb::handle out) {
  Array<const float> a(x, 2);
  Array<float> o(out, 2);
  if (width < 1 || a.dim(1) % width || first < 0 || first >= end || end > width)
    throw bad("no elements ", first, " to ", end, " of groups of ", width, " in rows of ", a.dim(1));
  o.expect("out", a.dim(0), a.dim(1) / width * (end - first));
  perform({x, out}, [&d, width, first, end, x = a.data(), groups = a.size() / width, o = o.data()] {
    d.columns(x, groups, width, first, end, o);
  });
}

void join(Device& d, nb::handle x, int64_t width, nb::handle y, int64_t width_y, nb::handle out) {
  Array<const float> a(x, 2), b(y, 2);
  Array<float> o(out, 2);
  if (width < 1 || width_y < 1 || a.dim(1) % width || a.dim(1) / width * width_y != b.dim(1))
    throw bad("rows of ", a.dim(1), " and ", b.dim(1), " are not as many groups of ", width, " and ", width_y);
  b.expect("y", a.dim(0), b.dim(1));
  o.expect("out", a.dim(0), a.dim(1) + b.dim(1));
  perform({x, y, out}, [&d, width, width_y, x = a.data(), y = b.data(), groups = a.size() / width, o = o.data()] {
    d.join(x, width, y, width_y, groups, o);
  });
}

// What an expert set has beside its matrices. Biases [E, F], [E, F], [E, D], or None.
void set_activation(ExpertSet& set, int activation, nb::handle gate, nb::handle up, nb::handle down) {
  set.activation = Activation(activation);
  if (gate.is_none()) return;
  const int64_t E = int64_t(set.local.size()), widths[3] = {set.gate.rows, set.up.rows, set.down.rows};
  nb::handle given[3] = {gate, up, down};
  for (int i = 0; i < 3; ++i) {
    Array<const float> a(given[i], 2);
    a.expect("a bias", E, widths[i]);
    set.biases[i].assign(a.data(), a.data() + a.size());
  }
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

// A ring in a buffer, which stays where it is for as long: control and data begin so many bytes in.
class SharedRing {
 public:
  SharedRing(nb::handle memory, int64_t control, int64_t data, int64_t size)
      : memory_(memory), ring_(at(control, Ring::kControlBytes), at(data, size), size) {}

  int64_t push(nb::sequence parts) {
    int64_t left = std::min(ring_.room(), Ring::kPieceBytes), sent = 0;
    for (nb::handle part : parts) {
      Bytes bytes(part);
      int64_t n = std::min(bytes.size(), left);
      ring_.write(bytes.data(), n);
      left -= n, sent += n;
      if (!left) break;
    }
    ring_.publish();
    return sent;
  }

  int64_t pull(nb::handle room, double seconds) {  // other threads of the interpreter go on while it looks
    Array<uint8_t> to(room);
    if (int64_t n = ring_.read(to.data(), to.size(), 0)) return n;
    NoGil no_gil;
    return ring_.read(to.data(), to.size(), seconds);
  }

  bool may_sleep(bool reader) { return ring_.may_sleep(side(reader)); }
  void woke(bool reader) { ring_.woke(side(reader)); }
  bool sleeps(bool reader) { return ring_.sleeps(side(reader)); }

 private:
  static Side side(bool reader) { return reader ? Side::reader : Side::writer; }

  uint8_t* at(int64_t offset, int64_t size) const {
    if (offset < 0 || size < 1 || offset > memory_.size() - size || offset % Ring::kLine)
      throw bad(size, " bytes at ", offset, " of ", memory_.size());
    return memory_.data() + offset;
  }

  Array<uint8_t> memory_;
  Ring ring_;
};

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
  nb::class_<ExpertSet>(m, "ExpertSet")
      .def("set_activation", &set_activation, nb::arg(), nb::arg().none(), nb::arg().none(), nb::arg().none())
      .def_prop_ro("n_bytes", [](const ExpertSet& s) {
        return s.memory[0].size() + s.memory[1].size() + s.memory[2].size();
      });
  auto n_bytes = [](const auto& kept) { return kept.memory.size(); };
  nb::class_<Cache>(m, "Cache")
      .def_ro("head_dim", &Cache::head_dim)
      .def_ro("value_dim", &Cache::value_dim)
      .def_ro_static("BESIDE", &Cache::kTogether)
      .def_prop_ro("n_bytes", [n_bytes](const Cache& c) { return n_bytes(c); });
  nb::class_<DeltaState>(m, "DeltaState")
      .def_prop_ro("width", [](const DeltaState& s) { return s.v_heads * s.v_dim; })
      .def_prop_ro("n_bytes", [n_bytes](const DeltaState& s) { return n_bytes(s); });
  nb::class_<Program>(m, "Program")
      .def("start", &Program::start)
      .def("stop", &Program::stop)
      .def("mark", &Program::mark)
      .def("call", &Program::call)
      .def("begin", &Program::begin)
      .def("next", &Program::next)
      .def("marks", &Program::marks);
  nb::class_<SharedRing>(m, "Ring")
      .def(nb::init<nb::handle, int64_t, int64_t, int64_t>())
      .def("push", &SharedRing::push)
      .def("pull", &SharedRing::pull)
      .def("may_sleep", &SharedRing::may_sleep)
      .def("woke", &SharedRing::woke)
      .def("sleeps", &SharedRing::sleeps);
  nb::class_<Device>(m, "Device")
      .def(nb::init<int, const std::string&>())
      .def_prop_ro("isa", &Device::isa)
      .def_prop_ro("threads", &Device::threads)
      .def("busy_seconds", &Device::busy_seconds)
      .def("close", &Device::close, nb::call_guard<NoGil>())
      .def("pack", &pack)
      .def("pack_experts", &pack_experts)
      // What is not packed stays in the arrays: they live as long as it does.
      .def("stored", &stored, nb::keep_alive<0, 2>())
      .def("stored_experts", &stored_experts, nb::keep_alive<0, 2>(), nb::keep_alive<0, 4>(), nb::keep_alive<0, 6>())
      .def("cache",
           [](Device& d, int64_t slots, int64_t context, int64_t kv_heads, int64_t head_dim, int64_t value_dim,
              int64_t window, int64_t chunk, int type, bool one) {
             if (type < 0 || type > int(KvType::Q8_0)) throw bad("no cache of type ", type);
             return d.cache(slots, context, kv_heads, head_dim, value_dim, window, chunk, KvType(type), one);
           })
      .def("delta_state", &Device::delta_state)
      .def("delta_net", &delta_net)
      .def("heads_linear", &heads_linear)
      .def("activate", &activate)
      .def("gate", &gate)
      .def("temper", &temper)
      .def("scale", &scale)
      .def("softcap", &softcap)
      .def("add_bias", &add_bias)
      .def("columns", &columns)
      .def("join", &join)
      .def("embed", &embed)
      .def("rms_norm", &rms_norm)
      .def("linear", &linear)
      .def("rope", &rope)
      .def("attention", &attention, nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(),
           nb::arg().none(), nb::arg())
      .def("router", &router, nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(),
           nb::arg(), nb::arg().none(), nb::arg().none(), nb::arg().none(), nb::arg(), nb::arg())
      .def("experts", &experts)
      .def("combine", &combine)
      .def("add", &add)
      .def("take", &take)
      .def("program", [](const Device& d) { return new Program(d); }, nb::keep_alive<0, 1>())
      .def("read_gb_s", &Device::read_gb_s, nb::call_guard<NoGil>())
      .def("int8_gops", &Device::int8_gops, nb::call_guard<NoGil>())
      .def("f32_gflops", &Device::f32_gflops, nb::call_guard<NoGil>());
}
