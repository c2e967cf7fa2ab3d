#include "launcher/checkpoint/settings.h"
#include "launcher/config/checks.h"
#include "launcher/config/sizes.h"
#include "launcher/runtime.h"

namespace spanwise {

namespace {

void check_unused(const ConfigToCheck& checked, Problems& problems) {
  for (const UnusedField& field : unused_fields(checked.config)) {
    if (!field.is_set || (!checked.trains() && field.path.starts_with("optimizer."))) continue;
    // Of a list --set takes whole entries alone.
    const bool in_list = field.path.find('[') != field.path.npos;
    problems.add("{} has no effect: {}; remove it{}", field.path, field.reason,
                 in_list ? "" : fmt::format(", or add --set {}=", field.path));
  }
}

}  // namespace

std::vector<std::string> config_problems(const RunConfig& config, int world_size,
                                         std::optional<int64_t> tokenizer_vocab_size, ConfigUse use) {
  const ConfigToCheck checked{config, world_size, tokenizer_vocab_size, use};
  Problems problems;
  check_unused(checked, problems);
  check_run(checked, problems);
  check_train(checked, problems);
  const size_t before = problems.size();
  check_layout(checked, problems);
  check_model(config, problems);
  if (problems.empty()) problems.add_all(size_problems(config, world_size, tokenizer_vocab_size));
  if (problems.size() == before && compute_device(config) == Device::kCUDA) check_gpu(config, problems);
  check_data(checked, problems);
  if (checked.trains()) check_optimizer(config, problems);
  if (checked.trains()) check_checkpoint(config, problems);
  problems.add_all(accept_changed_problems(config));
  return problems.take();
}

void validate(const RunConfig& config, int world_size, std::optional<int64_t> tokenizer_vocab_size,
              ConfigUse use) {
  const std::vector<std::string> problems = config_problems(config, world_size, tokenizer_vocab_size, use);
  if (problems.empty()) return;
  std::string text;
  for (const std::string& problem : problems) text += (text.empty() ? "" : "\n") + problem;
  throw UserError(text);
}

}  // namespace spanwise
