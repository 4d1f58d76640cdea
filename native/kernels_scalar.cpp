// The kernels for any CPU.
#define MOTLEY_ISA scalar
#define MOTLEY_UNROLL  // nothing: unrolled, 16 lanes of everything take minutes to compile
#include "simd_scalar.h"
#include "kernels.inc.h"

namespace motley {
const Kernels kScalarKernels = scalar::make_kernels("scalar");
}
