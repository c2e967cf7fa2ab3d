#include "tests/layouts/layout_row.h"

#include <algorithm>

#include "core/check.h"
#include "core/rng.h"
#include "tests/testing/small_mixers.h"

namespace spanwise::testing {

namespace {

constexpr Partition kPartitions[] = {Partition::kContiguous, Partition::kZigzag};
constexpr StateExchange kExchanges[] = {StateExchange::kAllGather, StateExchange::kChain,
                                        StateExchange::kHeadSplit, StateExchange::kTwoLevel};
constexpr AttentionExchange kAttentions[] = {AttentionExchange::kAllGather, AttentionExchange::kRing,
                                             AttentionExchange::kUlysses};
constexpr int kNumStages = 4;

const char* name_of(StateExchange exchange) {
  switch (exchange) {
    case StateExchange::kAuto:
      return "auto";
    case StateExchange::kAllGather:
      return "all-gather";
    case StateExchange::kChain:
      return "chain";
    case StateExchange::kHeadSplit:
      return "head-split";
    case StateExchange::kTwoLevel:
      return "two-level";
  }
  SPANWISE_FAIL("exchange {}", int(exchange));
}

const char* name_of(AttentionExchange attention) {
  switch (attention) {
    case AttentionExchange::kAllGather:
      return "all-gather";
    case AttentionExchange::kRing:
      return "ring";
    case AttentionExchange::kUlysses:
      return "ulysses";
  }
  SPANWISE_FAIL("attention exchange {}", int(attention));
}

const std::string_view kAttention = AttentionOptions::kName;

bool has_linear(const Task& task) {
  return task.pattern.find('L') != std::string::npos && task.mixer != kAttention;
}
bool has_softmax(const Task& task) {
  return task.pattern.find('N') != std::string::npos || task.mixer == kAttention;
}

/// Each mixer alone.
std::vector<Task> mixer_tasks() {
  std::vector<Task> tasks;
  for (const std::string& mixer : mixer_names()) tasks.push_back({.mixer = mixer});
  return tasks;
}

const Task kHybrid{.pattern = "LN"};

void add_supported(std::vector<Row>& rows, const Row& row) {
  if (supported(row)) rows.push_back(row);
}

void add_every_mixer(std::vector<Row>& rows) {
  for (const Task& task : mixer_tasks()) {
    rows.push_back({.task = task, .mesh = {1, 2, 1}});
    rows.push_back({.task = task, .mesh = {1, 4, 1}, .partition = Partition::kZigzag});
    rows.push_back({.task = task, .mesh = {1, 1, 2}});
    rows.push_back({.task = task, .mesh = {2, 2, 2}, .zero_stage = 2, .checkpointing = true});
    rows.push_back({.task = task, .mesh = {1, 8, 1}, .zero_stage = 1});
    rows.push_back({.task = task, .mesh = {1, 2, 2}, .zero_stage = 3, .recompute = true});
    Task single = task;
    single.dtype = DType::kF32;
    rows.push_back({.task = single, .mesh = {2, 2, 2}, .zero_stage = 3, .partition = Partition::kZigzag});
  }
}

void add_exchanges(std::vector<Row>& rows) {
  Task delta = kHybrid, decay = kHybrid, window = kHybrid;
  delta.text = Task::Text::kShort;
  decay.mixer = Mamba2Options::kName;
  window.window = 5;
  for (const Partition partition : kPartitions) {
    for (const StateExchange exchange : kExchanges) {
      for (const Task& task : {delta, decay}) {
        add_supported(rows, {.task = task, .mesh = {1, 4, 1}, .partition = partition, .exchange = exchange});
      }
      add_supported(rows, {.task = delta,
                           .mesh = {1, 8, 1},
                           .partition = partition,
                           .exchange = exchange,
                           .checkpointing = true});
    }
    for (const AttentionExchange attention : kAttentions) {
      for (const Task& task : {delta, window}) {
        add_supported(rows, {.task = task,
                             .mesh = {1, 4, 1},
                             .partition = partition,
                             .exchange = StateExchange::kAuto,
                             .attention = attention,
                             .checkpointing = true});
        add_supported(rows,
                      {.task = task, .mesh = {1, 2, 2}, .partition = partition, .attention = attention});
      }
    }
  }
}

void add_stages(std::vector<Row>& rows) {
  Task tied = kHybrid;
  tied.tied = true;
  tied.text = Task::Text::kShort;
  for (int stage = 0; stage < kNumStages; ++stage) {
    for (const bool checkpointing : {false, true}) {
      for (const MeshShape mesh : {MeshShape{4, 1, 2}, MeshShape{2, 4, 1}, MeshShape{2, 1, 1}}) {
        rows.push_back({.task = kHybrid, .mesh = mesh, .zero_stage = stage, .checkpointing = checkpointing});
      }
      rows.push_back({.task = tied,
                      .mesh = {2, 2, 2},
                      .zero_stage = stage,
                      .partition = Partition::kZigzag,
                      .checkpointing = checkpointing});
    }
    // One data rank has no target.
    rows.push_back({.task = tied, .mesh = {4, 2, 1}, .zero_stage = stage});
    // Two micro-batches of one row each.
    rows.push_back({.task = kHybrid, .mesh = {2, 2, 1}, .zero_stage = stage, .passes = 2});
  }
  rows.push_back({.task = kHybrid, .mesh = {1, 1, 4}});
  rows.push_back({.task = kHybrid, .mesh = {1, 2, 4}});
}

void add_sharded_norms(std::vector<Row>& rows) {
  for (const Task& task : mixer_tasks()) {
    rows.push_back({.task = task, .mesh = {1, 2, 2}, .checkpointing = true, .shard_norms = true});
  }
  Task tied = kHybrid, brief = kHybrid, single = kHybrid;
  tied.tied = true;
  brief.text = Task::Text::kShort;
  single.dtype = DType::kF32;
  for (int stage = 0; stage < kNumStages; ++stage) {
    for (const bool checkpointing : {false, true}) {
      rows.push_back({.task = tied,
                      .mesh = {2, 2, 2},
                      .zero_stage = stage,
                      .partition = Partition::kZigzag,
                      .checkpointing = checkpointing,
                      .shard_norms = true});
    }
  }
  for (const bool checkpointing : {false, true}) {
    rows.push_back({.task = kHybrid, .mesh = {1, 1, 4}, .checkpointing = checkpointing, .shard_norms = true});
    // 29 tokens over two ranks.
    rows.push_back({.task = kHybrid,
                    .mesh = {4, 1, 2},
                    .zero_stage = 1,
                    .checkpointing = checkpointing,
                    .shard_norms = true});
  }
  rows.push_back({.task = kHybrid, .mesh = {1, 2, 4}, .shard_norms = true});
  rows.push_back({.task = single, .mesh = {2, 1, 4}, .zero_stage = 2, .shard_norms = true});
  // 9 tokens over four ranks: the last one holds padding alone.
  rows.push_back({.task = brief, .mesh = {2, 1, 4}, .zero_stage = 3, .shard_norms = true, .passes = 2});
}

}  // namespace

std::string Task::str() const {
  return fmt::format("{} pattern {}{} {} {}{}", mixer, pattern, tied ? " tied" : "", spanwise::name_of(dtype),
                     text == Text::kShort ? "short" : "packed",
                     window > 0 ? fmt::format(" window {}", window) : "") +
         (wide ? " wide" : "");
}

std::string Row::str() const {
  return fmt::format(
      "[data {} x sequence {} x tensor {}, ZeRO {}, {}, exchange {}, attention {}, checkpointing {}, {}{} "
      "micro-batch(es), {}]",
      mesh.data, mesh.sequence, mesh.tensor, zero_stage,
      partition == Partition::kZigzag ? "zigzag" : "contiguous", name_of(exchange), name_of(attention),
      checkpointing ? "on"
      : recompute   ? "of mixers and feed-forwards"
                    : "off",
      shard_norms ? "sharded norms, " : "", passes, task.str());
}

bool supported(const Row& row) {
  const int64_t ranks = row.mesh.sequence, tensor = row.mesh.tensor;
  if (has_linear(row.task) && row.exchange == StateExchange::kHeadSplit &&
      kLinearValueHeads / tensor % ranks != 0) {
    return false;
  }
  if (has_softmax(row.task) && row.attention == AttentionExchange::kUlysses) {
    const int64_t heads = kHeads / tensor, kv_heads = std::max<int64_t>(1, kKvHeads / tensor);
    if (heads % ranks != 0 || (kv_heads % ranks != 0 && ranks % kv_heads != 0)) return false;
  }
  return true;
}

std::vector<Row> cheap_rows() {
  std::vector<Row> rows;
  add_every_mixer(rows);
  add_exchanges(rows);
  add_stages(rows);
  add_sharded_norms(rows);
  return rows;
}

namespace {

// What each layout is combined with; a choice that would change nothing has one value.
void add_product(std::vector<Row>& rows, const Task& task, const MeshShape& mesh) {
  const bool spread = mesh.sequence > 1;
  const size_t num_exchanges = spread && has_linear(task) ? std::size(kExchanges) : 1,
               num_attentions = spread && has_softmax(task) ? std::size(kAttentions) : 1,
               num_partitions = spread ? std::size(kPartitions) : 1;
  const int num_stages = mesh.data * mesh.sequence > 1 ? kNumStages : 1;
  for (int stage = 0; stage < num_stages; ++stage) {
    for (size_t p = 0; p < num_partitions; ++p) {
      for (size_t e = 0; e < num_exchanges; ++e) {
        for (size_t a = 0; a < num_attentions; ++a) {
          for (const bool checkpointing : {false, true}) {
            for (const bool shard_norms : {false, true}) {
              if (shard_norms && mesh.tensor == 1) continue;
              add_supported(rows, {.task = task,
                                   .mesh = mesh,
                                   .zero_stage = stage,
                                   .partition = kPartitions[p],
                                   .exchange = kExchanges[e],
                                   .attention = kAttentions[a],
                                   .checkpointing = checkpointing,
                                   .shard_norms = shard_norms});
            }
          }
        }
      }
    }
  }
}

}  // namespace

std::vector<Row> full_product() {
  std::vector<Task> tasks = mixer_tasks();
  tasks.push_back(kHybrid);
  std::vector<Row> rows;
  for (const int data : {1, 2, 4}) {
    for (const int sequence : {1, 2, 4}) {
      for (const int tensor : {1, 2, 4}) {
        const MeshShape mesh{data, sequence, tensor};
        if (mesh.size() == 1 || mesh.size() > kWorldSize) continue;
        for (const Task& task : tasks) add_product(rows, task, mesh);
      }
    }
  }
  return rows;
}

std::vector<Row> drawn_rows(size_t count) {
  std::vector<Row> rows = full_product();
  const RandomStream random(1, "layouts");
  count = std::min(count, rows.size());
  for (size_t i = 0; i < count; ++i) std::swap(rows[i], rows[i + random.below(i, rows.size() - i)]);
  rows.resize(count);
  return rows;
}

std::vector<Row> trajectory_rows() {
  return {
      {.task = kHybrid, .mesh = {1, 8, 1}, .zero_stage = 1, .exchange = StateExchange::kTwoLevel},
      {.task = kHybrid,
       .mesh = {1, 4, 1},
       .partition = Partition::kZigzag,
       .exchange = StateExchange::kChain,
       .attention = AttentionExchange::kRing},
      {.task = kHybrid, .mesh = {2, 2, 2}, .zero_stage = 3, .checkpointing = true},
      {.task = kHybrid,
       .mesh = {2, 2, 1},
       .zero_stage = 2,
       .exchange = StateExchange::kHeadSplit,
       .attention = AttentionExchange::kUlysses,
       .passes = 2},
      {.task = kHybrid, .mesh = {4, 1, 2}, .zero_stage = 1},
      {.task = kHybrid, .mesh = {1, 1, 4}},
      {.task = kHybrid, .mesh = {1, 2, 4}, .zero_stage = 1, .checkpointing = true, .shard_norms = true},
  };
}

namespace {

void add_gpu_rows(std::vector<Row>& rows, DType dtype) {
  const auto wide = [dtype](Task task) {
    task.wide = true;
    task.dtype = dtype;
    return task;
  };
  for (const Task& task : mixer_tasks()) {
    rows.push_back({.task = wide(task), .mesh = {1, 2, 1}});
    rows.push_back({.task = wide(task), .mesh = {1, 1, 2}, .checkpointing = true});
  }
  const Task delta = wide(kHybrid);
  Task decay = delta, window = delta, tied = delta;
  decay.mixer = Mamba2Options::kName;
  window.window = 5;
  tied.tied = true;
  tied.text = Task::Text::kShort;
  for (const Partition partition : kPartitions) {
    for (const StateExchange exchange : kExchanges) {
      for (const Task& task : {delta, decay})
        rows.push_back({.task = task, .mesh = {1, 2, 1}, .partition = partition, .exchange = exchange});
    }
    for (const AttentionExchange attention : kAttentions) {
      for (const Task& task : {delta, window}) {
        rows.push_back({.task = task,
                        .mesh = {1, 2, 1},
                        .partition = partition,
                        .exchange = StateExchange::kAuto,
                        .attention = attention,
                        .checkpointing = true});
      }
    }
  }
  for (int stage = 0; stage < kNumStages; ++stage) {
    rows.push_back({.task = delta, .mesh = {2, 1, 1}, .zero_stage = stage});
    rows.push_back({.task = tied, .mesh = {1, 2, 1}, .zero_stage = stage, .checkpointing = true});
    rows.push_back({.task = delta, .mesh = {2, 1, 1}, .zero_stage = stage, .passes = 2});
  }
  rows.push_back({.task = delta, .mesh = {1, 1, 2}});
  rows.push_back({.task = delta, .mesh = {1, 1, 2}, .checkpointing = true, .shard_norms = true});
}

}  // namespace

std::vector<Row> gpu_rows() {
  std::vector<Row> rows;
  add_gpu_rows(rows, DType::kF32);
  add_gpu_rows(rows, DType::kBF16);
  return rows;
}

std::vector<Row> gpu_trajectory_rows() {
  std::vector<Row> rows;
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    Task task = kHybrid;
    task.wide = true;
    task.dtype = dtype;
    rows.push_back({.task = task, .mesh = {2, 1, 1}, .zero_stage = 3, .checkpointing = true});
    rows.push_back({.task = task, .mesh = {1, 2, 1}, .zero_stage = 1, .partition = Partition::kZigzag});
    rows.push_back({.task = task, .mesh = {1, 1, 2}, .shard_norms = true});
  }
  return rows;
}

}  // namespace spanwise::testing
