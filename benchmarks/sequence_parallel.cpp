// Forward + backward of one mixer on a sequence that several ranks share: the ways to exchange states and
// attention side by side, and what overlapping the exchange of states hides. Prints Markdown tables.
//
//   launcher/local_mpirun.sh RANKS build/bin/sequence_parallel [--lengths 4096,16384,65536] [--repeat 3]
//                                                              [--only
//                                                              gated_delta_net|lightning|attention|overlap]
//
// RANKS is 1, 2 or 4 (4 heads). A length is that of the whole sequence. Times are those of the slowest rank.

#include <getopt.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/blas_core.h"
#include "core/ops/gated_delta.h"
#include "core/ops/scalar_decay.h"
#include "models/layer_options.h"
#include "parallel/param_store.h"

namespace spanwise {
namespace {

constexpr int64_t kHidden = 256, kHeads = 4, kHeadDim = 64;
constexpr int64_t kLongestSoftmax = 65536;  // its time grows with the square
constexpr int64_t kDocument = 1000;         // tokens of a packed document: borders of ranks fall inside one

struct Settings {
  std::vector<int64_t> lengths{4096, 8192, 16384, 32768, 65536};
  int repeat = 3;
  std::string only;
};

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

Tensor normals(Context& ctx, const Shape& shape, const std::string& name, double stddev = 1) {
  const Tensor t = Tensor::empty(ctx, shape, DType::kF32);
  const RandomStream random(1, name);
  for (int64_t i = 0; i < t.numel(); ++i) t.data<float>()[i] = float(stddev * random.normal(uint64_t(i)));
  return t;
}

std::vector<double> slowest(Comm& comm, std::vector<double> values) {
  comm.all_reduce("slowest", values, Reduce::kMax);
  return values;
}

std::string best_and_median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return fmt::format("{:.3f} / {:.3f}", values.front(), values[values.size() / 2]);
}

/// Only rank 0 prints.
class Printer {
 public:
  explicit Printer(const Comm& comm) : prints_(comm.rank() == 0) {}
  void line(const std::string& text) const {
    if (!prints_) return;
    std::printf("%s\n", text.c_str());
    std::fflush(stdout);
  }
  void header(const std::vector<std::string>& columns) const {
    std::string names = "|", rule = "|";
    for (const std::string& column : columns) {
      names += " " + column + " |";
      rule += "---|";
    }
    line(names + "\n" + rule);
  }

