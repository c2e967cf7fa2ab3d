#pragma once
// The settings that give a checkpoint's weights their meaning: tensors of equal shapes are another model
// under another feature map, number of heads, window or norm_eps. Manifests hold them as pairs of path and
// value, so that fields which come, go or are renamed can be mapped; who reads a checkpoint compares them.

#include <cstdint>
#include <string>
#include <vector>

#include "data/tokenizer.h"
#include "launcher/checkpoint/manifest.pb.h"
#include "launcher/config/config.h"

namespace spanwise {

/// A path of the config and its value as in a textproto.
struct Setting {
  std::string path, value;
};

/// All fields of `model` that have an effect, but for those that change speed and rounding or the first
/// weights alone, with what 0 and empty stand for; layers by their letters, or each of a list that is like
/// none before it by its place; the tokenizer by its content; run.init_seed. `tokenizer` is the config's,
/// `vocab_size` the model's.
std::vector<Setting> settings_of(const RunConfig& config, const Tokenizer& tokenizer, int64_t vocab_size);

void put_settings(const std::vector<Setting>& settings, Manifest& manifest);

enum class CheckpointUse {
  kResume,       ///< the run goes on
  kWeightsOnly,  ///< evaluation, generation, a new run: how the weights began does not matter
};

/// Compares with `now` what `manifest` of `directory` says: layer by layer, so that letters are but names. A
/// setting that an older manifest lacks had the schema's default. UserError naming every difference that is
/// not in checkpoint.accept_changed. Returns what is to be said, a line each: the accepted ones, and that a
/// manifest has no settings at all.
std::vector<std::string> compare_settings(const std::string& directory, const Manifest& manifest,
                                          const std::vector<Setting>& now, const RunConfig& config,
                                          CheckpointUse use);

/// Entries of checkpoint.accept_changed that no manifest can hold; a sentence each.
std::vector<std::string> accept_changed_problems(const RunConfig& config);

}  // namespace spanwise
