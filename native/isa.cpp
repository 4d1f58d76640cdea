// The choice of kernels at run time. A new instruction set: a simd_*.h, a kernels_*.cpp, a line in CMakeLists.txt and a
// row here.
#include "isa.h"

#include <stdexcept>

#if defined(MOTLEY_X86)
#include <cpuid.h>
#elif defined(MOTLEY_ARM64) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(MOTLEY_ARM64) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace motley {
namespace {

struct Isa {
  const Kernels* kernels;
  const char* needs;  // in words
  bool (*usable)();
};

bool always() { return true; }

#if defined(MOTLEY_X86)
// __builtin_cpu_supports looks at what the system saves of the registers, too; it does not know all names everywhere.
bool cpuid_bit(unsigned leaf, unsigned subleaf, int reg, int bit) {
  unsigned r[4] = {};
  return __get_cpuid_count(leaf, subleaf, &r[0], &r[1], &r[2], &r[3]) && (r[reg] >> bit & 1);
}
bool has_avx2() {
  bool f16c = cpuid_bit(1, 0, 2, 29);
  return f16c && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
bool has_avx2_vnni() { return has_avx2() && cpuid_bit(7, 1, 0, 4); }
bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
}
#elif defined(MOTLEY_ARM64)
#if defined(__linux__)
bool has_dotprod() { return getauxval(AT_HWCAP) >> 20 & 1; }              // HWCAP_ASIMDDP
bool has_i8mm() { return has_dotprod() && (getauxval(AT_HWCAP2) >> 13 & 1); }  // HWCAP2_I8MM
#elif defined(__APPLE__)
bool sysctl_flag(const char* name) {
  int value = 0;
  size_t size = sizeof(value);
  return sysctlbyname(name, &value, &size, nullptr, 0) == 0 && value;
}
bool has_dotprod() { return sysctl_flag("hw.optional.arm.FEAT_DotProd"); }
bool has_i8mm() { return has_dotprod() && sysctl_flag("hw.optional.arm.FEAT_I8MM"); }
#else
bool has_dotprod() { return false; }
bool has_i8mm() { return false; }
#endif
#endif

// Best first.
const Isa kIsas[] = {
#if defined(MOTLEY_X86)
    {&kAvx512Kernels, "AVX-512 with VNNI", has_avx512},
#if defined(MOTLEY_AVX_VNNI)
    {&kAvx2VnniKernels, "AVX2 with AVX-VNNI", has_avx2_vnni},
#endif
    {&kAvx2Kernels, "AVX2 with FMA and F16C", has_avx2},
#elif defined(MOTLEY_ARM64)
    {&kNeonI8mmKernels, "the I8MM extension", has_i8mm},
    {&kNeonDotprodKernels, "the dot product extension", has_dotprod},
    {&kNeonKernels, "NEON", always},
#endif
    {&kScalarKernels, "nothing", always},
};

}  // namespace

std::vector<std::string> usable_isas() {
  std::vector<std::string> names;
  for (const Isa& isa : kIsas)
    if (isa.usable()) names.push_back(isa.kernels->name);
  return names;
}

const Kernels* choose_kernels(const std::string& name) {
  std::string usable;
  for (const std::string& n : usable_isas()) usable += (usable.empty() ? "" : ", ") + n;
  for (const Isa& isa : kIsas) {
    if (name.empty() ? isa.usable() : name == isa.kernels->name) {
      if (isa.usable()) return isa.kernels;
      throw std::invalid_argument("isa '" + name + "' needs " + isa.needs + ", which this CPU lacks: take one of " +
                                  usable + ", or leave it empty for the best");
    }
  }
  throw std::invalid_argument("this build has no kernels called '" + name + "': take one of " + usable +
                              ", or leave it empty for the best");
}

}  // namespace motley
