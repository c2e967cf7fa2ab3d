#include "parallel/comm_backend.h"

#include <signal.h>

#include <algorithm>

#include "parallel/stop_request.h"

namespace spanwise {

namespace {

template <class T>
void reduce_typed(const std::vector<CommBlock>& inputs, Reduce op, const CommBlock& out) {
  // A block of sums stays in the L1 cache while all inputs are added to it.
  constexpr int64_t kBlock = 2048;
  T sums[kBlock];
  for (int64_t begin = 0; begin < out.numel; begin += kBlock) {
    const int64_t num = std::min(kBlock, out.numel - begin);
    const auto at = [&](const CommBlock& block) { return reinterpret_cast<T*>(block.data) + begin; };
    std::copy_n(at(inputs[0]), num, sums);
    for (size_t r = 1; r < inputs.size(); ++r) {
      const T* x = at(inputs[r]);
      if (op == Reduce::kSum) {
        for (int64_t i = 0; i < num; ++i) sums[i] += x[i];
      } else {
        for (int64_t i = 0; i < num; ++i) sums[i] = sums[i] < x[i] || x[i] != x[i] ? x[i] : sums[i];
      }
    }
    std::copy_n(sums, num, at(out));
  }
}

}  // namespace

const char* name_of(Collective::Operation operation) {
  switch (operation) {
    case Collective::Operation::kAllReduce:
      return "all_reduce";
    case Collective::Operation::kAllGather:
      return "all_gather";
    case Collective::Operation::kReduceScatter:
      return "reduce_scatter";
    case Collective::Operation::kAllToAll:
      return "all_to_all";
    case Collective::Operation::kExchange:
      return "exchange";
    case Collective::Operation::kBroadcast:
      return "broadcast";
    case Collective::Operation::kBarrier:
      return "barrier";
  }
  return "?";
}

void reduce_in_order(const std::vector<CommBlock>& inputs, Reduce op, const CommBlock& out) {
  switch (out.dtype) {
    case DType::kF32:
      return reduce_typed<float>(inputs, op, out);
    case DType::kF64:
      return reduce_typed<double>(inputs, op, out);
    case DType::kI64:
      return reduce_typed<int64_t>(inputs, op, out);
    default:
      SPANWISE_FAIL("{} cannot be reduced (F32, F64, I64 can)", name_of(out.dtype));
  }
}

std::string describe(const Collective& collective, const std::string& axis) {
  return fmt::format("{} '{}' #{} on axis {}", name_of(collective.operation), collective.name,
                     collective.sequence_number, axis);
}

void CommFailure::set(std::string text, bool terminated) {
  const std::lock_guard lock(mutex_);
  if (happened()) return;
  text_ = std::move(text);
  terminated_ = terminated;
  happened_.store(true, std::memory_order_release);
}

void CommFailure::check(const Collective& collective, const std::string& axis, const char* verb) const {
  if (!happened()) return;
  const std::lock_guard lock(mutex_);
  if (terminated_ && explained_()) end_by_signal(SIGTERM);
  SPANWISE_FAIL("{} cannot {}: {}", describe(collective, axis), verb, text_);
}

std::string AxisRanks::others() const {
  std::vector<int> others = world_ranks;
  others.erase(others.begin() + rank);
  return fmt::format("world rank {}", fmt::join(others, ", "));
}

}  // namespace spanwise
