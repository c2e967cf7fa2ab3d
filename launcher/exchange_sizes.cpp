#include "launcher/exchange_sizes.h"

#include <algorithm>

#include "core/ops/softmax_attention.h"
#include "parallel/halo.h"
#include "parallel/tensor_parallel.h"

namespace spanwise {

SequencePlan whole_documents(const SequencePartition& partition, int rank, int64_t batch) {
  std::vector<int64_t> starts;
  for (int64_t row = 0; row < batch; ++row) starts.push_back(row * partition.length());
  return {partition, rank, batch, std::move(starts)};
}

SpanShape span_shape(const FlatMixers& options, MixerKind kind, int64_t rows, DType dtype) {
  const FlatLinear& o = options.linear;
  const bool delta = kind == MixerKind::kDeltaNet || kind == MixerKind::kGatedDeltaNet;
  return {.rows = rows,
          .heads = divide_or_share(options.tensor, o.num_value_heads, "heads").size(),
          .key_dim = o.key_dim,
          .value_dim = o.value_dim,
          .transition = delta                                 ? TransitionKind::kDense
                        : kind == MixerKind::kLinearAttention ? TransitionKind::kIdentity
                                                              : TransitionKind::kScalar,
          .dtype = dtype};
}

StateExchange chosen_exchange(StateExchange exchange, const SpanShape& shape, int num_ranks) {
  if (exchange != StateExchange::kAuto) return exchange;
  return prefers_head_split(shape, num_ranks) ? StateExchange::kHeadSplit : StateExchange::kAllGather;
}

namespace {

/// The formulas' terms: a rank's states s and transitions m, and one row's state.
struct SummaryElems {
  SummaryElems(const SpanShape& shape, const ComputeKind& compute)
      : s(compute.precise(shape.rows * shape.state_elems())),
        m(compute.precise(shape.rows * shape.transition_elems())),
        row(compute.precise(shape.state_elems())) {}
  /// A fold over `spans` emits nothing, then a view, then what it computes: the last such and the next.
  int64_t fold(int64_t spans) const { return std::clamp<int64_t>(spans - 2, 0, 2) * row; }

  int64_t s, m, row;
};

// Forward starts with the summary, its packed copy and all W summaries; it ends with those W, their
// transitions (kept), the incoming states (kept) and the fold's. Backward gathers W ranks' gradients, which
// stay until the op is done, and folds them into the incoming ones.
StateExchangeSizes all_gather_sizes(const SummaryElems& e, int64_t ranks, int64_t parts) {
  const int64_t all = ranks * (e.s + e.m), kept = e.s + ranks * e.m;
  return {.received = kept,
          .forward = all + std::max((e.m > 0 ? 2 : 1) * (e.s + e.m), kept + e.fold(parts)),
          .travelling = ranks * e.s,
          .finishing = (ranks + 1) * e.s + e.fold(parts),
          .finished = (ranks + 1) * e.s};
}

// The summary stays until the op is done, its transitions until backward. What arrived is as large as the
// states; so are the messages that are in flight together, a part's each. One row is computed at a time.
StateExchangeSizes chain_sizes(const SummaryElems& e) {
  return {.received = e.s + e.m,
          .forward = 3 * e.s + e.m + e.row,
          .travelling = 0,
          .finishing = 2 * e.s + e.row,
          .finished = e.s};
}

// Each buffer is as large as a rank's own, having a share of the heads of all ranks' rows. Forward starts
// with the summary, its packed copy and what arrives; it ends with what arrived, its transitions (kept), the
// folded states, their way back, and the incoming states (kept). Backward: the same of states alone, and
// what arrived stays until the op is done.
StateExchangeSizes head_split_sizes(const SummaryElems& e) {
  return {.received = e.s + e.m,
          .forward = std::max(3 * (e.s + e.m), (e.s + e.m) + e.m + 3 * e.s),
          .travelling = 2 * e.s,
          .finishing = 4 * e.s,
          .finished = 2 * e.s};
}

// With n ranks a node and N nodes: n summaries, their transitions (kept), N composed summaries, their
// transitions (kept), the incoming states (kept), and two folds inside each other, over the runs and over a
// run's parts, which go on from a state. Backward: gradients of n ranks, which stay until the op is done, of
// N nodes, and the incoming ones.
StateExchangeSizes two_level_sizes(const SummaryElems& e, int64_t inside, int64_t nodes, int64_t slots) {
  const int64_t folds = e.fold(nodes * slots) + e.fold(inside + 1), kept = e.s + (inside + nodes) * e.m;
  return {.received = kept,
          .forward = (inside + nodes) * (e.s + e.m) + kept + folds,
          .travelling = inside * e.s,
          .finishing = (inside + nodes + 1) * e.s + folds,
          .finished = (inside + 1) * e.s};
}

}  // namespace

StateExchangeSizes state_exchange_sizes(const SequenceParallelOptions& options, const SpanShape& shape,
                                        const SequencePlan& plan, const ComputeKind& compute) {
  const SequencePartition& p = plan.partition();
  const SummaryElems e(shape, compute);
  const int64_t inside = options.ranks_per_node;
  switch (chosen_exchange(options.exchange, shape, p.num_ranks())) {
    case StateExchange::kAllGather:
      return all_gather_sizes(e, p.num_ranks(), p.num_parts());
    case StateExchange::kChain:
      return chain_sizes(e);
    case StateExchange::kHeadSplit:
      return head_split_sizes(e);
    case StateExchange::kTwoLevel:
      return two_level_sizes(e, inside, p.num_ranks() / inside, p.slots());
    case StateExchange::kAuto:
      break;
  }
  SPANWISE_FAIL("no sizes of state exchange {}", int(options.exchange));
}

namespace {

/// The formulas' terms: elements of a rank's queries (outputs are as large), of its keys and values, and the
/// log-sum-exps.
struct AttentionElems {
  AttentionElems(const AttentionOptions& o, const SequencePlan& plan, const ComputeKind& compute)
      : options(o),
        compute(compute),
        batch(plan.batch()),
        length(plan.partition().length()),
        tokens(plan.num_local_rows() * plan.partition().capacity()),
        whole_tokens(batch * length),
        ranks(plan.partition().num_ranks()),
        kv_width(2 * o.num_kv_heads * o.head_dim),
        q(tokens * o.num_heads * o.head_dim),
        kv(tokens * kv_width),
        sums(compute.precise(tokens * o.num_heads)) {}

