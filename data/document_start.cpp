#include "data/document_start.h"

#include "core/check.h"

namespace spanwise {
namespace {

// As its table of checksums says; without one, its first token.
bool begins_with(const IndexedDataset& dataset, int32_t token) {
  if (dataset.meta() && dataset.meta()->tokenizer)
    return dataset.meta()->tokenizer->begin_of_document == token;
  if (dataset.num_tokens() == 0) return false;
  int32_t first = -1;
  dataset.read(0, 1, &first);
  return first == token;
}

}  // namespace

DocumentStart choose_document_start(const Tokenizer& tokenizer,
                                    const std::vector<const IndexedDataset*>& datasets) {
  const std::optional<int32_t> begin = tokenizer.begin_of_document();
  if (!begin || datasets.empty()) return DocumentStart::kEndOfDocument;
  const bool has_begin = begins_with(*datasets[0], *begin);
  for (const IndexedDataset* dataset : datasets) {
    if (begins_with(*dataset, *begin) == has_begin) continue;
    const IndexedDataset& with = has_begin ? *datasets[0] : *dataset;
    const IndexedDataset& without = has_begin ? *dataset : *datasets[0];
    fail_user(
        "the documents of {} begin with token {}, the tokenizer's begin of a document, those of {} do not; "
        "prepare both with this tokenizer",
        with.prefix(), *begin, without.prefix());
  }
  return has_begin ? DocumentStart::kBeginOfDocument : DocumentStart::kEndOfDocument;
}

std::string document_start_problem(DocumentStart start, const Tokenizer& tokenizer,
                                   const IndexedDataset& dataset) {
  const std::optional<int32_t> begin = tokenizer.begin_of_document();
  if (!begin || start == DocumentStart::kFirstToken || dataset.num_tokens() == 0) return "";
  const bool expected = start == DocumentStart::kBeginOfDocument;
  if (begins_with(dataset, *begin) == expected) return "";
  return fmt::format(
      "the documents of {} {} with token {}, the tokenizer's begin of a document, those that the run was "
      "trained on {}; prepare it as those were",
      dataset.prefix(), expected ? "do not begin" : "begin", *begin, expected ? "do" : "do not");
}

DocumentRule document_rule(DocumentStart start, const Tokenizer& tokenizer) {
  return {.start = start, .end_of_document = tokenizer.end_of_document()};
}

std::optional<int32_t> start_token(DocumentStart start, const Tokenizer& tokenizer) {
  switch (start) {
    case DocumentStart::kFirstToken:
      return std::nullopt;
    case DocumentStart::kEndOfDocument:
      return tokenizer.end_of_document();
    case DocumentStart::kBeginOfDocument:
      if (!tokenizer.begin_of_document())
        fail_user(
            "the documents of this run begin with a token that the tokenizer {} does not have; name the "
            "tokenizer that the run was trained with",
            tokenizer.name());
      return tokenizer.begin_of_document();
  }
  SPANWISE_FAIL("document start {} is not in the table", int(start));
}

}  // namespace spanwise
