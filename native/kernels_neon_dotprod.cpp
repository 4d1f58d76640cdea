// The kernels for AArch64 with the dot product extension; called only where the CPU has it.
#define MOTLEY_ISA neon_dotprod
#define MOTLEY_NEON 1
#include "simd_neon.h"
#include "kernels.inc.h"

namespace motley {
const Kernels kNeonDotprodKernels = neon_dotprod::make_kernels("neon-dotprod");
}
