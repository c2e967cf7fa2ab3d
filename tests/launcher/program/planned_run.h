#pragma once
// Runs and plans of the same config, side by side.

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "launcher/plan.h"
#include "tests/launcher/program/tiny_run.h"

namespace spanwise::testing {

using Fields = std::map<std::string, int64_t>;

/// The numbers of one line of metrics.jsonl whose name begins with `prefix`.
Fields fields_of(std::string_view line, const std::string& prefix);

struct PlanCase {
  std::string name;
  int ranks;
  std::vector<std::string> settings;
};

class PlannedRunTest : public TinyRunTest {
 protected:
  /// One document of training data, as the rows that plan() takes.
  void SetUp() override;

  RankPlan plan(const PlanCase& c, int rank) const;
  /// Trains two steps, whose metrics are the lines.
  void run_case(const PlanCase& c);
  const std::vector<std::string>& lines() const { return lines_; }

 private:
  std::vector<std::string> lines_;
};

}  // namespace spanwise::testing
