// What `spanwise generate` writes, byte for byte, where the model knows its text by heart.

#include "core/file_io.h"
#include "tests/launcher/program/tiny_run.h"

namespace spanwise::testing {
namespace {

class GenerateTextTest : public TinyRunTest {};

TEST_F(GenerateTextTest, CharactersThatSpanTokensComeOutWhole) {
  const std::string sentence = "£10,000 for the café—“naïve,” she said.\n";
  std::string text;
  for (int i = 0; i < 200; ++i) text += sentence;
  write_file(path("heart.txt"), text);
  const std::string tokenizer = SPANWISE_SOURCE_DIR "/configs/quickstart/tokenizer.model";
  ASSERT_EQ(
      spanwise({"data", "prepare", "--output", "heart", "--tokenizer", tokenizer, "heart.txt"}).exit_code, 0);
  train("heart_run", {"data.train={path: \"heart\"}",
                      "data.validation=", "data.tokenizer={kind: SENTENCEPIECE model: \"" + tokenizer + "\"}",
                      "train.steps=50", "train.precision=F32", "optimizer.schedule_steps=50",
                      "optimizer.learning_rate=2e-2", "model.num_layers=4"});
  const ProgramResult result = spanwise(
      {"generate", "heart_run", "--prompt", "£10,000", "--temperature", "0", "--tokens", "80"}, {}, 0);
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(result.output.substr(0, sentence.size()), sentence) << result.output;
}

}  // namespace
}  // namespace spanwise::testing
