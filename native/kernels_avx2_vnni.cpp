// The kernels for AVX2 with AVX-VNNI; compiled with those flags, called only where the CPU has them.
#define MOTLEY_ISA avx2_vnni
#define MOTLEY_VNNI 1
#include "simd_avx2.h"
#include "kernels.inc.h"

namespace motley {
const Kernels kAvx2VnniKernels = avx2_vnni::make_kernels("avx2-vnni");
}
