#include "core/check.h"

#include <cstring>

namespace spanwise::detail {

void throw_error(const char* file, int line, const std::string& message) {
  const char* slash = std::strrchr(file, '/');
  throw Error(fmt::format("[{}:{}] {}", slash ? slash + 1 : file, line, message));
}

}  // namespace spanwise::detail
