#include "tests/launcher/program/planned_run.h"

#include <charconv>

#include "core/file_io.h"
#include "data/tokenizer.h"
#include "launcher/config/config.h"

namespace spanwise::testing {

namespace {

std::vector<std::string> lines_of(const std::string& content) {
  std::vector<std::string> lines;
  for (size_t begin = 0, end = 0; (end = content.find('\n', begin)) != content.npos; begin = end + 1)
    lines.push_back(content.substr(begin, end - begin));
  return lines;
}

std::vector<std::string> settings_of(const PlanCase& c) {
  std::vector<std::string> settings = {"train.steps=2", "data.train={path: 'whole'}", "data.validation="};
  settings.insert(settings.end(), c.settings.begin(), c.settings.end());
  return settings;
}

}  // namespace

Fields fields_of(std::string_view line, const std::string& prefix) {
  Fields fields;
  const std::string quoted = "\"" + prefix;
  for (size_t at = 0; (at = line.find(quoted, at)) != line.npos;) {
    const size_t end = line.find("\":", at + 1);
    double value = 0;
    std::from_chars(line.data() + end + 2, line.data() + line.size(), value);
    fields[std::string(line.substr(at + 1, end - at - 1))] = int64_t(value);
    at = end;
  }
  return fields;
}

void PlannedRunTest::SetUp() {
  TinyRunTest::SetUp();
  const ProgramResult result =
      spanwise({"data", "prepare", "--output", "whole", "--threads", "1", "text.txt"});
  ASSERT_EQ(result.exit_code, 0) << result.output;
}

RankPlan PlannedRunTest::plan(const PlanCase& c, int rank) const {
  const RunConfig config = load_config(path("config.textproto").string(), settings_of(c));
  validate(config, c.ranks);
  return plan_rank(config, make_byte_tokenizer()->vocab_size(), c.ranks, rank);
}

void PlannedRunTest::run_case(const PlanCase& c) {
  train(c.name, settings_of(c), c.ranks == 1 ? 0 : c.ranks);
  lines_ = lines_of(read_file(path(c.name) / "metrics.jsonl"));
  ASSERT_EQ(lines_.size(), 2);
}

}  // namespace spanwise::testing
