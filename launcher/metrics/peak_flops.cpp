#include "launcher/metrics/peak_flops.h"

namespace spanwise {

namespace {

struct Peak {
  std::string_view gpu_name;
  double bf16, f32;
};

// Data sheets give BF16 with sparsity, twice what dense products reach.
constexpr Peak kPeaks[] = {
    {"NVIDIA H100 80GB HBM3", 989e12, 67e12},  // NVIDIA H100 data sheet, H100 SXM: 1,979 with sparsity; 67
    {"NVIDIA H100 PCIe", 756e12, 51e12},       // NVIDIA H100 data sheet, H100 PCIe: 1,513 with sparsity; 51
    {"NVIDIA H100 NVL", 835e12, 60e12},        // NVIDIA H100 data sheet, H100 NVL: 1,671 with sparsity; 60
    {"NVIDIA H200", 989e12, 67e12},            // NVIDIA H200 data sheet, H200 SXM: 1,979 with sparsity; 67
    {"NVIDIA H200 NVL", 835e12, 60e12},        // NVIDIA H200 data sheet, H200 NVL: 1,671 with sparsity; 60
};

}  // namespace

std::optional<double> peak_flops(std::string_view gpu_name, DType dtype) {
  for (const Peak& peak : kPeaks) {
    if (peak.gpu_name != gpu_name) continue;
    if (dtype == DType::kBF16) return peak.bf16;
    if (dtype == DType::kF32) return peak.f32;
  }
  return std::nullopt;
}

}  // namespace spanwise
