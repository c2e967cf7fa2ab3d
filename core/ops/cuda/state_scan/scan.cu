#include "core/ops/cuda/state_scan/scan.h"

#include <algorithm>

#include "core/ops/cuda/common/alignment.h"
#include "core/ops/cuda/common/launch.h"
#include "core/ops/cuda/state_scan/device.h"
#include "core/ops/gpu_limits.h"
#include "core/shared_upload.h"

namespace spanwise::cuda {

namespace {

/// Cuts of one segment in the scan's time: first, first + step …
struct Chain {
  int32_t first, step, count;
};

struct Work {
  std::vector<ScanChunk> chunks;
  std::vector<ScanRun> runs;
};

enum class Pass {
  kCuts,  ///< states of every piece but the last, had it started from zero, to the cut at its end
  kMain,
};

/// Lays out the chunks of pieces in the scan's time.
class WorkBuilder {
 public:
  WorkBuilder(const ScanCuts& cuts, const StateScan& scan, Pass pass)
      : cuts_(cuts), scan_(scan), pass_(pass), forward_(scan.time == ScanTime::kForward) {}

  Work build(const std::vector<ScanCuts::Segment>& segments) {
    for (const ScanCuts::Segment& s : segments) {
      // Pieces are counted in the scan's time.
      const int64_t last = s.num_pieces - 1;
      // States alone: the cuts are known, and the last piece ends where the segment does.
      const int64_t begin = pass_ == Pass::kMain && !scan_.out.defined() ? last : 0;
      for (int64_t i = begin; i < (pass_ == Pass::kCuts ? last : last + 1); ++i) add_piece(s, i);
    }
    close_run();
    // Longest first, so that the last blocks to start are short.
    std::stable_sort(work_.runs.begin(), work_.runs.end(),
                     [](const ScanRun& a, const ScanRun& b) { return a.count > b.count; });
    return std::move(work_);
  }

 private:
  void close_run() {
    const int32_t end = int32_t(work_.chunks.size());
    if (end > run_first_) work_.runs.push_back({run_first_, end - run_first_, run_pieces_ == 1});
    run_first_ = end;
    run_pieces_ = 0;
  }

  void add_piece(const ScanCuts::Segment& s, int64_t i) {
    const int64_t piece = forward_ ? i : s.num_pieces - 1 - i;
    const int64_t num_chunks = ceil_div(s.length, kScanChunk), length = s.piece_length / kScanChunk,
                  first = s.num_pieces == 1 ? 0 : piece * length,
                  end = s.num_pieces == 1 ? num_chunks : std::min(first + length, num_chunks);
    if (int64_t(work_.chunks.size()) - run_first_ + end - first > cuts_.run_chunks()) close_run();
    ++run_pieces_;
    for (int64_t n = 0; n < end - first; ++n) {
      const int64_t c = forward_ ? first + n : end - 1 - n, begin = c * kScanChunk;
      ScanChunk chunk{};
      chunk.begin = int32_t(s.begin + begin);
      chunk.length = int32_t(std::min<int64_t>(kScanChunk, s.length - begin));
      chunk.saved_slot = cuts_.num_slots() ? int32_t(saved_slot(s, c, num_chunks)) : -1;
      if (n == 0) set_start(s, i, chunk);
      if (n == end - first - 1) set_store(s, i, chunk);
      work_.chunks.push_back(chunk);
    }
  }

  /// The cut after the i-th piece.
  int32_t cut(const ScanCuts::Segment& s, int64_t i) const {
    return int32_t(s.first_cut + (forward_ ? i : s.num_pieces - 2 - i));
  }
  void set_start(const ScanCuts::Segment& s, int64_t i, ScanChunk& chunk) const {
    const bool from_row = scan_.first_states.defined() && (forward_ ? s.continues : s.ends_row);
    chunk.start = ScanStart::kZero;
    if (i == 0 && from_row) {
      chunk.start = ScanStart::kRow;
      chunk.start_slot = int32_t(s.row);
    } else if (i > 0 && pass_ == Pass::kMain) {
      chunk.start = ScanStart::kCut;
      chunk.start_slot = cut(s, i - 1);
    }
  }
  void set_store(const ScanCuts::Segment& s, int64_t i, ScanChunk& chunk) const {
    const bool to_row = scan_.last_states.defined() && (forward_ ? s.ends_row : s.continues);
    if (pass_ == Pass::kCuts) {
      chunk.store = ScanStore::kCut;
      chunk.store_slot = cut(s, i);
    } else if (i == s.num_pieces - 1 && to_row) {
      chunk.store = ScanStore::kRow;
      chunk.store_slot = int32_t(s.row);
    }
  }

