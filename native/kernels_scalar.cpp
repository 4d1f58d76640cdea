// The kernels for any CPU.
#define MOTLEY_ISA scalar
#include "simd_scalar.h"
#include "kernels.inc.h"

namespace motley {
const Kernels kScalarKernels = scalar::make_kernels("scalar");
}
