#pragma once
// What the program tells about itself, all of it from the table of verbs (verb.h).

#include <cstddef>
#include <string>

namespace spanwise {

/// Exit codes. Under mpirun and srun the job ends with the same one.
inline constexpr int kExitError = 1, kExitUsage = 2;

/// The number of columns that help is written for: the terminal's, at most 100; 80 where there is none.
size_t help_columns();
/// `spanwise --help`.
std::string program_help(size_t columns);
/// `spanwise --version`: one line.
std::string version_text();
/// The manual page as man(7) source.
std::string man_page();
/// Bash's completion of verbs, actions, options, and, behind --set, fields of the config.
std::string bash_completion();

}  // namespace spanwise
