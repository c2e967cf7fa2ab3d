#pragma once
// TensorBoard event files. A record is: u64 length, u32 masked CRC-32C of the eight length bytes, an Event
// message, u32 masked CRC-32C of the message; all little-endian. masked(c) = rotate_right(c, 15) +
// 0xA282EAD8.

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "launcher/metrics/append_log.h"

namespace spanwise {

struct TensorBoardScalar {
  std::string tag;
  double value = 0;  ///< Stored as float; NaN and infinity are legal.
};

/// `message` framed as one record.
std::string tensorboard_record(std::string_view message);
/// The serialized Event that opens every file.
std::string tensorboard_version_event(double wall_time);
/// The serialized Event of one step's scalars. `wall_time` in seconds since 1970.
std::string tensorboard_scalars_event(double wall_time, int64_t step,
                                      const std::vector<TensorBoardScalar>& scalars);

/// One file per process start, events.out.tfevents.<time>.<host>.<pid>.<n>, so that nothing written before is
/// touched. Its second event tells TensorBoard to forget steps >= `first_step` of earlier files in
/// `directory`: after a resume the curves are one history.
class TensorBoardWriter {
 public:
  TensorBoardWriter(const std::filesystem::path& directory, int64_t first_step);
  /// On disk (operating system) when it returns.
  void write(int64_t step, const std::vector<TensorBoardScalar>& scalars);
  void sync() { log_.sync(); }

 private:
  AppendLog log_;
};

}  // namespace spanwise
