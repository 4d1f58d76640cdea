// The kernels for AVX2 with FMA and F16C; compiled with those flags, called only where the CPU has them.
#define MOTLEY_ISA avx2
#define MOTLEY_VNNI 0
#include "simd_avx2.h"
#include "kernels.inc.h"

namespace motley {
const Kernels kAvx2Kernels = avx2::make_kernels("avx2");
}
