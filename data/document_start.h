#pragma once
// Where a document begins in the stream of tokens: at which token state, convolution, attention and positions
// start, and whether its first token of text is predicted. A run has one rule, which its checkpoints name.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "data/indexed_dataset.h"
#include "data/tokenizer.h"

namespace spanwise {

enum class DocumentStart {
  /// At the document's first token, which no loss asks for. Of runs older than the other two.
  kFirstToken,
  /// At the end-of-document id of the document before, whose label is the document's first token. Where
  /// another token stands before a document (data of another program), as kFirstToken.
  kEndOfDocument,
  /// At the tokenizer's begin-of-document id, which the data holds as each document's first token. Its own
  /// label is the first token of text; no loss asks for the id itself.
  kBeginOfDocument,
};

/// A rule with what it needs to know of the tokenizer.
struct DocumentRule {
  DocumentStart start = DocumentStart::kFirstToken;
  int32_t end_of_document = -1;  ///< for kEndOfDocument
};

/// The rule of a new run on these datasets, to train on and held out: kBeginOfDocument if the tokenizer has
/// such an id and the data begins with it, else kEndOfDocument. UserError if some of the datasets begin with
/// it and others do not.
DocumentStart choose_document_start(const Tokenizer& tokenizer,
                                    const std::vector<const IndexedDataset*>& datasets);

/// What is wrong with a dataset that is read under a run's rule, whose losses could not be compared with the
/// run's; empty if nothing. kFirstToken fits any.
std::string document_start_problem(DocumentStart start, const Tokenizer& tokenizer,
                                   const IndexedDataset& dataset);

DocumentRule document_rule(DocumentStart start, const Tokenizer& tokenizer);

/// The token that a generated document begins with; none under kFirstToken.
std::optional<int32_t> start_token(DocumentStart start, const Tokenizer& tokenizer);

}  // namespace spanwise
