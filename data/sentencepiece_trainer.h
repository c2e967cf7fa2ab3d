#pragma once
// Trains a SentencePiece vocabulary on text files.

#include <cstdint>
#include <string>
#include <vector>

#include "data/indexed_writer.h"
#include "data/text_files.h"

namespace spanwise {

enum class SentencePieceKind { kBpe, kUnigram };

struct SentencePieceOptions {
  TextFileOptions text;    // what it is trained on; not standard input, which cannot be read again
  std::string output;      // the .model file to write
  int64_t vocab_size = 0;  // pieces, the 256 bytes, <unk> and </s> included
  SentencePieceKind kind = SentencePieceKind::kBpe;
  Overwrite overwrite = Overwrite::kRefuse;
};

/// The same inputs give the same model, byte for byte. Text is kept as it is: no Unicode normalisation,
/// spaces and line breaks stay, any byte can be encoded; only U+2581, SentencePiece's own mark for a space,
/// decodes to a space. Holds the counted words of the text in memory (BPE) or all of it several times over
/// (unigram), so give it a sample of a large corpus. UserError for unreadable input, a vocabulary too small
/// or too large for the text, or an output that exists.
void train_sentencepiece(const SentencePieceOptions& options);

}  // namespace spanwise
