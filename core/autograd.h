#pragma once
// Reverse-mode differentiation: ops run eagerly and append one closure each; backward() pops them, freeing
// what was saved. Ops are few and large, so the engine knows neither devices nor kernels.
//
//   Var y = rms_norm(tape, x, weight, eps);   // an op: computes, then tape.record(inputs, outputs, backward)
//   tape.backward(loss);                      // inputs' grad() are filled
//
// A closure keeps of a Var what it reads: x.saved() the value, x.adjoint() the gradient. Values that backward
// does not read go when the model drops them; those that cost one pass over memory (norms, activations,
// convolutions) go as well and are computed again when backward asks for them.
//
// Parameters (Var::make_parameter) count their uses: each record of an op that reads one adds a use, each
// closure that ran takes one away, so a parameter's hook fires exactly when its gradient is complete, in an
// order that is the same on every rank: reverse program order, but for what is deferred (Tape::record).

#include <any>
#include <deque>
#include <functional>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/tensor.h"

namespace spanwise {

class Var;

/// The gradient of a value, without the value: what an op's backward keeps of its results, and of operands it
/// does not read again. Copies refer to the same gradient.
class Adjoint {
 public:
  Adjoint() = default;

  bool defined() const { return node_ != nullptr; }
  bool requires_grad() const { return node_ && node_->requires_grad; }
  /// Of the value.
  const Shape& shape() const { return node().shape; }
  int64_t dim(int i) const { return shape()[i]; }
  DType dtype() const { return node().dtype; }

  /// Undefined until backward reached it.
  const Tensor& grad() const { return node().grad; }
  /// The gradient, or zeros where backward did not reach it: for ops with several outputs.
  Tensor grad_or_zeros(Context& ctx) const;
  /// Adds g (same shape) to the gradient; keeps g itself if it is the first. No-op unless requires_grad().
  void add_grad(Context& ctx, const Tensor& g) const;
  /// Where an op may write its gradient directly: the tensor, and whether to add (+=) or to write (=). Saves
  /// a temporary for large weight gradients. Only if requires_grad(). `dtype`: of a gradient that
  /// is not there yet; an activation's own, accumulation_dtype of a weight's.
  struct GradTarget {
    Tensor tensor;
    bool accumulate;
  };
  GradTarget grad_target(Context& ctx, DType dtype) const;
  void clear_grad() const;
  friend bool operator==(const Adjoint& a, const Adjoint& b) { return a.node_ == b.node_; }

  /// Its op's backward sends the gradient to other ranks and calls Tape::work_meanwhile() before it waits.
  /// Right after output().
  void gradient_travels() const { node().travels = true; }

 protected:
  friend class Tape;
  struct Node {
    Shape shape;
    DType dtype = DType::kF32;
    Tensor grad;
    bool requires_grad = false;
    bool is_parameter = false;  // grad is a fixed slice of a flat buffer: always added in place
    bool travels = false;       // gradient_travels()
    int uses = 0;
    std::function<void(const Var&)> hook;
    std::function<Tensor()> grad_source;
  };
  Node& node() const {
    SPANWISE_CHECK(node_, "the Var is undefined");
    return *node_;
  }
  std::shared_ptr<Node> node_;
};

/// A value as an op's backward keeps it. One that can be recomputed (Tape::recompute_by) is dropped with its
/// last Var and computed again by the first get() after that, to stay while any Saved of it does.
class Saved {
 public:
  Saved() = default;
  bool defined() const { return cell_ != nullptr; }
  /// Undefined where the Var was.
  Tensor get() const;
  /// True if get() may compute, so that whoever keeps the tensor itself would undo what that saves.
  bool recomputable() const { return cell_ && cell_->recompute; }

 private:
  friend class Var;
  struct Cell {
    Tensor tensor;
    std::function<Tensor()> recompute;
  };
  explicit Saved(std::shared_ptr<Cell> cell) : cell_(std::move(cell)) {}
  std::shared_ptr<Cell> cell_;
};

/// A tensor in a differentiable computation: a value and its gradient. Copies refer to the same two.
class Var : public Adjoint {
 public:
  Var() = default;
  /// A leaf without a use count, such as an input or a state.
  explicit Var(Tensor value, bool requires_grad = false);
  /// A parameter: gradients are added (+=) into `grad`, which the caller zeroes; may be undefined for frozen
  /// ones.
  static Var make_parameter(Tensor value, Tensor grad);
  /// A parameter whose gradient memory comes and goes: `source` gives memory of its shape when the first
  /// gradient arrives, which is written there (=); the others are added.
  static Var make_parameter(Tensor value, std::function<Tensor()> source);

  const Tensor& value() const;
  const Shape& shape() const { return value().shape(); }
  int64_t dim(int i) const { return value().dim(i); }

  // What a closure keeps instead of the Var, so that it holds no more memory than it reads.
  Adjoint adjoint() const { return *this; }
  Saved saved() const { return value_ ? Saved(value_->cell) : Saved(); }
  // For the store that owns a parameter's memory; undefined tensors where it is given back.
  void set_parameter_value(Tensor value) const;
  void release_parameter_grad() const;

  /// Called when every recorded use's gradient has been added. Parameters only.
  void set_hook(std::function<void(const Var&)> hook) const;

