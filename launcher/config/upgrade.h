#pragma once
// Configs of an older form, in which a model had one linear mixer (configs/run_config_v1.proto): refused by
// all that read configs, rewritten by `spanwise config upgrade`. Checkpoints keep the same settings, by path.

#include <filesystem>
#include <map>
#include <string>

#include "core/check.h"

namespace spanwise {

/// A config, or a run directory's, is of an older form. One sentence that names it and the command.
class OldConfig : public UserError {
 public:
  explicit OldConfig(const std::filesystem::path& place);
};

/// A config's text of an older form in today's: the fields that it sets, and the comments that it begins
/// with. Text that has no field of an older form comes back as it is. UserError, with `name` for the file,
/// for what is wrong in it.
std::string upgraded_config(const std::string& text, const std::string& name);

/// Settings of manifests of formats 1 and 2 (path to value) as format 3 has them.
std::map<std::string, std::string> upgraded_settings(const std::map<std::string, std::string>& settings);

}  // namespace spanwise
