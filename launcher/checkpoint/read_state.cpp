#include "launcher/checkpoint/read_state.h"

#include <condition_variable>
#include <deque>
#include <exception>
#include <map>
#include <mutex>
#include <optional>
#include <sstream>
#include <string>
#include <thread>

#include "core/crc32c.h"
#include "core/host_context.h"
#include "launcher/checkpoint/shard_plan.h"
#include "models/hf/safetensors.h"
#include "parallel/rank_zero.h"

namespace spanwise {

namespace {

std::vector<std::string> files_of(const Manifest& manifest, std::string_view stem) {
  std::vector<std::string> files;
  for (const Manifest::File& file : manifest.files()) {
    if (holds_tensors_of(stem, file.name())) files.push_back(file.name());
  }
  return files;
}

/// One tensor of the files, and where it goes.
struct StoredTensor {
  size_t file;
  std::string name;
  int buffer, entry;
};

/// The files with tensors of a stem, on rank 0.
class StoredTensors {
 public:
  StoredTensors(const OpenCheckpoint& checkpoint, std::string_view stem) : checkpoint_(checkpoint) {
    names_ = files_of(checkpoint.manifest(), stem);
    if (names_.empty()) checkpoint.file(whole_file_name(stem));  // says that nothing vouches for it
    for (const std::string& name : names_) readers_.emplace_back(checkpoint.file(name));
  }

  const std::vector<std::string>& names() const { return names_; }
  const SafetensorsReader& reader(size_t file) const { return readers_[file]; }

  /// All tensors in the order of the files; UserError if they are not those of the buffers.
  std::vector<StoredTensor> match(const ParamStore& params, const std::vector<NamedBuffer>& buffers) const {
    std::map<std::string, std::pair<int, int>> wanted;  // to buffer and entry
    for (size_t b = 0; b < buffers.size(); ++b) {
      for (size_t e = 0; e < params.entries().size(); ++e)
        wanted[params.entries()[e].name + buffers[b].suffix] = {int(b), int(e)};
    }
    std::vector<StoredTensor> tensors;
    size_t num_stored = 0;
    for (size_t f = 0; f < readers_.size(); ++f) {
      for (const SafetensorsInfo& info : readers_[f].tensors()) {
        ++num_stored;
        const auto found = wanted.find(info.name);
        if (found == wanted.end()) continue;
        const auto [buffer, entry] = found->second;
        check_shape(f, info, params.entries()[entry], buffers[size_t(buffer)].flat.dtype());
        tensors.push_back({f, info.name, buffer, entry});
        wanted.erase(found);
      }
    }
    if (!wanted.empty()) {
      fail_user(
          "{} has no tensor {}: it belongs to another model; check the model section of the config or choose "
          "another run.dir.",
          place(), wanted.begin()->first);
    }
    if (num_stored != tensors.size()) {
      fail_user("{} holds {} tensors but the config's model has {}; check the model section of the config.",
                place(), num_stored, tensors.size());
    }
    return tensors;
  }

 private:
  std::string place() const { return (checkpoint_.directory() / names_.front()).string(); }

  void check_shape(size_t file, const SafetensorsInfo& info, const ParamEntry& entry, DType dtype) const {
    const std::vector<int64_t> shape = entry.param->global_shape().to_vector();
    if (info.shape == shape && info.dtype == name_of(dtype)) return;
    fail_user(
        "{}: tensor {} is {} [{}] but the config asks for {} [{}]; check model and train.precision or choose "
        "another run.dir.",
        (checkpoint_.directory() / names_[file]).string(), info.name, info.dtype, fmt::join(info.shape, ", "),
        name_of(dtype), fmt::join(shape, ", "));
  }

