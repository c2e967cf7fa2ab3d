#include "launcher/checkpoint/checkpoint_saver.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <map>
#include <thread>
#include <utility>
#include <vector>

#include "core/file_io.h"
#include "launcher/checkpoint/checkpoint_dir.h"
#include "launcher/checkpoint/save_thread.h"
#include "launcher/checkpoint/shard_plan.h"
#include "launcher/checkpoint/shared_directory.h"
#include "launcher/config/derived.h"
#include "launcher/host_memory.h"
#include "models/hf/safetensors.h"
#include "parallel/rank_zero.h"
#include "parallel/whole_params.h"

namespace spanwise {

namespace {

using Clock = std::chrono::steady_clock;

/// Blocks of a save that waits for the disk: one is copied while others are written.
constexpr int64_t kFewBlocks = 4;
/// Of the memory that is available, what copies may take: training may still grow.
constexpr double kShareOfMemory = 0.9;

/// Weights, two moments, headers.
uint64_t needed_bytes(const ParamStore& params) {
  return 3 * uint64_t(params.num_parameters()) * size_of(params.master_dtype()) + (uint64_t{1} << 20);
}

bool on_several_machines(const Comm& world) {
  return world.size() > world.local_ranks().size;
}

/// Adds to a duration what the calling scope takes.
class AddTime {
 public:
  explicit AddTime(double& ms) : ms_(ms), start_(Clock::now()) {}
  ~AddTime() { ms_ += std::chrono::duration<double, std::milli>(Clock::now() - start_).count(); }
  AddTime(const AddTime&) = delete;
  AddTime& operator=(const AddTime&) = delete;

 private:
  double& ms_;
  Clock::time_point start_;
};

}  // namespace

int num_checkpoint_writers(const RunConfig& config, int positions, bool several_machines) {
  const auto writers = config.checkpoint().writers();
  const bool all = writers == config::CheckpointConfig::ALL ||
                   (writers == config::CheckpointConfig::AUTO && several_machines);
  return all ? positions : 1;
}

class CheckpointSaver::Impl {
 public:
  Impl(const RunConfig& config, const Mesh& mesh, const ParamStore& params, const ShardedAdamW& optimizer,
       SaverOptions options)
      : config_(config),
        options_(std::move(options)),
        world_(mesh.world()),
        params_(params),
        optimizer_(optimizer),
        holders_(params),
        plan_(params.entries(),
              num_checkpoint_writers(config, params.data_sequence().size(), on_several_machines(world_)),
              int64_t(size_of(params.master_dtype())), options_.block_bytes),
        root_(checkpoint_dir(config)),
        writer_(params.tensor().rank() == 0 && params.data_sequence().rank() < num_writers()
                    ? params.data_sequence().rank()
                    : kNone),
        thread_(params.context().device(), plan_.block_bytes()) {
    const auto check = [&] {
      CheckpointWriter(root_, 0, needed_bytes(params));
      return std::string();
    };
    run_on_rank_zero(world_, "checkpoint_dir", check);
    if (num_writers() > 1) require_shared_directory(world_, root_);
  }

  ~Impl() {
    // Several writers need each other's word to complete a save, and there are no collectives any more.
    if (phase_ == Phase::kWriting && num_writers() > 1) given_up_ = true;
    thread_.post_always([this] {
      files_.clear();
      directory_.reset();
    });
  }

  void begin(Manifest manifest, int64_t step) {
    SPANWISE_CHECK(phase_ == Phase::kNone, "a save of step {} is begun while one is under way", step);
    const AddTime timed(wait_ms_);
    outcome_ = {.step = step};
    manifest_ = std::move(manifest);
    phase_ = Phase::kPreparing;
    prepare_memory();
    if (world_.rank() == 0) {
      thread_.post([this, step] {
        directory_.emplace(root_, step, needed_bytes(params_));
        temporary_ = directory_->directory();
      });
    }
    if (!wait_for_threads()) return fail();
    if (num_writers() > 1) share_directory();
    copy();
    phase_ = Phase::kWriting;
    // One writer needs nobody's word.
    if (num_writers() == 1) start_commit();
    if (synchronous_) wait_for_outcome();
  }

  bool pending() const { return phase_ != Phase::kNone; }

  std::optional<SaveOutcome> poll() {
    if (!pending()) return std::nullopt;
    const AddTime timed(wait_ms_);
    advance();
    return take_outcome();
  }

  std::optional<SaveOutcome> finish() {
    if (!pending()) return std::nullopt;
    const AddTime timed(wait_ms_);
    wait_for_outcome();
    return take_outcome();
  }

  double take_wait_ms() { return std::exchange(wait_ms_, 0); }
  std::string take_notice() { return std::exchange(notice_, ""); }

 private:
  static constexpr int kNone = -1;
  /// kDone: the outcome waits to be taken.
  enum class Phase { kNone, kPreparing, kWriting, kCommitting, kDone };

  int num_writers() const { return plan_.num_writers(); }
  int64_t num_blocks() const { return writer_ == kNone ? 0 : plan_.num_blocks(writer_); }

