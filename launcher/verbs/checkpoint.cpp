// spanwise checkpoint inspect DIR [--tensors]

#include <iostream>
#include <optional>

#include "core/progress.h"
#include "launcher/arguments.h"
#include "launcher/checkpoint/finite_file.h"
#include "launcher/checkpoint/open_checkpoint.h"
#include "launcher/verb.h"
#include "models/hf/safetensors.h"

namespace spanwise {

Usage checkpoint_usage() {
  return {.command = "spanwise checkpoint inspect DIR [--tensors]",
          .description =
              "Verifies every file of a checkpoint (step_…), and that its numbers are finite; prints its "
              "manifest.",
          .options = {{"tensors", nullptr, "list every tensor with dtype and shape"},
                      {"help", nullptr, "this text"}},
          .min_positional = 1,
          .max_positional = 2,
          .actions = {{"inspect", "DIR", 1, 1}}};
}

namespace {

bool is_tensor_file(const std::string& name) {
  return std::string_view(name).ends_with(".safetensors");
}

// A file can be whole and what is in it worthless.
void require_finite(const OpenCheckpoint& checkpoint) {
  const Progress progress(progress_on_stderr("looking for values that are not finite"));
  for (const Manifest::File& file : checkpoint.manifest().files()) {
    if (!is_tensor_file(file.name())) continue;
    const std::string problem = not_finite_in(SafetensorsReader(checkpoint.file(file.name())));
    if (problem.empty()) continue;
    fail_user("{} is complete, but its training diverged: in {}, {}; use a checkpoint from before that",
              checkpoint.directory().string(), file.name(), problem);
  }
}

void list_tensors(const OpenCheckpoint& checkpoint) {
  for (const Manifest::File& file : checkpoint.manifest().files()) {
    if (!is_tensor_file(file.name())) continue;
    std::cout << "\n" << file.name() << "\n";
    const SafetensorsReader reader(checkpoint.file(file.name()));
    for (const SafetensorsInfo& tensor : reader.tensors()) {
      std::cout << fmt::format("  {:<60} {} [{}]\n", tensor.name, tensor.dtype,
                               fmt::join(tensor.shape, ", "));
    }
  }
}

}  // namespace

int run_checkpoint(Comm& world, const Arguments& arguments) {
  if (world.rank() > 0) return 0;
  const OpenCheckpoint checkpoint(arguments.positional()[1]);
  std::optional<Progress> progress(std::in_place, progress_on_stderr("verifying"));
  checkpoint.verify();
  progress.reset();
  std::cout << fmt::format("{}: complete, every checksum holds\n\n{}", checkpoint.directory().string(),
                           checkpoint.manifest().DebugString());
  if (arguments.has("tensors")) list_tensors(checkpoint);
  std::cout << std::flush;
  require_finite(checkpoint);
  return 0;
}

}  // namespace spanwise
