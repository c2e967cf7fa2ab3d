#pragma once
// Whether a model's numbers are numbers, before they are believed: saved, evaluated, or gone on from.

#include <string>

#include "parallel/param_store.h"

namespace spanwise {

/// The first parameter that has an element of `flat` (ParamStore::values or a moment) that is NaN, infinite,
/// or, in F64, beyond 1e154; empty if there is none. The same answer on every rank. One pass over what this
/// rank holds, for which a GPU is waited. Collective.
std::string first_not_finite(const ParamStore& params, const Tensor& flat);

}  // namespace spanwise
