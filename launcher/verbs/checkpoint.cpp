// spanwise checkpoint inspect DIR [--tensors]

#include <iostream>

#include "launcher/arguments.h"
#include "launcher/checkpoint/open_checkpoint.h"
#include "launcher/verb.h"
#include "models/hf/safetensors.h"

namespace spanwise {

Usage checkpoint_usage() {
  return {.command = "spanwise checkpoint inspect DIR [--tensors]",
          .description = "Verifies every file of a checkpoint (step_…) and prints its manifest.",
          .options = {{"tensors", nullptr, "list every tensor with dtype and shape"},
                      {"help", nullptr, "this text"}},
          .min_positional = 1,
          .max_positional = 2,
          .actions = {{"inspect", "DIR", 1, 1}}};
}

int run_checkpoint(Comm& world, const Arguments& arguments) {
  const auto& words = arguments.positional();
  const std::filesystem::path directory = words[1];
  const Manifest manifest = verify_checkpoint(directory);
  if (world.rank() > 0) return 0;
  std::cout << fmt::format("{}: complete, every checksum holds\n\n{}", directory.string(),
                           manifest.DebugString());
  if (!arguments.has("tensors")) return 0;
  for (const Manifest::File& file : manifest.files()) {
    if (!std::string_view(file.name()).ends_with(".safetensors")) continue;
    std::cout << "\n" << file.name() << "\n";
    const SafetensorsReader reader(directory / file.name());
    for (const SafetensorsInfo& tensor : reader.tensors()) {
      std::cout << fmt::format("  {:<60} {} [{}]\n", tensor.name, tensor.dtype,
                               fmt::join(tensor.shape, ", "));
    }
  }
  return 0;
}

}  // namespace spanwise
