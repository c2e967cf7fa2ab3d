#pragma once
// One `--set path.to.field=value` (config.h), applied to a config.

#include <set>
#include <string>
#include <vector>

#include "launcher/config/config.h"

namespace spanwise {

/// Overrides of one command line, in their order.
class Overrides {
 public:
  explicit Overrides(RunConfig& config) : config_(config) {}

  /// Applies one; returns what is wrong instead, a sentence each.
  std::vector<std::string> apply(const std::string& text);

  /// Once all are applied: those that define a letter which has no place in the model.
  std::vector<std::string> unplaced_layers() const;

 private:
  RunConfig& config_;
  std::set<std::string> replaced_lists_;                     ///< whose entries in the file are gone
  std::vector<std::pair<std::string, std::string>> layers_;  ///< letters that were set, and by which override
};

}  // namespace spanwise
