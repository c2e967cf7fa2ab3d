#include "launcher/program_text.h"

#include <algorithm>
#include <set>
#include <vector>

#include "core/dispatch.h"
#include "core/terminal.h"
#include "launcher/build_info.h"
#include "launcher/config/config.h"
#include "launcher/config/layer_list.h"
#include "launcher/verb.h"
#include "launcher/words.h"
#include "parallel/stop_request.h"

namespace spanwise {

namespace {

struct ExitCode {
  int code;
  const char* meaning;
};
constexpr ExitCode kExitCodes[] = {
    {0, "all is done"},
    {kExitError, "an error, said in one sentence on standard error"},
    {kExitUsage, "the command line is wrong"},
    {kExitStopped,
     "train was asked to end by a signal, and what it had trained is saved; the same command goes on"},
};

constexpr const char* kWhat = "trains linear-attention, softmax and hybrid language models";

// "  left   text", wrapped.
std::string row(const std::string& left, size_t width, std::string_view text, size_t columns) {
  return wrap_words(fmt::format("  {:<{}} ", left, width), text, width + 3, columns);
}

}  // namespace

size_t help_columns() {
  const int columns = terminal_columns();
  return columns > 0 ? size_t(std::clamp(columns, 40, 100)) : 80;
}

std::string version_text() {
  return fmt::format("spanwise {} ({}), for {}\n", SPANWISE_VERSION, git_hash().substr(0, 12),
                     kHasCuda ? "GPUs and the CPU" : "the CPU");
}

std::string program_help(size_t columns) {
  std::string text = wrap_words("", fmt::format("Spanwise {}: {}.", SPANWISE_VERSION, kWhat), 0, columns);
  text += "\nusage: spanwise VERB …\n\n";
  for (const Verb& verb : verbs()) text += row(verb.name, 12, verb.summary, columns);
  text += "\nexit codes:\n";
  for (const ExitCode& exit : kExitCodes) text += row(std::to_string(exit.code), 12, exit.meaning, columns);
  return text + "\n" +
         wrap_words("", "'spanwise help VERB' explains a verb; 'spanwise --version' says what this is.", 0,
                    columns);
}

namespace {

// Text for man(7): a backslash, a dash and a control character at a line's beginning mean themselves.
std::string roff(std::string_view text) {
  std::string escaped;
  for (const char c : text) {
    const bool at_line = escaped.empty() || escaped.back() == '\n';
    if (at_line && (c == '.' || c == '\'')) escaped += "\\&";
    escaped += c == '\\' ? "\\e" : c == '-' ? "\\-" : std::string(1, c);
  }
  return escaped;
}

std::string man_verb(const Verb& verb) {
  const Usage usage = verb.usage();
  std::string text = fmt::format(".SS {}\n{}.\n", roff(verb.name), roff(verb.summary));
  for (size_t begin = 0; begin < usage.command.size();) {
    const size_t end = std::min(usage.command.find('\n', begin), usage.command.size());
    const size_t word = usage.command.find_first_not_of(' ', begin);
    text += fmt::format(".PP\n.B {}\n", roff(usage.command.substr(word, end - word)));
    begin = end + 1;
  }
  text += fmt::format(".PP\n{}\n", roff(usage.description));
  for (const OptionSpec& option : usage.options) {
    text += fmt::format(".TP\n\\fB\\-\\-{}\\fR", roff(option.name));
    if (option.value) text += fmt::format(" \\fI{}\\fR", roff(option.value));
    text += fmt::format("\n{}\n", roff(option.help));
  }
  return text;
}

// Of a choice the fields of what `message` has chosen.
void add_field_paths(const google::protobuf::Message& message, const std::string& path,
                     std::vector<std::string>& paths) {
  const auto& reflection = *message.GetReflection();
  for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
    const auto& field = *message.GetDescriptor()->field(i);
    if (field.real_containing_oneof() && !reflection.HasField(message, &field)) continue;
    paths.push_back(path + field.name());
    if (field.message_type() && !field.is_repeated())
      add_field_paths(reflection.GetMessage(message, &field), path + field.name() + ".", paths);
  }
}

// Every config has the letters L and N.
void add_layer_paths(std::vector<std::string>& paths) {
  for (const char* letter : {"L", "N"}) {
    const std::string path = fmt::format("model.layer.{}", letter);
    paths.push_back(path);
    std::vector<std::string> own;
    add_field_paths(*default_layer(letter), path + ".", own);
    std::erase(own, path + ".letter");
    paths.insert(paths.end(), own.begin(), own.end());
  }
}

}  // namespace

