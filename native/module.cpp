// The Python module `_native`: chooses kernels at run time and binds them.
#include <nanobind/nanobind.h>
namespace nb = nanobind;
NB_MODULE(_native, m) { m.doc() = "Motley's CPU kernels"; }
