#include "parallel/mesh.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <tuple>

namespace spanwise {

namespace {

constexpr int kMaxSuggestions = 3;

using Sizes = std::array<int, 3>;

Sizes sizes_of(const MeshShape& shape) {
  return {shape.data, shape.sequence, shape.tensor};
}

/// Shapes of `num_ranks` ranks, those that change least of `wanted` first.
std::vector<MeshShape> nearest_shapes(const MeshShape& wanted, int num_ranks) {
  std::vector<std::tuple<int, double, int, MeshShape>> candidates;
  for (int tensor = 1; tensor <= num_ranks; ++tensor) {
    if (num_ranks % tensor != 0) continue;
    for (int sequence = 1; sequence <= num_ranks / tensor; ++sequence) {
      if (num_ranks / tensor % sequence != 0) continue;
      const MeshShape shape{num_ranks / tensor / sequence, sequence, tensor};
      int num_changed = 0;
      double distance = 0;
      for (int i = 0; i < 3; ++i) {
        num_changed += sizes_of(shape)[i] != sizes_of(wanted)[i];
        distance += std::abs(std::log(double(sizes_of(shape)[i]) / sizes_of(wanted)[i]));
      }
      candidates.emplace_back(num_changed, distance, int(candidates.size()), shape);
    }
  }
  const auto key = [](const auto& c) { return std::tie(std::get<0>(c), std::get<1>(c), std::get<2>(c)); };
  std::sort(candidates.begin(), candidates.end(),
            [&](const auto& a, const auto& b) { return key(a) < key(b); });
  std::vector<MeshShape> shapes;
  for (const auto& candidate : candidates) {
    if (int(shapes.size()) < kMaxSuggestions) shapes.push_back(std::get<3>(candidate));
  }
  return shapes;
}

void check_shape(const MeshShape& shape, int num_ranks) {
  const auto check_axis = [](const char* name, int size) {
    if (size < 1) fail_user("parallel.{} is {}; it must be at least 1.", name, size);
  };
  check_axis("data", shape.data);
  check_axis("sequence", shape.sequence);
  check_axis("tensor", shape.tensor);
  const int64_t product = int64_t(shape.data) * shape.sequence * shape.tensor;
  if (product == num_ranks) return;
  std::string choices;
  for (const MeshShape& s : nearest_shapes(shape, num_ranks)) {
    choices += fmt::format("{}data: {} sequence: {} tensor: {}", choices.empty() ? "" : ", or ", s.data,
                           s.sequence, s.tensor);
  }
  fail_user("parallel.data x sequence x tensor = {} x {} x {} = {} but there {} {} rank{}; use e.g. {}.",
            shape.data, shape.sequence, shape.tensor, product, num_ranks == 1 ? "is" : "are", num_ranks,
            num_ranks == 1 ? "" : "s", choices);
}

}  // namespace

Mesh::Mesh(Comm& world, MeshShape shape) : world_(world), shape_(shape) {
  check_shape(shape, world.size());
  const int tensor = world.rank() % shape.tensor;
  const int sequence = world.rank() / shape.tensor % shape.sequence;
  const int data = world.rank() / shape.tensor / shape.sequence;
  data_ = world.split(sequence * shape.tensor + tensor, "data");
  sequence_ = world.split(data * shape.tensor + tensor, "sequence");
  tensor_ = world.split(data * shape.sequence + sequence, "tensor");
  data_sequence_ = world.split(tensor, "data_sequence");
  // Tensors of the model travel on these. All ranks are here, as they need not be in an axis's first
  // collective.
  for (Comm* axis : {sequence_.get(), tensor_.get(), data_sequence_.get()}) axis->connect_gpus();
}

std::vector<Comm*> Mesh::axes() const {
  return {data_.get(), sequence_.get(), tensor_.get(), data_sequence_.get()};
}

}  // namespace spanwise
