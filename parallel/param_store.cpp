#include "parallel/param_store.h"

#include "core/host_context.h"
#include "core/ops/convert.h"
#include "core/ops/cpu/parallel_for.h"

namespace spanwise {

int effective_zero_stage(const ParamStoreOptions& options, const Comm& data_sequence) {
  return data_sequence.size() == 1 ? 0 : options.zero_stage;
}

ParamLayoutOptions param_layout_options(const ParamStoreOptions& options, const Comm& data_sequence,
                                        const Comm& tensor) {
  SPANWISE_CHECK(options.zero_stage >= 0 && options.zero_stage <= 3, "zero_stage {} is none of 0, 1, 2, 3",
                 options.zero_stage);
  return {.num_slices = data_sequence.size(),
          .slice = data_sequence.rank(),
          .bucket_elems = std::max<int64_t>(
              options.bucket_bytes / int64_t(size_of(accumulation_dtype(options.dtype))), 1),
          .tensor_parallel = tensor.size() > 1,
          .separate_matrices = options.dtype == DType::kBF16,
          .parts =
              effective_zero_stage(options, data_sequence) == 3 ? options.parts : std::vector<std::string>{}};
}

ParamStore::ParamStore(Context& ctx, Module& module, const ParamStoreOptions& options, Comm& data_sequence,
                       Comm& tensor)
    : ctx_(ctx),
      options_(options),
      data_sequence_(data_sequence),
      tensor_(tensor),
      stage_(effective_zero_stage(options, data_sequence)),
      layout_(module, param_layout_options(options, data_sequence, tensor)),
      bucket_grads_(buckets().size()),
      slice_grads_(buckets().size()),
      gathered_(buckets().size()) {
  const bool whole_values = has_copies() ? stage_ == 0 : stage_ <= 2;
  values_ = Tensor::zeros(ctx, {whole_values ? layout_.numel() : layout_.slice_numel()}, master_dtype());
  if (has_copies()) make_copies();
  make_vars();
  write_initial_values();
  std::vector<const Param*> params;
  for (const ParamEntry& entry : entries()) params.push_back(entry.param);
  owned_ = ctx.dry() ? assumed_runs(params, tensor) : find_owned_runs(params, tensor);
}

ParamStore::ParamStore(Context& ctx, Module& module, const ParamStoreOptions& options,
                       std::unique_ptr<Comm> self)
    : ParamStore(ctx, module, options, *self, *self) {
  self_ = std::move(self);
}

ParamStore::ParamStore(Context& ctx, Module& module, DType dtype, uint64_t seed, Gradients gradients)
    : ParamStore(ctx, module, {.dtype = dtype, .seed = seed, .gradients = gradients}, make_self_comm()) {}

void ParamStore::make_copies() {
  for (const ParamBucket& bucket : buckets()) {
    const FlatRange kept = stage_ == 3 ? layout_.own_slice(bucket) : bucket.range;
    copies_.push_back(Tensor::zeros(ctx_, {kept.numel()}, model_dtype(bucket)));
  }
}

void ParamStore::make_vars() {
  for (const ParamEntry& entry : entries()) {
    const int64_t begin = entry.offset - buckets()[entry.bucket].range.begin;
    const Tensor value =
        stage_ == 3 ? Tensor() : model_values(entry.bucket).slice_flat(begin, entry.param->shape);
    if (options_.gradients == Gradients::kNo) {
      entry.param->var = Var::make_parameter(value, Tensor());
      continue;
    }
    entry.param->var = Var::make_parameter(value, [this, &entry, begin] {
      Tensor& bucket = bucket_grads_[entry.bucket];
      if (!bucket.defined()) bucket = make_bucket_grad(buckets()[entry.bucket]);
      return bucket.slice_flat(begin, entry.param->shape);
    });
  }
}

void ParamStore::write_initial_values() {
  if (ctx_.dry()) return publish_values();
  for (const ParamBucket& bucket : buckets()) {
    const FlatRange stored = stored_range(values_, bucket);
    layout_.for_each_entry(bucket, stored, [&](int e, FlatRange part) {
      const ParamEntry& entry = entries()[e];
      const Tensor values = view(values_, bucket, {entry.offset + part.begin, entry.offset + part.end});
      const bool on_host = values.device() == Device::kCPU;
      const Tensor host =
          on_host ? values : Tensor::empty(host_context(ctx_), values.shape(), values.dtype());
      const RandomStream random(options_.seed, entry.name);
      dispatch_float(host.dtype(), [&](auto zero) {
        using T = decltype(zero);
        for_each_run(element_runs(*entry.param), part, [&](const ElementRun& run) {
          T* to = host.data<T>() + (run.local - part.begin);
          cpu::parallel_blocks(ctx_, run.count, 1 << 14, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) {
              to[i] = T(entry.param->init(random, uint64_t(run.global + i)));
            }
          });
        });
      });
      if (!on_host) values.copy_from(host);
    });
  }
  publish_values();
}

