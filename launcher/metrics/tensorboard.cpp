#include "launcher/metrics/tensorboard.h"

#include <unistd.h>

#include <bit>
#include <chrono>
#include <cmath>

#include "core/check.h"
#include "core/crc32c.h"
#include "launcher/metrics/event.pb.h"

namespace spanwise {
namespace {

static_assert(std::endian::native == std::endian::little, "record lengths are written as they lie in memory");

double now_seconds() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

uint32_t masked_crc(std::string_view bytes) {
  return std::rotr(crc32c(bytes.data(), bytes.size()), 15) + 0xA282EAD8u;
}

template <class Integer>
std::string_view bytes_of(const Integer& value) {
  return {reinterpret_cast<const char*>(&value), sizeof(value)};
}

std::string session_start_event(double wall_time, int64_t first_step) {
  tensorboard::Event event;
  event.set_wall_time(wall_time);
  event.set_step(first_step);
  event.mutable_session_log()->set_status(tensorboard::SessionLog::START);
  return event.SerializeAsString();
}

std::filesystem::path unused_file(const std::filesystem::path& directory) {
  make_directories(directory);
  char host[256] = "localhost";
  if (::gethostname(host, sizeof(host) - 1) != 0) SPANWISE_FAIL("gethostname failed");
  for (int n = 0;; ++n) {
    std::filesystem::path path =
        directory / fmt::format("events.out.tfevents.{:010}.{}.{}.{}", static_cast<int64_t>(now_seconds()),
                                host, ::getpid(), n);
    if (!std::filesystem::exists(path)) return path;
  }
}

}  // namespace

std::string tensorboard_record(std::string_view message) {
  const uint64_t length = message.size();
  const uint32_t length_crc = masked_crc(bytes_of(length)), message_crc = masked_crc(message);
  std::string record(bytes_of(length));
  record += bytes_of(length_crc);
  record += message;
  record += bytes_of(message_crc);
  return record;
}

std::string tensorboard_version_event(double wall_time) {
  tensorboard::Event event;
  event.set_wall_time(wall_time);
  event.set_file_version("brain.Event:2");
  return event.SerializeAsString();
}

std::string tensorboard_scalars_event(double wall_time, int64_t step,
                                      const std::vector<TensorBoardScalar>& scalars) {
  tensorboard::Event event;
  event.set_wall_time(wall_time);
  event.set_step(step);
  for (const TensorBoardScalar& scalar : scalars) {
    tensorboard::Summary::Value* value = event.mutable_summary()->add_value();
    value->set_tag(scalar.tag);
    value->set_simple_value(static_cast<float>(scalar.value));
  }
  return event.SerializeAsString();
}

TensorBoardWriter::TensorBoardWriter(const std::filesystem::path& directory, int64_t first_step)
    : log_(unused_file(directory)) {
  log_.append(tensorboard_record(tensorboard_version_event(now_seconds())) +
              tensorboard_record(session_start_event(now_seconds(), first_step)));
}

void TensorBoardWriter::write(int64_t step, const std::vector<TensorBoardScalar>& scalars) {
  log_.append(tensorboard_record(tensorboard_scalars_event(now_seconds(), step, scalars)));
}

}  // namespace spanwise
