#pragma once
// The ranks as a grid of named axes, data × sequence × tensor, the last one innermost, so that tensor
// neighbours sit on one node:
//   world rank = (data · S + sequence) · T + tensor
// Gradients are reduced over data × sequence.

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "parallel/comm.h"

namespace spanwise {

struct MeshAxis {
  std::string_view name;
  int size;
};

struct MeshShape {
  int data = 1, sequence = 1, tensor = 1;
  /// The one list of them, outermost first.
  std::vector<MeshAxis> axes() const { return {{"data", data}, {"sequence", sequence}, {"tensor", tensor}}; }
  int size() const;
};

/// Ranks that hold the same parameters: the axes data and sequence as one, data-major.
inline constexpr std::string_view kDataSequence = "data_sequence";

/// A rank's place on one communicator of a mesh.
struct MeshPlace {
  int color = 0;  ///< the same on its ranks alone
  int rank = 0;
  std::vector<int> world_ranks;  ///< of all its ranks, in their order
};
/// `comm`: an axis, or kDataSequence; the ranks that differ from `world_rank` in no other axis. Error for
/// another name.
MeshPlace place_in_mesh(const MeshShape& shape, std::string_view comm, int world_rank);

class Mesh {
 public:
  /// Collective over `world`, which must outlive the mesh, and has a GPU by now if it gets one: the axes but
  /// data connect. UserError naming the sizes that would do when
  /// shape.size() is not world.size().
  Mesh(Comm& world, MeshShape shape);

  const MeshShape& shape() const { return shape_; }
  Comm& world() const { return world_; }
  Comm& data() const { return axis("data"); }
  Comm& sequence() const { return axis("sequence"); }
  Comm& tensor() const { return axis("tensor"); }
  Comm& data_sequence() const { return axis(kDataSequence); }
  /// By name. Error if there is none.
  Comm& axis(std::string_view name) const;
  /// The shape's axes in its order, then kDataSequence.
  std::vector<Comm*> axes() const;
  /// These and the world: all that count traffic.
  std::vector<Comm*> comms() const;

 private:
  Comm& world_;
  MeshShape shape_;
  std::vector<std::unique_ptr<Comm>> comms_;  ///< as axes()
};

}  // namespace spanwise