int64_t ParamStore::num_parameters() const {
  int64_t total = 0;
  for (const ParamEntry& entry : entries()) total += entry.param->global_shape().numel();
  return total;
}

const std::vector<ElementRun>& ParamStore::owned_runs(int entry) const {
  SPANWISE_CHECK(owned_.incomplete < 0, "some elements of {} are held by no tensor rank",
                 entries()[owned_.incomplete].name);
  return owned_.runs[entry];
}

FlatRange ParamStore::stored_range(const Tensor& buffer, const ParamBucket& bucket) const {
  if (buffer.numel() == layout_.numel()) return bucket.range;
  SPANWISE_CHECK(buffer.numel() == layout_.slice_numel(),
                 "a flat buffer of {} elements; all are {}, a slice {}", buffer.numel(), layout_.numel(),
                 layout_.slice_numel());
  return layout_.own_slice(bucket);
}

Tensor ParamStore::view(const Tensor& buffer, const ParamBucket& bucket, FlatRange range) const {
  const FlatRange stored = stored_range(buffer, bucket);
  SPANWISE_CHECK(range.begin >= stored.begin && range.end <= stored.end,
                 "elements [{}, {}) of a bucket that is stored as [{}, {})", range.begin, range.end,
                 stored.begin, stored.end);
  const bool whole = buffer.numel() == layout_.numel();
  const int64_t at = whole ? stored.begin : layout_.slice_offset(bucket);
  return buffer.slice_flat(at + range.begin - stored.begin, {range.numel()});
}

FlatRange ParamStore::updated_range(const ParamBucket& bucket) const {
  return stage_ == 0 ? bucket.range : layout_.own_slice(bucket);
}

Tensor ParamStore::make_moment() const {
  return Tensor::zeros(ctx_, {stage_ == 0 ? layout_.numel() : layout_.slice_numel()}, master_dtype());
}

// Parameters are written by their first gradients; what lies between them never is.
Tensor ParamStore::make_bucket_grad(const ParamBucket& bucket) {
  const Tensor grad = Tensor::empty(ctx_, {bucket.range.numel()}, master_dtype());
  for (size_t i = 0; i < bucket.entries.size(); ++i) {
    const ParamEntry& entry = entries()[bucket.entries[i]];
    const bool last = i + 1 == bucket.entries.size();
    const int64_t begin = entry.offset + entry.param->numel(),
                  end = last ? bucket.range.end : entries()[bucket.entries[i + 1]].offset;
    if (begin < end) grad.slice_flat(begin - bucket.range.begin, {end - begin}).set_zero();
  }
  return grad;
}

Tensor ParamStore::bucket_grad(int bucket) {
  SPANWISE_CHECK(options_.gradients == Gradients::kYes, "the parameters were made without gradients");
  for (const int e : buckets()[bucket].entries) {
    const Var& var = entries()[e].param->var;
    if (!var.grad().defined()) var.grad_target(ctx_, master_dtype()).tensor.set_zero();
  }
  return bucket_grads_[bucket];
}

Tensor ParamStore::reduced_grad(int bucket) {
  const ParamBucket& b = buckets()[bucket];
  const FlatRange updated = updated_range(b);
  if (stage_ <= 1) return bucket_grad(bucket).slice_flat(updated.begin - b.range.begin, {updated.numel()});
  Tensor& grad = slice_grads_[bucket];
  if (!grad.defined()) grad = Tensor::empty(ctx_, {updated.numel()}, master_dtype());
  return grad;
}

