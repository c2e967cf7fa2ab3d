#include "data/prepare.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <exception>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include "core/check.h"

namespace spanwise {
namespace {

constexpr size_t kBatchBytes = 16 << 20;
constexpr size_t kBatchDocuments = 1 << 16;

std::vector<RawDocument> read_batch(DocumentReader& reader) {
  std::vector<RawDocument> batch;
  for (size_t bytes = 0; bytes < kBatchBytes && batch.size() < kBatchDocuments;) {
    std::optional<RawDocument> document = reader.next();
    if (!document) break;
    bytes += document->content.size();
    batch.push_back(std::move(*document));
  }
  return batch;
}

struct Tokenized {
  std::vector<int32_t> tokens;  // without end-of-document; none of a blank document
  std::string fault;            // of a bad record that is left out
};

Tokenized tokenize(const RawDocument& document, const PrepareOptions& options, const Tokenizer& tokenizer) {
  try {
    const std::string text = document_text(document, options.text);
    if (is_blank(text)) return {};
    return {.tokens = tokenizer.encode(text), .fault = {}};
  } catch (const BadRecord& error) {
    if (options.text.bad_records == BadRecords::kRefuse) throw;
    return {.tokens = {}, .fault = error.what()};
  }
}

/// Says how far a batch is while it is worked off: of the bytes of files that it was read from, as many as
/// the share of its text that is done. For the calling thread.
class BatchProgress {
 public:
  using Say = std::function<void(int64_t)>;
  BatchProgress(const std::vector<RawDocument>& batch, int64_t begin, int64_t end, Say say)
      : begin_(begin), bytes_(end - begin), say_(std::move(say)) {
    for (const RawDocument& document : batch) total_ += int64_t(document.content.size());
  }
  /// From any thread.
  void add(int64_t content) { done_ += content; }
  void say_sometimes() {
    const auto now = std::chrono::steady_clock::now();
    if (!say_ || now - last_ < std::chrono::milliseconds(200)) return;
    last_ = now;
    say_(begin_ + int64_t(double(bytes_) * double(done_) / double(std::max<int64_t>(total_, 1))));
  }

 private:
  int64_t begin_, bytes_, total_ = 0;
  std::atomic<int64_t> done_{0};
  Say say_;
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

/// Each document of the batch. Of several errors that of the first document is thrown, whatever the threads'
/// timing: indices are handed out in order and each one taken is worked off.
std::vector<Tokenized> tokenize(const std::vector<RawDocument>& batch, const PrepareOptions& options,
                                const Tokenizer& tokenizer, BatchProgress& progress) {
  std::vector<Tokenized> tokens(batch.size());
  std::vector<std::exception_ptr> errors(batch.size());
  std::atomic<size_t> next = 0;
  std::atomic<bool> failed = false;
  auto work = [&](bool speaks) {
    for (size_t i; !failed && (i = next++) < batch.size();) {
      try {
        tokens[i] = tokenize(batch[i], options, tokenizer);
        progress.add(int64_t(batch[i].content.size()));
        if (speaks) progress.say_sometimes();
      } catch (...) {
        errors[i] = std::current_exception();
        failed = true;
      }
    }
  };
  {
    std::vector<std::jthread> threads;
    for (int thread = 1; thread < options.num_threads; ++thread) threads.emplace_back(work, false);
    work(true);
  }
  for (const auto& error : errors)
    if (error) std::rethrow_exception(error);
  return tokens;
}

/// The one or two datasets being written, and which tokens go where.
class Output {
 public:
  /// Called before any input is read: an output that cannot be had is said at once.
  Output(const PrepareOptions& options, const Tokenizer& tokenizer)
      : holdout_(options.holdout),
        fraction_(options.holdout_fraction),
        end_of_document_(tokenizer.end_of_document()),
        begin_of_document_(tokenizer.begin_of_document()),
        train_(options.output + (holdout_ == Holdout::kNone ? "" : "_train"), tokenizer.vocab_size(),
               options.overwrite) {
    if (holdout_ != Holdout::kNone)
      valid_.emplace(options.output + "_valid", tokenizer.vocab_size(), options.overwrite);
    train_.set_tokenizer(identity_of(tokenizer));
    if (valid_) valid_->set_tokenizer(identity_of(tokenizer));
  }

