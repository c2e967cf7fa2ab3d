#include "parallel/whole_params.h"

#include <cstring>

#include "core/host_context.h"

namespace spanwise {

namespace {

// Calls fn(run) for the elements of `runs` that lie in `stored` of the flat buffers and in the piece;
// run.local counts from the first element of the parameter, run.global from that of the piece.
template <class F>
void for_each_run_in_piece(const ParamStore& params, const std::vector<ElementRun>& runs, int entry,
                           FlatRange stored, FlatRange piece, F&& fn) {
  const ParamEntry& e = params.entries()[entry];
  const FlatRange local{stored.begin - e.offset, stored.end - e.offset};
  for_each_run(runs, local, [&](const ElementRun& run) {
    const int64_t begin = std::max(run.global, piece.begin),
                  end = std::min(run.global + run.count, piece.end);
    if (begin < end) fn(ElementRun{run.local + begin - run.global, begin - piece.begin, end - begin});
  });
}

// What for_each_run_in_piece calls fn with, and the elements of the parameter that span it. All that this
// rank holds of a piece lies side by side, since elements keep their order in a part.
struct HeldRuns {
  std::vector<ElementRun> runs;
  FlatRange span{0, 0};
};
HeldRuns held_runs(const ParamStore& params, const std::vector<ElementRun>& runs, int entry, FlatRange stored,
                   FlatRange piece) {
  HeldRuns held;
  for_each_run_in_piece(params, runs, entry, stored, piece,
                        [&](const ElementRun& run) { held.runs.push_back(run); });
  if (!held.runs.empty()) {
    held.span = {held.runs.front().local, held.runs.back().local + held.runs.back().count};
  }
  return held;
}

Tensor view_of_span(const ParamStore& params, const Tensor& flat, int entry, FlatRange span) {
  const ParamEntry& e = params.entries()[entry];
  return params.view(flat, params.buckets()[e.bucket], {e.offset + span.begin, e.offset + span.end});
}

}  // namespace

Tensor gather_piece(const ParamStore& params, const Tensor& flat, int entry, FlatRange piece) {
  const size_t elem = size_of(flat.dtype());
  Context& host = host_context(params.context());
  const FlatRange own = params.layout().own_slice(params.buckets()[params.entries()[entry].bucket]);
  // Every element has one owner and the others give zero bits, so integer sums put the owners' bits together:
  // exact for every value, negative zeros and NaNs too.
  constexpr int64_t kWordBytes = 8;
  const int64_t num_words = (piece.numel() * int64_t(elem) + kWordBytes - 1) / kWordBytes;
  const Tensor words = Tensor::zeros(host, {num_words}, DType::kI64);
  const HeldRuns held = held_runs(params, params.owned_runs(entry), entry, own, piece);
  if (!held.runs.empty()) {
    const Tensor mine = view_of_span(params, flat, entry, held.span).to(host);
    for (const ElementRun& run : held.runs) {
      std::memcpy(static_cast<char*>(words.raw()) + size_t(run.global) * elem,
                  static_cast<const char*>(mine.raw()) + size_t(run.local - held.span.begin) * elem,
                  size_t(run.count) * elem);
    }
  }
  params.data_sequence().all_reduce("gather_whole", words).wait();
  params.tensor().all_reduce("gather_whole", words).wait();
  const Tensor whole = Tensor::empty(host, {piece.numel()}, flat.dtype());
  std::memcpy(whole.raw(), words.raw(), whole.bytes());
  return whole;
}

bool holds_piece(const ParamStore& params, const Tensor& flat, int entry, FlatRange piece) {
  const ParamEntry& e = params.entries()[entry];
  bool found = false;
  for_each_run_in_piece(params, element_runs(*e.param), entry,
                        params.stored_range(flat, params.buckets()[e.bucket]), piece,
                        [&](const ElementRun&) { found = true; });
  return found;
}

void scatter_piece(const ParamStore& params, const Tensor& flat, int entry, FlatRange piece,
                   const Tensor& values) {
  SPANWISE_CHECK(values.contiguous() && values.numel() == piece.numel() && values.dtype() == flat.dtype() &&
                     values.device() == Device::kCPU,
                 "a piece of {} {} elements in host memory from {} {} on {}", piece.numel(),
                 name_of(flat.dtype()), name_of(values.dtype()), values.shape().str(),
                 name_of(values.device()));
  const size_t elem = size_of(flat.dtype());
  const ParamEntry& e = params.entries()[entry];
  const FlatRange stored = params.stored_range(flat, params.buckets()[e.bucket]);
  const HeldRuns held = held_runs(params, element_runs(*e.param), entry, stored, piece);
  if (held.runs.empty()) return;
  const Tensor mine = Tensor::empty(host_context(params.context()), {held.span.numel()}, flat.dtype());
  for (const ElementRun& run : held.runs) {
    std::memcpy(static_cast<char*>(mine.raw()) + size_t(run.local - held.span.begin) * elem,
                static_cast<const char*>(values.raw()) + size_t(run.global) * elem, size_t(run.count) * elem);
  }
  view_of_span(params, flat, entry, held.span).copy_from(mine);
}

}  // namespace spanwise
