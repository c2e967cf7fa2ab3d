#include "data/indexed_writer.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <filesystem>
#include <system_error>
#include <utility>

#include "core/check.h"
#include "core/crc32c.h"

namespace spanwise {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kFirstWideVocabulary = 65500;
constexpr const char* kExtensions[] = {".bin", ".idx", ".meta.json"};

std::string partial(const std::string& prefix, const char* extension) {
  return prefix + extension + ".partial";
}

fs::path directory_of(const std::string& prefix) {
  const fs::path directory = fs::path(prefix).parent_path();
  return directory.empty() ? "." : directory;
}

/// Locks PREFIX.bin.partial, which is made if need be, until the descriptor is closed. -1 if another process
/// has it locked.
int lock_partial(const std::string& prefix) {
  const std::string path = partial(prefix, ".bin");
  while (true) {
    const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0666);
    if (fd < 0)
      fail_user("cannot write {}: {}; choose another output", path, std::generic_category().message(errno));
    // A file system without locks has no way to tell; it goes on as the only writer.
    if (flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
      close(fd);
      return -1;
    }
    // Its writer may have renamed or removed it before it let go.
    struct stat locked, there;
    if (fstat(fd, &locked) == 0 && lstat(path.c_str(), &there) == 0 && locked.st_ino == there.st_ino &&
        locked.st_dev == there.st_dev)
      return fd;
    close(fd);
  }
}

/// Tokens without an index that a killed writer put there: its table came first and fits them.
bool is_killed_half(const std::string& prefix) {
  try {
    const std::optional<DatasetMeta> meta = read_meta(prefix);
    if (!meta || fs::exists(prefix + ".idx")) return false;
    const FileDigest tokens = digest_file(prefix + ".bin");
    uint32_t sum = 0;
    for (size_t block = 0; block < meta->bin.crc32c.size(); ++block) {
      const uint64_t begin = block * meta->bin.block_bytes;
      sum = crc32c_combine(sum, meta->bin.crc32c[block],
                           std::min(meta->bin.block_bytes, meta->bin.bytes - begin));
    }
    return tokens.bytes == meta->bin.bytes && tokens.crc32c == sum;
  } catch (const UserError&) {
    return false;
  }
}

/// ".partial-PID" of versions that named them by process, if that one has gone.
bool is_old_partial(const std::string& name, const std::string& stem) {
  for (const char* extension : {".bin", ".idx"}) {
    const std::string start = stem + extension + ".partial-";
    if (!name.starts_with(start)) continue;
    int pid = 0;
    const char* end = name.data() + name.size();
    const auto parsed = std::from_chars(name.data() + start.size(), end, pid);
    return parsed.ec == std::errc() && parsed.ptr == end && pid > 0 && kill(pid, 0) != 0 && errno == ESRCH;
  }
  return false;
}

}  // namespace

void require_free(const std::string& prefix) {
  std::error_code ignored;
  const bool has_bin = fs::exists(prefix + ".bin", ignored), has_idx = fs::exists(prefix + ".idx", ignored);
  if (!has_bin && !has_idx) return;
  if (has_bin != has_idx && is_killed_half(prefix)) return;
  const char* extension = has_bin ? ".bin" : ".idx";
  if (has_bin != has_idx)
    fail_user("{}{} exists already, without {}{}; remove it, choose another output or allow overwriting",
              prefix, extension, prefix, has_bin ? ".idx" : ".bin");
  fail_user("{}{} exists already; choose another output or allow overwriting", prefix, extension);
}

void remove_partial_files(const std::string& prefix) {
  std::error_code ignored;
  const fs::path directory = directory_of(prefix);
  const std::string stem = fs::path(prefix).filename().string();
  std::vector<fs::path> old;
  for (const auto& entry : fs::directory_iterator(directory, ignored))
    if (is_old_partial(entry.path().filename().string(), stem)) old.push_back(entry.path());
  for (const fs::path& path : old) fs::remove(path, ignored);
  bool any = false;
  for (const char* extension : kExtensions)
    any |= fs::symlink_status(partial(prefix, extension), ignored).type() == fs::file_type::regular;
  if (!any) return;
  const int lock = lock_partial(prefix);
  if (lock < 0) return;
  for (const char* extension : kExtensions) fs::remove(partial(prefix, extension), ignored);
  close(lock);
}