  /// Temporaries of a backward over this many rows, queries and keys.
  int64_t backward_of(AttentionShape shape) const {
    shape.heads = shape.heads > 0 ? shape.heads : options.num_heads;
    shape.kv_heads = shape.kv_heads > 0 ? shape.kv_heads : options.num_kv_heads;
    shape.head_dim = options.head_dim;
    shape.dtype = compute.dtype;
    return compute.elems_of(softmax_attention_bwd_bytes(compute.device, shape));
  }

  const AttentionOptions& options;
  ComputeKind compute;
  int64_t batch, length, tokens, whole_tokens, ranks;  ///< tokens of this rank, padding included
  int64_t kv_width, q, kv, sums;
};

// Keeps the keys and values of whole rows. Forward has this rank's packed and all ranks' beside them;
// backward has the gradients of the whole rows, in rows and as the sums that travel, and while the latter are
// filled half of them again where sums are of another dtype.
SizedOp all_gather_attention_op(const AttentionElems& e, const SequencePlan& plan) {
  const int64_t whole = e.whole_tokens * e.kv_width, all = e.ranks * e.kv, sums = e.compute.precise(all),
                widened = sums > all ? e.compute.precise(whole) / 2 : 0;
  const bool from_start = plan.rank() == 0 && plan.partition().slots() == 1;
  const int64_t computing = e.backward_of(
      {.batch = e.batch, .num_queries = e.tokens / e.batch, .num_keys = e.length, .staggered = from_start});
  return {.value = e.q,
          .saved = e.sums,
          .received = whole,
          .forward = e.kv + all,
          .backward = whole + std::max(sums + widened, computing)};
}

// Keeps the keys and values of the halo and the local rows behind each other. Forward packs the local ones
// and fetches the halo. Backward has the gradients of what was kept and the same cut into halo and local
// rows; the halo's messages come and go before the gradients of keys and values are made.
SizedOp window_attention_op(const AttentionElems& e, int64_t window, const SequencePlan& plan) {
  const int64_t width = window_halo_width(window, plan.partition().length()),
                before = plan.num_local_rows() * width * e.kv_width;
  const Halo halo(plan, width);
  const int64_t messages = (halo.received_tokens() + halo.given_tokens()) * e.kv_width;
  const int64_t row_tokens = plan.partition().capacity();
  const int64_t computing = e.backward_of({.batch = plan.num_local_rows(),
                                           .num_queries = row_tokens,
                                           .num_keys = width + row_tokens,
                                           .staggered = true});
  return {
      .value = e.q,
      .saved = e.sums + before + e.kv,
      .awaited = before,
      .forward = e.kv + before,
      .backward = before + e.kv + std::max(before + e.kv + std::max<int64_t>(messages - e.kv, 0), computing)};
}

// Keeps the packed local keys and values; the merged output is received, so recomputation has it. A step
// has a block of keys and values (but the first, whose block is the rank's own), the next one under way (but
// the last), and the step's part of the output beside the merged one. Backward has the blocks as well, the
// travelling gradients, and either the step's gradients or the ones that arrive. The merged output, the
// travelling gradients and those of queries are sums. A rank whose queries are the first reads no others'
// keys: it has no parts.
SizedOp ring_attention_op(const AttentionElems& e, const SequencePlan& plan) {
  const bool reads = plan.rank() > 0 || plan.partition().slots() > 1;
  const int64_t blocks = (e.ranks > 2 ? 2 : 1) * e.kv;
  const auto computing = [&](bool own) {
    const int64_t tokens = e.tokens / e.batch;
    return e.backward_of({.batch = e.batch, .num_queries = tokens, .num_keys = tokens, .staggered = own});
  };
  const int64_t sums_q = e.compute.precise(e.q), travelling = e.compute.precise(e.kv);
  const int64_t step = reads ? std::max(e.q + e.kv + computing(false), travelling) : travelling;
  return {.saved = e.kv,
          .received = e.q + e.sums,
          .forward = blocks + (reads ? sums_q + e.sums : 0),
          .backward = blocks + travelling + (reads ? sums_q - e.q : 0) + std::max(step, computing(true)),
          .gradient = e.q};
}

// Keeps this rank's heads of whole rows: queries, keys and values (received), outputs and log-sum-exps. Both
// ways, tokens and heads are traded through two buffers of the padded rows. Forward trades queries, keys and
// values before there is any output, then the outputs. Backward has the output's gradient in heads, those of
// queries, keys and values, and the two buffers that bring them home; key heads that several ranks have are
// summed, keys, then values.
SizedOp ulysses_attention_op(const AttentionElems& e) {
  const AttentionOptions& o = e.options;
  const int64_t own_heads = o.num_heads / e.ranks,
                own_kv_heads = std::max<int64_t>(o.num_kv_heads / e.ranks, 1);
  const bool summed = o.num_kv_heads < e.ranks && e.compute.precise(1) > 1;
  const int64_t sums = summed ? e.compute.precise(e.kv) / 2 : 0;
  const int64_t qkv_width = (own_heads + 2 * own_kv_heads) * o.head_dim, out_width = own_heads * o.head_dim;
  const int64_t padded_tokens = e.ranks * e.tokens, qkv_buffers = 2 * padded_tokens * qkv_width,
                out_buffers = 2 * padded_tokens * out_width;
  const int64_t outputs = e.whole_tokens * out_width + e.compute.precise(e.whole_tokens * own_heads);
  const int64_t computing = e.backward_of({.batch = e.batch,
                                           .num_queries = e.length,
                                           .num_keys = e.length,
                                           .heads = own_heads,
                                           .kv_heads = own_kv_heads,
                                           .staggered = true});
  return {.saved = outputs,
          .received = e.whole_tokens * qkv_width + e.q,
          .forward = std::max(qkv_buffers - outputs - e.q, out_buffers),
          .backward = e.whole_tokens * (out_width + qkv_width) + std::max(qkv_buffers + sums, computing),
          .gradient = e.q};
}

}  // namespace

SizedOp attention_over_ranks(AttentionExchange exchange, const AttentionOptions& options,
                             const SequencePlan& plan, const ComputeKind& compute, int queries) {
  const AttentionElems e(options, plan, compute);
  const auto reading_queries = [&](SizedOp op) {
    op.reads = {queries};
    return op;
  };
  switch (exchange) {
    case AttentionExchange::kAllGather:
      return reading_queries(options.window > 0 ? window_attention_op(e, options.window, plan)
                                                : all_gather_attention_op(e, plan));
    case AttentionExchange::kRing:
      return reading_queries(ring_attention_op(e, plan));
    case AttentionExchange::kUlysses:
      return ulysses_attention_op(e);
  }
  SPANWISE_FAIL("no sizes of attention exchange {}", int(exchange));
}

}  // namespace spanwise
