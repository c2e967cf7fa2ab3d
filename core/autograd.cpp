#include "core/autograd.h"

#include "core/ops/accumulate.h"
#include "core/ops/convert.h"

namespace spanwise {

Tensor Adjoint::grad_or_zeros(Context& ctx) const {
  return grad().defined() ? grad() : Tensor::zeros(ctx, shape(), dtype());
}

void Adjoint::add_grad(Context& ctx, const Tensor& g) const {
  if (!requires_grad()) return;
  SPANWISE_CHECK(g.defined() && g.numel() == shape().numel(), "gradient of shape {} for a value of shape {}",
                 g.defined() ? g.shape().str() : "undefined", shape().str());
  Tensor& mine = node_->grad;
  if (!mine.defined()) {
    const Tensor first = g.to_contiguous(ctx).reshape(shape());
    if (!node_->grad_source) {
      mine = first;
    } else {
      mine = node_->grad_source();
      convert(ctx, first, mine);
    }
    return;
  }
  // A gradient that another node also holds (the two inputs of an addition share one) must not change under
  // it.
  if (!node_->is_parameter && !mine.unique()) {
    Tensor own = Tensor::empty(ctx, mine.shape(), mine.dtype());
    own.copy_from(mine);
    mine = own;
  }
  accumulate(ctx, mine, g.to_contiguous(ctx));
}

Adjoint::GradTarget Adjoint::grad_target(Context& ctx, DType dtype) const {
  SPANWISE_CHECK(requires_grad(), "grad_target of a Var that requires no gradient");
  Tensor& mine = node_->grad;
  const bool accumulate = mine.defined();
  if (!mine.defined()) {
    mine = node_->grad_source ? node_->grad_source() : Tensor::empty(ctx, shape(), dtype);
  } else if (!node_->is_parameter && !mine.unique()) {
    Tensor own = Tensor::empty(ctx, mine.shape(), mine.dtype());
    own.copy_from(mine);
    mine = own;
  }
  return {mine, accumulate};
}

void Adjoint::clear_grad() const {
  SPANWISE_CHECK(!node().is_parameter, "a parameter's gradient buffer is zeroed by its store");
  node_->grad = {};
}

Tensor Saved::get() const {
  if (!cell_) return {};
  if (!cell_->tensor.defined() && cell_->recompute) {
    // What it reads may go now: the tensor stays as long as this cell.
    const std::function<Tensor()> recompute = std::move(cell_->recompute);
    cell_->recompute = nullptr;
    cell_->tensor = recompute();
  }
  return cell_->tensor;
}

Var::Var(Tensor value, bool requires_grad) {
  node_ = std::make_shared<Node>();
  node_->requires_grad = requires_grad;
  value_ = std::make_shared<Value>();
  if (value.defined()) {
    node_->shape = value.shape();
    node_->dtype = value.dtype();
  }
  value_->cell->tensor = std::move(value);
}

Var Var::make_parameter(Tensor value, Tensor grad) {
  Var var(std::move(value), grad.defined());
  var.node_->grad = std::move(grad);
  var.node_->is_parameter = true;
  return var;
}

Var Var::make_parameter(Tensor value, std::function<Tensor()> source) {
  Var var(std::move(value), /*requires_grad=*/true);
  var.node_->is_parameter = true;
  var.node_->grad_source = std::move(source);
  return var;
}

const Tensor& Var::value() const {
  SPANWISE_CHECK(value_, "the Var is undefined");
  return value_->cell->tensor;
}

void Var::set_parameter_value(Tensor value) const {
  SPANWISE_CHECK(node_ && node_->is_parameter, "only a parameter's store replaces its value");
  if (value.defined()) {
    node_->shape = value.shape();
    node_->dtype = value.dtype();
  }
  value_->cell->tensor = std::move(value);
}

void Var::release_parameter_grad() const {
  SPANWISE_CHECK(node_ && node_->grad_source,
                 "the parameter's gradient memory has no source to come back from");
  node_->grad = {};
}

void Var::set_hook(std::function<void(const Var&)> hook) const {
  SPANWISE_CHECK(node_ && node_->is_parameter, "only parameters have hooks");
  node_->hook = std::move(hook);
}

Var Tape::output(Tensor value, const std::vector<Var>& inputs) const {
  bool requires_grad = false;
  if (mode_ != Mode::kInference) {
    for (const Var& input : inputs) requires_grad |= input.requires_grad();
  }
  return Var(std::move(value), requires_grad);
}

void Tape::record(std::vector<Var> inputs, std::vector<Adjoint> outputs, std::function<void()> backward,
                  std::function<void()> meanwhile) {
  bool needed = false;
  for (const Adjoint& output : outputs) needed |= output.requires_grad();
  if (!needed || mode_ == Mode::kInference) return;
  // Gradients of parameters can wait; of an operand that an op has made they cannot.
  bool travels = false, to_parameters = true;
  for (const Var& input : inputs) {
    if (!input.requires_grad()) continue;
    travels |= input.node_->travels;
    to_parameters &= input.node_->travels || input.node_->is_parameter;
  }
  const bool deferred = meanwhile && travels && to_parameters;
  std::erase_if(inputs, [](const Var& v) { return !v.requires_grad() || !v.node_->is_parameter; });
  if (mode_ == Mode::kCount) {
    counted_.insert(counted_.end(), inputs.begin(), inputs.end());
    return;
  }
  // Uses inside a recomputed section were counted by its first forward and belong to the section's own
  // record.
  if (mode_ == Mode::kRecompute) inputs.clear();
  for (const Var& input : inputs) ++input.node_->uses;
  records_.push_back(
      {std::move(inputs), std::move(outputs), std::move(backward), std::move(meanwhile), deferred});
}

void Tape::recompute_by(const Var& result, std::function<Tensor()> recompute) const {
  SPANWISE_CHECK(result.value_ && !result.node_->is_parameter, "only an op's result is recomputed");
  if (mode_ != Mode::kRecord) return;
  result.value_->cell->recompute = [&ctx = ctx_, recompute = std::move(recompute)] {
    const Recomputation again(ctx);
    return recompute();
  };
}

Var Tape::view(const Var& x, std::function<Tensor(const Tensor&)> of) const {
  const Var out = output(of(x.value()), {x});
  if (const Saved value = x.saved(); value.recomputable())
    recompute_by(out, [value, of = std::move(of)] { return of(value.get()); });
  return out;
}

void Tape::on_backward(std::function<void()> work) {
  if (saving()) records_.push_back({.backward = std::move(work), .always = true});
}

void Tape::backward(const Var& loss) {
  SPANWISE_CHECK(loss.value().numel() == 1, "backward starts from one number, not from shape {}",
                 loss.shape().str());
  Tensor one = Tensor::empty(ctx_, loss.shape(), loss.value().dtype());
  one.fill(1.0);
  backward({loss}, {one});
}

void Tape::backward(const std::vector<Var>& outputs, const std::vector<Tensor>& grads) {
  SPANWISE_CHECK(outputs.size() == grads.size(), "{} outputs and {} gradients", outputs.size(), grads.size());
  SPANWISE_CHECK(saving(), "this tape records nothing");
  for (size_t i = 0; i < outputs.size(); ++i) {
    if (grads[i].defined()) outputs[i].add_grad(ctx_, grads[i]);
  }
  run();
}

void Tape::run() {
  while (!records_.empty()) {
    Record record = std::move(records_.back());
    records_.pop_back();
    bool reached = record.always;
    for (const Adjoint& output : record.outputs) reached |= output.grad().defined();
    if (reached) record.backward();
    if (reached && record.deferred) {
      record.backward = nullptr;
      deferred_.push_back(std::move(record));
      continue;
    }
    if (reached && record.meanwhile) record.meanwhile();
    finish(std::move(record));
  }
  SPANWISE_CHECK(deferred_.empty(),
                 "a gradient that travels did not let the work be done that was deferred for it");
}

void Tape::work_meanwhile() {
  while (!deferred_.empty()) {
    Record record = std::move(deferred_.front());
    deferred_.pop_front();
    record.meanwhile();
    finish(std::move(record));
  }
}

void Tape::finish(Record record) {
  // Frees what was saved before a hook may start communication.
  record.backward = record.meanwhile = nullptr;
  for (const Adjoint& output : record.outputs) {
    if (!output.node_->is_parameter) output.node_->grad = {};
  }
  for (auto it = record.inputs.rbegin(); it != record.inputs.rend(); ++it) {
    if (--it->node_->uses == 0 && it->node_->hook) it->node_->hook(*it);
  }
}

std::vector<Var> checkpoint(Tape& tape, SectionFunction section, const std::vector<Var>& inputs) {
  if (tape.mode() == Tape::Mode::kInference || tape.mode() == Tape::Mode::kCount)
    return section(tape, inputs);

  Context& ctx = tape.context();
  Tape first(ctx, Tape::Mode::kCount);
  first.replayed_ = tape.replayed_;
  first.kept_ = std::make_shared<ReceivedValues>();
  std::vector<Var> results = section(first, inputs);
  // The results' nodes belong to the first forward; fresh ones belong to this tape.
  std::vector<Var> outputs;
  for (const Var& result : results) outputs.push_back(Var(result.value(), result.requires_grad()));
  results.clear();

  struct Input {
    Saved value;
    Adjoint adjoint;
  };
  std::vector<Input> saved;
  for (const Var& input : inputs) saved.push_back({input.saved(), input.adjoint()});
  const std::vector<Adjoint> results_of_tape(outputs.begin(), outputs.end());
  tape.record(
      std::move(first.counted_), results_of_tape,
      [&ctx, section, saved, outputs = results_of_tape, received = first.kept_] {
        std::vector<Var> leaves;
        for (const Input& input : saved)
          leaves.push_back(input.value.defined() ? Var(input.value.get(), input.adjoint.requires_grad())
                                                 : Var());
        Tape again(ctx, Tape::Mode::kRecompute);
        again.replayed_ = received;
        std::vector<Var> recomputed;
        {
          const Recomputation scope(ctx);
          recomputed = section(again, leaves);
        }
        SPANWISE_CHECK(received->empty(), "a recomputed section receives less than its first forward did");
        std::vector<Tensor> grads;
        for (const Adjoint& output : outputs) grads.push_back(output.grad());
        again.backward(recomputed, grads);
        for (size_t i = 0; i < saved.size(); ++i) {
          if (leaves[i].requires_grad() && leaves[i].grad().defined())
            saved[i].adjoint.add_grad(ctx, leaves[i].grad());
        }
      });
  return outputs;
}

}  // namespace spanwise
