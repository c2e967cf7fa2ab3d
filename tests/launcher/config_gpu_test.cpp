#include <gtest/gtest.h>

#include "core/ops/gpu_limits.h"
#include "launcher/config/config.h"

namespace spanwise {
namespace {

using Lines = std::vector<std::string>;

/// Problems of a run planned for GPUs, which every build and machine can check.
Lines planned_problems(std::vector<std::string> overrides, int ranks = 1) {
  overrides.push_back("device=CUDA");
  const RunConfig config =
      parse_config(R"(run { dir: "runs/x" } data { train { path: "runs/data" } })", "x", overrides);
  return config_problems(config, ranks, std::nullopt, ConfigUse::kPlan);
}

TEST(ConfigOnGpus, SizesThatNoKernelTakesAreRefusedBeforeAnyWork) {
  struct Case {
    Lines overrides;
    std::string message;
  };
  const std::string heads = "; set head_dim or num_heads, or device: CPU",
                    linear =
                        "; set head_dim or num_heads for the keys, expand_v for the values, or device: CPU";
  const std::vector<Case> cases = {
      {{"model.layer_pattern=N", "model.layer.N.attention.head_dim=512"},
       "model.layer.N.attention has 512 channels per head and on a GPU it takes up to 256 in F32" + heads},
      {{"model.layer_pattern=N", "model.layer.N.attention.head_dim=96", "train.precision=BF16"},
       "model.layer.N.attention has 96 channels per head and on a GPU it takes 64, 128 or 256 in BF16" +
           heads},
      {{"model.layer_pattern=L", "model.layer.L.gated_delta_net.head_dim=512"},
       "model.layer.L.gated_delta_net has 512 channels per head and on a GPU it takes up to 256 for keys and "
       "4096 for values in F32" +
           linear},
      {{"model.layer_pattern=L", "model.layer.L.gated_delta_net.expand_v=0.75", "train.precision=BF16"},
       "model.layer.L.gated_delta_net has 64 key and 48 value channels per head and on a GPU it takes 64, "
       "128 "
       "or 256 in BF16" +
           linear},
      {{"model.layer_pattern=L", "model.layer.L={retention {head_dim: 2048}}"},
       "model.layer.L.retention has 2048 channels per head and on a GPU it takes up to 1024 in F32" + linear},
      {{"model.layer_pattern=L", "model.layer.L={mamba2 {state_size: 96}}", "train.precision=BF16"},
       "model.layer.L.mamba2 has 96 key and 128 value channels per head and on a GPU it takes 64, 128 or 256 "
       "in BF16; set state_size for the keys, num_heads or expand for the values, or device: CPU"},
      {{"model.layer_pattern=L", "model.chunk_size=128", "train.precision=BF16"},
       "model.chunk_size is 128 and the delta rule on a GPU takes up to 64 in BF16; set model.chunk_size: "
       "64"},
      {{"model.layer_pattern=N", "model.hidden_size=16384", "model.layer.N.attention.head_dim=64"},
       "model.hidden_size is 16384 and a GPU's norms take rows of up to 8192 elements in F32; lower it or "
       "set "
       "device: CPU"},
      {{"model.layer_pattern=N", "model.hidden_size=4098", "model.layer.N.attention.head_dim=64"},
       "model.hidden_size is 4098 and a GPU's norms take rows of up to 8192 elements in F32, of up to 4096 "
       "where they are no multiple of 16 bytes; lower it or set device: CPU"},
      {{"model.layer_pattern=L", "model.layer.L={lightning {num_heads: 128 head_dim: 128}}"},
       "the width of model.layer.L.lightning's values over all heads (a tensor rank) is 16384 and a GPU's "
       "norms take "
       "rows of up to 8192 elements in F32; lower it or set device: CPU"},
      {{"model.layer_pattern=N", "train.micro_batch=65536", "train.global_batch=65536"},
       "train.micro_batch 65536 makes 65536 rows and softmax attention on a GPU takes 65535; lower it"},
      {{"model.layer_pattern=L", "model.layer.L.gated_delta_net.num_heads=70000",
        "model.layer.L.gated_delta_net.head_dim=64"},
       "model.layer.L.gated_delta_net.num_heads is 70000; a GPU's kernels take at most 65535"},
      {{"train.micro_batch=2", "train.global_batch=2", "train.sequence_length=536870912"},
       "train.micro_batch 2 x train.sequence_length 536870912 is more than the 1073741823 tokens a rank that "
       "kernels can count; lower either or raise parallel.sequence"},
  };
  for (const Case& c : cases) EXPECT_EQ(planned_problems(c.overrides), Lines{c.message});
}

TEST(ConfigOnGpus, SizesThatKernelsTakePass) {
  for (const char* dim : {"64", "128", "256"}) {
    const std::string width = dim;
    EXPECT_EQ(planned_problems({"model.layer.N.attention.head_dim=" + width,
                                "model.layer.L.gated_delta_net.head_dim=" + width, "train.precision=BF16"}),
              Lines{});
  }
  EXPECT_EQ(
      planned_problems({"model.layer.N.attention.head_dim=50", "model.layer.L.gated_delta_net.head_dim=50"}),
      Lines{});
  EXPECT_EQ(
      planned_problems({"model.layer_pattern=L", "model.layer.L={lightning {num_heads: 128 head_dim: 128}}",
                        "parallel.tensor=2"},
                       2),
      Lines{});
  EXPECT_EQ(planned_problems({"model.hidden_size=16384", "train.precision=BF16",
                              "model.layer.N.attention.num_heads=128",
                              "model.layer.L.gated_delta_net.num_heads=128"}),
            Lines{});
}

TEST(ConfigOnGpus, OnACpuTheSameSizesRun) {
  const RunConfig config =
      parse_config(R"(run { dir: "runs/x" } data { train { path: "runs/data" } })", "x",
                   {"device=CPU", "model.layer.N.attention.head_dim=512", "model.chunk_size=128"});
  EXPECT_EQ(config_problems(config, 1), Lines{});
}

}  // namespace
}  // namespace spanwise
