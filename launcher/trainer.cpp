#include "launcher/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <limits>

#include "core/file_io.h"
#include "launcher/checkpoint/checkpoint_dir.h"
#include "launcher/checkpoint/load_state.h"
#include "launcher/checkpoint/run_manifest.h"
#include "launcher/config/derived.h"
#include "launcher/divergence.h"
#include "launcher/evaluate.h"
#include "launcher/metrics/peak_flops.h"
#include "launcher/objects.h"
#include "launcher/rank_agreement.h"
#include "launcher/step_rows.h"
#include "parallel/rank_zero.h"

namespace spanwise {

namespace {

using Clock = std::chrono::steady_clock;

// Before a trace, so that memory, kernels and connections are there.
constexpr int64_t kStepsBeforeTrace = 5;

double ms_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

std::string workers(const Context& ctx) {
  if (ctx.device() == Device::kCUDA) return "1 GPU";
  return fmt::format("{} thread{}", ctx.num_threads(), ctx.num_threads() == 1 ? "" : "s");
}

}  // namespace

Trainer::Trainer(const RunConfig& config, const Tokenizer& tokenizer, const Mesh& mesh, Context& ctx,
                 StopRequest* stop)
    : starting_(mesh.world().rank() == 0 ? std::make_unique<Progress>(ProgressOptions{.what = "starting"})
                                         : nullptr),
      config_(config),
      mesh_(mesh),
      ctx_(ctx),
      stop_(stop),
      step_(config, tokenizer.vocab_size(), mesh, ctx),
      loader_(loader_options(config, step_.model().options().vocab_size)) {
  if (!config.data().validation().empty()) {
    validation_.emplace(config.data().validation(), config.train().sequence_length(),
                        step_.model().options().vocab_size);
  }
  Comm& world = mesh.world();
  const std::string compared = agree_on_data(world, loader_, validation_);
  for (const IndexedDataset& dataset : loader_.datasets()) dataset.check_tokenizer(tokenizer);
  if (validation_) validation_->dataset().check_tokenizer(tokenizer);
  // Rank 0 decides which checkpoint, so that all ranks load the same one.
  const auto choose = [&] {
    locks_.emplace(config);
    tidy_checkpoints(checkpoint_dir(config));
    return checkpoint_to_resume(config);
  };
  const std::string resume_from = run_on_rank_zero(world, "resume_from", choose, stop);
  state_.settings = settings_of(config, tokenizer, step_.model().options().vocab_size);
  if (!resume_from.empty()) {
    load_checkpoint(resume_from, config, loader_, step_.params(), step_.optimizer(), state_, world);
    newest_checkpoint_ = resume_from;
  }
  const bool starts_from_weights = resume_from.empty() && !config.checkpoint().init_from().empty();
  if (starts_from_weights) {
    state_.init_from = load_initial_weights(config, state_.settings, step_.params(), world);
  }
  std::vector<const IndexedDataset*> datasets;
  for (const IndexedDataset& dataset : loader_.datasets()) datasets.push_back(&dataset);
  if (validation_) datasets.push_back(&validation_->dataset());
  if (resume_from.empty()) state_.document_start = choose_document_start(tokenizer, datasets);
  loader_.set_documents(document_rule(state_.document_start, tokenizer));
  if (validation_) validation_->set_documents(document_rule(state_.document_start, tokenizer));
  saver_.emplace(config_, mesh, step_.params(), step_.optimizer());
  saved_step_ = state_.step;
  const auto open_run = [&] {
    metrics_ =
        std::make_unique<MetricsWriter>(MetricsOptions{.run_dir = config.run().dir(),
                                                       .total_steps = config.train().steps(),
                                                       .resume_step = state_.step,
                                                       .tensorboard = config.metrics().tensorboard(),
                                                       .ranks = world.size(),
                                                       .terminal_columns = [] { return terminal_columns(); },
                                                       .log_every = int(config.run().log_every())});
    return std::string();
  };
  starting_.reset();  // what follows has things to say
  run_on_rank_zero(world, "open_run", open_run, stop);
  say(fmt::format("{:.2f} M parameters in {}, {} rank{} x {}", double(step_.params().num_parameters()) / 1e6,
                  name_of(compute_dtype(config)), world.size(), world.size() == 1 ? "" : "s", workers(ctx)));
  if (ctx.device() == Device::kCUDA) {
    const std::string name = gpu_name(ctx.gpu());
    peak_flops_ = peak_flops(name, compute_dtype(config));
    if (!peak_flops_) say(fmt::format("mfu(%) is not shown: what {} can do at most is not known", name));
  }
  if (starts_from_weights) say(fmt::format("starts from the weights of {}", state_.init_from));
  if (!resume_from.empty()) say(fmt::format("resumed step {} from {}", state_.step, resume_from));
  std::vector<std::string> unverified;
  for (const IndexedDataset* dataset : datasets) {
    if (!dataset->meta()) unverified.push_back(dataset->prefix());
    const std::string other = document_start_problem(state_.document_start, tokenizer, *dataset);
    if (!other.empty()) say("warning: " + other);  // of a run that began before this was looked at
  }
  if (!unverified.empty())
    say(fmt::format("unverified, without a table of checksums: {}; 'data prepare' writes one",
                    fmt::join(unverified, ", ")));
  if (!compared.empty()) say(compared);
  if (state_.document_start == DocumentStart::kFirstToken)
    say("this run is older than starts of documents: it goes on without a loss for a document's first token");
}

void Trainer::say(std::string_view text) {
  if (metrics_) metrics_->message(text);
}

void Trainer::record_config(SaveConfig save) {
  const auto record = [&] { return record_run_config(config_, state_.step, save); };
  const std::string text = run_on_rank_zero(mesh_.world(), "save_config", record, stop_);
  if (!text.empty()) say(text);
}

TrainSummary Trainer::run() {
  const int64_t steps = config_.train().steps(), eval_every = config_.train().eval_every();
  TrainSummary summary{.first_step = state_.step, .last_step = std::max(state_.step, steps)};
  summary.loss_before = held_out_loss();
  if (summary.loss_before) {
    say(fmt::format("held-out perplexity before: {:.2f} (loss {:.4f})", std::exp(*summary.loss_before),
                    *summary.loss_before));
  }
  if (metrics_ && summary.loss_before && state_.step == 0)
    metrics_->write_before_training(*summary.loss_before);
  summary.loss_after = summary.loss_before;
  saved_at_ = Clock::now();
  while (state_.step < steps && !stopping()) {
    const auto start = Clock::now();
    const int64_t step = state_.step + 1;
    begin_trace(step - summary.first_step);
    const std::optional<Trained> result = train_step(step);
    if (!result) break;
    const double step_ms = ms_since(start);
    end_trace(step - summary.first_step);

    std::optional<double> held_out;
    const bool evaluates = step == steps || (eval_every > 0 && step % eval_every == 0);
    if (evaluates && !stopping()) held_out = held_out_loss();
    if (held_out) summary.loss_after = held_out;
    write_metrics(step, *result, step_ms, held_out);
    const int64_t every = config_.checkpoint().every();
    const bool last = step == steps || stopping();
    if (last || time_to_save_ || (every > 0 && step % every == 0)) save(step);
    report(last ? wait_for_save() : saver_->poll());
  }
  if (saved_step_ != state_.step) save(state_.step);
  report(wait_for_save());
  summary.last_step = state_.step;
  summary.checkpoint = newest_checkpoint_;
  summary.stopped = stopping();
  return summary;
}

bool Trainer::wants_checkpoint() {
  const double minutes = ms_since(saved_at_) / 60e3, every = config_.checkpoint().every_minutes();
  const bool moved = locks_ && !directories_lost_ && !locks_->in_place();
  return moved || (mesh_.world().rank() == 0 && every > 0 && minutes >= every);
}

std::optional<Trainer::Trained> Trainer::train_step(int64_t step) {
  const auto start = Clock::now();
  ctx_.reset_work();
  const StepRows rows = rows_of_data(config_, mesh_.world().size(), loader_, step - 1);
  std::vector<RankBatch> batches;
  for (int64_t pass = 0; pass < rows.passes; ++pass)
    batches.push_back(step_.part_of(rows.micro_batch(mesh_.data().rank(), pass)));
  const std::optional<double> targets = step_.count_targets(batches, *this);
  if (!targets) return std::nullopt;
  const double data_ms = ms_since(start);
  Trained result{step_.train(batches, *targets, step, *this), data_ms};
  result.flops = ctx_.work().flops;
  time_to_save_ = result.save;
  if (!std::isfinite(result.loss) || !std::isfinite(result.grad_norm)) {
    fail_diverged(step, fmt::format("has loss {} and gradient norm {}", result.loss, result.grad_norm),
                  newest_checkpoint_);
  }
  // A mean over nothing is not 0.
  if (*targets == 0) result.loss = std::numeric_limits<double>::quiet_NaN();

  state_.step = step;
  state_.tokens_seen += config_.train().global_batch() * config_.train().sequence_length();
  return result;
}

std::optional<double> Trainer::held_out_loss() const {
  if (!validation_) return std::nullopt;
  require_finite_update(state_.step, step_.params(), step_.optimizer(), newest_checkpoint_);
  EvaluateOptions options{.max_sequences = config_.train().eval_sequences(),
                          .micro_batch = config_.train().micro_batch(),
                          .stop = stop_};
  std::unique_ptr<Progress> progress;
  if (metrics_) {
    progress =
        metrics_->progress("evaluating", "sequences", num_evaluated(*validation_, options.max_sequences));
    options.progress = [&](int64_t done) { progress->advance_to(done); };
  }
  const std::optional<HeldOut> result =
      evaluate(step_.model(), *validation_, mesh_, step_.sequence(), ctx_, options);
  return result ? std::optional(result->loss) : std::nullopt;
}

void Trainer::write_metrics(int64_t step, const Trained& result, double step_ms,
                            std::optional<double> held_out) {
  if (!metrics_) return;
  const double tokens = double(config_.train().global_batch() * config_.train().sequence_length());
  std::vector<std::pair<std::string, double>> extra = traffic();
  const double flops_per_second = result.flops / (step_ms * 1e-3);
  std::optional<double> mfu_percent;
  if (peak_flops_) mfu_percent = 100 * flops_per_second / *peak_flops_;
  if (const double ms = saver_->take_wait_ms(); ms > 0) extra.emplace_back("checkpoint/wait_ms", ms);
  metrics_->write({.step = step,
                   .loss = result.loss,
                   .grad_norm = result.grad_norm,
                   .lr = result.lr,
                   .tokens_seen = state_.tokens_seen,
                   .tokens_per_second = tokens / step_ms * 1e3,
                   .step_ms = step_ms,
                   .tflops = flops_per_second * 1e-12,
                   .mfu_percent = mfu_percent,
                   .data_ms = result.data_ms,
                   .memory_bytes = int64_t(ctx_.memory().peak_bytes),
                   .validation_loss = held_out,
                   .extra = std::move(extra)});
}

std::vector<std::pair<std::string, double>> Trainer::traffic() const {
  std::vector<std::pair<std::string, double>> bytes;
  for (const Comm* comm : mesh_.comms()) {
    for (const auto& [name, counted] : comm->traffic()) {
      bytes.emplace_back(fmt::format("bytes/{}/{}", comm->axis(), name), double(counted.received_bytes));
    }
  }
  return bytes;
}

void Trainer::begin_trace(int64_t step) {
  if (config_.metrics().trace_steps() > 0 && step == kStepsBeforeTrace + 1) mesh_.world().start_timeline();
}

void Trainer::end_trace(int64_t step) {
  const int64_t traced = config_.metrics().trace_steps();
  if (traced == 0 || step != kStepsBeforeTrace + traced) return;
  const CommTimeline timeline = mesh_.world().take_timeline();
  const std::filesystem::path dir = std::filesystem::path(config_.run().dir()) / "comm";
  make_directories(dir);
  const int rank = mesh_.world().rank();
  replace_file(dir / fmt::format("trace_rank{}.json", rank), timeline.chrome_trace(rank));
  if (rank > 0) return;
  replace_file(dir / "table.txt", timeline.table());
  say(fmt::format("collectives of {} steps are in {}:\n{}", traced, dir.string(), timeline.table()));
}

std::optional<SaveOutcome> Trainer::wait_for_save() {
  std::unique_ptr<Progress> progress;
  if (metrics_ && saver_->pending()) progress = metrics_->progress("saving");
  return saver_->finish();
}

void Trainer::reopen_directories() {
  if (locks_->in_place()) return;
  try {
    locks_->reopen(config_);
  } catch (const DirectoryHeld&) {
    throw;
  } catch (const UserError& error) {
    if (!directories_lost_)
      say(fmt::format("warning: {}; training goes on and tries again with the next checkpoint",
                      error.what()));
    directories_lost_ = true;
    return;
  }
  directories_lost_ = false;
  const auto warn = [&](const std::exception& error) { say(fmt::format("warning: {}", error.what())); };
  try {
    record_run_config(config_, state_.step, SaveConfig::kFirstStart);
  } catch (const UserError& error) {  // the tokenizer may have been in the directory that has gone
    warn(error);
  } catch (const std::filesystem::filesystem_error& error) {
    warn(error);
  }
  say(fmt::format(
      "warning: {} or {} was moved or removed while training; they are made again, metrics.jsonl goes "
      "on whole and a checkpoint follows; earlier ones are where they went",
      config_.run().dir(), checkpoint_dir(config_)));
}

void Trainer::save(int64_t step) {
  report(wait_for_save());
  require_finite_update(step, step_.params(), step_.optimizer(), newest_checkpoint_);
  const auto prepare = [&] {
    reopen_directories();
    metrics_->sync();
    return std::string();
  };
  run_on_rank_zero(mesh_.world(), "prepare_save", prepare, stop_);
  saver_->begin(manifest_of(config_, loader_.cursor(step), step_.params(), state_), step);
  saved_step_ = step;
  saved_at_ = Clock::now();
}

void Trainer::report(const std::optional<SaveOutcome>& outcome) {
  if (const std::string notice = saver_->take_notice(); !notice.empty()) say(notice);
  if (!outcome) return;
  if (!outcome->failed) {
    newest_checkpoint_ = outcome->directory;
    say(fmt::format("saved {}", newest_checkpoint_));
    return;
  }
  saved_step_ = kNotSaved;  // a run that is asked to end now has this step to save again
  // A full disk must not end a run whose weights are only in memory; the last step, and one after which the
  // run was asked to end, have nothing left to wait for.
  if (outcome->step == config_.train().steps() || (stopping() && outcome->step == state_.step))
    fail_user("{}", outcome->failure);
  say(fmt::format("warning: no checkpoint at step {}; training goes on. {}", outcome->step,
                  outcome->failure));
}

}  // namespace spanwise
