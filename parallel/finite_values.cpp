#include "parallel/finite_values.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/ops/scalars.h"
#include "core/optim/clip.h"

namespace spanwise {

namespace {

// Sums over all ranks of Σ x² of each list of tensors: finite where every element is, for double holds the
// squares of any float.
std::vector<double> squared_norms(const ParamStore& params, const std::vector<std::vector<Tensor>>& lists) {
  std::vector<Tensor> norms;
  for (const std::vector<Tensor>& list : lists) norms.push_back(squared_norm(params.context(), list));
  std::vector<double> sums = read_scalars(params.context(), norms);
  params.data_sequence().all_reduce("finite_values", sums);
  params.tensor().all_reduce("finite_values", sums);
  return sums;
}

// What this rank holds of a parameter.
std::vector<Tensor> part_of(const ParamStore& params, const Tensor& flat, const ParamEntry& entry) {
  const ParamBucket& bucket = params.buckets()[entry.bucket];
  const FlatRange stored = params.stored_range(flat, bucket);
  const FlatRange part{std::max(stored.begin, entry.offset),
                       std::min(stored.end, entry.offset + entry.param->shape.numel())};
  if (part.begin >= part.end) return {};
  return {params.view(flat, bucket, part)};
}

}  // namespace

std::string first_not_finite(const ParamStore& params, const Tensor& flat) {
  if (std::isfinite(squared_norms(params, {{flat}})[0])) return "";
  std::vector<std::vector<Tensor>> parts;
  for (const ParamEntry& entry : params.entries()) parts.push_back(part_of(params, flat, entry));
  const std::vector<double> norms = squared_norms(params, parts);
  const auto bad =
      std::find_if_not(norms.begin(), norms.end(), [](double norm) { return std::isfinite(norm); });
  if (bad == norms.end()) return "padding";  // it is always zero: memory was overwritten
  return params.entries()[size_t(bad - norms.begin())].name;
}

}  // namespace spanwise
