#pragma once
// What a device can do at most, for model FLOPs utilisation: mfu(%) = what a step's model asks for
// (core/work.h) / (its time · this).

#include <optional>
#include <string_view>

#include "core/dtype.h"

namespace spanwise {

/// Floating-point operations a second of dense products in `dtype`, of the GPU that its driver names so;
/// F32 products are plain ones, not TF32. Nothing for a name that is not in the table, a part of a GPU
/// included, and for F64, which no GPU computes in here.
std::optional<double> peak_flops(std::string_view gpu_name, DType dtype);

}  // namespace spanwise
