#pragma once
// What several verbs do first: find the config, load a trained model.

#include <memory>
#include <string>

#include "data/document_start.h"
#include "data/tokenizer.h"
#include "launcher/arguments.h"
#include "launcher/config/config.h"
#include "launcher/rank_agreement.h"
#include "models/language_model.h"
#include "parallel/mesh.h"
#include "parallel/param_store.h"

namespace spanwise {

/// The config of `where`, a textproto or a run directory, with the overrides given by --set. A run directory
/// gives its config.textproto, with itself as run.dir and its own copy of the tokenizer: it may have been
/// moved or copied. A checkpoint in a run directory stands for that run.
/// Whether it is one is rank 0's to see. Collective, as the next two.
RunConfig load_run_config(const std::string& where, const Arguments& arguments, Comm& world);

/// Rank 0 prints config_warnings, as load_run_config does.
void say_warnings(const RunConfig& config, Comm& world);

/// --checkpoint, or `where` if that is a checkpoint; empty for the run's newest.
std::string checkpoint_argument(const std::string& where, const Arguments& arguments, Comm& world);

/// UserError if `where` is a checkpoint that the run of `config` would not go on from.
void require_newest(const std::string& where, const RunConfig& config, Comm& world);

/// The config's tokenizer, of which the whole config is checked for `ranks` ranks. UserError for what is
/// wrong with either.
std::unique_ptr<Tokenizer> checked_tokenizer(const RunConfig& config, int ranks,
                                             ConfigUse use = ConfigUse::kRun);

/// The device and threads of a checked config, on which `world` then works. Called by all of its ranks, which
/// first agree on what they run (rank_agreement.h); `verb_facts` are the verb's own.
std::unique_ptr<Context> start_context(const RunConfig& config, Comm& world,
                                       std::vector<Fact> verb_facts = {});

/// A trained model with its tokenizer.
struct TrainedModel {
  std::unique_ptr<Mesh> mesh;
  std::unique_ptr<Context> ctx;
  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<LanguageModel> model;
  std::unique_ptr<ParamStore> params;
  std::string checkpoint;
  DocumentStart document_start;  ///< of the run
};
/// Loads `checkpoint`, or the run's newest one if it is empty: rank 0 looks which that is. UserError if there
/// is none, or it is damaged. `verb_facts` as for start_context.
TrainedModel load_trained_model(const RunConfig& config, const std::string& checkpoint, Comm& world,
                                std::vector<Fact> verb_facts = {});

}  // namespace spanwise
