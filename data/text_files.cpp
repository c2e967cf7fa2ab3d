#include "data/text_files.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "data/json_record.h"
#include "data/utf8.h"

namespace spanwise {
namespace {

constexpr size_t kBufferBytes = size_t{1} << 20;

template <class... Args>
[[noreturn]] void fail_record(fmt::format_string<Args...> format, Args&&... args) {
  throw BadRecord(fmt::format(format, std::forward<Args>(args)...));
}

/// The content as UTF-8, refused or replaced where it is not.
std::string utf8_of(const RawDocument& document, InvalidUtf8 invalid) {
  const std::string& content = document.content;
  const size_t valid = valid_utf8(content);
  if (valid == content.size()) return content;
  if (invalid == InvalidUtf8::kReplace) return replace_invalid_utf8(content);
  fail_record(
      "{}:{}: byte {} of the file, {:#04x}, is not UTF-8; convert the file, or replace such bytes with "
      "--invalid-utf8 replace",
      document.path, document.line + std::count(content.begin(), content.begin() + ptrdiff_t(valid), '\n'),
      document.offset + int64_t(valid) + 1, static_cast<unsigned char>(content[valid]));
}

}  // namespace

bool is_blank(std::string_view text) {
  return text.find_first_not_of(" \t\r\n\f\v") == text.npos;
}

std::string document_text(const RawDocument& document, const TextFileOptions& options) {
  std::string content = utf8_of(document, options.invalid_utf8);
  if (document.kind == RawDocument::Kind::kText) return content;
  content.resize(content.find_last_not_of("\r\n") + 1);
  JsonText record = json_text(
      content, options.text_field,
      options.invalid_utf8 == InvalidUtf8::kReplace ? LoneSurrogates::kReplace : LoneSurrogates::kRefuse);
  if (!record.text)
    fail_record(
        "{}:{}: {}, at byte {} of the line; each line is an object such as {{\"{}\": \"...\"}}, and "
        "--skip-bad-records leaves others out",
        document.path, document.line, record.fault, record.byte + 1, options.text_field);
  return std::move(*record.text);
}

DocumentReader::DocumentReader(TextFileOptions options)
    : options_(std::move(options)), inputs_(find_text(options_.inputs, options_.standard_input)) {
  for (const TextInput& file : inputs_.files) {
    if (file.path == kStandardInput) {
      total_bytes_ = 0;
      break;
    }
    total_bytes_ += file.bytes;
  }
}

int64_t DocumentReader::bytes_read() const {
  return finished_bytes_ + (source_ ? source_->bytes_read() : 0);
}

bool DocumentReader::open_next_file() {
  if (source_) finished_bytes_ += source_->bytes_read();
  source_.reset();
  if (next_input_ == inputs_.files.size()) return false;
  const TextInput& input = inputs_.files[next_input_++];
  source_ = open_source(input.path, options_.waiting);
  path_ = input.path == kStandardInput ? "standard input" : input.path;
  format_ = input.format;
  // A folder may hold millions of small files.
  const size_t bytes = input.bytes == 0 ? kBufferBytes : size_t(input.bytes);
  buffer_.resize(std::clamp(bytes, size_t{4096}, kBufferBytes));
  line_ = offset_ = 0;
  begin_ = end_ = 0;
  after_separator_ = ended_ = false;
  return true;
}

/// The next line with its line break, if it has one.
bool DocumentReader::next_line(std::string& line) {
  line.clear();
  while (true) {
    if (begin_ == end_) {
      begin_ = 0;
      end_ = source_->read(buffer_.data(), buffer_.size());
      if (end_ == 0) break;
    }
    const char* first = buffer_.data() + begin_;
    const auto* found = static_cast<const char*>(std::memchr(first, '\n', end_ - begin_));
    const size_t length = found ? size_t(found - first) + 1 : end_ - begin_;
    line.append(first, length);
    begin_ += length;
    if (found) break;
  }
  if (line.empty()) return false;
  offset_ += int64_t(line.size());
  if (++line_ == 1) skip_byte_order_mark(line);
  return true;
}

void DocumentReader::skip_byte_order_mark(std::string& line) {
  if (line.starts_with("\xEF\xBB\xBF")) line.erase(0, 3);
  if (line.starts_with("\xFF\xFE") || line.starts_with("\xFE\xFF"))
    fail_user("{} is UTF-16; convert it to UTF-8 (iconv -f UTF-16 -t UTF-8)", path_);
}

/// A document that begins with the next line.
RawDocument DocumentReader::begin_document(RawDocument::Kind kind) const {
  return {.kind = kind, .content = {}, .path = path_, .line = line_ + 1, .offset = offset_};
}

std::optional<RawDocument> DocumentReader::next_json() {
  RawDocument document = begin_document(RawDocument::Kind::kJson);
  while (next_line(document.content)) {
    if (!is_blank(document.content)) {
      document.offset = offset_ - int64_t(document.content.size());
      return document;
    }
    document = begin_document(RawDocument::Kind::kJson);
  }
  return std::nullopt;
}

std::optional<RawDocument> DocumentReader::next_text() {
  if (ended_) return std::nullopt;
  const std::string& separator = options_.document_separator;
  RawDocument document = begin_document(RawDocument::Kind::kText);
  std::string line;
  while (next_line(line)) {
    const size_t length = line.find_last_not_of("\r\n") + 1;
    if (separator.empty() || line.compare(0, length, separator) != 0) {
      if (document.content.empty()) document.offset = offset_ - int64_t(line.size());
      document.content += line;
      continue;
    }
    // Nothing before a file's first separator, or behind its last, is no document.
    const bool is_document = after_separator_ || !document.content.empty();
    after_separator_ = true;
    if (is_document) return document;
    document = begin_document(RawDocument::Kind::kText);
  }
  ended_ = true;
  if (document.content.empty() && after_separator_) return std::nullopt;
  return document;
}

std::optional<RawDocument> DocumentReader::next() {
  while (true) {
    if (source_) {
      if (auto document = format_ == TextFormat::kJsonLines ? next_json() : next_text()) return document;
    }
    if (!open_next_file()) return std::nullopt;
  }
}

}  // namespace spanwise