 private:
  bool prints_;
};

struct Algorithm {
  const char* name;
  SequenceParallelOptions options;
};

/// One mixer and the ways it can communicate.
struct Study {
  const char* mixer;
  Partition partition;  // zigzag shares causal attention's work evenly
  int64_t longest;
  std::vector<Algorithm> algorithms;
};

std::vector<Study> studies(int ranks) {
  constexpr int64_t kNoLimit = std::numeric_limits<int64_t>::max();
  const std::vector<Algorithm> states{
      {"all-gather (LASP-2)", {.exchange = StateExchange::kAllGather}},
      {"chain (LASP-1)", {.exchange = StateExchange::kChain}},
      {"head-split", {.exchange = StateExchange::kHeadSplit}},
      {"two-level", {.exchange = StateExchange::kTwoLevel, .ranks_per_node = std::max(1, ranks / 2)}}};
  const std::vector<Algorithm> keys{{"all-gather (LASP-2H)", {.attention = AttentionExchange::kAllGather}},
                                    {"ring", {.attention = AttentionExchange::kRing}},
                                    {"Ulysses", {.attention = AttentionExchange::kUlysses}}};
  return {{"gated_delta_net", Partition::kContiguous, kNoLimit, states},
          {"lightning", Partition::kContiguous, kNoLimit, states},
          {"attention", Partition::kZigzag, kLongestSoftmax, keys}};
}

std::unique_ptr<Mixer> mixer_named(const std::string& name) {
  const LinearHeads heads{
      .num_heads = kHeads, .num_value_heads = kHeads, .key_dim = kHeadDim, .value_dim = kHeadDim};
  const MixerOptions mixers[] = {
      AttentionOptions{
          .num_heads = kHeads, .num_kv_heads = kHeads, .head_dim = kHeadDim, .rope_theta = 10000},
      LightningOptions{.heads = heads, .output_gate = true, .chunk = 64},
      GatedDeltaNetOptions{.heads = heads, .conv_size = 4, .output_gate = true, .chunk = 64}};
  const SharedOptions shared{.hidden = kHidden, .norm_eps = 1e-6, .linear = {.init_stddev = 0.02}};
  for (const MixerOptions& mixer : mixers) {
    if (name_of(mixer) == name) return make_mixer(mixer, shared, {.layer = 1, .num_layers = 8});
  }
  SPANWISE_FAIL("there is no mixer {}", name);
}

using ReceivedBytes = std::map<std::string, double>;  // by the collective's name

/// This rank's tokens of one sequence, for every algorithm of a study.
class LocalSequence {
 public:
  LocalSequence(Context& ctx, Comm& comm, const Study& study, int64_t length)
      : ctx_(ctx),
        comm_(comm),
        length_(length),
        plan_(SequencePartition(study.partition, comm.size(), length), comm.rank(), 1, {0}),
        x_(normals(ctx, {plan_.num_local_rows(), plan_.partition().capacity(), kHidden}, "x")),
        dy_(normals(ctx, x_.shape(), "dy")),
        best_(study.algorithms.size(), std::numeric_limits<double>::infinity()),
        received_(study.algorithms.size()) {
    for (const Algorithm& algorithm : study.algorithms)
      ways_.push_back(std::make_unique<SequenceParallel>(ctx, comm, plan_, algorithm.options));
  }

  enum class Round { kWarmUp, kTimed };
  void run(const Mixer& mixer, size_t algorithm, Round round) {
    comm_.barrier();
    comm_.reset_traffic();
    const auto start = std::chrono::steady_clock::now();
    Tape tape(ctx_);
    const Var y =
        mixer.forward(tape, Var(x_, true), {.layout = plan_.local(), .sequence = ways_[algorithm].get()});
    tape.backward({y}, {dy_});
    const double seconds = seconds_since(start);
    for (const auto& [name, traffic] : comm_.traffic())
      received_[algorithm][name] = double(traffic.received_bytes);
    const double step = slowest(comm_, {seconds})[0];
    if (round == Round::kTimed) best_[algorithm] = std::min(best_[algorithm], step);
  }

  int64_t length() const { return length_; }
  double best_seconds(size_t algorithm) const { return best_[algorithm]; }
  /// Of the rank that receives most.
  ReceivedBytes most_received(size_t algorithm) const {
    ReceivedBytes most = received_[algorithm];
    for (auto& [name, bytes] : most) bytes = slowest(comm_, {bytes})[0];
    return most;
  }

