// The rule of where documents begin goes with a run: from its first checkpoint to generation.

#include "launcher/checkpoint/checkpoint_dir.h"
#include "launcher/checkpoint/manifest_file.h"
#include "launcher/checkpoint/open_checkpoint.h"
#include "tests/launcher/program/tiny_run.h"

namespace spanwise::testing {
namespace {

constexpr const char* kOlder = "this run is older than starts of documents";

class ProgramDocumentStart : public TinyRunTest {
 protected:
  /// The newest checkpoint as a program without the rule would have written it.
  void make_older(const std::string& run) {
    const std::filesystem::path file = checkpoint(run) / kManifestName;
    Manifest manifest = read_manifest(checkpoint(run));
    manifest.clear_document_start();
    write_manifest_file(file, manifest);
  }
};

TEST_F(ProgramDocumentStart, ANewRunAsksForFirstTokensAndAnOlderOneGoesOnWithout) {
  const ProgramResult trained = train("run", {"train.steps=2"});
  EXPECT_EQ(trained.output.find(kOlder), trained.output.npos) << trained.output;
  EXPECT_EQ(read_manifest(checkpoint("run")).document_start(), Manifest::END_OF_DOCUMENT);
  const ProgramResult evaluated = spanwise({"eval", "run"});
  make_older("run");
  // Fewer tokens count in the loss.
  EXPECT_NE(spanwise({"eval", "run"}).output, evaluated.output);

  const ProgramResult resumed = train("run", {"train.steps=3"});
  EXPECT_NE(resumed.output.find(kOlder), resumed.output.npos) << resumed.output;
  EXPECT_EQ(read_manifest(checkpoint("run")).step(), 3);
  EXPECT_EQ(read_manifest(checkpoint("run")).document_start(), Manifest::FIRST_TOKEN);
}

TEST_F(ProgramDocumentStart, APromptBeginsADocument) {
  train("run", {"train.steps=2"});
  const std::vector<std::string> generate{"generate", "run", "--prompt", "the ",
                                          "--tokens", "20",  "--seed",   "5"};
  const std::string behind_start = spanwise(generate).output;
  make_older("run");
  EXPECT_NE(spanwise(generate).output, behind_start);
}

}  // namespace
}  // namespace spanwise::testing
