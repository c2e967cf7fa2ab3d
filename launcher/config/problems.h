#pragma once
// Sentences about what is wrong with a config, and the ranges that many fields share.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/check.h"

namespace spanwise {

/// Limit of every count, so that products of two fit 64 bits; larger ones are sizes.cpp's.
constexpr int64_t kMostOfAnything = 1'000'000'000;

class Problems {
 public:
  template <class... Args>
  void add(fmt::format_string<Args...> format, Args&&... args) {
    sentences_.push_back(fmt::format(format, std::forward<Args>(args)...));
  }
  void add_all(std::vector<std::string> sentences) {
    for (std::string& sentence : sentences) sentences_.push_back(std::move(sentence));
  }

  /// Each says what is wrong with the value of the field at `path`, and returns whether nothing is.
  /// Comparisons are written so that NaN is refused, too.
  bool at_least(int64_t low, std::string_view path, int64_t value, int64_t most = kMostOfAnything);
  bool positive(std::string_view path, double value);
  bool not_negative(std::string_view path, double value);
  /// A positive number up to kMostOfAnything.
  bool factor(std::string_view path, double value);
  bool fraction(std::string_view path, double value, bool with_one);
  /// `count` over the `ranks` of an axis; `shared`: several ranks may hold the same one.
  bool divides(std::string_view path, int64_t count, std::string_view axis, int64_t ranks, bool shared);

  size_t size() const { return sentences_.size(); }
  bool empty() const { return sentences_.empty(); }
  std::vector<std::string> take() { return std::move(sentences_); }

 private:
  std::vector<std::string> sentences_;
};

/// The largest divisor of `n` that is at most `limit`.
int64_t largest_divisor(int64_t n, int64_t limit);

}  // namespace spanwise