  // All ranks copy at once, or none: the exchanges of a copy are collective.
  void prepare_memory() {
    if (synchronous_) return reserve_few();
    const int64_t need = num_blocks() * plan_.block_bytes();
    std::vector<double> lacking{0};
    if (thread_.num_blocks() < num_blocks()) {
      const int64_t writers_here =
          num_writers() == 1 ? 1 : std::min(num_writers(), world_.local_ranks().size);
      const int64_t available =
          options_.available_bytes ? options_.available_bytes() : available_host_bytes();
      if (double(need) * double(writers_here) > kShareOfMemory * double(available)) lacking[0] = 1;
      try {
        if (lacking[0] == 0) thread_.reserve(num_blocks());
      } catch (const UserError&) {
        lacking[0] = 1;
      }
    }
    world_.all_reduce("checkpoint_state", lacking, Reduce::kMax);
    if (lacking[0] == 0) return;
    synchronous_ = true;
    thread_.shrink(kFewBlocks);
    reserve_few();
    notice_ = fmt::format(
        "training stands still while checkpoints are written: a copy of {} MiB a writing rank does not fit "
        "into "
        "the host memory that is left",
        (plan_.bytes(0) + (1 << 20) - 1) >> 20);
  }

  // A rank that has not even these fails the save, not the run; the next save tries again.
  void reserve_few() {
    try {
      if (options_.before_reserve) options_.before_reserve();
      thread_.reserve(std::min(kFewBlocks, num_blocks()));
    } catch (const UserError& error) {
      thread_.post([problem = std::string(error.what())] { fail_user("{}", problem); });
    }
  }

  void share_directory() {
    std::string name = temporary_.filename();
    world_.broadcast("checkpoint_state", name);
    temporary_ = root_ / name;
  }

  Tensor buffer(int index) const {
    return index == 0   ? params_.values()
           : index == 1 ? optimizer_.first_moment()
                        : optimizer_.second_moment();
  }

  // One block of every writer at a time; the thread writes those that are copied.
  void copy() {
    const size_t element = size_of(params_.master_dtype());
    for (int64_t round = 0; round < plan_.num_rounds(); ++round) {
      const bool writes = round < num_blocks();
      if (synchronous_) wait_until_none([&] { return writes && !thread_.has_free_block(); });
      char* const block = writes ? thread_.take_block() : nullptr;
      std::vector<WantedPiece> wanted;
      for (int w = 0; w < num_writers(); ++w) {
        if (round >= plan_.num_blocks(w)) continue;
        char* to = w == writer_ ? block : nullptr;
        for (const ShardPiece& piece : plan_.block(w, round)) {
          const SavedTensor& tensor = plan_.tensor(piece);
          wanted.push_back({tensor.entry, buffer(tensor.buffer), piece.elements, w, to});
          if (to) to += size_t(piece.elements.numel()) * element;
        }
      }
      collect_pieces(holders_, world_, wanted);
      if (writes) thread_.post([this, round, block] { write_block(round, block); }, block);
    }
    if (writer_ != kNone) thread_.post([this] { finish_files(); });
  }

  // On the thread.
  void write_block(int64_t round, const char* block) {
    if (options_.before_write) options_.before_write();
    for (const ShardPiece& piece : plan_.block(writer_, round)) {
      if (given_up_) fail_user("the save was given up");
      auto file = files_.find(piece.shard);
      if (file == files_.end()) file = open_file(piece.shard);
      const size_t bytes = size_t(piece.elements.numel()) * size_of(params_.master_dtype());
      file->second.append(plan_.tensor(piece).name, block, bytes);
      block += bytes;
    }
  }

  std::map<int, SafetensorsWriter>::iterator open_file(int shard) {
    std::vector<SafetensorsInfo> infos;
    for (const SavedTensor& tensor : plan_.shards()[size_t(shard)].tensors) {
      infos.push_back({.name = tensor.name, .dtype = name_of(params_.master_dtype()), .shape = tensor.shape});
    }
    return files_
        .emplace(std::piecewise_construct, std::forward_as_tuple(shard),
                 std::forward_as_tuple(temporary_ / plan_.shards()[size_t(shard)].file, std::move(infos),
                                       SafetensorsMetadata{{"format", "pt"}}))
        .first;
  }

  // On the thread.
  void finish_files() {
    for (auto& [shard, file] : files_) digests_[shard] = file.finish();
    files_.clear();
  }

  // On rank 0; once all files are there.
  void start_commit() {
    phase_ = Phase::kCommitting;
    if (world_.rank() != 0) return;
    thread_.post([this] {
      for (const auto& [shard, digest] : digests_)
        directory_->add(plan_.shards()[size_t(shard)].file, digest);
      if (num_writers() > 1) {
        for (const bool optimizer : {false, true}) {
          write_file(directory_->path(index_file_name(optimizer ? kOptimizerStem : kModelStem)),
                     plan_.index_json(optimizer));
        }
      }
      outcome_.directory = directory_->commit(manifest_).string();
      directory_.reset();
      prune_checkpoints(root_, size_t(config_.checkpoint().keep_last()), outcome_.directory);
    });
  }

