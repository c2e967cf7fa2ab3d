#include "parallel/param_store.h"

#include <cstring>
#include <set>

#include "core/ops/cpu/parallel_for.h"

namespace spanwise {

namespace {

constexpr int64_t kAlignElems = 16;

void write_initial_values(const Context& ctx, const Tensor& value, const Param& param,
                          const RandomStream& random) {
  dispatch_float(value.dtype(), [&](auto zero) {
    using T = decltype(zero);
    for (const ElementRun& run : element_runs(param)) {
      T* data = value.data<T>() + run.local;
      cpu::parallel_blocks(ctx, run.count, 1 << 14, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) data[i] = T(param.init(random, uint64_t(run.global + i)));
      });
    }
  });
}

}  // namespace

ParamStore::ParamStore(Context& ctx, Module& module, DType dtype, uint64_t seed, Gradients gradients) {
  int64_t total = 0;
  std::set<std::string> names;
  module.visit("", [&](const std::string& name, Param& param) {
    SPANWISE_CHECK(names.insert(name).second, "two parameters are called '{}'", name);
    entries_.push_back({name, &param, total});
    num_parameters_ += param.numel();
    total += (param.numel() + kAlignElems - 1) / kAlignElems * kAlignElems;
  });
  values_ = Tensor::zeros(ctx, {total}, dtype);
  if (gradients == Gradients::kYes) grads_ = Tensor::zeros(ctx, {total}, dtype);
  for (const ParamEntry& entry : entries_) {
    const Tensor value = slice(values_, entry);
    write_initial_values(ctx, value, *entry.param, RandomStream(seed, entry.name));
    entry.param->var = Var::make_parameter(value, grads_.defined() ? slice(grads_, entry) : Tensor());
  }
}

std::vector<ParamSpan> ParamStore::spans() const {
  std::vector<ParamSpan> spans;
  for (size_t i = 0; i < entries_.size(); ++i) {
    const int64_t end = i + 1 < entries_.size() ? entries_[i + 1].offset : values_.numel();
    const bool decay = entries_[i].param->weight_decay;
    if (!spans.empty() && spans.back().weight_decay == decay) {
      spans.back().end = end;
    } else {
      spans.push_back({entries_[i].offset, end, decay});
    }
  }
  return spans;
}

void ParamStore::zero_grads() const {
  std::memset(grads_.raw(), 0, grads_.bytes());
}

}  // namespace spanwise