 private:
  friend class Tape;
  // Shared by the Vars of a value; the cell also by its Saved.
  struct Value {
    std::shared_ptr<Saved::Cell> cell = std::make_shared<Saved::Cell>();
    Value() = default;
    Value(const Value&) = delete;
    Value& operator=(const Value&) = delete;
    ~Value() {
      if (cell->recompute) cell->tensor = {};
    }
  };
  std::shared_ptr<Value> value_;
};

/// What a checkpointed section's first forward received from other ranks, in order, until it is recomputed.
class ReceivedValues {
 public:
  void push(std::any value) { values_.push_back(std::move(value)); }
  bool empty() const { return values_.empty(); }
  /// The oldest value, which leaves the list.
  template <class V>
  V pop();

 private:
  std::deque<std::any> values_;
};

class Tape {
 public:
  enum class Mode {
    kRecord,     ///< training
    kInference,  ///< nothing is recorded, no output requires a gradient
    kCount,      ///< first forward of a checkpointed section: parameter uses are noted, nothing is saved
    kRecompute,  ///< second forward: saved as in training, uses were counted before
  };
  explicit Tape(Context& ctx, Mode mode = Mode::kRecord) : ctx_(ctx), mode_(mode) {}
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;

  Context& context() const { return ctx_; }
  Mode mode() const { return mode_; }
  /// True if closures are kept: what an op asks before it saves more than its inputs.
  bool saving() const { return mode_ == Mode::kRecord || mode_ == Mode::kRecompute; }

  /// An op's result: requires a gradient if any input does (undefined inputs are skipped).
  Var output(Tensor value, const std::vector<Var>& inputs) const;
  /// Appends an op. `backward` reads the outputs' grad() (at least one is defined when it runs) and calls
  /// add_grad on inputs that require it. Dropped when no output requires a gradient.
  /// `meanwhile`: gradients of parameters, which no other op's backward needs: done after `backward` or,
  /// where the gradient of an input travels, deferred to that time.
  void record(std::vector<Var> inputs, std::vector<Adjoint> outputs, std::function<void()> backward,
              std::function<void()> meanwhile = nullptr);
  /// An op's result that is a view of x's memory, or (nothing to do on this rank) x's value itself: it is
  /// dropped and recomputed with x.
  Var view(const Var& x, std::function<Tensor(const Tensor&)> of) const;
  /// From now on an op's result is not worth its memory: `recompute` gives the same bits again, from what it
  /// holds (Saved, for a chain of these). Right after output(). Nothing unless kRecord: a section that is
  /// itself being recomputed keeps its values.
  void recompute_by(const Var& result, std::function<Tensor()> recompute) const;
  /// Appends work that backward does at this point whichever gradients reach it. Nothing unless saving().
  void on_backward(std::function<void()> work);
  /// In an op's backward, while a gradient travels: does what was deferred, in the order of backward.
  void work_meanwhile();

  /// Runs the closures in reverse with d(loss)/d(loss) = 1; loss has one element. Empties the tape.
  void backward(const Var& loss);
  /// The same, seeded by gradients for several outputs. Undefined gradients are skipped.
  void backward(const std::vector<Var>& outputs, const std::vector<Tensor>& grads);

  size_t num_records() const { return records_.size(); }

  /// For ops that communicate: the result of `receive()`, which a recomputed section does not call again but
  /// takes from its first forward. Values are handed out in the order they came in, so a section must receive
  /// the same things in the same order both times; it must not write to them. They are copied (a Tensor by
  /// reference) and live until the section is recomputed. Nested checkpoints receive once, too.
  template <class F>
  auto once(F&& receive) -> std::decay_t<decltype(receive())>;
  /// True if once() will not call: an op that starts its communication early must not start it then.
  bool replays() const { return replayed_ != nullptr; }

 private:
  friend std::vector<Var> checkpoint(Tape&, std::function<std::vector<Var>(Tape&, const std::vector<Var>&)>,
                                     const std::vector<Var>&);
  struct Record {
    std::vector<Var> inputs;
    std::vector<Adjoint> outputs;
    std::function<void()> backward;
    std::function<void()> meanwhile = nullptr;  // not there: done by backward
    bool deferred = false;                      // meanwhile waits for work_meanwhile()
    bool always = false;                        // runs even if no output has a gradient
  };
  void run();
  /// After all of a record's work: frees gradients, counts parameters' uses down.
  void finish(Record record);

  Context& ctx_;
  Mode mode_;
  std::vector<Record> records_;
  std::deque<Record> deferred_;
  std::vector<Var> counted_;  // kCount: one entry a parameter use
  // once() reads from the one (recomputation, and a first forward inside one) and keeps in the other (first
  // forward); both, one or none.
  std::shared_ptr<ReceivedValues> replayed_, kept_;
};

template <class V>
V ReceivedValues::pop() {
  SPANWISE_CHECK(!values_.empty(), "a recomputed section receives more than its first forward did");
  V* value = std::any_cast<V>(&values_.front());
  SPANWISE_CHECK(value, "a recomputed section receives in another order than its first forward did");
  V result = std::move(*value);
  values_.pop_front();
  return result;
}

template <class F>
auto Tape::once(F&& receive) -> std::decay_t<decltype(receive())> {
  using V = std::decay_t<decltype(receive())>;
  V value = replayed_ ? replayed_->pop<V>() : receive();
  if (kept_) kept_->push(value);
  return value;
}

/// Activation checkpointing (Chen et al., arXiv 1604.06174): runs `section` keeping only `inputs`; backward
/// runs it again and differentiates it. Loss and gradients are bitwise equal to running it without.
/// Parameters' uses inside count from the first forward, so their hooks fire as without checkpointing, at the
/// latest when the section's backward ends.
using SectionFunction = std::function<std::vector<Var>(Tape&, const std::vector<Var>&)>;
std::vector<Var> checkpoint(Tape& tape, SectionFunction section, const std::vector<Var>& inputs);

}  // namespace spanwise