 private:
  Context& ctx_;
  Comm& comm_;
  int64_t length_;
  SequencePlan plan_;
  Tensor x_, dy_;
  std::vector<std::unique_ptr<SequenceParallel>> ways_;
  std::vector<double> best_;
  std::vector<ReceivedBytes> received_;
};

using LocalSequences = std::vector<std::unique_ptr<LocalSequence>>;

std::vector<std::string> columns_of(const LocalSequences& sequences, std::vector<std::string> columns) {
  for (const auto& sequence : sequences) columns.push_back(fmt::format("T={}", sequence->length()));
  return columns;
}

void print_study(const Comm& comm, const Settings& settings, const Study& study,
                 const LocalSequences& sequences) {
  const Printer out(comm);
  out.line(fmt::format("\n{}: ms a step of {} ranks, in brackets relative to the first row (best of {})\n",
                       study.mixer, comm.size(), settings.repeat));
  out.header(columns_of(sequences, {"exchange"}));
  for (size_t a = 0; a < study.algorithms.size(); ++a) {
    std::string row = fmt::format("| {} |", study.algorithms[a].name);
    for (const auto& sequence : sequences) {
      const double seconds = sequence->best_seconds(a);
      row += fmt::format(" {:.1f} ({:.2f}) |", 1e3 * seconds, seconds / sequence->best_seconds(0));
    }
    out.line(row);
  }

  out.line(fmt::format("\n{}: bytes received a step, by the rank that receives most\n", study.mixer));
  out.header(columns_of(sequences, {"exchange", "collective"}));
  for (size_t a = 0; a < study.algorithms.size(); ++a) {
    std::map<std::string, std::string> rows;
    for (const auto& sequence : sequences) {
      for (const auto& [name, bytes] : sequence->most_received(a))
        rows[name] += fmt::format(" {:.0f} |", bytes);
    }
    for (const auto& [name, cells] : rows)
      out.line(fmt::format("| {} | {} |{}", study.algorithms[a].name, name, cells));
  }
}

// Lengths and algorithms take turns, so that a slow moment of the machine meets all of them.
void run_study(Context& ctx, Comm& comm, const Settings& settings, const Study& study) {
  const std::unique_ptr<Mixer> mixer = mixer_named(study.mixer);
  const ParamStore params(ctx, *mixer, DType::kF32, 1);
  LocalSequences sequences;
  for (const int64_t length : settings.lengths) {
    if (length <= study.longest)
      sequences.push_back(std::make_unique<LocalSequence>(ctx, comm, study, length));
  }
  if (sequences.empty()) return;
  for (int i = 0; i < settings.repeat + 1; ++i) {
    for (const auto& sequence : sequences) {
      for (size_t a = 0; a < study.algorithms.size(); ++a)
        sequence->run(*mixer, a, i == 0 ? LocalSequence::Round::kWarmUp : LocalSequence::Round::kTimed);
    }
  }
  print_study(comm, settings, study, sequences);
}

/// When an exchange that has been started is joined.
enum class Join {
  kAfterWork,    ///< where the op does: after the work that needs no state
  kAtOnce,       ///< before that work: nothing is hidden
  kWhenArrived,  ///< after a barrier, untimed: what is left is the fold, which nothing can hide
};

/// Seconds that an exchange keeps the op waiting.
struct Waited {
  double forward = 0, backward = 0;
};

template <class Started, class Result>
class TimedJoin final : public Started {
 public:
  TimedJoin(std::unique_ptr<Started> started, Comm& comm, Join join, double& seconds)
      : started_(std::move(started)), seconds_(seconds) {
    if (join == Join::kAfterWork) return;
    if (join == Join::kWhenArrived) {
      for (int i = 0; i < 2; ++i) comm.barrier();  // all have started; then all have moved their data
    }
    result_ = timed();
  }
  Result wait() override { return result_ ? std::move(*result_) : timed(); }

 private:
  Result timed() {
    const auto start = std::chrono::steady_clock::now();
    Result result = started_->wait();
    seconds_ += seconds_since(start);
    return result;
  }
  std::unique_ptr<Started> started_;
  double& seconds_;
  std::optional<Result> result_;
};

class TimedExchange final : public SpanExchange {
 public:
  TimedExchange(SpanExchange& exchange, Comm& comm, Join join)
      : exchange_(exchange), comm_(comm), join_(join) {}
  std::unique_ptr<Forward> start_forward(const SpanSummary& summary) override {
    return std::make_unique<TimedJoin<Forward, IncomingState>>(exchange_.start_forward(summary), comm_, join_,
                                                               waited_.forward);
  }
  std::unique_ptr<Backward> start_backward(const Tensor& dstate_in,
                                           const std::shared_ptr<const void>& saved) override {
    return std::make_unique<TimedJoin<Backward, Tensor>>(exchange_.start_backward(dstate_in, saved), comm_,
                                                         join_, waited_.backward);
  }
  const Waited& waited() const { return waited_; }

