// spanwise help [VERB]   spanwise completion SHELL   spanwise man

#include <iostream>

#include "launcher/program_text.h"
#include "launcher/verb.h"

namespace spanwise {

namespace {

void print_once(const Comm& world, const std::string& text) {
  if (world.rank() == 0) std::cout << text << std::flush;
}

}  // namespace

Usage help_usage() {
  return {.command = "spanwise help [VERB]",
          .description = "Explains a verb and its options, as 'spanwise VERB --help' does.",
          .options = {{"help", nullptr, "this text"}},
          .min_positional = 0,
          .max_positional = 1};
}

int run_help(Comm& world, const Arguments& arguments) {
  const auto& words = arguments.positional();
  print_once(world,
             words.empty() ? program_help(help_columns()) : find_verb(words[0]).usage().text(help_columns()));
  return 0;
}

Usage completion_usage() {
  return {.command = "spanwise completion bash|zsh",
          .description =
              "Prints a script for the shell. In ~/.bashrc: source <(spanwise completion bash). In "
              "~/.zshrc, behind compinit: source <(spanwise completion zsh).",
          .options = {{"help", nullptr, "this text"}},
          .min_positional = 1,
          .max_positional = 1,
          .actions = {{"bash", "", 0, 0}, {"zsh", "", 0, 0}}};
}

int run_completion(Comm& world, const Arguments& arguments) {
  const bool zsh = arguments.positional()[0] == "zsh";
  print_once(world, (zsh ? "autoload -U +X bashcompinit && bashcompinit\n" : "") + bash_completion());
  return 0;
}

Usage man_usage() {
  return {.command = "spanwise man",
          .description = "Prints the manual page as man(7) source: spanwise man | man -l -",
          .options = {{"help", nullptr, "this text"}},
          .min_positional = 0,
          .max_positional = 0};
}

int run_man(Comm& world, const Arguments&) {
  print_once(world, man_page());
  return 0;
}

}  // namespace spanwise
