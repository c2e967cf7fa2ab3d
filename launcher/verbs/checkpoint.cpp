// spanwise checkpoint inspect DIR [--tensors]

#include <iostream>

#include "launcher/arguments.h"
#include "launcher/checkpoint/open_checkpoint.h"
#include "launcher/verb.h"
#include "models/hf/safetensors.h"

namespace spanwise {

int run_checkpoint(Comm& world, const std::vector<std::string>& args) {
  const Usage usage{.command = "spanwise checkpoint inspect DIR [--tensors]",
                    .description = "Verifies every file of a checkpoint (step_…) and prints its manifest.",
                    .options = {{"tensors", nullptr, "list every tensor with dtype and shape"},
                                {"help", nullptr, "this text"}},
                    .min_positional = 0,
                    .max_positional = 2};
  const Arguments arguments(usage, args);
  const auto& words = arguments.positional();
  if (const auto code = print_usage(usage, arguments, world)) return *code;
  if (words[0] != "inspect" || words.size() != 2) {
    fail_user("'spanwise checkpoint {}' is not complete.\n{}", words[0], usage.text());
  }
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
