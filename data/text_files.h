#pragma once
// Documents out of .txt and .jsonl files, in the order of the files and of the lines in them.
//
//   .txt    one document a file, or, with a separator, one between any two lines that equal it
//   .jsonl  one JSON object a line, whose `text_field` is the document; blank lines are skipped

#include <cstdint>
#include <fstream>
#include <optional>
#include <string>
#include <vector>

namespace spanwise {

struct TextFileOptions {
  std::vector<std::string> inputs;
  std::string text_field = "text";
  std::string document_separator;  // empty: a .txt file is one document
};

/// A document as it lies in the file: text, or a JSON object still to be parsed.
struct RawDocument {
  enum class Kind { kText, kJson };
  Kind kind = Kind::kText;
  std::string content;
  std::string path;
  int64_t line = 0;  // where it starts, from 1
};

/// The document's text. UserError naming path:line if the JSON is malformed, not an object, or has no string
/// of that name. Split from the reader because it is the work that threads share.
std::string document_text(const RawDocument& document, const TextFileOptions& options);

class DocumentReader {
 public:
  /// UserError unless every input is a readable .txt or .jsonl file: before the first document, not hours
  /// later.
  explicit DocumentReader(TextFileOptions options);
  /// The next non-empty document, nothing at the end. Holds one document in memory. UserError on a read
  /// error.
  std::optional<RawDocument> next();

  const TextFileOptions& options() const { return options_; }
  int64_t total_bytes() const { return total_bytes_; }
  int64_t bytes_read() const { return bytes_read_; }

 private:
  bool open_next_file();
  bool next_line(std::string& line);
  std::optional<RawDocument> next_json();
  std::optional<RawDocument> next_text();

  TextFileOptions options_;
  size_t next_input_ = 0;
  std::ifstream file_;
  std::string path_;
  int64_t line_ = 0, total_bytes_ = 0, bytes_read_ = 0;
};

}  // namespace spanwise
