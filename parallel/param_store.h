#pragma once
// Owns a module's parameters: values and gradients are slices of flat buckets (parallel/param_layout.h), so
// reduction, clipping, the optimizer and sharding work on ranges. With ZeRO (Rajbhandari et al., arXiv
// 1910.02054) over the W ranks of the data × sequence axis a rank keeps, in elements of P parameters:
//
//   stage   values                 gradients, at the update                     each moment
//   0       P                      P, all-reduced                               P
//   1       P                      P, reduce-scattered in place                 P / W
//   2       P                      P / W                                        P / W
//   3       P / W + acquired parts P / W                                        P / W
//
// Of stage 3 the part that is read next is on its way while one is used, so two neighbours are there at most.
//
// Gradients are there only from backward to the update: a bucket comes with the first gradient of its
// parameters, and all go after the update, so that the first forward of a step has their memory for
// activations. In stages 2 and 3 a bucket goes once it is reduced into memory of its slice. With gradient
// accumulation buckets stay whole until the last micro-batch, so that gradients are reduced once. One rank is
// its own slice: all stages are stage 0.
//
// In BF16 a model reads matrices (2-D parameters) in BF16 and all others in F32; gradients and moments are
// F32, and every element that this rank updates has an F32 master, which is what `values` below stands for
// and checkpoints hold. What the model reads is a rounded copy of them, per bucket. So the first column is,
// in bytes: copies 2 P and masters 4 P (stage 0), 2 P + 4 P / W (1 and 2), (2 P + 4 P) / W + acquired parts
// (3).

#include <memory>
#include <string>
#include <vector>

#include "parallel/comm.h"
#include "parallel/param_gate.h"
#include "parallel/param_layout.h"
#include "parallel/param_owners.h"

namespace spanwise {

struct ParamStoreOptions {
  enum class Gradients { kYes, kNo };
  DType dtype = DType::kF32;
  uint64_t seed = 0;
  Gradients gradients = Gradients::kYes;
  int zero_stage = 0;                ///< 0 to 3
  int64_t bucket_bytes = 25 << 20;   ///< a larger parameter has a bucket of its own
  std::vector<std::string> parts{};  ///< of the model (LanguageModel::parts); stage 3 gathers by these
};

/// One rank is its own slice: stage 0.
int effective_zero_stage(const ParamStoreOptions& options, const Comm& data_sequence);
/// How a store with these options lays its parameters out.
ParamLayoutOptions param_layout_options(const ParamStoreOptions& options, const Comm& data_sequence,
                                        const Comm& tensor);

class ParamStore : public ParamGate {
 public:
  using Gradients = ParamStoreOptions::Gradients;

  /// Visits the module, allocates the buffers, writes the initial values (the element of parameter
  /// `name` at global index i is init(RandomStream(seed, name), i)) and gives every Param its Var. The module
  /// and the axes must outlive the store. Collective.
  ParamStore(Context& ctx, Module& module, const ParamStoreOptions& options, Comm& data_sequence,
             Comm& tensor);
  /// One rank.
  ParamStore(Context& ctx, Module& module, DType dtype, uint64_t seed, Gradients gradients = Gradients::kYes);
  ParamStore(const ParamStore&) = delete;
  ParamStore& operator=(const ParamStore&) = delete;

  Context& context() const { return ctx_; }
  Comm& data_sequence() const { return data_sequence_; }
  Comm& tensor() const { return tensor_; }
  /// Of activations and matrices.
  DType dtype() const { return options_.dtype; }
  /// Of values(), gradients and moments.
  DType master_dtype() const { return accumulation_dtype(options_.dtype); }
  /// Of what the model reads of a bucket.
  DType model_dtype(const ParamBucket& bucket) const { return spanwise::model_dtype(bucket, options_.dtype); }
  int zero_stage() const { return stage_; }
  int64_t bucket_elems() const { return layout_.bucket_elems(); }
  const ParamLayout& layout() const { return layout_; }
  const std::vector<ParamEntry>& entries() const { return layout_.entries(); }
  const std::vector<ParamBucket>& buckets() const { return layout_.buckets(); }
  /// Of the whole model, in every layout.
  int64_t num_parameters() const;

