#pragma once
// Whether the numbers in a checkpoint's tensor file are numbers, without the model they belong to.

#include <string>

#include "models/hf/safetensors.h"

namespace spanwise {

/// Reads every tensor of floating point. "embedding.weight has 3 of 8224 elements that are not finite, and so
/// have 2 more tensors"; empty if all are finite. Tensors of other types are not read.
std::string not_finite_in(const SafetensorsReader& reader);

}  // namespace spanwise
