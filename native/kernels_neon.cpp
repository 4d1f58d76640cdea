// The kernels for any AArch64 CPU.
#define MOTLEY_ISA neon
#define MOTLEY_NEON 0
#include "simd_neon.h"
#include "kernels.inc.h"

namespace motley {
const Kernels kNeonKernels = neon::make_kernels("neon");
}
