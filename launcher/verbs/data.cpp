// spanwise data prepare --output PREFIX FILE…   spanwise data inspect PREFIX

#include <filesystem>
#include <iostream>

#include "core/progress.h"
#include "data/incremental_decoder.h"
#include "data/prepare.h"
#include "data/sentencepiece_trainer.h"
#include "data/statistics.h"
#include "launcher/arguments.h"
#include "launcher/runtime.h"
#include "launcher/verb.h"
#include "parallel/stop_request.h"

namespace spanwise {

namespace {

/// A flag that would change nothing is a mistake of the caller.
void require_effect(const Arguments& arguments, const char* flag, bool has_effect, const char* why) {
  if (arguments.has(flag) && !has_effect) fail_usage("--{} has no effect {}; leave it out.", flag, why);
}

/// One of the two words that a flag takes.
bool is_second(const Arguments& arguments, const char* flag, const char* first, const char* second) {
  const std::string value = arguments.get(flag, first);
  if (value != first && value != second)
    fail_usage("--{} {}: expected '{}' or '{}'.", flag, value, first, second);
  return value == second;
}

TextFileOptions text_options(const Arguments& arguments, std::vector<std::string> inputs) {
  TextFileOptions text{.inputs = std::move(inputs),
                       .text_field = arguments.get("text-field", "text"),
                       .document_separator = arguments.get("separator")};
  if (is_second(arguments, "stdin", "txt", "jsonl")) text.standard_input = TextFormat::kJsonLines;
  if (is_second(arguments, "invalid-utf8", "error", "replace")) text.invalid_utf8 = InvalidUtf8::kReplace;
  if (arguments.has("skip-bad-records")) text.bad_records = BadRecords::kSkip;

  const std::vector<TextInput> files = find_text(text.inputs, text.standard_input).files;
  bool any_text = false, any_json = false, any_stdin = false;
  for (const TextInput& file : files) {
    (file.format == TextFormat::kText ? any_text : any_json) = true;
    any_stdin |= file.path == kStandardInput;
  }
  require_effect(arguments, "separator", any_text, "on JSON lines");
  require_effect(arguments, "text-field", any_json, "without a .jsonl file");
  require_effect(arguments, "stdin", any_stdin, "without standard input (-)");
  if (arguments.has("train-tokenizer") && any_stdin)
    fail_usage(
        "--train-tokenizer reads the input twice, standard input can be read once; write it to a file.");
  return text;
}

PrepareOptions prepare_options(const Arguments& arguments, std::vector<std::string> inputs) {
  if (!arguments.has("output")) fail_usage("'spanwise data prepare' needs --output PREFIX.");
  const std::string output = arguments.get("output");
  if (std::filesystem::path(output).filename().empty())
    fail_usage("--output {} names a folder; give it a name in there, such as {}text.", output, output);
  require_effect(arguments, "verify", false, "with 'prepare'");
  PrepareOptions options{.text = text_options(arguments, std::move(inputs)),
                         .output = output,
                         .num_threads = int(arguments.integer("threads", available_cores(), 1, 1024)),
                         .overwrite = arguments.has("overwrite") ? Overwrite::kAllow : Overwrite::kRefuse};
  if (arguments.has("holdout-documents") && arguments.has("holdout-tails"))
    fail_usage("--holdout-documents and --holdout-tails exclude each other; give one.");
  for (const auto& [name, kind] :
       {std::pair{"holdout-documents", Holdout::kDocuments}, std::pair{"holdout-tails", Holdout::kTails}}) {
    if (!arguments.has(name)) continue;
    options.holdout = kind;
    options.holdout_fraction = arguments.number(name, 0, 1e-9, 0.999);
  }
  return options;
}

void train_tokenizer(const Arguments& arguments, const PrepareOptions& options, const std::string& model) {
  if (!arguments.has("tokenizer"))
    fail_usage("--train-tokenizer needs --tokenizer FILE.model, the file to write.");
  const int64_t vocab_size = arguments.integer("train-tokenizer", 0, 1, int64_t{1} << 24);
  std::cout << fmt::format("training {} …\n", model) << std::flush;
  const Progress progress({.what = "training " + model});
  train_sentencepiece(
      {.text = options.text, .output = model, .vocab_size = vocab_size, .overwrite = options.overwrite});
}

/// Ends a preparation that was asked to, with nothing left of it.
struct Stopped {};

PrepareResult prepare_visibly(PrepareOptions options, const Tokenizer& tokenizer) {
  const StopSignals signals;
  try {
    const DocumentReader sizes(options.text);
    Progress progress({.what = "preparing " + options.output, .unit = "bytes", .total = sizes.total_bytes()});
    const auto stop_if_asked = [] {
      if (stop_signal() != 0) throw Stopped();
    };
    options.text.waiting = stop_if_asked;
    options.progress = [&](const PrepareProgress& now) {
      progress.advance_to(now.bytes_read);
      stop_if_asked();
    };
    return prepare_dataset(options, tokenizer);
  } catch (const Stopped&) {
    end_by_signal(stop_signal());
  }
}

std::string counted(int64_t count, const char* noun) {
  return fmt::format("{} {}{}", count, noun, count == 1 ? "" : "s");
}

void prepare(const Arguments& arguments, std::vector<std::string> inputs) {
  const PrepareOptions options = prepare_options(arguments, std::move(inputs));
  // Before a tokenizer is trained for it.
  if (options.overwrite == Overwrite::kRefuse)
    for (const std::string& prefix : output_prefixes(options)) require_free(prefix);
  const std::string model = arguments.get("tokenizer", "bytes");
  if (arguments.has("train-tokenizer")) train_tokenizer(arguments, options, model);
  const std::unique_ptr<Tokenizer> tokenizer = make_tokenizer(model);
  const PrepareResult result = prepare_visibly(options, *tokenizer);
  const auto describe = [](const PreparedDataset& part) {
    std::cout << fmt::format("{}: {} documents, {} tokens\n", part.prefix, part.num_documents,
                             part.num_tokens);
  };
  describe(result.train);
  if (result.valid) describe(*result.valid);
  if (result.num_empty_documents > 0)
    std::cout << counted(result.num_empty_documents, "empty document") << " left out\n";
  if (result.num_bad_records > 0)
    std::cout << counted(result.num_bad_records, "bad record")
              << " left out, the first: " << result.first_bad_record << "\n";
  if (result.num_ignored_files > 0)
    std::cout << counted(result.num_ignored_files, "file") << " of other kinds in the folders not read\n";
}

// The text of a document's first ids, without a character of which they hold a part.
std::string whole_characters(const Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
  IncrementalDecoder decoder(tokenizer);
  std::string text;
  for (const int32_t id : ids) text += decoder.push(id);
  return text;
}

void inspect(const Arguments& arguments, const std::string& prefix) {
  for (const OptionSpec& option : data_usage().options)
    if (const std::string name = option.name; name != "tokenizer" && name != "verify" && name != "help")
      require_effect(arguments, option.name, false, "with 'inspect'");
  const IndexedDataset dataset(prefix);
  std::cout << fmt::format(
      "dataset          {}\ndocuments        {}\ntokens           {}\nbytes a token    {}\n", prefix,
      dataset.num_documents(), dataset.num_tokens(), token_bytes(dataset.dtype()));
  if (dataset.meta()) {
    const std::optional<TokenizerIdentity>& by = dataset.meta()->tokenizer;
    if (by)
      std::cout << fmt::format(
          "prepared with    {} (checksum {:08x}), documents begin with {}\n", by->name, by->crc32c,
          by->begin_of_document ? "its begin-of-document id" : "the end of the one before");
    if (arguments.has("verify")) {
      {
        Progress progress(
            {.what = "verifying " + prefix, .unit = "bytes", .total = int64_t(dataset.meta()->bin.bytes)});
        dataset.verify(available_cores(), [&](int64_t done) { progress.advance_to(done); });
      }
      std::cout << fmt::format("checksums        every block of {0}.bin and {0}.idx has its own\n", prefix);
    } else {
      std::cout << "checksums        of every block, compared when it is read\n";
    }
  } else if (arguments.has("verify")) {
    fail_user("{} cannot be verified: {} does not exist; prepare the dataset again for a table of checksums",
              prefix, meta_path(prefix));
  } else {
    std::cout << fmt::format("checksums        none: without {} the dataset is unverified\n",
                             meta_path(prefix));
  }
  double entropy = 0;
  {
    const Progress progress({.what = "counting tokens"});
    entropy = unigram_entropy(dataset);
  }
  std::cout << fmt::format("unigram entropy  {:.4f} nats a token\n", entropy);
  if (!arguments.has("tokenizer")) return;
  const std::unique_ptr<Tokenizer> tokenizer = make_tokenizer(arguments.get("tokenizer"));
  dataset.check_vocabulary(tokenizer->vocab_size(), available_cores());
  std::cout << fmt::format("vocabulary       {} ({}); every token is inside\n", tokenizer->vocab_size(),
                           tokenizer->name());
  const int64_t shown = std::min<int64_t>(dataset.num_documents(), 3);
  for (int64_t i = 0; i < shown; ++i) {
    std::vector<int32_t> ids(size_t(std::min<int64_t>(dataset.document_size(i), 48)));
    dataset.read(dataset.document_begin(i), int64_t(ids.size()), ids.data());
    std::cout << fmt::format("document {} ({} tokens): {}…\n", i, dataset.document_size(i),
                             whole_characters(*tokenizer, ids));
  }
}

}  // namespace

Usage data_usage() {
  return {.command =
              "spanwise data prepare --output PREFIX [options] FILE…\n       spanwise data inspect PREFIX "
              "[--tokenizer T] [--verify]",
          .description =
              "prepare: text (.txt, .md, .jsonl, each also .gz or .zst; folders; - is standard input) to an "
              "indexed dataset (PREFIX.bin, PREFIX.idx, with their "
              "checksums in PREFIX.meta.json), the same for any "
              "number of threads; with a holdout, PREFIX_train and PREFIX_valid.\n"
              "inspect: sizes, checksums, unigram entropy, and with a tokenizer the first documents.",
          .options = {{"output", "PREFIX", "dataset to write, without .bin and .idx"},
                      {"tokenizer", "bytes|FILE", "'bytes' (default) or a SentencePiece .model"},
                      {"train-tokenizer", "VOCAB", "first train --tokenizer FILE.model on the input"},
                      {"text-field", "NAME", "field of .jsonl records; default text"},
                      {"separator", "LINE",
                       "a line that separates documents in .txt files; default: a file is one"},
                      {"stdin", "txt|jsonl", "what standard input holds; default txt"},
                      {"invalid-utf8", "error|replace",
                       "bytes that are not UTF-8; replace: by U+FFFD; default error"},
                      {"skip-bad-records", nullptr, "leave out, and count, documents that cannot be read"},
                      {"holdout-documents", "X", "hold out this fraction of the documents"},
                      {"holdout-tails", "X", "hold out the last fraction of each document"},
                      {"threads", "N", "default: all cores"},
                      {"overwrite", nullptr, "replace what exists"},
                      {"verify", nullptr, "inspect: compare every block with its checksum"},
                      {"help", nullptr, "this text"}},
          .min_positional = 1,
          .max_positional = size_t{1} << 20,
          .actions = {{"prepare", "at least one file or folder of text", 1, size_t{1} << 20},
                      {"inspect", "PREFIX", 1, 1}}};
}

int run_data(Comm& world, const Arguments& arguments) {
  const auto& words = arguments.positional();
  if (world.size() > 1)
    fail_user("'data' runs on one rank, not on {}; start it without mpirun.", world.size());
  if (words[0] == "prepare") prepare(arguments, {words.begin() + 1, words.end()});
  if (words[0] == "inspect") inspect(arguments, words[1]);
  return 0;
}

}  // namespace spanwise
