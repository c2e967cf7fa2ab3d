#include "parallel/tensor_parallel.h"

#include <functional>
#include <string>
#include <vector>

#include "core/ops/views.h"

namespace spanwise {

namespace {

using Meanwhile = std::function<void()>;  ///< done while values travel

Tensor summed(
    Context& ctx, const TensorGroup& group, std::string_view name, const Tensor& x,
    const Meanwhile& meanwhile = [] {}) {
  const Tensor sum = Tensor::empty(ctx, x.shape(), x.dtype());
  sum.copy_from(x);
  Ticket ticket = group.comm->all_reduce(name, sum);
  meanwhile();
  ticket.wait();
  return sum;
}

int64_t rows_per_rank(const TensorGroup& group, int64_t rows) {
  return (rows + group.size() - 1) / group.size();
}

// The own rows of Σ x [n, D]. A reduce-scatter may overwrite its operand, so a copy travels.
Tensor own_rows_of_sum(
    Context& ctx, const TensorGroup& group, std::string_view name, const Tensor& x,
    const Meanwhile& meanwhile = [] {}) {
  const int64_t width = x.dim(-1), rows = x.numel() / width, held = rows_per_rank(group, rows),
                padded = held * group.size();
  const Tensor all = Tensor::empty(ctx, {padded, width}, x.dtype());
  all.row_range(0, rows).copy_from(x.reshape({rows, width}));
  if (padded > rows)
    all.row_range(rows, padded).copy_from(Tensor::zeros(ctx, {padded - rows, width}, x.dtype()));
  const Tensor own = Tensor::empty(ctx, {held, width}, x.dtype());
  Ticket ticket = group.comm->reduce_scatter(name, all, own);
  meanwhile();
  ticket.wait();
  return own;
}

// All ranks' rows, as `whole`.
Tensor all_rows(Context& ctx, const TensorGroup& group, std::string_view name, const Tensor& own,
                const Shape& whole) {
  const int64_t width = own.dim(-1), rows = whole.numel() / width;
  SPANWISE_CHECK(own.numel() == rows_per_rank(group, rows) * width,
                 "a rank's rows {} are not its part of {} over {} ranks", own.shape().str(), whole.str(),
                 group.size());
  const Tensor all = Tensor::empty(ctx, {group.size() * own.numel()}, own.dtype());
  group.comm->all_gather(name, own, all).wait();
  return all.slice_flat(0, whole);
}

}  // namespace

Var copy_to(Tape& tape, const TensorGroup& group, const Var& x) {
  if (group.size() == 1) return x;
  Context& ctx = tape.context();
  const Var out = tape.view(x, [](const Tensor& value) { return value; });
  out.gradient_travels();
  tape.record({x}, {out}, [&ctx, &tape, group, x = x.adjoint(), out = out.adjoint()] {
    x.add_grad(ctx, summed(ctx, group, "copy_to backward", out.grad(), [&tape] { tape.work_meanwhile(); }));
  });
  return out;
}

Var reduce_from(Tape& tape, const TensorGroup& group, const Var& x) {
  if (group.size() == 1) return x;
  Context& ctx = tape.context();
  const Tensor sum = tape.once([&] { return summed(ctx, group, "reduce_from", x.value()); });
  const Var out = tape.output(sum, {x});
  tape.record({x}, {out}, [&ctx, x = x.adjoint(), out = out.adjoint()] { x.add_grad(ctx, out.grad()); });
  return out;
}

Var gather_rows(Tape& tape, const TensorGroup& group, const Var& x, const Shape& whole) {
  if (group.size() == 1) return reshape(tape, x, whole);
  Context& ctx = tape.context();
  const Tensor all = tape.once([&] { return all_rows(ctx, group, "gather_rows", x.value(), whole); });
  const Var out = tape.output(all, {x});
  out.gradient_travels();
  tape.record({x}, {out}, [&ctx, &tape, group, x = x.adjoint(), out = out.adjoint()] {
    x.add_grad(ctx, own_rows_of_sum(ctx, group, "gather_rows backward", out.grad(),
                                    [&tape] { tape.work_meanwhile(); }));
  });
  return out;
}

Var scatter_rows_sum(Tape& tape, const TensorGroup& group, const Var& x) {
  if (group.size() == 1) return reshape(tape, x, {x.value().numel() / x.dim(-1), x.dim(-1)});
  Context& ctx = tape.context();
  const Tensor own = tape.once([&] { return own_rows_of_sum(ctx, group, "scatter_rows_sum", x.value()); });
  const Var out = tape.output(own, {x});
  tape.record({x}, {out}, [&ctx, group, x = x.adjoint(), out = out.adjoint()] {
    x.add_grad(ctx, all_rows(ctx, group, "scatter_rows_sum backward", out.grad(), x.shape()));
  });
  return out;
}

int64_t TensorStream::held_rows(int64_t rows) const {
  return sharded_ ? rows_per_rank(group_, rows) : rows;
}

Var TensorStream::enter(Tape& tape, const Var& x, const Shape& whole) const {
  return sharded_ ? gather_rows(tape, group_, x, whole) : copy_to(tape, group_, x);
}

Var TensorStream::leave(Tape& tape, const Var& x) const {
  return sharded_ ? scatter_rows_sum(tape, group_, x) : reduce_from(tape, group_, x);
}

SplitDim TensorStream::parameter(int64_t size) const {
  return sharded_ ? share(group_, size) : SplitDim(size);
}

int64_t SplitDim::size() const {
  int64_t held = 0;
  for (const Placement::Range& range : ranges) held += range.end - range.begin;
  return held;
}

SplitDim SplitDim::times(int64_t width) const {
  SplitDim channels = *this;
  channels.whole *= width;
  for (Placement::Range& range : channels.ranges) range = {range.begin * width, range.end * width};
  return channels;
}

SplitDim divide(const TensorGroup& group, int64_t heads, std::string_view field) {
  if (heads % group.size() != 0) {
    fail_user(
        "{} = {} heads cannot be divided evenly over parallel.tensor = {} ranks; choose a multiple of {}.",
        field, heads, group.size(), group.size());
  }
  const int64_t mine = heads / group.size();
  return {heads, {{group.rank() * mine, (group.rank() + 1) * mine}}, false};
}

SplitDim divide_or_share(const TensorGroup& group, int64_t heads, std::string_view field) {
  if (heads % group.size() == 0) return divide(group, heads, field);
  if (group.size() % heads != 0) {
    fail_user(
        "{} = {} heads can neither be divided over parallel.tensor = {} ranks nor be held by equally many of "
        "them each; choose a multiple or a divisor of {}.",
        field, heads, group.size(), group.size());
  }
  const int64_t head = group.rank() / (group.size() / heads);
  return {heads, {{head, head + 1}}, true};
}

SplitDim divide_unevenly(const TensorGroup& group, int64_t size, std::string_view field) {
  const int64_t ranks = group.size(), rank = group.rank();
  if (size < ranks) {
    fail_user("{} = {} is less than parallel.tensor = {}; a rank would hold nothing of it.", field, size,
              ranks);
  }
  return {size, {{size * rank / ranks, size * (rank + 1) / ranks}}, false};
}

SplitDim share(const TensorGroup& group, int64_t size) {
  return {size, {{0, size}}, group.size() > 1};
}

SplitDim concatenate(std::initializer_list<SplitDim> parts) {
  SplitDim all{0, {}, false};
  for (const SplitDim& part : parts) {
    for (const Placement::Range& range : part.ranges) {
      const Placement::Range moved{all.whole + range.begin, all.whole + range.end};
      if (!all.ranges.empty() && all.ranges.back().end == moved.begin) {
        all.ranges.back().end = moved.end;
      } else {
        all.ranges.push_back(moved);
      }
    }
    all.whole += part.whole;
    all.partial_gradient |= part.partial_gradient;
  }
  return all;
}

Param split_param(const Shape& shape, int dim, const SplitDim& split, Init init, bool weight_decay) {
  std::vector<int64_t> whole = shape.to_vector(), local = whole;
  whole.at(size_t(dim)) = split.whole;
  local.at(size_t(dim)) = split.size();
  Param param{Shape(local), std::move(init), weight_decay};
  if (split.divided()) param.placement = {.global = Shape(whole), .dim = dim, .ranges = split.ranges};
  param.placement.partial_gradient = split.partial_gradient;
  return param;
}

DimPart dim_part(const TensorGroup& group, const SplitDim& split, std::string_view name) {
  if (!split.divided()) return {};
  SPANWISE_CHECK(split.ranges.size() == 1 && !split.partial_gradient,
                 "'{}' reduces along a dimension of which ranks hold several ranges or the same elements",
                 name);
  const auto reduce = [group, name = std::string(name)](Reduce op) {
    return [group, name, op](const Tensor& t) { group.comm->all_reduce(name, t, op).wait(); };
  };
  return {.begin = split.ranges[0].begin,
          .whole = split.whole,
          .sum = reduce(Reduce::kSum),
          .max = reduce(Reduce::kMax)};
}

DimPart grouped_dim_part(Context& ctx, const TensorGroup& group, const SplitDim& split, int64_t num_groups,
                         std::string_view name) {
  if (num_groups == 1) return dim_part(group, split, name);
  const int64_t width = split.whole / num_groups;
  if (split.size() % width == 0) return {};
  const int64_t begin = dim_part(group, split, name).begin, mine = begin / width;
  // Every group's sums travel, each rank adding to its own: the axis has no smaller communicator.
  const auto sum = [&ctx, group, name = std::string(name), num_groups, mine](const Tensor& t) {
    const Tensor sums = Tensor::zeros(ctx, {num_groups * t.numel()}, t.dtype());
    const Tensor own = sums.slice_flat(mine * t.numel(), t.shape());
    own.copy_from(t);
    group.comm->all_reduce(name, sums).wait();
    t.copy_from(own);
  };
  return {.begin = begin % width, .whole = width, .sum = sum};
}

}  // namespace spanwise
