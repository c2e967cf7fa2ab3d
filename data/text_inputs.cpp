#include "data/text_inputs.h"

#include <glob.h>

#include <algorithm>
#include <filesystem>
#include <optional>

#include "core/check.h"
#include "core/file_io.h"
#include "data/byte_source.h"

namespace spanwise {
namespace {

namespace fs = std::filesystem;

constexpr const char* kKinds = ".txt, .md or .jsonl (each also as .gz or .zst)";

std::optional<TextFormat> format_of(fs::path path) {
  if (path.extension() == ".gz" || path.extension() == ".zst") path = path.stem();
  if (path.extension() == ".txt" || path.extension() == ".md") return TextFormat::kText;
  if (path.extension() == ".jsonl") return TextFormat::kJsonLines;
  return std::nullopt;
}

TextInput checked_file(const std::string& path, TextFormat format) {
  try {
    return {.path = path, .format = format, .bytes = int64_t(File(path, FileMode::kRead).size())};
  } catch (const UserError& error) {
    std::error_code ignored;
    const fs::file_type type = fs::status(path, ignored).type();
    const bool is_stream = type == fs::file_type::fifo || type == fs::file_type::character;
    fail_user("input: {}{}", error.what(),
              is_stream ? "; a stream comes through standard input, named -" : "");
  }
}

void add_folder(const std::string& folder, TextInputs& inputs) {
  std::vector<std::string> paths;
  std::error_code error;
  fs::recursive_directory_iterator entry(folder, error), end;
  for (; !error && entry != end; entry.increment(error))
    if (!entry->is_directory(error)) paths.push_back(entry->path().string());
  if (error) fail_user("cannot read the input folder {}: {}", folder, error.message());
  std::sort(paths.begin(), paths.end());
  const size_t before = inputs.files.size();
  for (const std::string& path : paths) {
    const std::optional<TextFormat> format = format_of(path);
    if (format) {
      inputs.files.push_back(checked_file(path, *format));
    } else {
      ++inputs.num_ignored;
    }
  }
  if (inputs.files.size() == before)
    fail_user("the input folder {} has no {} file in it; name another", folder, kKinds);
}

void add(const std::string& name, TextInputs& inputs);

void add_matches(const std::string& pattern, TextInputs& inputs) {
  glob_t found{};
  const int code = glob(pattern.c_str(), 0, nullptr, &found);
  std::vector<std::string> paths(found.gl_pathv, found.gl_pathv + (code == 0 ? found.gl_pathc : 0));
  globfree(&found);
  if (paths.empty()) fail_user("no input file matches {}; correct the pattern", pattern);
  for (const std::string& path : paths) add(path, inputs);
}

void add(const std::string& name, TextInputs& inputs) {
  std::error_code error;
  const fs::file_status status = fs::status(name, error);
  if (fs::is_directory(status)) return add_folder(name, inputs);
  if (!fs::exists(status) && name.find_first_of("*?[") != name.npos) return add_matches(name, inputs);
  const std::optional<TextFormat> format = format_of(name);
  if (!format) fail_user("{} is no {} file; convert it or rename it", name, kKinds);
  inputs.files.push_back(checked_file(name, *format));
}

}  // namespace

TextInputs find_text(const std::vector<std::string>& names, TextFormat standard_input) {
  if (names.empty()) fail_user("no input file is given; name at least one {} file or folder", kKinds);
  if (std::count(names.begin(), names.end(), kStandardInput) > 1)
    fail_user("standard input, -, is named twice and can be read once; name it once");
  TextInputs inputs;
  for (const std::string& name : names) {
    if (name == kStandardInput) {
      inputs.files.push_back({.path = name, .format = standard_input});
    } else {
      add(name, inputs);
    }
  }
  return inputs;
}

}  // namespace spanwise
