#include "parallel/whole_params.h"

#include <cstring>

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

}  // namespace

Tensor gather_piece(const ParamStore& params, const Tensor& flat, int entry, FlatRange piece) {
  const size_t elem = size_of(flat.dtype());
  const ParamEntry& e = params.entries()[entry];
  const ParamBucket& bucket = params.buckets()[e.bucket];
  const FlatRange own = params.layout().own_slice(bucket);
  // Every element has one owner and the others give zero bits, so integer sums put the owners' bits together:
  // exact for every value, negative zeros and NaNs too.
  constexpr int64_t kWordBytes = 8;
  const int64_t num_words = (piece.numel() * int64_t(elem) + kWordBytes - 1) / kWordBytes;
  const Tensor words = Tensor::empty(params.context(), {num_words}, DType::kI64);
  std::memset(words.raw(), 0, words.bytes());
  const Tensor mine = params.view(flat, bucket, own);
  for_each_run_in_piece(params, params.owned_runs(entry), entry, own, piece, [&](const ElementRun& run) {
    std::memcpy(static_cast<char*>(words.raw()) + size_t(run.global) * elem,
                static_cast<const char*>(mine.raw()) + size_t(e.offset + run.local - own.begin) * elem,
                size_t(run.count) * elem);
  });
  params.data_sequence().all_reduce("gather_whole", words).wait();
  params.tensor().all_reduce("gather_whole", words).wait();
  const Tensor whole = Tensor::empty(params.context(), {piece.numel()}, flat.dtype());
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
  SPANWISE_CHECK(values.contiguous() && values.numel() == piece.numel() && values.dtype() == flat.dtype(),
                 "a piece of {} elements from {} {}", piece.numel(), name_of(values.dtype()),
                 values.shape().str());
  const size_t elem = size_of(flat.dtype());
  const ParamEntry& e = params.entries()[entry];
  const ParamBucket& bucket = params.buckets()[e.bucket];
  const FlatRange stored = params.stored_range(flat, bucket);
  const Tensor mine = params.view(flat, bucket, stored);
  for_each_run_in_piece(params, element_runs(*e.param), entry, stored, piece, [&](const ElementRun& run) {
    std::memcpy(static_cast<char*>(mine.raw()) + size_t(e.offset + run.local - stored.begin) * elem,
                static_cast<const char*>(values.raw()) + size_t(run.global) * elem, size_t(run.count) * elem);
  });
}

}  // namespace spanwise
