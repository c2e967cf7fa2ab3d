#include "parallel/sequence_parallel.h"

#include "parallel/attention_exchange.h"
#include "parallel/state_exchange.h"

namespace spanwise {

namespace {

std::unique_ptr<SpanExchange> make_exchange(Context& ctx, Comm& comm, const SequencePlan& plan,
                                            const SequenceParallelOptions& options) {
  switch (options.exchange) {
    case StateExchange::kAuto:
      return make_auto_exchange(ctx, comm, plan);
    case StateExchange::kAllGather:
      return make_all_gather_exchange(ctx, comm, plan);
    case StateExchange::kChain:
      return make_chain_exchange(ctx, comm, plan);
    case StateExchange::kHeadSplit:
      return make_head_split_exchange(ctx, comm, plan);
    case StateExchange::kTwoLevel:
      return make_two_level_exchange(ctx, comm, plan, options.ranks_per_node);
  }
  SPANWISE_FAIL("state exchange {} does not exist", int(options.exchange));
}

}  // namespace

SequenceParallel::SequenceParallel(Context& ctx, Comm& comm, const SequencePlan& plan,
                                   SequenceParallelOptions options)
    : comm_(comm), plan_(plan), options_(options), spans_(make_exchange(ctx, comm, plan, options)) {
  SPANWISE_CHECK(plan.rank() == comm.rank() && plan.partition().num_ranks() == comm.size(),
                 "a plan for rank {} of {} on rank {} of {}", plan.rank(), plan.partition().num_ranks(),
                 comm.rank(), comm.size());
}

SequenceParallel::~SequenceParallel() = default;

Var SequenceParallel::halo(Tape& tape, const Var& x, int64_t width) const {
  Context& ctx = tape.context();
  const Halo& halo = halos_.try_emplace(width, plan_, width).first->second;
  const Var out =
      tape.output(tape.once([&] { return halo.fetch(ctx, comm_, "halo_forward", x.value()); }), {x});
  tape.record({x}, {out}, [&ctx, &comm = comm_, x = x.adjoint(), out = out.adjoint(), &halo] {
    const Tensor dx = Tensor::zeros(ctx, x.shape(), x.dtype());
    halo.give_back(ctx, comm, "halo_backward", out.grad(), dx);
    x.add_grad(ctx, dx);
  });
  return out;
}

Var SequenceParallel::attention(Tape& tape, const Var& q, const Var& k, const Var& v, int64_t window,
                                double scale) const {
  for (const Var* operand : {&q, &k, &v}) {
    SPANWISE_CHECK(operand->shape().num_dims() == 4 && operand->dim(0) == plan_.num_local_rows() &&
                       operand->dim(1) == plan_.partition().capacity(),
                   "attention over ranks takes [{}, {}, heads, d], got {}", plan_.num_local_rows(),
                   plan_.partition().capacity(), operand->shape().str());
  }
  SPANWISE_CHECK(window >= 0, "window={} must be positive, or 0 for full attention", window);
  const SequenceAttention in{q, k, v, window, scale};
  switch (options_.attention) {
    case AttentionExchange::kAllGather:
      return window > 0 ? window_attention(tape, comm_, plan_, in)
                        : all_gather_attention(tape, comm_, plan_, in);
    case AttentionExchange::kRing:
      return ring_attention(tape, comm_, plan_, in);
    case AttentionExchange::kUlysses:
      return ulysses_attention(tape, comm_, plan_, in);
  }
  SPANWISE_FAIL("attention exchange {} does not exist", int(options_.attention));
}

}  // namespace spanwise