  // Every rank gets what the others have written.
  void share_digests() {
    std::vector<double> all(2 * plan_.shards().size(), 0);
    for (const auto& [shard, digest] : digests_) {
      all[2 * size_t(shard)] = double(digest.bytes);
      all[2 * size_t(shard) + 1] = double(digest.crc32c);
    }
    world_.all_reduce("checkpoint_state", all);
    for (size_t shard = 0; shard < plan_.shards().size(); ++shard)
      digests_[int(shard)] = {.bytes = uint64_t(all[2 * shard]), .crc32c = uint32_t(all[2 * shard + 1])};
  }

  /// Whether every rank's thread has done its jobs, and whether one failed: the same on every rank.
  struct Threads {
    bool busy, failed;
  };
  Threads agree() {
    // In this order: a job that fails while it is asked is still being done.
    const bool busy = thread_.busy();
    std::vector<double> state{double(busy), double(!thread_.failure().empty())};
    world_.all_reduce("checkpoint_state", state, Reduce::kMax);
    return {state[0] > 0, state[1] > 0};
  }

  /// Waits until all ranks' `waiting` says no. No collective lasts while a rank waits.
  template <class F>
  void wait_until_none(F&& waiting) {
    for (auto pause = std::chrono::microseconds(100);; pause = std::min(2 * pause, kLongestPause)) {
      std::vector<double> any{double(waiting())};
      world_.all_reduce("checkpoint_state", any, Reduce::kMax);
      if (any[0] == 0) return;
      std::this_thread::sleep_for(pause);
    }
  }

  /// False if a job of any rank failed.
  bool wait_for_threads() {
    wait_until_none([&] { return thread_.busy(); });
    return !agree().failed;
  }

  void advance() {
    if (phase_ == Phase::kDone) return;
    const Threads threads = agree();
    if (threads.busy) return;
    if (threads.failed) return fail();
    if (phase_ == Phase::kWriting) {
      share_digests();
      return start_commit();
    }
    world_.broadcast("checkpoint_state", outcome_.directory);
    phase_ = Phase::kDone;
  }

  void wait_for_outcome() {
    while (phase_ != Phase::kDone) {
      wait_until_none([&] { return thread_.busy(); });
      advance();
    }
  }

  // The lowest rank's failure is told to all.
  void fail() {
    const std::vector<std::string> failures = world_.all_gather("checkpoint_state", thread_.failure());
    outcome_.failure = *std::find_if(failures.begin(), failures.end(),
                                     [](const std::string& text) { return !text.empty(); });
    outcome_.failed = true;
    thread_.clear_failure();
    thread_.post_always([this] {
      files_.clear();
      directory_.reset();  // removes what was written
    });
    wait_until_none([&] { return thread_.busy(); });
    digests_.clear();
    phase_ = Phase::kDone;
  }

  std::optional<SaveOutcome> take_outcome() {
    if (phase_ != Phase::kDone) return std::nullopt;
    phase_ = Phase::kNone;
    digests_.clear();
    return std::exchange(outcome_, {});
  }

  static constexpr std::chrono::microseconds kLongestPause{20'000};

  const RunConfig& config_;
  const SaverOptions options_;
  Comm& world_;
  const ParamStore& params_;
  const ShardedAdamW& optimizer_;
  const ParamHolders holders_;
  const ShardPlan plan_;
  const std::filesystem::path root_;
  const int writer_;  ///< this rank's number among the writers, or kNone
  bool synchronous_ = false;
  double wait_ms_ = 0;
  std::string notice_;

  Phase phase_ = Phase::kNone;
  // Of the save under way; the thread's while it is busy.
  SaveOutcome outcome_;
  Manifest manifest_;
  std::optional<CheckpointWriter> directory_;  ///< rank 0
  std::filesystem::path temporary_;
  std::map<int, SafetensorsWriter> files_;  ///< open ones, by shard
  std::map<int, FileDigest> digests_;       ///< by shard
  std::atomic<bool> given_up_ = false;
  SaveThread thread_;  ///< last: it ends before what it works on
};

CheckpointSaver::CheckpointSaver(const RunConfig& config, const Mesh& mesh, const ParamStore& params,
                                 const ShardedAdamW& optimizer, SaverOptions options)
    : impl_(std::make_unique<Impl>(config, mesh, params, optimizer, std::move(options))) {}

CheckpointSaver::~CheckpointSaver() = default;

void CheckpointSaver::begin(Manifest manifest, int64_t step) {
  impl_->begin(std::move(manifest), step);
}

bool CheckpointSaver::pending() const {
  return impl_->pending();
}

std::optional<SaveOutcome> CheckpointSaver::poll() {
  return impl_->poll();
}

std::optional<SaveOutcome> CheckpointSaver::finish() {
  return impl_->finish();
}

double CheckpointSaver::take_wait_ms() {
  return impl_->take_wait_ms();
}

std::string CheckpointSaver::take_notice() {
  return impl_->take_notice();
}

}  // namespace spanwise
