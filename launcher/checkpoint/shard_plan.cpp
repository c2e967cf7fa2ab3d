#include "launcher/checkpoint/shard_plan.h"

#include <algorithm>
#include <cctype>
#include <map>

#include "core/check.h"
#include "core/json_quote.h"

namespace spanwise {

namespace {

std::vector<SavedTensor> tensors_of(const std::vector<ParamEntry>& entries,
                                    const std::vector<std::pair<const char*, int>>& buffers) {
  std::vector<SavedTensor> tensors;
  for (const auto& [suffix, buffer] : buffers) {
    for (size_t e = 0; e < entries.size(); ++e) {
      const Shape& shape = entries[e].param->global_shape();
      tensors.push_back({entries[e].name + suffix, buffer, int(e), shape.to_vector(), shape.numel()});
    }
  }
  return tensors;
}

std::string shard_name(std::string_view stem, size_t index, size_t count) {
  if (count == 1) return whole_file_name(stem);
  return fmt::format("{}-{:05}-of-{:05}.safetensors", stem, index + 1, count);
}

}  // namespace

ShardPlan::ShardPlan(const std::vector<ParamEntry>& entries, int num_writers, int64_t element_bytes,
                     int64_t block_bytes)
    : element_bytes_(element_bytes), written_(size_t(num_writers)) {
  add_shards(tensors_of(entries, {{"", 0}}), false);
  add_shards(tensors_of(entries, {{".exp_avg", 1}, {".exp_avg_sq", 2}}), true);
  int64_t most = 0;
  for (size_t s = 0; s < shards_.size(); ++s) {
    Written& written = written_[size_t(shards_[s].writer)];
    for (size_t t = 0; t < shards_[s].tensors.size(); ++t) {
      written.tensors.push_back({written.elements, int(s), int(t)});
      written.elements += shards_[s].tensors[t].numel;
    }
    most = std::max(most, written.elements * element_bytes);
  }
  // No block is larger than what its writer writes.
  block_bytes_ = std::max(element_bytes, std::min(block_bytes, most));
}

// The largest tensor first, each to the writer that has least so far.
void ShardPlan::add_shards(std::vector<SavedTensor> tensors, bool optimizer) {
  std::sort(tensors.begin(), tensors.end(), [](const SavedTensor& a, const SavedTensor& b) {
    return a.numel != b.numel ? a.numel > b.numel : a.name < b.name;
  });
  std::vector<Shard> shards(written_.size());
  std::vector<int64_t> load(shards.size(), 0);
  for (SavedTensor& tensor : tensors) {
    const size_t writer = size_t(std::min_element(load.begin(), load.end()) - load.begin());
    load[writer] += tensor.numel;
    shards[writer].tensors.push_back(std::move(tensor));
  }
  // Writers without a tensor of this kind write no file.
  const size_t count = size_t(
      std::count_if(shards.begin(), shards.end(), [](const Shard& shard) { return !shard.tensors.empty(); }));
  size_t index = 0;
  for (size_t writer = 0; writer < shards.size(); ++writer) {
    Shard& shard = shards[writer];
    if (shard.tensors.empty()) continue;
    shard.file = shard_name(optimizer ? kOptimizerStem : kModelStem, index++, count);
    shard.writer = int(writer);
    shard.optimizer = optimizer;
    std::sort(shard.tensors.begin(), shard.tensors.end(),
              [](const SavedTensor& a, const SavedTensor& b) { return a.name < b.name; });
    shards_.push_back(std::move(shard));
  }
}

std::vector<ShardPiece> ShardPlan::block(int writer, int64_t index) const {
  const Written& written = written_[size_t(writer)];
  const int64_t most = block_bytes_ / element_bytes_, begin = index * most,
                end = std::min(begin + most, written.elements);
  auto place = std::upper_bound(written.tensors.begin(), written.tensors.end(), begin,
                                [](int64_t at, const Place& p) { return at < p.begin; });
  if (place != written.tensors.begin()) --place;
  std::vector<ShardPiece> pieces;
  for (; place != written.tensors.end() && place->begin < end; ++place) {
    const int64_t numel = shards_[size_t(place->shard)].tensors[size_t(place->tensor)].numel;
    const FlatRange elements{std::max<int64_t>(begin - place->begin, 0), std::min(end - place->begin, numel)};
    if (elements.begin < elements.end) pieces.push_back({place->shard, place->tensor, elements});
  }
  return pieces;
}

int64_t ShardPlan::num_blocks(int writer) const {
  const int64_t most = block_bytes_ / element_bytes_;
  return (written_[size_t(writer)].elements + most - 1) / most;
}

int64_t ShardPlan::num_rounds() const {
  int64_t most = 0;
  for (int writer = 0; writer < num_writers(); ++writer) most = std::max(most, num_blocks(writer));
  return most;
}

std::string ShardPlan::index_json(bool optimizer) const {
  int64_t bytes = 0;
  std::map<std::string, std::string> files;  // by tensor
  for (const Shard& shard : shards_) {
    if (shard.optimizer != optimizer) continue;
    for (const SavedTensor& tensor : shard.tensors) {
      bytes += tensor.numel * element_bytes_;
      files[tensor.name] = shard.file;
    }
  }
  std::string json = fmt::format("{{\n  \"metadata\": {{\n    \"total_size\": {}\n  }},\n", bytes);
  json += "  \"weight_map\": {";
  const char* separator = "\n";
  for (const auto& [tensor, file] : files) {
    json += fmt::format("{}    {}: {}", separator, json_quote(tensor), json_quote(file));
    separator = ",\n";
  }
  return json + "\n  }\n}\n";
}

std::string whole_file_name(std::string_view stem) {
  return std::string(stem) + ".safetensors";
}

std::string index_file_name(std::string_view stem) {
  return whole_file_name(stem) + ".index.json";
}

bool holds_tensors_of(std::string_view stem, std::string_view file) {
  if (file == whole_file_name(stem)) return true;
  const auto digits = [](std::string_view text) {
    return !text.empty() && std::all_of(text.begin(), text.end(), [](unsigned char c) { return isdigit(c); });
  };
  constexpr std::string_view kEnd = ".safetensors", kOf = "-of-";
  if (!file.starts_with(std::string(stem) + "-") || !file.ends_with(kEnd)) return false;
  const std::string_view numbers = file.substr(stem.size() + 1, file.size() - kEnd.size() - stem.size() - 1);
  const size_t of = numbers.find(kOf);
  return of != numbers.npos && digits(numbers.substr(0, of)) && digits(numbers.substr(of + kOf.size()));
}

}  // namespace spanwise
