#pragma once
// Which tensors of a checkpoint go to which files, and who writes these. With one writer
//
//   model.safetensors      every parameter under its global name, whole
//   optimizer.safetensors  NAME.exp_avg and NAME.exp_avg_sq for every parameter
//
// With several each writes model-00002-of-00004.safetensors and optimizer-00002-of-00004.safetensors with
// whole tensors of its own, evenly by bytes, and model.safetensors.index.json says where each tensor is, as
// Hugging Face's readers expect it; optimizer.safetensors.index.json likewise. No layout is in any name.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "parallel/param_layout.h"

namespace spanwise {

/// One tensor of a checkpoint.
struct SavedTensor {
  std::string name;
  int buffer = 0;  ///< 0: values, 1: first moment, 2: second moment
  int entry = 0;   ///< of the parameter store
  std::vector<int64_t> shape;
  int64_t numel = 0;
};

struct Shard {
  std::string file;
  int writer = 0;
  bool optimizer = false;
  std::vector<SavedTensor> tensors;  ///< in file order: by name
};

/// Elements of one tensor of shards()[shard].
struct ShardPiece {
  int shard, tensor;
  FlatRange elements;
};

class ShardPlan {
 public:
  /// Most elements of a block times `element_bytes` are block_bytes.
  ShardPlan(const std::vector<ParamEntry>& entries, int num_writers, int64_t element_bytes,
            int64_t block_bytes);

  const std::vector<Shard>& shards() const { return shards_; }
  const SavedTensor& tensor(const ShardPiece& piece) const {
    return shards_[size_t(piece.shard)].tensors[size_t(piece.tensor)];
  }
  /// What a writer writes, in the order of its files, is cut into blocks that are copied at once: the pieces
  /// of one.
  std::vector<ShardPiece> block(int writer, int64_t index) const;
  int64_t num_blocks(int writer) const;
  /// Most blocks of any writer.
  int64_t num_rounds() const;
  int64_t bytes(int writer) const { return written_[size_t(writer)].elements * element_bytes_; }
  int64_t block_bytes() const { return block_bytes_; }
  int num_writers() const { return int(written_.size()); }

  /// The index of the model's or the optimizer's shards.
  std::string index_json(bool optimizer) const;

 private:
  /// A tensor among all that its writer writes.
  struct Place {
    int64_t begin = 0;  ///< elements before it
    int shard = 0, tensor = 0;
  };
  struct Written {
    std::vector<Place> tensors;
    int64_t elements = 0;
  };
  void add_shards(std::vector<SavedTensor> tensors, bool optimizer);

  int64_t element_bytes_, block_bytes_ = 0;
  std::vector<Shard> shards_;
  std::vector<Written> written_;  ///< by writer
};

inline constexpr std::string_view kModelStem = "model", kOptimizerStem = "optimizer";
/// "model.safetensors"
std::string whole_file_name(std::string_view stem);
/// "model.safetensors.index.json"
std::string index_file_name(std::string_view stem);
/// Whether a file of a checkpoint holds tensors of `stem`: the whole file or a shard.
bool holds_tensors_of(std::string_view stem, std::string_view file);

}  // namespace spanwise
