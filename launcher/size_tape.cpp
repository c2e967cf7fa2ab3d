#include "launcher/size_tape.h"

#include <algorithm>
#include <numeric>

namespace spanwise {

int SizeTape::add(SizedOp op) {
  ops_.push_back(std::move(op));
  return int(ops_.size()) - 1;
}

int SizeTape::memory_of(int op) const {
  while (ops_[op].view_of) op = *ops_[op].view_of;
  return op;
}

// Of the forward; the number of ops for results that nobody has read yet.
std::vector<int> SizeTape::last_readers() const {
  const int n = int(ops_.size());
  std::vector<int> last(ops_.size(), -1);
  for (int i = 0; i < n; ++i) {
    if (ops_[i].view_of) last[memory_of(i)] = i;
    for (const auto* read : {&ops_[i].inputs, &ops_[i].beside})
      for (const int op : *read) last[memory_of(op)] = i;
  }
  for (int& reader : last) reader = reader < 0 ? n : reader;
  return last;
}

std::vector<SizeTape::Span> SizeTape::spans() const {
  const int n = int(ops_.size());
  // Ops whose backward reads a result: the first and the last of them.
  std::vector<std::optional<std::pair<int, int>>> readers(ops_.size());
  const auto read_by = [&](int op, int reader) {
    auto& r = readers[memory_of(op)];
    r = r ? std::pair{std::min(r->first, reader), std::max(r->second, reader)} : std::pair{reader, reader};
  };
  for (int i = 0; i < n; ++i) {
    for (const int op : ops_[i].reads) read_by(op, i);
    if (ops_[i].reads_result) read_by(i, i);
  }
  std::vector<char> read_by_an_op;
  for (const auto& r : readers) read_by_an_op.push_back(r.has_value());
  const bool drops = pass_ == Pass::kRecord;
  const std::vector<int> last = last_readers();
  const auto backward_of = [n](int op) { return 2 * n - 1 - op; };
  std::vector<Span> spans;
  for (int i = n - 1; i >= 0; --i) {
    const SizedOp& op = ops_[i];
    const auto& r = readers[i];
    const bool recomputed = drops && op.recompute && r;
    if (recomputed) {
      for (const int source : *op.recompute) read_by(source, r->second);
    }
    int saved_from = i;
    if (drops && op.recompute_saved) saved_from = backward_of(r ? std::max(r->second, i) : i);
    spans.push_back({saved_from, backward_of(i), op.saved});
    if (drops) spans.push_back({i, backward_of(i), op.received});
    if (op.value_received && !drops) continue;
    if (!r || recomputed) spans.push_back({i, last[i], op.value});
    // What only recomputations read goes before the ops that wanted those have gradients.
    if (recomputed && read_by_an_op[i])
      spans.push_back({backward_of(r->second), backward_of(r->first), op.value});
    if (r && !recomputed) spans.push_back({i, backward_of(r->first), op.value});
  }
  return spans;
}

std::vector<int64_t> SizeTape::live_at_each_time() const {
  std::vector<int64_t> live(2 * ops_.size() + 1, 0);
  for (const Span& span : spans()) {
    live[span.begin] += span.size;
    live[span.end + 1] -= span.size;
  }
  std::partial_sum(live.begin(), live.end(), live.begin());
  return live;
}

int64_t SizeTape::live() const {
  const int n = int(ops_.size());
  int64_t live = 0;
  for (const Span& span : spans()) live += span.begin < n && span.end >= n ? span.size : 0;
  return live;
}

int64_t SizeTape::received() const {
  int64_t received = 0;
  for (const SizedOp& op : ops_) received += op.awaited + op.received + (op.value_received ? op.value : 0);
  return received;
}

int64_t SizeTape::awaited() const {
  std::vector<char> read(ops_.size(), 0);
  for (const SizedOp& op : ops_) {
    for (const int of : op.reads) read[memory_of(of)] = 1;
  }
  int64_t awaited = 0;
  for (size_t i = 0; i < ops_.size(); ++i) {
    awaited += ops_[i].awaited + (ops_[i].value_received && !read[i] ? ops_[i].value : 0);
  }
  return awaited;
}

int64_t SizeTape::forward_peak() const {
  const std::vector<int64_t> live = live_at_each_time();
  int64_t peak = 0;
  for (size_t i = 0; i < ops_.size(); ++i) peak = std::max(peak, live[i] + ops_[i].forward);
  return peak;
}

int64_t SizeTape::unrecorded_peak() const {
  std::vector<int> last = last_readers();
  int64_t live = 0, peak = 0;
  for (int i = 0; i < int(ops_.size()); ++i) {
    live += ops_[i].value + ops_[i].received;
    peak = std::max(peak, live + ops_[i].saved + ops_[i].forward);
    live += ops_[i].awaited;
    for (int j = 0; j <= i; ++j) live -= last[j] == i && !ops_[j].value_received ? ops_[j].value : 0;
  }
  return peak;
}

int64_t SizeTape::backward_peak(int given) const {
  const int n = int(ops_.size());
  const std::vector<int64_t> live_values = live_at_each_time();
  std::vector<int64_t> grads(ops_.size(), 0);
  std::vector<char> reached(ops_.size(), 0);
  if (given >= 0) reached[given] = 1;
  int64_t live = 0, peak = 0;
  for (int i = n - 1; i >= 0; --i) {
    const SizedOp& op = ops_[i];
    int64_t temporary = op.backward;
    live += op.arrives;
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
    peak = std::max(peak, live_values[2 * n - 1 - i] + live + temporary);
    live -= grads[i];
  }
  return peak;
}

}  // namespace spanwise