std::string man_page() {
  std::string text = fmt::format(
      ".TH SPANWISE 1 \"\" \"Spanwise {}\"\n.SH NAME\nspanwise \\- {}\n.SH SYNOPSIS\n.B spanwise\n.I "
      "VERB\n…\n"
      ".SH VERBS\n",
      SPANWISE_VERSION, roff(kWhat));
  for (const Verb& verb : verbs()) text += man_verb(verb);
  text += ".SH \"EXIT STATUS\"\n";
  for (const ExitCode& exit : kExitCodes)
    text += fmt::format(".TP\n.B {}\n{}\n", exit.code, roff(exit.meaning));
  text += ".SH FILES\n.TP\n.I CONFIG\nA text file of the fields that\n.B spanwise config help\nexplains.\n";
  text += ".TP\n.I RUN_DIR\nThe directory " + roff("run.dir") +
          " of a training: its config, metrics and checkpoints.\n";
  return text;
}

std::string bash_completion() {
  std::vector<std::string> names, fields;
  std::string cases;
  for (const Verb& verb : verbs()) {
    names.push_back(verb.name);
    const Usage usage = verb.usage();
    std::string options, actions;
    for (const OptionSpec& option : usage.options) options += fmt::format(" --{}", option.name);
    if (verb.usage == help_usage) actions = "$verbs";
    for (const ActionSpec& action : usage.actions) actions += fmt::format(" {}", action.name);
    cases += fmt::format("    {}) options='{}' actions=\"{}\" ;;\n", verb.name, options, actions);
  }
  add_field_paths(RunConfig::default_instance(), "", fields);
  add_layer_paths(fields);
  std::string text =
      "# Completion for spanwise: source <(spanwise completion bash)\n"
      "_spanwise() {{\n"
      "  local word=${{COMP_WORDS[COMP_CWORD]}} options='' actions=''\n"
      "  local verbs='{verbs}'\n"
      "  COMPREPLY=()\n"
      "  case ${{COMP_WORDS[1]}} in\n"
      "{cases}"
      "  esac\n"
      "  if [ \"$COMP_CWORD\" = 1 ]; then\n"
      "    COMPREPLY=($(compgen -W \"$verbs --help --version\" -- \"$word\"))\n"
      "  elif [ \"${{COMP_WORDS[COMP_CWORD - 1]}}\" = --set ]; then\n"
      "    COMPREPLY=($(compgen -S = -W '{fields}' -- \"$word\"))\n"
      "    compopt -o nospace 2>/dev/null\n"
      "  elif [[ $word == -* ]]; then\n"
      "    COMPREPLY=($(compgen -W \"$options\" -- \"$word\"))\n"
      "  elif [ \"$COMP_CWORD\" = 2 ]; then\n"
      "    COMPREPLY=($(compgen -W \"$actions\" -- \"$word\"))\n"
      "  fi\n"
      "}}\n"
      "# Without a match: names of files.\n"
      "complete -o bashdefault -o default -F _spanwise spanwise\n";
  return fmt::format(fmt::runtime(text), fmt::arg("verbs", fmt::format("{}", fmt::join(names, " "))),
                     fmt::arg("cases", cases), fmt::arg("fields", fmt::format("{}", fmt::join(fields, " "))));
}

}  // namespace spanwise