 private:
  SpanExchange& exchange_;
  Comm& comm_;
  Join join_;
  Waited waited_;
};

/// One linear-state op, without the mixer around it, on a sequence of documents.
struct OverlapCase {
  const char* name;
  enum class Family { kScalarDecay, kGatedDelta } family;
  int64_t document;  ///< tokens; 0: the whole sequence is one
};
constexpr OverlapCase kOverlapCases[] = {
    {"scalar_decay, one document", OverlapCase::Family::kScalarDecay, 0},
    {"gated_delta, one document", OverlapCase::Family::kGatedDelta, 0},
    {"gated_delta, packed documents", OverlapCase::Family::kGatedDelta, kDocument}};

struct OverlapRow {
  const char* name;
  StateExchange exchange;
  Join join;
};
constexpr OverlapRow kOverlapRows[] = {
    {"all-gather, joined after the work", StateExchange::kAllGather, Join::kAfterWork},
    {"all-gather, joined at once", StateExchange::kAllGather, Join::kAtOnce},
    {"all-gather, joined when arrived", StateExchange::kAllGather, Join::kWhenArrived},
    {"chain", StateExchange::kChain, Join::kAfterWork}};

class OverlapRun {
 public:
  OverlapRun(Context& ctx, Comm& comm, const OverlapCase& which, int64_t length)
      : ctx_(ctx),
        comm_(comm),
        family_(which.family),
        plan_(SequencePartition(Partition::kContiguous, comm.size(), length), comm.rank(), 1,
              starts(which.document, length)),
        gates_{1, plan_.partition().capacity(), kHeads},
        q_(normals(ctx, {1, plan_.partition().capacity(), kHeads, kHeadDim}, "q")),
        k_(normals(ctx, q_.shape(), "k", 0.125)),
        v_(normals(ctx, q_.shape(), "v")),
        dout_(normals(ctx, q_.shape(), "dout")),
        log_decay_(Tensor::empty(ctx, gates_, DType::kF32)),
        beta_(Tensor::empty(ctx, gates_, DType::kF32)) {
    log_decay_.fill(-0.05);
    beta_.fill(0.5);
  }

  /// Waits in forward and in backward, and the step, in seconds; each of the slowest rank.
  std::vector<double> run(const OverlapRow& row) const {
    const SequenceParallel sequence(ctx_, comm_, plan_, {.exchange = row.exchange});
    TimedExchange exchange(sequence.spans(), comm_, row.join);
    comm_.barrier();
    const auto start = std::chrono::steady_clock::now();
    Tape tape(ctx_);
    const Var out = apply(tape, {.scale = 0.125, .exchange = &exchange});
    tape.backward({out}, {dout_});
    return slowest(comm_, {exchange.waited().forward, exchange.waited().backward, seconds_since(start)});
  }

 private:
  static std::vector<int64_t> starts(int64_t document, int64_t length) {
    std::vector<int64_t> starts{0};
    while (document > 0 && starts.back() + document < length) starts.push_back(starts.back() + document);
    return starts;
  }
  Var apply(Tape& tape, const LinearStateOptions& options) const {
    LinearOperands<Var> x{
        .q = Var(q_, true), .k = Var(k_, true), .v = Var(v_, true), .log_decay = Var(log_decay_, true)};
    if (family_ == OverlapCase::Family::kScalarDecay)
      return scalar_decay(tape, x, plan_.local(), options).out;
    x.beta = Var(beta_, true);
    return gated_delta(tape, x, plan_.local(), options).out;
  }

