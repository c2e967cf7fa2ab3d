#pragma once
// Configs of tests, and what is said of them.

#include <sstream>
#include <string>
#include <vector>

#include "core/check.h"
#include "launcher/config/config.h"

namespace spanwise::testing {

using Lines = std::vector<std::string>;

inline constexpr const char* kConfigName = "configs/x.textproto";

/// A config that can run.
inline const std::string kRunnable = R"(run { dir: "runs/x" } data { train { path: "runs/data" } } )";

/// The lines of the UserError that `action` throws; none if it throws none.
template <class Action>
Lines error_lines(Action action) {
  Lines lines;
  try {
    action();
  } catch (const UserError& error) {
    std::istringstream text(error.what());
    for (std::string line; std::getline(text, line);) lines.push_back(line);
  }
  return lines;
}

/// Those of a config's text, named kConfigName, with overrides.
inline Lines parse_errors(const std::string& text, const Lines& overrides = {}) {
  return error_lines([&] { parse_config(text, kConfigName, overrides); });
}

}  // namespace spanwise::testing
