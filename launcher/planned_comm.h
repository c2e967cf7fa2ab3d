#pragma once
// The ranks of a run that nobody started: each has its place and the number of its peers, and any collective
// is an Error. For a Mesh whose model and parameters are only laid out.

#include <memory>

#include "parallel/mesh.h"

namespace spanwise {

/// The world of a mesh of this shape as `rank` sees it; it splits into that mesh's axes alone.
std::unique_ptr<Comm> make_planned_world(MeshShape shape, int rank);

}  // namespace spanwise
