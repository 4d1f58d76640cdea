// The kernels for AVX-512 with VNNI; compiled with those flags, called only where the CPU has them.
#define MOTLEY_ISA avx512
#include "simd_avx512.h"
#include "kernels.inc.h"

namespace motley {
const Kernels kAvx512Kernels = avx512::make_kernels("avx512");
}
