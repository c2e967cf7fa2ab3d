#pragma once
// What this program was built from. Its source is generated in every build (cmake/GitHash.cmake).

#include <string>

namespace spanwise {

/// The commit this was built from, 40 hexadecimal digits; "-dirty" follows where tracked files differed from
/// it. "unknown" where the source was not a git checkout.
std::string git_hash();

}  // namespace spanwise
