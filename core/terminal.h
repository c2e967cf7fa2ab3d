#pragma once
// The terminal that reads standard output.

#include <string>

namespace spanwise {

/// Its width now; 0 if standard output, or the given one, is none. A rank under mpirun cannot tell by itself:
/// what started it says so (launcher/local_mpirun.sh) in SPANWISE_TERMINAL_COLUMNS, 0 for none, and names the
/// terminal's device in SPANWISE_TERMINAL, whose width then holds as long as it can be read.
int terminal_columns(int descriptor = 1);

/// 72,000 ms -> "1m12s"; also "9s", "2h05m", "3d04h". Rounded to the last part shown.
std::string format_duration(double ms);

}  // namespace spanwise
