#pragma once
// Documents out of text and JSON-lines files, in the order of the files and of the lines in them.
//
//   .txt .md  one document a file, or, with a separator, one between any two lines that equal it
//   .jsonl    one JSON object a line, whose `text_field` is the document; blank lines are skipped
//
// Both are UTF-8; a byte-order mark at a file's beginning is skipped. Which files: data/text_inputs.h.

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/check.h"
#include "data/byte_source.h"
#include "data/text_inputs.h"

namespace spanwise {

enum class InvalidUtf8 {
  kRefuse,
  kReplace,  // by U+FFFD; JSON's escapes of half a surrogate pair too
};
enum class BadRecords { kRefuse, kSkip };

struct TextFileOptions {
  std::vector<std::string> inputs = {};
  std::string text_field = "text";
  std::string document_separator = {};  // empty: a text file is one document
  TextFormat standard_input = TextFormat::kText;
  InvalidUtf8 invalid_utf8 = InvalidUtf8::kRefuse;
  BadRecords bad_records = BadRecords::kRefuse;
  std::function<void()> waiting = {};  // for standard input, see open_source
};

/// A document as it lies in the file: text, or a JSON object still to be parsed.
struct RawDocument {
  enum class Kind { kText, kJson };
  Kind kind = Kind::kText;
  std::string content;
  std::string path;
  int64_t line = 0;    // where it starts, from 1
  int64_t offset = 0;  // the same as a byte of the (unpacked) file, from 0
};

/// What is wrong with one document; the ones behind it can be read.
class BadRecord : public UserError {
 public:
  using UserError::UserError;
};

/// The document's text. BadRecord naming path:line, byte and reason if it is not UTF-8 and may not be
/// replaced, or if its JSON has no such text. Split from the reader because it is the work that threads
/// share.
std::string document_text(const RawDocument& document, const TextFileOptions& options);

/// No text but spaces and line breaks: such documents are left out.
bool is_blank(std::string_view text);

class DocumentReader {
 public:
  /// UserError unless every input can be read: before the first document, not hours later.
  explicit DocumentReader(TextFileOptions options);
  /// The next document, blank ones too, nothing at the end. Holds one document in memory. UserError on a read
  /// error, and for a file in UTF-16.
  std::optional<RawDocument> next();

  const TextFileOptions& options() const { return options_; }
  const TextInputs& inputs() const { return inputs_; }
  int64_t total_bytes() const { return total_bytes_; }  // 0: standard input is among them
  int64_t bytes_read() const;

 private:
  bool open_next_file();
  bool next_line(std::string& line);
  void skip_byte_order_mark(std::string& line);
  std::optional<RawDocument> next_json();
  std::optional<RawDocument> next_text();
  RawDocument begin_document(RawDocument::Kind kind) const;

  TextFileOptions options_;
  TextInputs inputs_;
  size_t next_input_ = 0;
  std::unique_ptr<ByteSource> source_;  // of the current file; null between files
  TextFormat format_ = TextFormat::kText;
  std::string path_;
  std::vector<char> buffer_;
  size_t begin_ = 0, end_ = 0;  // of what is in buffer_
  int64_t line_ = 0, offset_ = 0, total_bytes_ = 0, finished_bytes_ = 0;
  bool after_separator_ = false, ended_ = false;
};

}  // namespace spanwise
