#include "launcher/words.h"

#include <algorithm>
#include <cstdlib>
#include <sstream>
#include <utility>

namespace spanwise {

int edit_distance(std::string_view a, std::string_view b) {
  // Three rows of the table d[i][j] = distance of a's first i and b's first j letters.
  std::vector<int> before(b.size() + 1), above(b.size() + 1), row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) above[j] = int(j);
  for (size_t i = 1; i <= a.size(); ++i) {
    row[0] = int(i);
    for (size_t j = 1; j <= b.size(); ++j) {
      row[j] = std::min({above[j] + 1, row[j - 1] + 1, above[j - 1] + (a[i - 1] != b[j - 1])});
      const bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
      if (swapped) row[j] = std::min(row[j], before[j - 2] + 1);
    }
    std::swap(before, above);
    std::swap(above, row);
  }
  return above[b.size()];
}

std::string nearest_word(const std::string& word, const std::vector<std::string>& candidates) {
  constexpr size_t kBeginning = 3;  // of so many letters a longer word can be told
  std::string best;
  int best_distance = std::max<int>(2, word.size() / 3) + 1;
  for (const std::string& candidate : candidates) {
    // So much is to be inserted or removed at least: long words are not compared with short ones.
    const int lengths = std::abs(int(word.size()) - int(candidate.size()));
    if (lengths >= best_distance) continue;
    const int distance = edit_distance(word, candidate);
    if (distance < best_distance && distance < int(candidate.size())) {
      best_distance = distance;
      best = candidate;
    }
  }
  if (!best.empty() || word.size() < kBeginning) return best;
  for (const std::string& candidate : candidates) {
    if (candidate.starts_with(word)) return candidate;
  }
  return "";
}

size_t columns_of(std::string_view text) {
  const auto begins = [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; };
  return size_t(std::count_if(text.begin(), text.end(), begins));
}

std::string wrap_words(const std::string& head, std::string_view text, size_t indent, size_t width) {
  std::string result, line = head;
  std::istringstream paragraphs{std::string(text)};
  for (std::string paragraph; std::getline(paragraphs, paragraph);) {
    std::istringstream words(paragraph);
    bool at_start = true;
    for (std::string word; words >> word; at_start = false) {
      if (!at_start && columns_of(line) + 1 + columns_of(word) > width) {
        result += line + "\n";
        line = std::string(indent, ' ');
        at_start = true;
      }
      line += (at_start ? "" : " ") + word;
    }
    result += line + "\n";
    line = std::string(indent, ' ');
  }
  return result;
}

std::string shell_word(const std::string& text) {
  const auto plain = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) ||
           std::string_view("_-./=,:+@%").find(c) != std::string_view::npos;
  };
  if (!text.empty() && std::all_of(text.begin(), text.end(), plain)) return text;
  std::string quoted = "'";
  for (const char c : text) quoted += c == '\'' ? "'\\''" : std::string(1, c);
  return quoted + "'";
}

}  // namespace spanwise
