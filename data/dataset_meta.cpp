#include "data/dataset_meta.h"

#include <simdjson.h>

#include <algorithm>
#include <charconv>
#include <filesystem>

#include "core/check.h"
#include "core/crc32c.h"
#include "core/file_io.h"
#include "core/json_quote.h"

namespace spanwise {
namespace {

using simdjson::dom::element;

constexpr std::string_view kFormat = "spanwise dataset 1";
// As the entries of a table of a petabyte.
constexpr uint64_t kLargestFile = uint64_t{256} << 20;

[[noreturn]] void fail_meta(const std::string& path, const std::string& fault) {
  fail_user(
      "{} is damaged: {}; copy or prepare the dataset again, or remove this file to use the dataset "
      "unverified",
      path, fault);
}

/// The end of the file over what comes before.
std::string closing(std::string_view before) {
  return fmt::format("  \"meta_crc32c\": \"{:08x}\"\n}}\n", crc32c(before.data(), before.size()));
}

/// A name that is not UTF-8 is only for reading: '?' stands for its other bytes.
std::string json_name(std::string name) {
  if (!simdjson::validate_utf8(name.data(), name.size()))
    std::replace_if(
        name.begin(), name.end(), [](char c) { return (c & 0x80) != 0; }, '?');
  return json_quote(name);
}

std::string sums_text(const BlockSums& sums) {
  std::string table;
  for (const uint32_t crc : sums.crc32c) table += fmt::format("{}\"{:08x}\"", table.empty() ? "" : ", ", crc);
  return fmt::format("{{\"bytes\": {}, \"block_bytes\": {}, \"crc32c\": [{}]}}", sums.bytes, sums.block_bytes,
                     table);
}

/// The fields of one JSON object of the file.
class Fields {
 public:
  Fields(simdjson::simdjson_result<element> value, std::string where, const std::string& path)
      : where_(std::move(where)), path_(path) {
    if (value.get(object_) != simdjson::SUCCESS) fail_meta(path_, where_ + " is not an object");
  }
  bool has(const char* name) const { return object_.at_key(name).error() == simdjson::SUCCESS; }
  Fields fields(const char* name) const { return {object_.at_key(name), where_ + "." + name, path_}; }
  std::string text(const char* name) const { return std::string(get<std::string_view>(name, "a string")); }
  uint64_t number(const char* name, uint64_t low, uint64_t high) const {
    const uint64_t value = get<uint64_t>(name, "a whole number");
    if (value < low || value > high)
      fail_meta(path_, fmt::format("{}.{} is {}, outside {} to {}", where_, name, value, low, high));
    return value;
  }
  uint32_t checksum(const char* name) const {
    return checksum_of(get<std::string_view>(name, "a string"), name);
  }
  std::vector<uint32_t> checksums(const char* name) const {
    std::vector<uint32_t> values;
    for (const element entry : get<simdjson::dom::array>(name, "a list")) {
      std::string_view text;
      if (entry.get(text) != simdjson::SUCCESS) text = {};
      values.push_back(checksum_of(text, name));
    }
    return values;
  }

 private:
  template <class T>
  T get(const char* name, const char* kind) const {
    T value;
    if (object_.at_key(name).get(value) != simdjson::SUCCESS)
      fail_meta(path_, fmt::format("{}.{} is not {}", where_, name, kind));
    return value;
  }
  uint32_t checksum_of(std::string_view text, const char* name) const {
    uint32_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, 16);
    if (text.size() != 8 || error != std::errc() || end != text.data() + 8)
      fail_meta(path_, fmt::format("{}.{} is not eight hexadecimal digits", where_, name));
    return value;
  }

  std::string where_;
  const std::string& path_;
  simdjson::dom::object object_;
};

const char* document_start_of(const TokenizerIdentity& tokenizer) {
  return tokenizer.begin_of_document ? "BEGIN_OF_DOCUMENT" : "END_OF_DOCUMENT";
}

BlockSums parse_sums(const Fields& fields, const std::string& path) {
  BlockSums sums{.bytes = fields.number("bytes", 0, INT64_MAX),
                 .block_bytes = fields.number("block_bytes", 1, INT64_MAX),
                 .crc32c = fields.checksums("crc32c")};
  const uint64_t expected = sums.bytes / sums.block_bytes + (sums.bytes % sums.block_bytes != 0);
  if (sums.crc32c.size() != expected)
    fail_meta(path, fmt::format("it has {} checksums for {} blocks", sums.crc32c.size(), expected));
  return sums;
}

TokenizerIdentity parse_tokenizer(const Fields& fields) {
  TokenizerIdentity identity{.name = fields.text("name"),
                             .vocab_size = int64_t(fields.number("vocab_size", 1, INT32_MAX)),
                             .crc32c = fields.checksum("crc32c"),
                             .end_of_document = int32_t(fields.number("end_of_document", 0, INT32_MAX))};
  if (fields.has("begin_of_document"))
    identity.begin_of_document = int32_t(fields.number("begin_of_document", 0, INT32_MAX));
  return identity;
}

}  // namespace

