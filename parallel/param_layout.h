#pragma once
// Where a module's parameters lie in flat buffers, before any memory is allocated.
//
// Parameters follow each other in visit order, packed into buckets: what one collective moves. A bucket is
// closed when the next parameter would make it larger than asked for, and at the border of a part of the
// model. It is padded so that each of `num_slices` ranks owns an equal slice of it:
//
//   bucket 0                                bucket 1
//   | w0      | w1  |pad|                   | w2                  |pad|
//   | slice 0 | slice 1 |                   | slice 0   | slice 1     |
//
// Parameters whose gradients are summed over the tensor axis have buckets of their own: these cannot be
// reduced before that sum. So have matrices where models read them in another dtype than the rest.

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "core/module.h"

namespace spanwise {

struct ParamEntry {
  std::string name;  ///< global name: the checkpoint's key
  Param* param;
  int64_t offset = 0;  ///< first element in the flat buffers; a multiple of 16, so that slices stay aligned
  int bucket = 0;
};

/// Elements of the flat buffers.
struct FlatRange {
  int64_t begin, end;
  int64_t numel() const { return end - begin; }
};

struct ParamBucket {
  FlatRange range;  ///< a multiple of num_slices · 16 elements
  std::vector<int> entries;
  int part = 0;                 ///< of the model; 0 where it has no parts
  bool tensor_partial = false;  ///< gradients need a sum over the tensor axis first
  bool matrices = false;        ///< ParamLayoutOptions::separate_matrices: it holds matrices alone
};

/// Of what a model whose activations have `dtype` reads of a bucket.
inline DType model_dtype(const ParamBucket& bucket, DType dtype) {
  return bucket.matrices ? dtype : accumulation_dtype(dtype);
}

/// Elements [begin, end) that share optimizer settings.
struct ParamSpan {
  int64_t begin, end;
  bool weight_decay;
};

struct ParamLayoutOptions {
  int num_slices = 1;
  int slice = 0;  ///< this rank's
  int64_t bucket_elems = 0;
  bool tensor_parallel = false;    ///< partial gradients matter only then
  bool separate_matrices = false;  ///< no bucket has both 2-D parameters and others
  std::vector<std::string> parts;  ///< name prefixes of the model's parts; none: all is one part
};

/// The part (a name prefix) that a parameter belongs to; 0 where there are none. Error if it is in none.
int part_of(const std::vector<std::string>& parts, const std::string& name);

class ParamLayout {
 public:
  /// Visits the module. Error if two parameters share a name, or one is in no part.
  ParamLayout(Module& module, const ParamLayoutOptions& options);

  /// In visit order.
  const std::vector<ParamEntry>& entries() const { return entries_; }
  const std::vector<ParamBucket>& buckets() const { return buckets_; }
  /// Elements over all buckets, padding included.
  int64_t numel() const { return buckets_.empty() ? 0 : buckets_.back().range.end; }
  /// Most elements of a bucket of several parameters.
  int64_t bucket_elems() const { return options_.bucket_elems; }
  int num_slices() const { return options_.num_slices; }
  int64_t slice_numel() const { return numel() / num_slices(); }
  /// What this rank owns of a bucket.
  FlatRange own_slice(const ParamBucket& bucket) const;
  /// Where that begins in a buffer of own slices alone.
  int64_t slice_offset(const ParamBucket& bucket) const { return bucket.range.begin / num_slices(); }
  /// Runs of parameters of equal weight decay, covering `range`.
  std::vector<ParamSpan> spans(FlatRange range) const;
  /// Calls fn(index of the entry, its elements [begin, end)) for what `range` holds of a bucket's parameters.
  template <class F>
  void for_each_entry(const ParamBucket& bucket, FlatRange range, F&& fn) const;

 private:
  void fill_buckets();

  ParamLayoutOptions options_;
  std::vector<ParamEntry> entries_;
  std::vector<ParamBucket> buckets_;
};

template <class F>
void ParamLayout::for_each_entry(const ParamBucket& bucket, FlatRange range, F&& fn) const {
  for (const int e : bucket.entries) {
    const ParamEntry& entry = entries_[e];
    const FlatRange part{std::max(range.begin - entry.offset, int64_t{0}),
                         std::min(range.end - entry.offset, entry.param->numel())};
    if (part.begin < part.end) fn(e, part);
  }
}

/// Calls fn(run) for what [begin, end) of a part's elements holds of its runs.
template <class F>
void for_each_run(const std::vector<ElementRun>& runs, FlatRange local, F&& fn) {
  for (const ElementRun& run : runs) {
    const int64_t begin = std::max(run.local, local.begin), end = std::min(run.local + run.count, local.end);
    if (begin < end) fn(ElementRun{begin, run.global + (begin - run.local), end - begin});
  }
}

}  // namespace spanwise
