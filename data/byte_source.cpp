#include "data/byte_source.h"

#include <poll.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>
#include <vector>

#include "core/check.h"
#include "core/file_io.h"

namespace spanwise {
namespace {

constexpr size_t kPackedBytes = size_t{256} << 10;
/// Of the window that a .zst file may declare: 128 MiB, what the zstd program takes too unless it is told
/// otherwise. Any few bytes can declare gigabytes.
constexpr int kZstdWindowLog = 27;

class FileSource : public ByteSource {
 public:
  explicit FileSource(const std::string& path) : file_(path, FileMode::kRead), size_(file_.size()) {}
  size_t read(char* data, size_t size) override {
    const size_t part = size_t(std::min<uint64_t>(size, size_ - at_));
    file_.read_at(at_, data, part);
    at_ += part;
    return part;
  }
  int64_t bytes_read() const override { return int64_t(at_); }
  size_t size() const { return size_t(size_); }
  std::string path() const { return file_.path().string(); }

 private:
  File file_;
  uint64_t size_, at_ = 0;
};

class StandardInput : public ByteSource {
 public:
  explicit StandardInput(std::function<void()> waiting) : waiting_(std::move(waiting)) {}
  size_t read(char* data, size_t size) override {
    if (waiting_) wait();
    ssize_t n;
    do n = ::read(STDIN_FILENO, data, size);
    while (n < 0 && errno == EINTR);
    if (n < 0) fail_user("cannot read standard input: {}", std::strerror(errno));
    bytes_ += n;
    return size_t(n);
  }
  int64_t bytes_read() const override { return bytes_; }

 private:
  /// Until a read gives something: bytes, the end or an error.
  void wait() const {
    constexpr int kPause_ms = 200;
    while (true) {
      pollfd ready{.fd = STDIN_FILENO, .events = POLLIN, .revents = 0};
      if (::poll(&ready, 1, kPause_ms) > 0) return;
      waiting_();
    }
  }
  std::function<void()> waiting_;
  int64_t bytes_ = 0;
};

/// A packed file whose unpacker takes a buffer of packed bytes and says how much of it is left.
class PackedSource : public ByteSource {
 public:
  explicit PackedSource(const std::string& path)
      : file_(path), packed_(std::clamp(file_.size(), size_t{1}, kPackedBytes)) {}
  int64_t bytes_read() const override { return file_.bytes_read(); }

 protected:
  [[noreturn]] void fail(const std::string& reason) const {
    fail_user("{} cannot be unpacked: {}; copy or pack it again", file_.path(), reason);
  }
  /// More packed bytes; false at the end of the file.
  bool refill() {
    begin_ = 0;
    end_ = file_.read(packed_.data(), packed_.size());
    return end_ > 0;
  }
  bool empty() const { return begin_ == end_; }

  FileSource file_;
  std::vector<char> packed_;
  size_t begin_ = 0, end_ = 0;
};

class GzipSource : public PackedSource {
 public:
  explicit GzipSource(const std::string& path) : PackedSource(path) {
    constexpr int kGzip = 16 + MAX_WBITS;  // and nothing else
    if (inflateInit2(&stream_, kGzip) != Z_OK) fail("there is not enough memory");
  }
  ~GzipSource() override { inflateEnd(&stream_); }

  size_t read(char* data, size_t size) override {
    stream_.next_out = reinterpret_cast<Bytef*>(data);
    stream_.avail_out = uInt(std::min<size_t>(size, 1 << 30));
    const uInt wanted = stream_.avail_out;
    while (stream_.avail_out > 0) {
      if (empty() && !refill()) {
        if (inside_) fail("it ends in the middle");
        break;
      }
      // Files packed one by one and put together are one text.
      if (!inside_ && inflateReset(&stream_) != Z_OK) fail("zlib cannot begin again");
      inside_ = true;
      stream_.next_in = reinterpret_cast<Bytef*>(packed_.data() + begin_);
      stream_.avail_in = uInt(end_ - begin_);
      const int code = inflate(&stream_, Z_NO_FLUSH);
      begin_ = end_ - stream_.avail_in;
      if (code == Z_STREAM_END) {
        inside_ = false;
      } else if (code != Z_OK && code != Z_BUF_ERROR) {
        fail(stream_.msg ? stream_.msg : "it is no gzip file");
      }
    }
    return wanted - stream_.avail_out;
  }

 private:
  z_stream stream_{};
  bool inside_ = true;  // even an empty file has a header
};

class ZstdSource : public PackedSource {
 public:
  explicit ZstdSource(const std::string& path) : PackedSource(path), stream_(ZSTD_createDStream()) {
    if (!stream_) fail("there is not enough memory");
    if (ZSTD_isError(ZSTD_DCtx_setParameter(stream_, ZSTD_d_windowLogMax, kZstdWindowLog)))
      fail("zstd does not take a limit of its window");
  }
  ~ZstdSource() override { ZSTD_freeDStream(stream_); }

  size_t read(char* data, size_t size) override {
    ZSTD_outBuffer out{data, size, 0};
    while (out.pos < size) {
      ZSTD_inBuffer in{packed_.data(), end_, begin_};
      const size_t before = out.pos;
      const size_t code = ZSTD_decompressStream(stream_, &out, &in);
      if (ZSTD_getErrorCode(code) == ZSTD_error_frameParameter_windowTooLarge)
        fail_user("{} cannot be unpacked: its window is larger than {} MiB; pack it again without --long",
                  file_.path(), 1 << (kZstdWindowLog - 20));
      if (ZSTD_isError(code)) fail(ZSTD_getErrorName(code));
      const bool moved = in.pos != begin_ || out.pos != before;
      begin_ = in.pos;
      if (moved) inside_ = code != 0;
      // All packed bytes are taken, and nothing is held back.
      if (empty() && out.pos < size && !refill()) {
        if (inside_) fail("it ends in the middle");
        break;
      }
    }
    return out.pos;
  }

 private:
  ZSTD_DStream* stream_;
  bool inside_ = true;
};

}  // namespace

std::unique_ptr<ByteSource> open_source(const std::string& path, std::function<void()> waiting) {
  if (path == kStandardInput) return std::make_unique<StandardInput>(std::move(waiting));
  const std::filesystem::path extension = std::filesystem::path(path).extension();
  if (extension == ".gz") return std::make_unique<GzipSource>(path);
  if (extension == ".zst") return std::make_unique<ZstdSource>(path);
  return std::make_unique<FileSource>(path);
}

}  // namespace spanwise