  /// Flat, padding included (always zero); of stage 3 the own slices. In BF16 the masters of what this rank
  /// updates: all of them in stage 0, the own slices in the others.
  const Tensor& values() const { return values_; }
  /// What the model reads of a bucket, all of it or (stage 3) the own slice: values(), or a copy.
  Tensor model_values(int bucket) const;
  /// The slice of a flat buffer of all elements that belongs to a parameter.
  Tensor slice(const Tensor& flat, const ParamEntry& entry) const {
    return flat.slice_flat(entry.offset, entry.param->shape);
  }

  // Buffers hold all elements, or the own slices alone; both are told apart by their size.
  /// What a buffer holds of a bucket.
  FlatRange stored_range(const Tensor& buffer, const ParamBucket& bucket) const;
  /// Elements `range` of a bucket, which the buffer holds.
  Tensor view(const Tensor& buffer, const ParamBucket& bucket, FlatRange range) const;
  /// What this rank's optimizer updates of a bucket: all of it in stage 0, else the own slice.
  FlatRange updated_range(const ParamBucket& bucket) const;
  /// Zeros for every updated element: a moment.
  Tensor make_moment() const;

  // Gradients.
  /// This rank's whole bucket, before reduction; padding is zero, and so is a parameter without a gradient.
  Tensor bucket_grad(int bucket);
  /// The gradient of updated_range, once it is reduced. In stages 2 and 3 memory of its own, of unknown
  /// content where it was not there.
  Tensor reduced_grad(int bucket);
  /// Stages 2 and 3 give the whole bucket's memory back once it is reduced; in the others the sums lie there.
  void drop_bucket_grad(int bucket);
  /// All gradients' memory goes: the next ones begin anew.
  void drop_grads();

  /// What the optimizer must write beside values(): the copy of updated_range; undefined where there is none.
  Tensor updated_copy(int bucket) const;
  /// After the optimizer changed the updated ranges: starts making what the model reads of the bucket whole
  /// again on every rank, where it is kept whole.
  Ticket share_updated_values(int bucket) const;
  /// After values() were written otherwise, from a checkpoint: brings copies up to date. Collective.
  void publish_values() const;

  // ParamGate. Nothing is done before stage 3.
  void acquire(int part, int next) override;
  void release(int part) override;

  /// What counts for this tensor rank of entries()[entry]: every element of the whole has exactly one owner
  /// among the tensor ranks. Error if one has none.
  const std::vector<ElementRun>& owned_runs(int entry) const;

 private:
  ParamStore(Context& ctx, Module& module, const ParamStoreOptions& options, std::unique_ptr<Comm> self);
  bool has_copies() const { return options_.dtype != master_dtype(); }
  void make_copies();
  void make_vars();
  Tensor make_bucket_grad(const ParamBucket& bucket);
  void release_bucket_grad(int bucket);
  void write_initial_values();

  /// Of a bucket: its values, there or on their way.
  struct Gathered {
    int uses = 0;
    Tensor values;
    Ticket ticket;
  };
  void start_gather(int part);

  Context& ctx_;
  ParamStoreOptions options_;
  std::unique_ptr<Comm> self_;  ///< of the one-rank constructor
  Comm &data_sequence_, &tensor_;
  int stage_;
  ParamLayout layout_;
  Tensor values_;
  // By bucket.
  std::vector<Tensor> copies_;        ///< none where the model reads values_
  std::vector<Tensor> bucket_grads_;  ///< whole ones, where there are any
  std::vector<Tensor> slice_grads_;   ///< stages 2 and 3: reduced ones
  std::vector<Gathered> gathered_;    ///< stage 3
  OwnedRuns owned_;
};

}  // namespace spanwise
