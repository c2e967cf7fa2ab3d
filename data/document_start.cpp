#include "data/document_start.h"

#include "core/check.h"

namespace spanwise {
namespace {

bool begins_with(const IndexedDataset& dataset, int32_t token) {
  if (dataset.num_tokens() == 0) return false;
  int32_t first = -1;
  dataset.read(0, 1, &first);
  return first == token;
}

}  // namespace

DocumentStart choose_document_start(const Tokenizer& tokenizer, const std::vector<IndexedDataset>& datasets) {
  const std::optional<int32_t> begin = tokenizer.begin_of_document();
  if (!begin || datasets.empty()) return DocumentStart::kEndOfDocument;
  const bool has_begin = begins_with(datasets[0], *begin);
  for (const IndexedDataset& dataset : datasets) {
    if (begins_with(dataset, *begin) == has_begin) continue;
    const IndexedDataset& with = has_begin ? datasets[0] : dataset;
    const IndexedDataset& without = has_begin ? dataset : datasets[0];
    fail_user(
        "the documents of {} begin with token {}, the tokenizer's begin of a document, those of {} do not; "
        "prepare both with this tokenizer",
        with.prefix(), *begin, without.prefix());
  }
  return has_begin ? DocumentStart::kBeginOfDocument : DocumentStart::kEndOfDocument;
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
