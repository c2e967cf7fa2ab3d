#pragma once
// A run's configuration: configs/run_config.proto as textproto, with command-line overrides.
//
//   RunConfig config = load_config("configs/quickstart.textproto", {"train.steps=20", "run.dir=runs/mine"});
//   validate(config, world_size);
//
// Overrides, the text after `--set`:
//   train.steps=20                        any single field by its path
//   train.sample_prompt=Once upon a time  text needs no quotes; quoted text takes textproto's escapes
//   model.attention={num_heads: 8}        a group: these fields are set, its others stay
//   data.train={path: "x" weight: 2}      a list: the first use drops the file's entries, each use adds one
//   optimizer.decay_steps=                back to the default (an empty text for a text field, no entry for a
//   list)
//
// Every error is a UserError that holds all problems found, one line each.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "configs/run_config.pb.h"

namespace spanwise {

using config::RunConfig;

/// The config of a file, overrides applied in order. Errors: unreadable file; unknown fields and values, as
/// "configs/x.textproto:12:3: model has no field 'num_layer'; did you mean 'num_layers'?".
RunConfig load_config(const std::string& path, const std::vector<std::string>& overrides = {});

/// The same for a config already in memory; `name` stands for the file in errors.
RunConfig parse_config(const std::string& text, const std::string& name,
                       const std::vector<std::string>& overrides = {});

/// What a config is asked for. kPlan: nothing is computed here, so that this build need not have the device.
/// kInference: nothing is trained, so that settings of training alone are not looked at.
enum class ConfigUse { kRun, kPlan, kInference };

/// Every contradiction in a config: ranges, fields against each other, against `world_size` ranks and, where
/// it is known, against the tokenizer's vocabulary. Each sentence names the field and the way out. Empty if
/// it can run.
std::vector<std::string> config_problems(const RunConfig& config, int world_size,
                                         std::optional<int64_t> tokenizer_vocab_size = std::nullopt,
                                         ConfigUse use = ConfigUse::kRun);

/// What the GPU's kernels do not take of a config's sizes (core/ops/gpu_limits.h): of those problems, where
/// the config computes on a GPU and its model and layout have no others.
std::vector<std::string> gpu_problems(const RunConfig& config);

/// Throws UserError with all of config_problems.
void validate(const RunConfig& config, int world_size,
              std::optional<int64_t> tokenizer_vocab_size = std::nullopt, ConfigUse use = ConfigUse::kRun);

struct UnusedField {
  std::string path;    // "model.linear.state_size", or a whole group, "model.linear"
  std::string reason;  // "only MAMBA2 takes it and model.linear_mixer is DELTA_NET"
};
/// Fields that other fields' values leave without any effect, set or not. validate refuses them where they
/// are set.
std::vector<UnusedField> unused_fields(const RunConfig& config);

/// The config as textproto with every default written out, except fields without effect. Loading it gives a
/// config that means and prints the same.
std::string print_config(const RunConfig& config);

/// Fields with type, default and documentation from the schema, for a terminal of 100 columns. `path` narrows
/// it to one group or field ("train", "train.steps"); UserError if there is none of that name.
std::string config_help(std::string_view path = "");

}  // namespace spanwise