  void add(const std::vector<int32_t>& tokens) {
    const int64_t index = num_documents_++;
    if (holdout_ == Holdout::kTails) {
      const auto tail = int64_t(std::floor(fraction_ * double(tokens.size())));
      write(train_, std::span(tokens).first(tokens.size() - tail));
      write(*valid_, std::span(tokens).last(tail));
    } else if (holdout_ == Holdout::kDocuments &&
               std::floor(double(index + 1) * fraction_) > std::floor(double(index) * fraction_)) {
      write(*valid_, tokens);
    } else {
      write(train_, tokens);
    }
  }

  void finish() {
    if (train_.num_documents() == 0)
      fail_user("{}: no text is left to write; check the input files", train_.prefix());
    if (valid_ && valid_->num_documents() == 0)
      fail_user("a holdout of {} leaves {} without text; raise it, or hold out the tails of the documents",
                fraction_, valid_->prefix());
    // Both to disk before either takes its name.
    train_.seal();
    if (valid_) valid_->seal();
    train_.finish();
    if (valid_) valid_->finish();
  }

  int64_t num_documents() const { return num_documents_; }
  int64_t num_tokens() const { return train_.num_tokens() + (valid_ ? valid_->num_tokens() : 0); }
  PreparedDataset train() const { return summary(train_); }
  std::optional<PreparedDataset> valid() const {
    return valid_ ? std::optional(summary(*valid_)) : std::nullopt;
  }

 private:
  void write(IndexedDatasetWriter& writer, std::span<const int32_t> tokens) {
    if (tokens.empty()) return;
    document_.clear();
    if (begin_of_document_ || writer.num_documents() == 0)
      document_.push_back(begin_of_document_.value_or(end_of_document_));
    document_.insert(document_.end(), tokens.begin(), tokens.end());
    document_.push_back(end_of_document_);
    writer.add_document(document_);
  }
  static PreparedDataset summary(const IndexedDatasetWriter& writer) {
    return {.prefix = writer.prefix(),
            .num_documents = writer.num_documents(),
            .num_tokens = writer.num_tokens()};
  }

  Holdout holdout_;
  double fraction_;
  int32_t end_of_document_;
  std::optional<int32_t> begin_of_document_;
  IndexedDatasetWriter train_;
  std::optional<IndexedDatasetWriter> valid_;
  std::vector<int32_t> document_;
  int64_t num_documents_ = 0;
};

}  // namespace

std::vector<std::string> output_prefixes(const PrepareOptions& options) {
  if (options.holdout == Holdout::kNone) return {options.output};
  return {options.output + "_train", options.output + "_valid"};
}

PrepareResult prepare_dataset(const PrepareOptions& options, const Tokenizer& tokenizer) {
  SPANWISE_CHECK(options.num_threads > 0, "num_threads={}", options.num_threads);
  const bool holds_out = options.holdout != Holdout::kNone;
  if (holds_out && !(options.holdout_fraction > 0 && options.holdout_fraction < 1))
    fail_user("a holdout of {} is not a fraction between 0 and 1", options.holdout_fraction);
  if (!holds_out && options.holdout_fraction != 0)
    fail_user("a holdout of {} is given, but not whether documents or their tails are held out",
              options.holdout_fraction);

  DocumentReader reader(options.text);
  for (const char* part : {"", "_train", "_valid"}) remove_partial_files(options.output + part);
  Output output(options, tokenizer);
  PrepareResult result;
  const auto say = [&](int64_t bytes_read) {
    if (options.progress)
      options.progress({.bytes_read = bytes_read,
                        .total_bytes = reader.total_bytes(),
                        .num_documents = output.num_documents(),
                        .num_tokens = output.num_tokens()});
  };
  int64_t bytes_before = 0;
  for (auto batch = read_batch(reader); !batch.empty(); batch = read_batch(reader)) {
    BatchProgress progress(batch, bytes_before, reader.bytes_read(), say);
    for (const Tokenized& document : tokenize(batch, options, tokenizer, progress)) {
      if (!document.fault.empty()) {
        if (result.num_bad_records++ == 0) result.first_bad_record = document.fault;
      } else if (document.tokens.empty()) {
        ++result.num_empty_documents;
      } else {
        output.add(document.tokens);
      }
    }
    bytes_before = reader.bytes_read();
    say(bytes_before);
  }
  output.finish();
  result.num_ignored_files = reader.inputs().num_ignored;
  result.train = output.train();
  result.valid = output.valid();
  return result;
}

}  // namespace spanwise
