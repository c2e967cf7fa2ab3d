#pragma once
// What inputs name: files, folders, patterns, standard input.

#include <cstdint>
#include <string>
#include <vector>

namespace spanwise {

enum class TextFormat { kText, kJsonLines };

struct TextInput {
  std::string path;  // or kStandardInput
  TextFormat format = TextFormat::kText;
  int64_t bytes = 0;  // of the file as it lies; 0 for standard input
};

struct TextInputs {
  std::vector<TextInput> files;
  int64_t num_ignored = 0;  // files of other kinds in folders
};

/// `names` in order. .txt and .md are text, .jsonl is JSON lines, each also with .gz or .zst behind; "-" is
/// standard input, of `standard_input`. A folder stands for the files of these kinds in it and in its
/// folders, by path; a name with *, ? or [ that is no file for the files that match, by name. UserError for a
/// name that is none of these, matches nothing, cannot be read, or is a pipe or device.
TextInputs find_text(const std::vector<std::string>& names, TextFormat standard_input);

}  // namespace spanwise
