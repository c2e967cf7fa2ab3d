// spanwise data prepare --output PREFIX FILE…   spanwise data inspect PREFIX

#include <filesystem>
#include <iostream>

#include "data/incremental_decoder.h"
#include "data/prepare.h"
#include "data/sentencepiece_trainer.h"
#include "data/statistics.h"
#include "launcher/arguments.h"
#include "launcher/runtime.h"
#include "launcher/verb.h"

namespace spanwise {

namespace {

void prepare(const Arguments& arguments, std::vector<std::string> inputs) {
  if (!arguments.has("output")) fail_usage("'spanwise data prepare' needs --output PREFIX.");
  const Overwrite overwrite = arguments.has("overwrite") ? Overwrite::kAllow : Overwrite::kRefuse;
  std::string tokenizer_name = arguments.get("tokenizer", "bytes");
  if (arguments.has("train-tokenizer")) {
    if (!arguments.has("tokenizer"))
      fail_usage("--train-tokenizer needs --tokenizer FILE.model, the file to write.");
    std::cout << fmt::format("training {} …\n", tokenizer_name) << std::flush;
    train_sentencepiece({.inputs = inputs,
                         .output = tokenizer_name,
                         .vocab_size = arguments.integer("train-tokenizer", 0, 1, int64_t{1} << 24),
                         .text_field = arguments.get("text-field", "text"),
                         .overwrite = overwrite});
  }
  const std::unique_ptr<Tokenizer> tokenizer = make_tokenizer(tokenizer_name);
  PrepareOptions options{.text = {.inputs = std::move(inputs),
                                  .text_field = arguments.get("text-field", "text"),
                                  .document_separator = arguments.get("separator")},
                         .output = arguments.get("output"),
                         .num_threads = int(arguments.integer("threads", available_cores(), 1, 1024)),
                         .overwrite = overwrite};
  if (arguments.has("holdout-documents") && arguments.has("holdout-tails")) {
    fail_usage("--holdout-documents and --holdout-tails exclude each other; give one.");
  }
  for (const auto& [name, kind] :
       {std::pair{"holdout-documents", Holdout::kDocuments}, std::pair{"holdout-tails", Holdout::kTails}}) {
    if (!arguments.has(name)) continue;
    options.holdout = kind;
    options.holdout_fraction = arguments.number(name, 0, 1e-9, 0.999);
  }
  const PrepareResult result = prepare_dataset(options, *tokenizer);
  const auto describe = [](const PreparedDataset& part) {
    std::cout << fmt::format("{}: {} documents, {} tokens\n", part.prefix, part.num_documents,
                             part.num_tokens);
  };
  describe(result.train);
  if (result.valid) describe(*result.valid);
  if (result.num_empty_documents > 0)
    std::cout << fmt::format("{} empty documents left out\n", result.num_empty_documents);
}

// The text of a document's first ids, without a character of which they hold a part.
std::string whole_characters(const Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
  IncrementalDecoder decoder(tokenizer);
  std::string text;
  for (const int32_t id : ids) text += decoder.push(id);
  return text;
}

void inspect(const Arguments& arguments, const std::string& prefix) {
  const IndexedDataset dataset(prefix);
  std::cout << fmt::format(
      "dataset          {}\ndocuments        {}\ntokens           {}\nbytes a token    {}\n", prefix,
      dataset.num_documents(), dataset.num_tokens(), token_bytes(dataset.dtype()));
  if (dataset.meta()) {
    const std::optional<TokenizerIdentity>& by = dataset.meta()->tokenizer;
    if (by)
      std::cout << fmt::format("prepared with    {} (checksum {:08x}), documents begin with {}\n", by->name,
                               by->crc32c,
                               by->begin_of_document ? "its begin-of-document id" : "the end of the one before");
    if (arguments.has("verify")) {
      dataset.verify(available_cores());
      std::cout << fmt::format("checksums        every block of {0}.bin and {0}.idx has its own\n", prefix);
    } else {
      std::cout << "checksums        of the index compared; --verify reads the tokens too\n";
    }
  } else if (arguments.has("verify")) {
    fail_user("{} cannot be verified: {} does not exist; prepare the dataset again for a table of checksums",
              prefix, meta_path(prefix));
  } else {
    std::cout << fmt::format("checksums        none: without {} the dataset is unverified\n", meta_path(prefix));
  }
  std::cout << fmt::format("unigram entropy  {:.4f} nats a token\n", unigram_entropy(dataset));
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
  return {
      .command =
          "spanwise data prepare --output PREFIX [options] FILE…\n       spanwise data inspect PREFIX "
          "[--tokenizer T] [--verify]",
      .description =
          "prepare: .txt and .jsonl files to an indexed dataset (PREFIX.bin, PREFIX.idx, with their "
          "checksums in PREFIX.meta.json), the same for any "
          "number of threads; with a holdout, PREFIX_train and PREFIX_valid.\n"
          "inspect: sizes, unigram entropy, and with a tokenizer the first documents.",
      .options = {{"output", "PREFIX", "dataset to write, without .bin and .idx"},
                  {"tokenizer", "bytes|FILE", "'bytes' (default) or a SentencePiece .model"},
                  {"train-tokenizer", "VOCAB", "first train --tokenizer FILE.model on the input"},
                  {"text-field", "NAME", "field of .jsonl records; default text"},
                  {"separator", "LINE",
                   "a line that separates documents in .txt files; default: a file is one"},
                  {"holdout-documents", "X", "hold out this fraction of the documents"},
                  {"holdout-tails", "X", "hold out the last fraction of each document"},
                  {"threads", "N", "default: all cores"},
                  {"overwrite", nullptr, "replace what exists"},
                  {"verify", nullptr, "inspect: compare every block with its checksum"},
                  {"help", nullptr, "this text"}},
      .min_positional = 1,
      .max_positional = size_t{1} << 20,
      .actions = {{"prepare", "at least one .txt or .jsonl file", 1, size_t{1} << 20},
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
