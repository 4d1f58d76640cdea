// The kernels for AArch64 with the I8MM extension; called only where the CPU has it.
#define MOTLEY_ISA neon_i8mm
#define MOTLEY_NEON 2
#include "simd_neon.h"
#include "kernels.inc.h"

namespace motley {
const Kernels kNeonI8mmKernels = neon_i8mm::make_kernels("neon-i8mm");
}
