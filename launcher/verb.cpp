#include "launcher/verb.h"

#include "launcher/words.h"

namespace spanwise {

namespace {

constexpr Verb kVerbs[] = {
    {"train", "train a model from a config", train_usage, run_train},
    {"plan", "memory, traffic and work of a step on any number of ranks, by a dry run", plan_usage,
     run_plan},
    {"eval", "held-out perplexity of a trained model", eval_usage, run_eval},
    {"generate", "continue a prompt", generate_usage, run_generate},
    {"data", "prepare or inspect datasets", data_usage, run_data},
    {"checkpoint", "inspect and verify a checkpoint", checkpoint_usage, run_checkpoint},
    {"config", "print a resolved config, explain its fields, or upgrade an old one", config_usage,
     run_config},
    {"help", "explain a verb", help_usage, run_help},
    {"completion", "print a script that completes verbs, options and config fields in a shell",
     completion_usage, run_completion},
    {"man", "print the manual page", man_usage, run_man},
};

}  // namespace

std::span<const Verb> verbs() {
  return kVerbs;
}

const Verb& find_verb(const std::string& name) {
  std::vector<std::string> names;
  for (const Verb& verb : kVerbs) {
    if (name == verb.name) return verb;
    names.push_back(verb.name);
  }
  const std::string near = nearest_word(name, names);
  fail_usage("There is no verb '{}'; {}", name,
             near.empty() ? fmt::format("there are {}.", fmt::join(names, ", "))
                          : fmt::format("did you mean '{}'?", near));
}

}  // namespace spanwise