void ParamStore::drop_bucket_grad(int bucket) {
  if (stage_ >= 2) release_bucket_grad(bucket);
}

void ParamStore::drop_grads() {
  for (size_t b = 0; b < buckets().size(); ++b) release_bucket_grad(int(b));
  slice_grads_.assign(buckets().size(), {});
}

void ParamStore::release_bucket_grad(int bucket) {
  for (const int e : buckets()[bucket].entries) entries()[e].param->var.release_parameter_grad();
  bucket_grads_[bucket] = {};
}

Tensor ParamStore::model_values(int bucket) const {
  if (has_copies()) return copies_[bucket];
  const ParamBucket& b = buckets()[bucket];
  return view(values_, b, stored_range(values_, b));
}

Tensor ParamStore::updated_copy(int bucket) const {
  if (!has_copies()) return {};
  const ParamBucket& b = buckets()[bucket];
  const FlatRange updated = updated_range(b);
  const int64_t begin = stage_ == 3 ? 0 : updated.begin - b.range.begin;
  return copies_[bucket].slice_flat(begin, {updated.numel()});
}

Ticket ParamStore::share_updated_values(int bucket) const {
  SPANWISE_CHECK(!gathered_[bucket].values.defined(),
                 "bucket {} was updated while a part of the model was acquired or about to be", bucket);
  if (stage_ != 1 && stage_ != 2) return {};
  const ParamBucket& b = buckets()[bucket];
  const FlatRange own = layout_.own_slice(b);
  const Tensor all = model_values(bucket);
  return data_sequence_.all_gather("param_gather", all.slice_flat(own.begin - b.range.begin, {own.numel()}),
                                   all);
}

void ParamStore::publish_values() const {
  for (const Gathered& gathered : gathered_)
    SPANWISE_CHECK(!gathered.values.defined(), "values change while a part of the model is acquired");
  if (!has_copies()) return;
  std::vector<Ticket> tickets;
  for (size_t b = 0; b < buckets().size(); ++b) {
    convert(ctx_, view(values_, buckets()[b], updated_range(buckets()[b])), updated_copy(int(b)));
    tickets.push_back(share_updated_values(int(b)));
  }
  for (Ticket& ticket : tickets) ticket.wait();
}

void ParamStore::start_gather(int part) {
  for (size_t i = 0; i < buckets().size(); ++i) {
    const ParamBucket& bucket = buckets()[i];
    Gathered& gathered = gathered_[i];
    if (bucket.part != part || gathered.values.defined()) continue;
    gathered.values = Tensor::empty(ctx_, {bucket.range.numel()}, model_dtype(bucket));
    gathered.ticket = data_sequence_.all_gather("param_gather", model_values(int(i)), gathered.values);
  }
}

void ParamStore::acquire(int part, int next) {
  if (stage_ != 3) return;
  start_gather(part);
  for (size_t i = 0; i < buckets().size(); ++i) {
    const ParamBucket& bucket = buckets()[i];
    if (bucket.part != part || gathered_[i].uses++ > 0) continue;
    gathered_[i].ticket.wait();
    for (const int e : bucket.entries) {
      const ParamEntry& entry = entries()[e];
      entry.param->var.set_parameter_value(
          gathered_[i].values.slice_flat(entry.offset - bucket.range.begin, entry.param->shape));
    }
  }
  if (next != kNoPart) start_gather(next);
}

void ParamStore::release(int part) {
  if (stage_ != 3) return;
  for (size_t i = 0; i < buckets().size(); ++i) {
    if (buckets()[i].part != part) continue;
    SPANWISE_CHECK(gathered_[i].uses > 0, "part {} is released but was not acquired", part);
    if (--gathered_[i].uses > 0) continue;
    for (const int e : buckets()[i].entries) entries()[e].param->var.set_parameter_value({});
    gathered_[i].values = {};
  }
}

}  // namespace spanwise
