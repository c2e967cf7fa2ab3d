#pragma once

namespace spanwise::cuda {

/// Multiprocessors of an H100 SXM or H200: for work that is cut the same on every GPU, and for plans of runs,
/// which know no GPU.
inline constexpr int kHopperProcessors = 132;

}  // namespace spanwise::cuda
