// Which instruction sets this build has kernels for, and which of them this CPU has.
#pragma once
#include <string>
#include <vector>

#include "kernels.h"

namespace motley {

// The kernels called `name`, or the best of this CPU's for "". Throws std::invalid_argument with the reason and a remedy.
const Kernels* choose_kernels(const std::string& name);

// Names of all kernels that this build has and this CPU runs, best first.
std::vector<std::string> usable_isas();

}  // namespace motley