  const ScanCuts& cuts_;
  const StateScan& scan_;
  Pass pass_;
  bool forward_;
  int32_t run_first_ = 0, run_pieces_ = 0;
  Work work_;
};

/// states[cut] = the piece's state from zero + e^{Σ g} states[the cut before it], along a chain.
__global__ void __launch_bounds__(256)
    join_cuts(float* states, const float* logs, const Chain* chains, int heads, int elems) {
  const int element = blockIdx.y * 256 + threadIdx.x, head = blockIdx.z;
  if (element >= elems) return;
  const Chain chain = chains[blockIdx.x];
  float state = 0;
  for (int i = 0; i < chain.count; ++i) {
    const int64_t unit = int64_t(chain.first + i * chain.step) * heads + head;
    float& at = states[unit * elems + element];
    state = i == 0 ? at : at + exp2f(logs[unit]) * state;
    at = state;
  }
}

/// Rows as 16-byte loads can read them.
ScanOperand operand(Context& ctx, const Tensor& t, int64_t value_heads, std::vector<Tensor>& copies) {
  if (!t.defined()) return {};
  const int64_t heads = t.dim(2), width = heads * t.dim(3);
  Tensor x = t;
  if (t.dtype() == DType::kBF16 && !heads_are_aligned(t)) {
    x = Tensor::empty(ctx, t.shape(), t.dtype());
    x.copy_from(t);
    copies.push_back(x);
  }
  return {x.raw(), x.row_stride(width), int(value_heads / heads)};
}

void launch_scan(Context& ctx, DType dtype, ScanParams params, const Work& work) {
  if (work.runs.empty()) return;
  const SharedArray chunks(ctx, work.chunks);
  const SharedArray runs(ctx, work.runs);
  params.chunks = chunks.data();
  params.runs = runs.data();
  params.num_runs = runs.size();
  const cudaStream_t stream = stream_of(ctx);
  if (dtype == DType::kF32) return launch_state_scan_f32(params, stream);
  switch (params.DK) {
    case 64:
      return launch_state_scan<64>(params, stream);
    case 128:
      return launch_state_scan<128>(params, stream);
    default:
      return launch_state_scan<256>(params, stream);
  }
}

void check_supported(DType dtype, int64_t DK, int64_t DV) {
  SPANWISE_CHECK(dtype == DType::kBF16 || dtype == DType::kF32,
                 "scalar_decay on CUDA takes BF16 and F32, not {}", name_of(dtype));
  SPANWISE_CHECK(gpu_limits::kScalarDecayHeads.takes(dtype, DK, DV),
                 "scalar_decay on CUDA takes heads of {} channels, not {} and {}",
                 gpu_limits::kScalarDecayHeads.taken(dtype), DK, DV);
}

}  // namespace

void run_state_scan(Context& ctx, const LinearStateCall& call, const ScanCuts& cuts, SegmentSet which,
                    const StateScan& scan) {
  const DType dtype = call.q.dtype();
  const int64_t DK = scan.k.dim(3), DV = scan.v.dim(3), heads = call.v.dim(2),
                tokens = scan.k.dim(0) * scan.k.dim(1);
  check_supported(dtype, DK, DV);
  SPANWISE_CHECK(tokens <= gpu_limits::kMostTokens, "{} tokens are more than kernels can count", tokens);
  const std::vector<ScanCuts::Segment> segments = cuts.select(which);
  if (segments.empty()) return;

  std::vector<Tensor> copies;
  ScanParams p{};
  p.k = operand(ctx, scan.k, heads, copies);
  p.v = operand(ctx, scan.v, heads, copies);
  p.log_decay = pointer<float>(call.log_decay);
  p.log_stride = call.log_decay.defined() ? call.log_decay.row_stride(heads) : 0;
  p.head_log_decay = pointer<float>(call.head_log_decay);
  p.read_scale = float(scan.read_scale);
  p.write_scale = float(scan.write_scale);
  p.backward_in_time = scan.time == ScanTime::kBackward;
  p.DK = int(DK);
  p.DV = int(DV);
  p.heads = int(heads);
  p.slabs = int(num_slabs(dtype, DV));
  p.tokens = tokens;
  p.state_stride_k = int(scan.transposed_states ? 1 : DV);
  p.state_stride_v = int(scan.transposed_states ? DK : 1);
  p.first_states = pointer<float>(scan.first_states);

  int64_t num_cuts = 0;
  for (const ScanCuts::Segment& s : segments) num_cuts += s.num_pieces - 1;
  Tensor cut_states = scan.cut_states;
  if (num_cuts > 0 && !scan.cut_states_known) {
    if (!cut_states.defined()) cut_states = Tensor::empty(ctx, {cuts.num_cuts(), heads, DK, DV}, DType::kF32);
    const Tensor logs = allocate_cut_logs(ctx, call, cuts);
    std::vector<Chain> chains;
    for (const ScanCuts::Segment& s : segments) {
      const bool forward = scan.time == ScanTime::kForward;
      const int32_t count = int32_t(s.num_pieces - 1), first = int32_t(s.first_cut);
      if (count > 0) chains.push_back({forward ? first : first + count - 1, forward ? 1 : -1, count});
    }
    const SharedArray chains_on_device(ctx, chains);
    p.cut_states = pointer<float>(cut_states);
    p.cut_logs = pointer<float>(logs);
    launch_scan(ctx, dtype, p, WorkBuilder(cuts, scan, Pass::kCuts).build(segments));
    const int elems = int(DK * DV);
    join_cuts<<<dim3(unsigned(chains.size()), unsigned(ceil_div(elems, 256)), unsigned(heads)), 256, 0,
                stream_of(ctx)>>>(p.cut_states, p.cut_logs, chains_on_device.data(), int(heads), elems);
    check_launch("join_cuts");
  }

  if (scan.out.defined()) p.q = operand(ctx, scan.q, heads, copies);
  if (scan.x.defined()) p.x = operand(ctx, scan.x, heads, copies);
  p.out = scan.out.defined() ? scan.out.raw() : nullptr;
  p.last_states = pointer<float>(scan.last_states);
  p.cut_states = pointer<float>(cut_states);
  p.saved_states = scan.saved_states.defined() ? scan.saved_states.raw() : nullptr;
  p.saved_dots = pointer<float>(scan.saved_dots);
  p.num_saved = int(cuts.num_slots());
  p.x_dots = pointer<float>(scan.x_dots);
  launch_scan(ctx, dtype, p, WorkBuilder(cuts, scan, Pass::kMain).build(segments));
}

}  // namespace spanwise::cuda
