// SentencePiece (Kudo and Richardson, EMNLP 2018), through its library: the models it wrote and the training
// of new ones.

#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include <algorithm>
#include <filesystem>
#include <optional>
#include <unordered_map>

#include "core/check.h"
#include "core/crc32c.h"
#include "core/file_io.h"
#include "data/sentencepiece_trainer.h"
#include "data/text_files.h"
#include "data/tokenizer.h"

namespace spanwise {
namespace {

std::string read_model(const std::string& path) {
  try {
    return read_file(path);
  } catch (const UserError& error) {
    fail_user("cannot read the tokenizer {} ({}); name a SentencePiece model, or `bytes`", path,
              error.what());
  }
}

class SentencePieceTokenizer : public Tokenizer {
 public:
  explicit SentencePieceTokenizer(const std::string& path) : path_(path) {
    // Read here, so that a missing file and a damaged one are told apart.
    const std::string model = read_model(path);
    checksum_ = crc32c(model.data(), model.size());
    if (model.empty()) fail_user("{} is empty; name a SentencePiece model, or `bytes`", path);
    if (const auto status = processor_.LoadFromSerializedProto(model); !status.ok())
      fail_user("{} is not a SentencePiece model ({}); train one, or name the tokenizer `bytes`", path,
                status.ToString());
    if (processor_.eos_id() < 0)
      fail_user("the tokenizer {} has no </s> piece, which ends documents; train one that has", path);
  }

  int64_t vocab_size() const override { return processor_.GetPieceSize(); }
  int32_t end_of_document() const override { return processor_.eos_id(); }
  std::optional<int32_t> begin_of_document() const override {
    return processor_.bos_id() < 0 ? std::nullopt : std::optional(processor_.bos_id());
  }
  std::string name() const override { return path_; }
  uint32_t checksum() const override { return checksum_; }

  std::vector<int32_t> encode(std::string_view text) const override {
    std::vector<int> ids;
    const auto status = processor_.Encode(text, &ids);
    SPANWISE_CHECK(status.ok(), "{}: {}", path_, status.ToString());
    return ids;
  }

  std::string decode(std::span<const int32_t> ids) const override {
    for (const int32_t id : ids)
      SPANWISE_CHECK(id >= 0 && id < vocab_size(), "id {} is not in the vocabulary of {} of {}", id,
                     vocab_size(), path_);
    std::string text;
    const auto status = processor_.Decode(std::vector<int>(ids.begin(), ids.end()), &text);
    SPANWISE_CHECK(status.ok(), "{}: {}", path_, status.ToString());
    return text;
  }

  // A byte's piece is its number: "<0x0A>".
  std::optional<uint8_t> byte(int32_t id) const override {
    if (id < 0 || id >= vocab_size() || !processor_.IsByte(id)) return std::nullopt;
    return uint8_t(std::stoi(processor_.IdToPiece(id).substr(3, 2), nullptr, 16));
  }

 private:
  std::string path_;
  uint32_t checksum_ = 0;
  sentencepiece::SentencePieceProcessor processor_;
};

/// The non-empty lines of all documents: SentencePiece's unit of training, which no piece crosses.
class LineIterator : public sentencepiece::SentenceIterator {
 public:
  explicit LineIterator(const SentencePieceOptions& options) : reader_(options.text) { Next(); }
  bool done() const override { return done_; }
  const std::string& value() const override { return line_; }
  sentencepiece::util::Status status() const override { return {}; }

  void Next() override {
    do {
      while (begin_ > document_.size() || document_.empty()) {
        std::optional<RawDocument> next = reader_.next();
        done_ = !next;
        if (done_) return;
        document_ = text_of(*next);
        begin_ = 0;
      }
      const size_t end = std::min(document_.find('\n', begin_), document_.size());
      line_ = document_.substr(begin_, end - begin_);
      begin_ = end + 1;
    } while (line_.empty());
  }

 private:
  /// Empty for a record that is to be left out.
  std::string text_of(const RawDocument& document) const {
    try {
      return document_text(document, reader_.options());
    } catch (const BadRecord&) {
      if (reader_.options().bad_records == BadRecords::kRefuse) throw;
      return "";
    }
  }

  DocumentReader reader_;
  std::string document_, line_;
  size_t begin_ = 0;
  bool done_ = false;
};

std::unordered_map<std::string, std::string> trainer_arguments(const SentencePieceOptions& options) {
  return {
      {"model_type", options.kind == SentencePieceKind::kBpe ? "bpe" : "unigram"},
      {"vocab_size", std::to_string(options.vocab_size)},
      // Text must come back as it was: what training and generation see is the document itself.
      {"normalization_rule_name", "identity"},
      {"remove_extra_whitespaces", "false"},
      {"add_dummy_prefix", "false"},
      {"byte_fallback", "true"},
      {"allow_whitespace_only_pieces", "true"},
      {"split_digits", "true"},
      {"unk_id", "0"},
      {"eos_id", "1"},
      {"bos_id", "-1"},
      {"pad_id", "-1"},
      // Longer lines would be left out of training without a word.
      {"max_sentence_length", std::to_string(1 << 30)},
      // Unigram sums its counts by thread: a fixed number keeps the model the same on every machine.
      {"num_threads", "4"},
      // Progress and statistics on stderr; errors come back as a status.
      {"minloglevel", "2"},
  };
}

}  // namespace

std::unique_ptr<Tokenizer> load_sentencepiece(const std::string& path) {
  return std::make_unique<SentencePieceTokenizer>(path);
}

void train_sentencepiece(const SentencePieceOptions& options) {
  if (options.overwrite == Overwrite::kRefuse && std::filesystem::exists(options.output))
    fail_user("{} exists already; choose another output or allow overwriting", options.output);
  constexpr int64_t kSmallest = 256 + 2;
  if (options.vocab_size <= kSmallest)
    fail_user("a SentencePiece vocabulary of {} pieces is too small: 256 bytes, <unk> and </s> alone are {}",
              options.vocab_size, kSmallest);
  LineIterator lines(options);
  std::string model;
  const auto status = sentencepiece::SentencePieceTrainer::Train(trainer_arguments(options), &lines, &model);
  if (!status.ok())
    fail_user(
        "SentencePiece cannot train {} pieces on this text; try another vocabulary size or more text ({})",
        options.vocab_size, status.ToString());
  const std::filesystem::path directory = std::filesystem::path(options.output).parent_path();
  if (!directory.empty()) make_directories(directory);
  replace_file(options.output, model);
}

}  // namespace spanwise