void BlockSums::append(const void* data, size_t size) {
  const char* at = static_cast<const char*>(data);
  while (size > 0) {
    const uint64_t filled = bytes % block_bytes;
    const size_t part = size_t(std::min<uint64_t>(size, block_bytes - filled));
    if (filled == 0) crc32c.push_back(0);
    crc32c.back() = spanwise::crc32c(at, part, crc32c.back());
    bytes += part;
    at += part;
    size -= part;
  }
}

TokenizerIdentity identity_of(const Tokenizer& tokenizer) {
  return {.name = std::filesystem::path(tokenizer.name()).filename().string(),
          .vocab_size = tokenizer.vocab_size(),
          .crc32c = tokenizer.checksum(),
          .end_of_document = tokenizer.end_of_document(),
          .begin_of_document = tokenizer.begin_of_document()};
}

uint32_t DatasetMeta::contents() const {
  uint32_t sum = 0;
  for (const BlockSums* sums : {&bin, &idx}) {
    sum = crc32c(&sums->bytes, sizeof sums->bytes, sum);
    sum = crc32c(&sums->block_bytes, sizeof sums->block_bytes, sum);
    sum = crc32c(sums->crc32c.data(), sums->crc32c.size() * sizeof(uint32_t), sum);
  }
  return sum;
}

std::string meta_path(const std::string& prefix) {
  return prefix + ".meta.json";
}

std::string print_meta(const DatasetMeta& meta) {
  std::string text = fmt::format("{{\n  \"format\": \"{}\",\n  \"bin\": {},\n  \"idx\": {},\n", kFormat,
                                 sums_text(meta.bin), sums_text(meta.idx));
  if (const auto& t = meta.tokenizer) {
    text += fmt::format(
        "  \"document_start\": \"{}\",\n"
        "  \"tokenizer\": {{\"name\": {}, \"vocab_size\": {}, \"crc32c\": \"{:08x}\", \"end_of_document\": "
        "{}",
        document_start_of(*t), json_name(t->name), t->vocab_size, t->crc32c, t->end_of_document);
    if (t->begin_of_document) text += fmt::format(", \"begin_of_document\": {}", *t->begin_of_document);
    text += "},\n";
  }
  return text + closing(text);
}

DatasetMeta parse_meta(std::string_view text, const std::string& path) {
  // Everything is under the checksum or part of this ending, so that any changed byte is found.
  const size_t closing_bytes = closing("").size();
  if (text.size() < closing_bytes || text.size() > kLargestFile)
    fail_meta(path, "it is cut short or too long");
  const std::string_view before = text.substr(0, text.size() - closing_bytes);
  if (text.substr(before.size()) != closing(before)) fail_meta(path, "its checksum does not fit its content");
  simdjson::dom::parser parser;
  const simdjson::padded_string padded(text);
  const Fields root(parser.parse(padded), "the file", path);
  if (const std::string format = root.text("format"); format != kFormat)
    fail_user("{} has the format '{}'; this program reads '{}'; prepare the dataset again", path, format,
              kFormat);
  DatasetMeta meta{.bin = parse_sums(root.fields("bin"), path), .idx = parse_sums(root.fields("idx"), path)};
  if (!root.has("tokenizer")) return meta;
  meta.tokenizer = parse_tokenizer(root.fields("tokenizer"));
  if (const std::string start = root.text("document_start"); start != document_start_of(*meta.tokenizer))
    fail_meta(path, fmt::format("its document_start is {} where its tokenizer says {}", start,
                                document_start_of(*meta.tokenizer)));
  return meta;
}

std::optional<DatasetMeta> read_meta(const std::string& prefix) {
  const std::string path = meta_path(prefix);
  std::error_code error;
  if (std::filesystem::symlink_status(path, error).type() == std::filesystem::file_type::not_found)
    return std::nullopt;
  const File file(path, FileMode::kRead);
  std::string text(size_t(std::min(file.size(), kLargestFile + 1)), '\0');
  file.read_at(0, text.data(), text.size());
  return parse_meta(text, path);
}

}  // namespace spanwise
