#pragma once
// The ranks as a grid: data × sequence × tensor, tensor innermost, so that tensor neighbours sit on one node:
//   world rank = (data · S + sequence) · T + tensor
// Gradients are reduced over data × sequence.

#include <memory>

#include "parallel/comm.h"

namespace spanwise {

struct MeshShape {
  int data = 1, sequence = 1, tensor = 1;
  int size() const { return data * sequence * tensor; }
};

class Mesh {
 public:
  /// Collective over `world`, which must outlive the mesh, and has a GPU by now if it gets one: the axes but
  /// data connect. UserError naming the sizes that would do when
  /// shape.size() is not world.size().
  Mesh(Comm& world, MeshShape shape);

  const MeshShape& shape() const { return shape_; }
  Comm& world() const { return world_; }
  Comm& data() const { return *data_; }
  Comm& sequence() const { return *sequence_; }
  Comm& tensor() const { return *tensor_; }
  /// Ranks that hold the same parameters: data and sequence together, data-major.
  Comm& data_sequence() const { return *data_sequence_; }
  /// data, sequence, tensor, data_sequence: for traffic tables.
  std::vector<Comm*> axes() const;

 private:
  Comm& world_;
  MeshShape shape_;
  std::unique_ptr<Comm> data_, sequence_, tensor_, data_sequence_;
};

}  // namespace spanwise
