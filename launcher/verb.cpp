#include "launcher/verb.h"

#include <iostream>

namespace spanwise {

std::optional<int> print_usage(const Usage& usage, const Arguments& arguments, const Comm& world) {
  const bool asked = arguments.has("help");
  if (!asked && !arguments.positional().empty()) return std::nullopt;
  if (world.rank() == 0) std::cout << usage.text();
  return asked ? 0 : 2;
}

}  // namespace spanwise
