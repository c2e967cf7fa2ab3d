#include "launcher/arguments.h"

#include <gtest/gtest.h>

#include "launcher/program_text.h"
#include "launcher/verb.h"
#include "launcher/words.h"
#include "tests/testing/user_error.h"

namespace spanwise {
namespace {

std::string message_of(const std::string& verb, const std::vector<std::string>& words) {
  return user_error_of([&] { Arguments(find_verb(verb).usage(), words); });
}

TEST(CommandLine, ASlipNamesWhatWasMeant) {
  const auto contains = [](const std::string& text, const std::string& part) {
    EXPECT_NE(text.find(part), std::string::npos) << text;
  };
  contains(user_error_of([] { find_verb("trian"); }), "There is no verb 'trian'; did you mean 'train'?");
  contains(user_error_of([] { find_verb("xyzzyx"); }), "there are train, plan, eval");
  contains(message_of("eval", {"run", "--sequnces", "3"}),
           "no option '--sequnces'; did you mean '--sequences'?");
  contains(message_of("eval", {"run", "--sequnces=3"}), "did you mean '--sequences'?");
  contains(message_of("eval", {"run", "-x"}), "'spanwise eval' has no option '-x'");
  contains(message_of("generate", {"run", "--t", "3"}), "'--t' may be --tokens or --temperature or --top-p");
  contains(message_of("generate", {"run", "--tokens"}), "A value is missing after '--tokens'");
  contains(message_of("checkpoint", {"inspect", "x", "--tensors=3"}), "--tensors takes no value");
  contains(message_of("data", {"prepair", "x"}), "did you mean 'prepare'?");
  contains(message_of("data", {"inspect"}), "'spanwise data inspect' needs PREFIX");
  contains(message_of("config", {"print", "a", "b"}), "'b' is too much");
  contains(message_of("eval", {"--set", "x=y"}), "An argument is missing");
  contains(message_of("eval", {"a", "b"}), "'b' is one argument too many");
}

TEST(CommandLine, EveryFaultOfItIsAUsageError) {
  EXPECT_THROW(find_verb("trian"), UsageError);
  EXPECT_THROW(Arguments(eval_usage(), {"a", "b"}), UsageError);
  EXPECT_THROW(Arguments(eval_usage(), {"a", "--sequences", "x"}).integer("sequences", 0, 1, 9), UsageError);
}

TEST(CommandLine, HelpNeedsNothingElse) {
  for (const Verb& verb : verbs()) EXPECT_TRUE(Arguments(verb.usage(), {"--help"}).has("help")) << verb.name;
}

TEST(ProgramText, HelpManualAndCompletionNameEveryVerbActionAndOption) {
  const std::string help = program_help(80), manual = man_page(), completion = bash_completion();
  const auto expect = [](const std::string& text, const std::string& part) {
    EXPECT_NE(text.find(part), std::string::npos) << part << " is missing in\n" << text;
  };
  for (const Verb& verb : verbs()) {
    const Usage usage = verb.usage();
    expect(help, fmt::format("\n  {} ", verb.name));
    expect(manual, fmt::format(".SS {}\n", verb.name));
    expect(completion, fmt::format("    {}) ", verb.name));
    const std::string of_verb = completion.substr(completion.find(fmt::format("    {}) ", verb.name)));
    const std::string line = of_verb.substr(0, of_verb.find('\n'));
    for (const OptionSpec& option : usage.options) {
      expect(usage.text(80), fmt::format("\n  --{}", option.name));
      expect(line, fmt::format(" --{}", option.name));
      std::string dashes;
      for (const char c : std::string_view(option.name)) dashes += c == '-' ? "\\-" : std::string(1, c);
      expect(manual, fmt::format("\\-\\-{}\\fR", dashes));
    }
    for (const ActionSpec& action : usage.actions) {
      expect(usage.command, fmt::format("{}", verb.name));
      expect(line, fmt::format(" {}", action.name));
    }
  }
  expect(completion, " optimizer.learning_rate ");
  for (const char* code : {"0", "1", "2", "75"}) {
    expect(help, fmt::format("\n  {:<12} ", code));
    expect(manual, fmt::format(".B {}\n", code));
  }
}

TEST(ProgramText, HelpFitsTheTerminal) {
  for (const size_t columns : {60, 80, 100}) {
    std::string text = program_help(columns);
    for (const Verb& verb : verbs()) {
      const std::string of_verb = verb.usage().text(columns);
      text += of_verb.substr(of_verb.find("\n\n"));  // commands are not wrapped, so that they can be copied
    }
    for (size_t begin = 0, end = 0; (end = text.find('\n', begin)) != text.npos; begin = end + 1) {
      EXPECT_LE(columns_of(text.substr(begin, end - begin)), columns) << text.substr(begin, end - begin);
    }
  }
}

TEST(Words, WrappedTextKeepsEveryWordAndItsIndent) {
  EXPECT_EQ(wrap_words("  --x ", "one two three four", 6, 14), "  --x one two\n      three\n      four\n");
  EXPECT_EQ(wrap_words("", "äöü äöü äöü", 0, 7), "äöü äöü\näöü\n");
  EXPECT_EQ(wrap_words("", "a\nb", 2, 80), "a\n  b\n");
}

TEST(Words, AShellReadsAQuotedWordAsItWas) {
  EXPECT_EQ(shell_word("runs/a-b_1.2"), "runs/a-b_1.2");
  EXPECT_EQ(shell_word(""), "''");
  EXPECT_EQ(shell_word("a b"), "'a b'");
  EXPECT_EQ(shell_word("it's $HOME"), "'it'\\''s $HOME'");
}

}  // namespace
}  // namespace spanwise
