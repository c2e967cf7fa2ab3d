#pragma once
// Words as people type and read them.

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace spanwise {

/// Insertions, deletions, substitutions and swaps of neighbours that turn one word into the other.
int edit_distance(std::string_view a, std::string_view b);

/// The candidate nearest to `word`, "" if none is near enough to be a slip of the keyboard.
std::string nearest_word(const std::string& word, const std::vector<std::string>& candidates);

/// Columns of UTF-8 text on a terminal, where every character is one wide.
size_t columns_of(std::string_view text);

/// `text` in lines of at most `width` columns, each ended: the first behind `head`, the others indented by
/// `indent`. A line break in the text stays one. Words are never cut.
std::string wrap_words(const std::string& head, std::string_view text, size_t indent, size_t width);

/// `text` as one word of a POSIX shell: quoted unless it needs no quotes.
std::string shell_word(const std::string& text);

}  // namespace spanwise
