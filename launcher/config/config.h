#pragma once
// A run's configuration: configs/run_config.proto as textproto, with command-line overrides.
//
//   RunConfig config = load_config("configs/quickstart.textproto", {"train.steps=20", "run.dir=runs/mine"});
//   validate(config, world_size);
//
// Overrides, the text after `--set`:
//   train.steps=20                        any single field by its path
//   train.sample_prompt=Once upon a time  text needs no quotes; quoted text takes textproto's escapes
//   parallel={sequence: 2}                a group: these fields are set, its others stay
//   data.train={path: "x" weight: 2}      a list: the first use drops the file's entries, each use adds one
//   optimizer.decay_steps=                back to the default (an empty text, no entry of a list)
//
// Layers are addressed by their letters; L and N begin as their defaults:
//   model.layer.L.gated_delta_net.num_heads=8       the layer must have that mixer
//   model.layer.L={gated_delta_net {num_heads: 8}}  the same; another mixer, or feed-forward, takes its place
//   model.layer.M={mamba2 {} swiglu {}}             a new letter, which model.layer_pattern must have
//   model.layer.L.swiglu=                           without a feed-forward
//   model.layer.L=                                  no definition: L is what it is by default
//
// A config of an older form is refused with one sentence (upgrade.h).
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

/// Throws UserError with all of config_problems.
void validate(const RunConfig& config, int world_size,
              std::optional<int64_t> tokenizer_vocab_size = std::nullopt, ConfigUse use = ConfigUse::kRun);

struct UnusedField {
  std::string path;    // "optimizer.decay_steps"
  std::string reason;  // "optimizer.schedule is COSINE"
  bool is_set;
};
/// Single fields that other fields' values leave without any effect, set or not. validate refuses them where
/// they are set.
std::vector<UnusedField> unused_fields(const RunConfig& config);

/// What a run does not mind and its user may: definitions of letters that are not in model.layer_pattern, a
/// sentence each.
std::vector<std::string> config_warnings(const RunConfig& config);

/// The config as textproto with every default written out, layers included, except fields without effect and
/// letters without a place. Loading it gives a config that means and prints the same.
std::string print_config(const RunConfig& config);

/// Fields with type, default and documentation from the schema, for a terminal of 100 columns. `path` narrows
/// it to one group or field ("train", "train.steps", "model.layer.L.mamba2"); UserError if there is none of
/// that name.
std::string config_help(std::string_view path = "");

}  // namespace spanwise
