#pragma once
// What the ranks of a job must have in common, compared before they work together. Every rank states it as
// facts; rank 0's are told to all, and where a rank has others, every rank throws the same UserError:
//
//   Rank 1 has optimizer.learning_rate 0.1 where rank 0 has 0.0003; start all ranks with the same config.
//
// Compared are
//   the call      verb, whether help is asked for, and what a verb adds (agree_on_call, agree_on_run)
//   the build     commit, compiler and instruction set: replicas round alike only in the same code
//   the config    field by field, an unset field as its default. Free are run.dir (rank 0's is written to),
//                 train.threads, and where tokenizer and datasets lie, whose contents are compared instead
//   the tokenizer its contents
//   the data      name (it keys the sample order), number of tokens, fingerprint and, where every
//                 rank's copies have them, checksums of every dataset
// A checkpoint is read by rank 0 for all.
//
// OpenBLAS may have chosen other kernels on another processor: no product is computed by two ranks that must
// get the same bits of it, so a job may mix processors; rank 0 says so, as another mixture gives other last
// digits.

#include <optional>
#include <string>
#include <vector>

#include "data/loader.h"
#include "launcher/config/config.h"
#include "parallel/comm.h"

namespace spanwise {

struct Fact {
  std::string field;   ///< "optimizer.learning_rate", "the verb"
  std::string value;   ///< compared and shown
  std::string remedy;  ///< "start all ranks with the same config"
  std::string place;   ///< shown behind the value, not compared: a path
};

/// Collective over `world`, called `name` there. UserError on all ranks if one has other facts than rank 0:
/// the first one of the lowest such rank.
void require_agreement(Comm& world, std::string_view name, const std::vector<Fact>& mine);

/// Every field of a config that ranks must share, in the schema's order; of a list first the number of its
/// entries.
std::vector<Fact> config_facts(const RunConfig& config);

/// Compiler, instruction set and GPU support of this program.
std::string build_flavour();

/// The verb, and whether a rank only prints a help text and ends. The first collective of the program.
void agree_on_call(Comm& world, const std::vector<std::string>& args);

/// Build, config, tokenizer, and what is the verb's own. Before anything that depends on them; the config is
/// free of config_problems. Rank 0 warns of different processors.
void agree_on_run(Comm& world, const RunConfig& config, std::vector<Fact> verb_facts = {});

/// What the datasets hold, where this rank has opened them. Returns a line that names those that are compared
/// by their fingerprints alone; empty if there are none.
std::string agree_on_data(Comm& world, const Loader& train,
                          const std::optional<SequentialLoader>& validation);
std::string agree_on_data(Comm& world, const SequentialLoader& validation);

/// The fact of an option that is given as a text.
Fact option_fact(const std::string& option, const std::string& value);

}  // namespace spanwise
