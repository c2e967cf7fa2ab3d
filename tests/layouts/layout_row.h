#pragma once
// One row of the layout table: how a small model is spread over ranks, and the tables of rows.

#include <optional>
#include <string>
#include <vector>

#include "launcher/rank_batch.h"

namespace spanwise::testing {

constexpr int kWorldSize = 8;
constexpr int kGlobalRows = 4;  ///< of a step; 1, 2 and 4 data ranks divide it
constexpr int64_t kHeads = 4, kKvHeads = 2, kLinearHeads = 4, kLinearValueHeads = 8;

/// What is trained, layout aside: rows of equal Task share the one-rank run they are compared with.
struct Task {
  enum class Text {
    kPacked,  ///< 29 tokens: documents of one token, on and beside borders, one over all ranks
    kShort,   ///< 9 tokens: some ranks have padding alone, and one row has no labels
  };
  std::string mixer = "gated_delta_net";
  std::string pattern = "L";  ///< repeated over the layers: L is `mixer`, N softmax attention
  DType dtype = DType::kF64;
  Text text = Text::kPacked;
  bool tied = false;
  int64_t window = 0;
  bool wide = false;  ///< heads as wide as GPU kernels take them

  std::string str() const;
};

struct Row {
  Task task;
  MeshShape mesh;
  int zero_stage = 0;
  Partition partition = Partition::kContiguous;
  StateExchange exchange = StateExchange::kAllGather;
  AttentionExchange attention = AttentionExchange::kAllGather;
  bool checkpointing = false;
  bool recompute = false;    ///< mixers and half the MLPs
  bool shard_norms = false;  ///< over the tensor ranks
  int passes = 1;            ///< micro-batches a step

  std::string str() const;
};

/// False where the library refuses the row: heads that its exchange cannot divide.
bool supported(const Row& row);

/// Every feature in some layout, quick enough for every run.
std::vector<Row> cheap_rows();
/// Layouts × ZeRO stages × partitions × exchanges × checkpointing × sharded norms × mixers and a hybrid, in
/// fp64.
std::vector<Row> full_product();
/// `count` different rows of the full product, drawn with a fixed seed.
std::vector<Row> drawn_rows(size_t count);
/// Layouts whose training is compared over many steps.
std::vector<Row> trajectory_rows();

/// Layouts of two GPUs, of wide tasks in F32 and BF16: every mixer, exchange, partition and ZeRO stage.
std::vector<Row> gpu_rows();
/// Those of them whose training is compared over many steps.
std::vector<Row> gpu_trajectory_rows();

}  // namespace spanwise::testing
