#include "core/ops/cuda/delta/recurrent.cuh"

#include <algorithm>

#include "core/ops/cuda/common/launch.h"
#include "core/ops/cuda/delta/recurrent.h"
#include "core/upload.h"

namespace spanwise::cuda {

namespace {

using namespace recurrent;

static_assert(sizeof(recurrent::Segment) == kSegmentBytes);

struct DeviceSegments {
  DeviceSegments(Context& ctx, const LinearStateCall& call, SegmentSet which) {
    const std::vector<ChunkList::Chunk>& chunks = call.chunks.chunks();
    std::vector<recurrent::Segment> list;
    for (const ChunkList::SegmentChunks& s : call.chunks.select(which)) {
      const ChunkList::Chunk &first = chunks[s.first], &last = chunks[s.last - 1];
      const int length = int(last.begin + last.length - first.begin);
      const int first_state = s.last - s.first > 1 ? int(chunks[s.first + 1].state) : 0;
      list.push_back(
          {int(s.row), int(first.begin), length, int(first.length), first_state, s.continues, s.ends_row});
      longest = std::max(longest, length);
    }
    count = int(list.size());
    if (count > 0) tensor = upload(ctx, list);
  }
  const recurrent::Segment* data() const { return static_cast<const recurrent::Segment*>(tensor.raw()); }
  int count = 0, longest = 0;
  Tensor tensor;
};

HeadRows<const float> rows_of(const Tensor& t, int64_t row_elems) {
  if (!t.defined()) return {nullptr, 0};
  return {pointer<float>(t), t.row_stride(row_elems)};
}

Args args_of(const LinearStateCall& call, const DeviceSegments& segments) {
  const int64_t H = call.q.dim(2), K = call.q.dim(3), HV = call.v.dim(2), V = call.v.dim(3);
  Args a{};
  a.segments = segments.data();
  a.num_segments = segments.count;
  a.H = int(H);
  a.HV = int(HV);
  a.K = int(K);
  a.V = int(V);
  a.scale = float(call.scale);
  a.q = rows_of(call.q, H * K);
  a.k = rows_of(call.k, H * K);
  a.v = rows_of(call.v, HV * V);
  a.log_decay = rows_of(call.log_decay, HV);
  a.beta = rows_of(call.beta, HV);
  a.initial = pointer<float>(call.initial_state);
  a.tokens = call.q.dim(0) * call.q.dim(1);
  return a;
}

unsigned blocks_of(const Args& a) {
  return unsigned(int64_t(a.num_segments) * a.HV * ceil_div(a.V, kColumns));
}

/// fn(rows of the state a thread holds)
template <class F>
void dispatch_rows(int K, F&& fn) {
  SPANWISE_CHECK(K <= gpu_limits::kGatedDeltaHeads.most_f32_keys,
                 "gated_delta token by token on a GPU has keys of at most {} columns a head, got {}",
                 gpu_limits::kGatedDeltaHeads.most_f32_keys, K);
  switch (rows_of_thread(K)) {
    case 8:
      return fn(std::integral_constant<int, 8>());
    case 16:
      return fn(std::integral_constant<int, 16>());
    default:
      return fn(std::integral_constant<int, 32>());
  }
}

void launch_forward(Context& ctx, const Args& a) {
  if (a.num_segments == 0) return;
  dispatch_rows(a.K, [&](auto rows) {
    forward_kernel<decltype(rows)::value><<<blocks_of(a), kThreads, 0, stream_of(ctx)>>>(a);
  });
  check_launch("gated_delta_recurrent");
}

void sum_partials(Context& ctx, const DeviceSegments& segments, const SumPartials& sum) {
  const int64_t most = ceil_div(int64_t(segments.longest) * sum.H * sum.width, kThreads);
  const dim3 grid(unsigned(segments.count), unsigned(std::min<int64_t>(most, 1024)));
  sum_partials_kernel<<<grid, kThreads, 0, stream_of(ctx)>>>(sum);
  check_launch("gated_delta_sum_partials");
}

}  // namespace

void recurrent_fwd(Context& ctx, const LinearStateCall& call, SegmentSet which,
                   const LinearStateForward& out) {
  const DeviceSegments segments(ctx, call, which);
  if (segments.count == 0) return;
  Args a = args_of(call, segments);
  a.states = out.saved.empty() ? nullptr : pointer<float>(out.saved.front());
  a.out = {pointer<float>(out.out), out.out.row_stride(int64_t(a.HV) * a.V)};
  a.final = pointer<float>(out.final_state);
  launch_forward(ctx, a);
}

void recurrent_summarize(Context& ctx, const LinearStateCall& call, const SpanSummary* summary) {
  if (!summary) return;
  const DeviceSegments ending(ctx, call, SegmentSet::kEndingRow);
  Args a = args_of(call, ending);
  a.final = pointer<float>(summary->state);
  launch_forward(ctx, a);
  // M obeys the recurrence with v = 0 from the identity.
  const DeviceSegments passing(ctx, call, SegmentSet::kPassing);
  if (passing.count == 0) return;
  a = args_of(call, passing);
  a.V = a.K;
  a.v = {nullptr, 0};
  a.from_identity = true;
  a.final = pointer<float>(summary->transition.values);
  launch_forward(ctx, a);
}

void recurrent_dstate(Context& ctx, const LinearStateCall& call, const Tensor& dout,
                      const Tensor& dstate_in) {
  const DeviceSegments segments(ctx, call, SegmentSet::kContinuing);
  if (segments.count == 0) return;
  Args a = args_of(call, segments);
  a.dout = rows_of(dout, int64_t(a.HV) * a.V);
  a.dinitial = pointer<float>(dstate_in);
  dispatch_rows(a.K, [&](auto rows) {
    state_gradient_kernel<decltype(rows)::value><<<blocks_of(a), kThreads, 0, stream_of(ctx)>>>(a);
  });
  check_launch("gated_delta_recurrent_dstate");
}

void recurrent_bwd(Context& ctx, const LinearStateCall& call, SegmentSet which,
                   const LinearStateCotangents& from, const LinearStateGradients& d) {
  const DeviceSegments segments(ctx, call, which);
  if (segments.count == 0) return;
  Args a = args_of(call, segments);
  const int64_t slabs = ceil_div(a.V, kColumns), K = a.K, HV = a.HV;
  const Tensor dq = Tensor::empty(ctx, {slabs, a.tokens, HV, K}, DType::kF32),
               dk = Tensor::empty(ctx, {slabs, a.tokens, HV, K}, DType::kF32),
               dbeta = Tensor::empty(ctx, {slabs, a.tokens, HV}, DType::kF32);
  const Tensor dlog =
      d.log_decay.defined() ? Tensor::empty(ctx, {slabs, a.tokens, HV}, DType::kF32) : Tensor();
  a.scratch_tokens = int(call.chunks.max_length());
  a.states = pointer<float>(from.saved.front());
  a.dout = rows_of(from.dout, HV * a.V);
  a.dfinal = pointer<float>(from.dfinal_state);
  a.dinitial = pointer<float>(d.initial_state);
  a.dq = pointer<float>(dq);
  a.dk = pointer<float>(dk);
  a.dbeta = pointer<float>(dbeta);
  a.dlog = pointer<float>(dlog);
  a.dv = {pointer<float>(d.v), HV * a.V};
  dispatch_rows(a.K, [&](auto rows) {
    constexpr int kRows = decltype(rows)::value;
    const Tensor scratch =
        Tensor::empty(ctx, {int64_t(blocks_of(a)), a.scratch_tokens, kRows, kThreads}, DType::kF32);
    a.scratch = pointer<float>(scratch);
    backward_kernel<kRows><<<blocks_of(a), kThreads, 0, stream_of(ctx)>>>(a);
  });
  check_launch("gated_delta_recurrent_bwd");
  const auto sum = [&](const Tensor& partials, int64_t heads, int64_t width, const Tensor& to) {
    if (!to.defined()) return;
    sum_partials(ctx, segments,
                 {a.segments, int(slabs), int(heads), int(HV), int(width), a.tokens, pointer<float>(partials),
                  pointer<float>(to)});
  };
  sum(dq, a.H, K, d.q);
  sum(dk, a.H, K, d.k);
  sum(dbeta, HV, 1, d.beta);
  sum(dlog, HV, 1, d.log_decay);
}

}  // namespace spanwise::cuda
