#include "core/check.h"
#include "core/file_io.h"
#include "launcher/config/config.h"
#include "launcher/config/override.h"
#include "launcher/config/text.h"
#include "launcher/config/upgrade.h"

namespace spanwise {

RunConfig parse_config(const std::string& text, const std::string& name,
                       const std::vector<std::string>& overrides) {
  RunConfig config;
  std::string problems;
  for (const TextProblem& problem : merge_text(text, "", *RunConfig::descriptor(), config)) {
    if (problem.of_older_form) throw OldConfig(name);
    problems += fmt::format("{}:{}:{}: {}\n", name, problem.line, problem.column, problem.message);
  }
  Overrides all(config);
  for (const std::string& text : overrides) {
    for (const std::string& problem : all.apply(text)) problems += problem + "\n";
  }
  if (problems.empty()) {
    for (const std::string& problem : all.unplaced_layers()) problems += problem + "\n";
  }
  if (problems.empty()) return config;
  problems.pop_back();
  throw UserError(problems);
}

RunConfig load_config(const std::string& path, const std::vector<std::string>& overrides) {
  return parse_config(read_file(path), path, overrides);
}

}  // namespace spanwise
