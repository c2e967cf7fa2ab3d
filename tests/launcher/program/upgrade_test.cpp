// A run of before layers were messages, upgraded, ends as one that was never interrupted.

#include "core/file_io.h"
#include "launcher/checkpoint/checkpoint_dir.h"
#include "launcher/checkpoint/manifest_file.h"
#include "tests/launcher/program/tiny_run.h"

namespace spanwise::testing {
namespace {

// The tiny config as it was written then.
constexpr const char* kOldConfig = R"(# Kept by an upgrade.
run { dir: "run" }
train { steps: 8 sequence_length: 32 global_batch: 4 precision: F64 threads: 1 eval_sequences: 8 }
model {
  hidden_size: 32 num_layers: 4 intermediate_size: 48 chunk_size: 8
  linear_mixer: GATED_DELTA_NET
  linear { num_heads: 2 }  # lost by an upgrade
  attention { num_heads: 2 }
}
data { train { path: "train" } validation: "valid" }
optimizer { learning_rate: 5e-3 warmup_steps: 2 schedule_steps: 8 }
)";

class ProgramUpgrade : public TinyRunTest {
 protected:
  /// A run's directory as that program left it: its config, and manifests of format 2.
  void make_old(const std::string& run) {
    write_file(path(run) / "config.textproto", kOldConfig);
    const std::filesystem::path file = checkpoint(run) / kManifestName;
    Manifest manifest = parse_manifest(read_file(file), file);
    manifest.set_format_version(2);
    Manifest old = manifest;
    old.clear_settings();
    for (const auto& setting : manifest.settings()) {
      const std::string& path = setting.path();
      if (path.ends_with(".feed_forward") || path == "model.layer.N.mixer") continue;
      Manifest::Setting& then = *old.add_settings();
      then = setting;
      if (path == "model.layer.L.mixer") {
        then.set_path("model.linear_mixer");
        then.set_value("GATED_DELTA_NET");
      }
      rename(then, "model.layer.L.gated_delta_net.", "model.linear.");
      rename(then, "model.layer.N.attention.", "model.attention.");
    }
    write_manifest_file(file, old);
  }

 private:
  static void rename(Manifest::Setting& setting, std::string_view now, std::string_view then) {
    if (setting.path().starts_with(now))
      setting.set_path(std::string(then) + setting.path().substr(now.size()));
  }
};

TEST_F(ProgramUpgrade, AnOldRunIsRefusedWithTheCommandAndThenGoesOn) {
  train("whole");
  train("cut", {"train.steps=4"});
  make_old("cut");
  for (const char* verb : {"train", "eval", "generate"}) {
    const ProgramResult refused = spanwise({verb, "cut"});
    EXPECT_EQ(refused.exit_code, 1);
    EXPECT_NE(refused.output.find("cut is of an older form: `spanwise config upgrade cut`"),
              std::string::npos)
        << refused.output;
  }
  const ProgramResult upgraded = spanwise({"config", "upgrade", "cut"});
  ASSERT_EQ(upgraded.exit_code, 0) << upgraded.output;
  EXPECT_EQ(read_file(path("cut/config.textproto.before-upgrade-1")), kOldConfig);
  EXPECT_EQ(read_file(path("cut/config.textproto")).find("# Kept by an upgrade."), 0u);
  const ProgramResult on = spanwise({"train", "cut"});
  ASSERT_EQ(on.exit_code, 0) << on.output;
  EXPECT_NE(on.output.find("resumed step 4"), std::string::npos) << on.output;
  for (const char* file : {"model.safetensors", "optimizer.safetensors"})
    EXPECT_TRUE(read_file(checkpoint("cut") / file) == read_file(checkpoint("whole") / file)) << file;
}

TEST_F(ProgramUpgrade, AnOldCheckpointOfAnotherModelIsRefused) {
  train("run", {"train.steps=2"});
  make_old("run");
  ASSERT_EQ(spanwise({"config", "upgrade", "run"}).exit_code, 0);
  const ProgramResult other =
      spanwise({"train", "run"}, {"model.layer.L.gated_delta_net.allow_neg_eigval=true"});
  EXPECT_EQ(other.exit_code, 1);
  EXPECT_NE(other.output.find("model.layer.L.gated_delta_net.allow_neg_eigval"), std::string::npos)
      << other.output;
}

TEST_F(ProgramUpgrade, AnOldConfigIsPrintedInTodaysForm) {
  write_file(path("old.textproto"), kOldConfig);
  const ProgramResult upgraded = spanwise({"config", "upgrade", "old.textproto"});
  ASSERT_EQ(upgraded.exit_code, 0) << upgraded.output;
  EXPECT_NE(upgraded.output.find("gated_delta_net {"), std::string::npos) << upgraded.output;
  EXPECT_EQ(read_file(path("old.textproto")), kOldConfig);
}

}  // namespace
}  // namespace spanwise::testing
