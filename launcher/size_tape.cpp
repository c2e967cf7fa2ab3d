#include "launcher/size_tape.h"

#include <algorithm>

namespace spanwise {

namespace {

int64_t kept(const SizedOp& op, SizeTape::Pass pass) {
  return op.value + op.saved + (pass == SizeTape::Pass::kRecord ? op.received : 0);
}

}  // namespace

int SizeTape::add(SizedOp op) {
  live_ += kept(op, pass_);
  received_ += op.received;
  awaited_ += op.awaited;
  forward_peak_ = std::max(forward_peak_, live_ + op.forward);
  ops_.push_back(std::move(op));
  return int(ops_.size()) - 1;
}

int64_t SizeTape::unrecorded_peak() const {
  std::vector<size_t> last_reader(ops_.size());
  for (size_t i = 0; i < ops_.size(); ++i) {
    last_reader[i] = i;
    for (const int input : ops_[i].inputs) last_reader[input] = i;
  }
  int64_t live = 0, peak = 0;
  for (size_t i = 0; i < ops_.size(); ++i) {
    live += ops_[i].value + ops_[i].received;
    peak = std::max(peak, live + ops_[i].saved + ops_[i].forward);
    live += ops_[i].awaited;
    for (size_t j = 0; j <= i; ++j) live -= last_reader[j] == i ? ops_[j].value : 0;
  }
  return peak;
}

int64_t SizeTape::backward_peak(int given) const {
  std::vector<int64_t> grads(ops_.size(), 0);
  std::vector<char> reached(ops_.size(), 0);
  if (given >= 0) reached[given] = 1;
  int64_t live = live_, peak = live_;
  for (int i = int(ops_.size()) - 1; i >= 0; --i) {
    const SizedOp& op = ops_[i];
    int64_t temporary = op.backward;
    for (const int input : op.inputs) {
      const int64_t size = ops_[input].gradient_size();
      if (reached[input]) {
        temporary += size;
      } else {
        grads[input] = size;
        live += size;
      }
      reached[input] = 1;
    }
    peak = std::max(peak, live + temporary);
    live -= kept(op, pass_) + grads[i];
  }
  return peak;
}

}  // namespace spanwise