  Context& ctx_;
  Comm& comm_;
  OverlapCase::Family family_;
  SequencePlan plan_;
  Shape gates_;
  Tensor q_, k_, v_, dout_, log_decay_, beta_;
};

void run_overlap(Context& ctx, Comm& comm, const Settings& settings) {
  const int repeat = 5 * settings.repeat;
  const Printer out(comm);
  out.line(
      fmt::format("\nOverlap: what the exchange of states keeps {} ranks waiting, one op of {} heads of "
                  "{} (ms; best / median of {})\n",
                  comm.size(), kHeads, kHeadDim, repeat));
  out.header({"op", "T", "exchange", "wait in forward", "wait in backward", "step"});
  for (const OverlapCase& which : kOverlapCases) {
    for (const int64_t length : settings.lengths) {
      const OverlapRun run(ctx, comm, which, length);
      std::vector<double> samples[std::size(kOverlapRows)][3];
      for (int i = 0; i < repeat + 1; ++i) {
        for (size_t r = 0; r < std::size(kOverlapRows); ++r) {
          const std::vector<double> times = run.run(kOverlapRows[r]);
          for (size_t t = 0; t < times.size() && i > 0; ++t) samples[r][t].push_back(1e3 * times[t]);
        }
      }
      for (size_t r = 0; r < std::size(kOverlapRows); ++r)
        out.line(fmt::format("| {} | {} | {} | {} | {} | {} |", which.name, length, kOverlapRows[r].name,
                             best_and_median(samples[r][0]), best_and_median(samples[r][1]),
                             best_and_median(samples[r][2])));
    }
  }
}

std::vector<int64_t> parse_lengths(const std::string& text) {
  std::vector<int64_t> lengths;
  for (size_t at = 0; at <= text.size();) {
    const size_t comma = std::min(text.find(',', at), text.size());
    lengths.push_back(std::atoll(text.substr(at, comma - at).c_str()));
    if (lengths.back() < 1) fail_user("--lengths {}: give lengths such as 4096,65536.", text);
    at = comma + 1;
  }
  return lengths;
}

Settings parse(int argc, char** argv) {
  Settings settings;
  const option longs[] = {{"lengths", required_argument, nullptr, 'l'},
                          {"repeat", required_argument, nullptr, 'r'},
                          {"only", required_argument, nullptr, 'o'},
                          {}};
  int code = 0;
  while ((code = getopt_long(argc, argv, "", longs, nullptr)) != -1) {
    if (code == '?') fail_user("The options are --lengths, --repeat and --only.");
    if (code == 'l') settings.lengths = parse_lengths(optarg);
    if (code == 'o') settings.only = optarg;
    if (code == 'r') settings.repeat = std::atoi(optarg);
    if (settings.repeat < 1) fail_user("--repeat {}: give 1 or more.", optarg);
  }
  return settings;
}

void run(Comm& comm, const Settings& settings) {
  if (comm.size() > kHeads || kHeads % comm.size() != 0)
    fail_user("{} ranks cannot share {} heads; start 1, 2 or 4.", comm.size(), kHeads);
  Context ctx({.num_threads = 1});
  bool found = false;
  const auto wanted = [&](const std::string& name) {
    const bool chosen = settings.only.empty() || settings.only == name;
    found |= chosen;
    return chosen;
  };
  for (const Study& study : studies(comm.size())) {
    if (wanted(study.mixer)) run_study(ctx, comm, settings, study);
  }
  if (wanted("overlap")) run_overlap(ctx, comm, settings);
  if (!found) fail_user("--only {}: choose gated_delta_net, lightning, attention or overlap.", settings.only);
}

}  // namespace
}  // namespace spanwise

int main(int argc, char** argv) {
  const std::string about_blas = spanwise::take_fitting_blas_core(argv);
  if (!about_blas.empty()) std::fprintf(stderr, "%s\n", about_blas.c_str());
  const std::unique_ptr<spanwise::Comm> comm = spanwise::make_world_comm();
  try {
    spanwise::run(*comm, spanwise::parse(argc, argv));
  } catch (const spanwise::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    comm->abort(1);
  }
}
