#include "parallel/mesh.h"

#include <algorithm>
#include <cmath>
#include <tuple>

namespace spanwise {

namespace {

constexpr int kMaxSuggestions = 3;

bool joins(std::string_view comm, std::string_view axis) {
  return comm == axis || (comm == kDataSequence && (axis == "data" || axis == "sequence"));
}

/// Shapes of `num_ranks` ranks, those that change least of `wanted` first.
std::vector<MeshShape> nearest_shapes(const MeshShape& wanted, int num_ranks) {
  std::vector<std::tuple<int, double, int, MeshShape>> candidates;
  for (int tensor = 1; tensor <= num_ranks; ++tensor) {
    if (num_ranks % tensor != 0) continue;
    for (int sequence = 1; sequence <= num_ranks / tensor; ++sequence) {
      if (num_ranks / tensor % sequence != 0) continue;
      const MeshShape shape{num_ranks / tensor / sequence, sequence, tensor};
      const std::vector<MeshAxis> axes = shape.axes(), wanted_axes = wanted.axes();
      int num_changed = 0;
      double distance = 0;
      for (size_t i = 0; i < axes.size(); ++i) {
        num_changed += axes[i].size != wanted_axes[i].size;
        distance += std::abs(std::log(double(axes[i].size) / wanted_axes[i].size));
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
  std::vector<std::string_view> names;
  std::vector<int> sizes;
  int64_t product = 1;
  for (const MeshAxis& axis : shape.axes()) {
    if (axis.size < 1) fail_user("parallel.{} is {}; it must be at least 1.", axis.name, axis.size);
    names.push_back(axis.name);
    sizes.push_back(axis.size);
    product *= axis.size;
  }
  if (product == num_ranks) return;
  std::vector<std::string> choices;
  for (const MeshShape& s : nearest_shapes(shape, num_ranks)) {
    std::vector<std::string> settings;
    for (const MeshAxis& axis : s.axes()) settings.push_back(fmt::format("{}: {}", axis.name, axis.size));
    choices.push_back(fmt::format("{}", fmt::join(settings, " ")));
  }
  fail_user("parallel.{} = {} = {} but there {} {} rank{}; use e.g. {}.", fmt::join(names, " x "),
            fmt::join(sizes, " x "), product, num_ranks == 1 ? "is" : "are", num_ranks,
            num_ranks == 1 ? "" : "s", fmt::join(choices, ", or "));
}

}  // namespace

int MeshShape::size() const {
  int product = 1;
  for (const MeshAxis& axis : axes()) product *= axis.size;
  return product;
}

MeshPlace place_in_mesh(const MeshShape& shape, std::string_view comm, int world_rank) {
  MeshPlace place{.world_ranks = {world_rank}};
  int num_joined = 0;
  // Outermost first: what is inside an axis is the distance of its neighbours.
  int inside = shape.size();
  for (const MeshAxis& axis : shape.axes()) {
    inside /= axis.size;
    const int at = world_rank / inside % axis.size;
    if (!joins(comm, axis.name)) {
      place.color = place.color * axis.size + at;
      continue;
    }
    ++num_joined;
    place.rank = place.rank * axis.size + at;
    std::vector<int> ranks;
    for (const int before : place.world_ranks) {
      for (int i = 0; i < axis.size; ++i) ranks.push_back(before + (i - at) * inside);
    }
    place.world_ranks = std::move(ranks);
  }
  SPANWISE_CHECK(num_joined > 0, "a mesh has no axis {}", comm);
  return place;
}

Mesh::Mesh(Comm& world, MeshShape shape) : world_(world), shape_(shape) {
  check_shape(shape, world.size());
  std::vector<std::string_view> names;
  for (const MeshAxis& axis : shape.axes()) names.push_back(axis.name);
  names.push_back(kDataSequence);
  for (const std::string_view name : names)
    comms_.push_back(world.split(place_in_mesh(shape, name, world.rank()).color, std::string(name)));
  // Tensors of the model travel on these. All ranks are here, as they need not be in an axis's first
  // collective.
  for (Comm* comm : axes()) {
    if (comm->axis() != "data") comm->connect_gpus();
  }
}

Comm& Mesh::axis(std::string_view name) const {
  for (const std::unique_ptr<Comm>& comm : comms_) {
    if (comm->axis() == name) return *comm;
  }
  SPANWISE_FAIL("a mesh has no axis {}", name);
}

std::vector<Comm*> Mesh::axes() const {
  std::vector<Comm*> axes;
  for (const std::unique_ptr<Comm>& comm : comms_) axes.push_back(comm.get());
  return axes;
}

std::vector<Comm*> Mesh::comms() const {
  std::vector<Comm*> comms = axes();
  comms.push_back(&world_);
  return comms;
}

}  // namespace spanwise