IndexedDatasetWriter::IndexedDatasetWriter(const std::string& prefix, int64_t vocab_size, Overwrite overwrite)
    : prefix_(prefix),
      vocab_size_(vocab_size),
      dtype_(vocab_size < kFirstWideVocabulary ? TokenDtype::kU16 : TokenDtype::kI32) {
  if (overwrite == Overwrite::kRefuse) require_free(prefix);
  make_directories(directory_of(prefix));
  lock_ = lock_partial(prefix);
  if (lock_ < 0)
    fail_user("{} is being written by another process; wait for it, or choose another output", prefix);
  try {
    bin_.emplace(partial(prefix, ".bin"), FileMode::kCreate);
  } catch (...) {
    std::error_code ignored;
    fs::remove(partial(prefix, ".bin"), ignored);
    close(lock_);
    throw;
  }
}

IndexedDatasetWriter::~IndexedDatasetWriter() {
  bin_.reset();
  std::error_code ignored;
  // Once finished, these may be another writer's.
  if (!finished_)
    for (const char* extension : kExtensions) fs::remove(partial(prefix_, extension), ignored);
  close(lock_);
}

void IndexedDatasetWriter::add_document(std::span<const int32_t> tokens) {
  SPANWISE_CHECK(bin_, "{}: add_document after seal or finish", prefix_);
  SPANWISE_CHECK(!tokens.empty(), "{}: document {} is empty", prefix_, num_documents());
  for (const int32_t token : tokens)
    SPANWISE_CHECK(token >= 0 && token < vocab_size_, "{}: token {} with a vocabulary of {}", prefix_, token,
                   vocab_size_);
  if (!std::in_range<int32_t>(tokens.size()))
    fail_user("document {} of {} has {} tokens; a document holds fewer than 2^31, so split it",
              num_documents(), prefix_, tokens.size());
  if (dtype_ == TokenDtype::kU16) {
    narrow_.assign(tokens.begin(), tokens.end());
    bin_->write_all(narrow_.data(), narrow_.size() * sizeof(uint16_t));
    meta_.bin.append(narrow_.data(), narrow_.size() * sizeof(uint16_t));
  } else {
    bin_->write_all(tokens.data(), tokens.size_bytes());
    meta_.bin.append(tokens.data(), tokens.size_bytes());
  }
  document_sizes_.push_back(int32_t(tokens.size()));
  num_tokens_ += int64_t(tokens.size());
}

void IndexedDatasetWriter::write_index() {
  const uint64_t num_sequences = document_sizes_.size();
  std::string index("MMIDIDX\0\0", 9);
  auto append = [&](const void* data, size_t num_bytes) {
    index.append(static_cast<const char*>(data), num_bytes);
  };
  auto put = [&](const auto& value) { append(&value, sizeof value); };
  put(uint64_t{1});
  put(dtype_);
  put(num_sequences);
  put(num_sequences + 1);
  append(document_sizes_.data(), num_sequences * sizeof(int32_t));
  int64_t offset_bytes = 0;
  for (const int32_t size : document_sizes_) {
    put(offset_bytes);
    offset_bytes += size * token_bytes(dtype_);
  }
  for (uint64_t document = 0; document <= num_sequences; ++document) put(int64_t(document));
  write_file(partial(prefix_, ".idx"), index);
  meta_.idx.append(index.data(), index.size());
}

void IndexedDatasetWriter::seal() {
  SPANWISE_CHECK(bin_, "{}: sealed twice", prefix_);
  bin_->sync();
  bin_.reset();
  write_index();
  write_file(partial(prefix_, ".meta.json"), print_meta(meta_));
}

void IndexedDatasetWriter::finish() {
  SPANWISE_CHECK(!finished_, "{}: finished twice", prefix_);
  if (bin_) seal();
  std::error_code ignored;
  if (fs::remove(prefix_ + ".idx", ignored)) sync_directory(directory_of(prefix_));
  for (const char* extension : {".meta.json", ".bin", ".idx"})
    rename_path(partial(prefix_, extension), prefix_ + extension);
  finished_ = true;
  sync_directory(directory_of(prefix_));
}

}  // namespace spanwise
