#pragma once
// The ranks of a run that nobody started, seen from one of them: Comm's own code checks every collective and
// counts its calls and bytes; it is complete at once, and no tensor is read or written. Tensors are held to
// the ticket's wait, as by a real backend.
//
// Values of the host come back as if every rank had given this one's: a sum is its own number times the
// ranks, a maximum and a text its own. To gather texts is an Error: nobody knows those of the others.

#include <memory>

#include "parallel/mesh.h"

namespace spanwise {

struct DryWorldOptions {
  int rank = 0;
  int ranks_per_machine = 0;  ///< neighbours in the world's order; 0: one machine has all
};

/// The world of a mesh of this shape. It splits into that mesh's communicators alone, by their names.
std::unique_ptr<Comm> make_dry_world(const MeshShape& shape, DryWorldOptions options);

}  // namespace spanwise