  const OpenCheckpoint& checkpoint_;
  std::vector<std::string> names_;
  std::vector<SafetensorsReader> readers_;
};

/// Reads and sums pieces in order, some ahead of those that are handed on.
class PiecesAhead {
 public:
  PiecesAhead(Context& host, const ParamStore& params, const StoredTensors& stored,
              const std::vector<StoredTensor>& tensors)
      : thread_([this, &host, &params, &stored, &tensors] { run(host, params, stored, tensors); }) {}
  ~PiecesAhead() {
    {
      const std::lock_guard lock(mutex_);
      ending_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }
  PiecesAhead(const PiecesAhead&) = delete;
  PiecesAhead& operator=(const PiecesAhead&) = delete;

  /// The next piece.
  Tensor take() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return error_ || !pieces_.empty(); });
    if (pieces_.empty()) std::rethrow_exception(error_);
    Tensor piece = std::move(pieces_.front());
    pieces_.pop_front();
    changed_.notify_all();
    return piece;
  }
  /// Of each file, when all pieces are taken.
  const std::vector<FileDigest>& digests() const { return digests_; }

 private:
  static constexpr size_t kAhead = 4;

  void run(Context& host, const ParamStore& params, const StoredTensors& stored,
           const std::vector<StoredTensor>& tensors) {
    try {
      for (size_t file = 0; file < stored.names().size(); ++file)
        digests_.push_back(stored.reader(file).header());
      for (const StoredTensor& tensor : tensors) {
        for_each_piece(params, tensor.entry, [&](FlatRange piece) {
          const Tensor values = Tensor::empty(host, {piece.numel()}, params.master_dtype());
          stored.reader(tensor.file)
              .read_part(tensor.name, uint64_t(piece.begin) * size_of(values.dtype()), values.raw(),
                         values.bytes());
          FileDigest& digest = digests_[tensor.file];
          digest.crc32c = crc32c(values.raw(), values.bytes(), digest.crc32c);
          digest.bytes += values.bytes();
          std::unique_lock lock(mutex_);
          changed_.wait(lock, [&] { return ending_ || pieces_.size() < kAhead; });
          if (ending_) throw Error("nobody takes the pieces any more");
          pieces_.push_back(values);
          changed_.notify_all();
        });
      }
    } catch (...) {
      const std::lock_guard lock(mutex_);
      error_ = std::current_exception();
      changed_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Tensor> pieces_;
  std::exception_ptr error_;
  bool ending_ = false;
  std::vector<FileDigest> digests_;
  std::thread thread_;  // last: it uses the others
};

/// The order in which the tensors come, as every rank must take them.
std::string order_text(const std::vector<StoredTensor>& tensors) {
  std::string text;
  for (const StoredTensor& tensor : tensors) text += fmt::format("{} {} ", tensor.buffer, tensor.entry);
  return text;
}

}  // namespace

void require_whole_files(const SharedCheckpoint& checkpoint, const std::vector<std::string_view>& stems) {
  std::vector<std::string> names;
  for (const std::string_view stem : stems) {
    for (const std::string& name : files_of(checkpoint.manifest(), stem)) names.push_back(name);
  }
  checkpoint.files().require_lengths(names);
}

void read_tensors(const SharedCheckpoint& checkpoint, std::string_view stem, const ParamHolders& holders,
                  Comm& world, const std::vector<NamedBuffer>& buffers) {
  const ParamStore& params = holders.params();
  const bool root = world.rank() == 0;
  std::optional<StoredTensors> stored;
  std::vector<StoredTensor> tensors;
  // Damage is looked for in whole files, which may take long.
  const auto match = [&] {
    try {
      stored.emplace(checkpoint.files(), stem);
      tensors = stored->match(params, buffers);
    } catch (const UserError&) {
      // Damage says more than what it led to.
      checkpoint.files().verify(files_of(checkpoint.manifest(), stem));
      throw;
    }
    return order_text(tensors);
  };
  const std::string order = run_on_rank_zero(world, "read_tensors", match);

  std::optional<PiecesAhead> pieces;
  if (root) pieces.emplace(host_context(params.context()), params, *stored, tensors);
  std::istringstream in(order);
  for (int buffer = 0, entry = 0; in >> buffer >> entry;) {
    for_each_piece(params, entry, [&](FlatRange piece) {
      deliver_piece(holders, world, buffers[size_t(buffer)].flat, entry, piece,
                    root ? pieces->take() : Tensor());
    });
  }
  if (!root) return;
  std::map<std::string, FileDigest> read;
  for (size_t file = 0; file < stored->names().size(); ++file)
    read[stored->names()[file]] = pieces->digests()[file];
  checkpoint.files().require_digests(read);
}

}  // namespace spanwise
