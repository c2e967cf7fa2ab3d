#include "launcher/metrics/tensorboard.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>

#include <cmath>
#include <cstring>
#include <map>
#include <set>
#include <sstream>
#include <string>

#include "core/crc32c.h"
#include "launcher/metrics/event.pb.h"
#include "launcher/metrics/metrics.h"
#include "tests/testing/temp_dir.h"

namespace spanwise {
namespace {

std::string hex(std::string_view bytes) {
  std::string text;
  for (const unsigned char c : bytes) {
    text += "0123456789abcdef"[c >> 4];
    text += "0123456789abcdef"[c & 15];
  }
  return text;
}

// Reads a file back, checking both checksums of every record.
std::vector<tensorboard::Event> read_events(const std::filesystem::path& path) {
  const std::string content = read_file(path);
  const auto unmasked = [](uint32_t masked) {
    const uint32_t rotated = masked - 0xA282EAD8u;
    return rotated >> 17 | rotated << 15;
  };
  std::vector<tensorboard::Event> events;
  for (size_t at = 0; at < content.size();) {
    uint64_t length = 0;
    uint32_t length_crc = 0, data_crc = 0;
    if (content.size() - at < 16) throw std::runtime_error("torn record");
    std::memcpy(&length, &content[at], 8);
    std::memcpy(&length_crc, &content[at + 8], 4);
    EXPECT_EQ(unmasked(length_crc), crc32c(&content[at], 8));
    if (content.size() - at - 16 < length) throw std::runtime_error("torn record");
    std::memcpy(&data_crc, &content[at + 12 + length], 4);
    EXPECT_EQ(unmasked(data_crc), crc32c(&content[at + 12], length));
    EXPECT_TRUE(events.emplace_back().ParseFromString(content.substr(at + 12, length)));
    at += 16 + length;
  }
  return events;
}

std::vector<std::filesystem::path> files_in(const std::filesystem::path& directory) {
  std::set<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) files.insert(entry.path());
  return {files.begin(), files.end()};
}

TEST(TensorBoard, RecordsAreByteExact) {
  EXPECT_EQ(hex(tensorboard_record(tensorboard_version_event(1.0))),
            "1800000000000000a37f4b2209000000000000f03f1a0d627261696e2e4576656e743a3286bf577a");
  EXPECT_EQ(hex(tensorboard_record(tensorboard_scalars_event(1.0, 7, {{"loss", 2.5}}))),
            "1a00000000000000129bd82d09000000000000f03f10072a0d0a0b0a046c6f7373150000204087ccc43d");
}

TEST(TensorBoard, AFileReadsBackWithVersionStartAndEveryScalar) {
  const TempDir dir;
  TensorBoardWriter writer(dir / "tb", 5);
  writer.write(5, {{"loss", 2.5}, {"grad_norm", 0.0}});
  writer.write(6, {{"loss", NAN}});
  const auto files = files_in(dir / "tb");  // the writer is still open: every step is already there
  ASSERT_EQ(files.size(), 1);
  const auto events = read_events(files[0]);
  ASSERT_EQ(events.size(), 4);
  EXPECT_EQ(events[0].file_version(), "brain.Event:2");
  EXPECT_EQ(events[1].session_log().status(), tensorboard::SessionLog::START);
  EXPECT_EQ(events[1].step(), 5);
  EXPECT_EQ(events[2].step(), 5);
  ASSERT_EQ(events[2].summary().value_size(), 2);
  EXPECT_EQ(events[2].summary().value(0).tag(), "loss");
  EXPECT_EQ(events[2].summary().value(0).simple_value(), 2.5f);
  EXPECT_TRUE(events[2].summary().value(1).has_simple_value());  // a zero is a value
  EXPECT_TRUE(std::isnan(events[3].summary().value(0).simple_value()));
  EXPECT_GT(events[3].wall_time(), 1.7e9);
}

std::vector<tensorboard::Event> events_of_run(const std::filesystem::path& run) {
  const auto files = files_in(run / "tensorboard");
  EXPECT_EQ(files.size(), 1);
  return read_events(files[0]);
}

TEST(TensorBoard, CardsBeginWithTheLossAndEndWithTraffic) {
  const TempDir dir;
  std::ostringstream console;
  MetricsWriter writer({.run_dir = dir.path(), .total_steps = 9, .ranks = 4, .console = &console});
  writer.write_before_training(8.0);
  writer.write({.step = 1,
                .loss = 2.5,
                .tokens_per_second = 1000,
                .validation_loss = 3.0,
                .extra = {{"bytes/data/gradients", 64.0}, {"bytes/tensor/dx", 0.0}, {"wait_ms", 0.0}}});
  const auto events = events_of_run(dir.path());
  ASSERT_EQ(events.size(), 4);
  EXPECT_EQ(events[1].step(), 0);  // where TensorBoard forgets what an earlier start wrote
  EXPECT_EQ(events[2].step(), 0);
  EXPECT_EQ(events[2].summary().value(0).simple_value(), 8.0f);
  std::map<std::string, float> cards;  // TensorBoard shows tags in this order
  for (const auto& value : events[3].summary().value()) cards[value.tag()] = value.simple_value();
  cards.erase("wait_ms");
  EXPECT_EQ(cards.begin()->first, "loss_metrics/global_avg_loss");
  EXPECT_EQ(std::next(cards.begin())->first, events[2].summary().value(0).tag());
  EXPECT_EQ(cards.rbegin()->first, "traffic_bytes/data/gradients");
  EXPECT_EQ(cards.at("throughput(tps)"), 250);           // of one device
  EXPECT_EQ(cards.count("traffic_bytes/tensor/dx"), 0);  // nothing travels there
}

TEST(TensorBoard, EveryStartHasAFileOfItsOwn) {
  const TempDir dir;
  TensorBoardWriter first(dir.path(), 1), second(dir.path(), 1), third(dir.path(), 1);
  const auto files = files_in(dir.path());
  EXPECT_EQ(files.size(), 3);
  for (const auto& file : files) {
    EXPECT_EQ(file.filename().string().find("events.out.tfevents."), 0) << file;
    EXPECT_EQ(read_events(file).size(), 2);
  }
}

TEST(AppendLog, AnOutageLeavesWholeRecordsAndLosesNone) {
  // A file size limit stands for the full disk: it, too, cuts a write in two.
  const TempDir dir;
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  ::signal(SIGXFSZ, SIG_IGN);
  AppendLog log(dir / "log");
  log.append("first|");
  rlimit small = before;
  small.rlim_cur = 10;
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  log.append("second|");
  log.append("third|");
  const std::string during = read_file(dir / "log");
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_EQ(during, "first|seco");
  log.append("fourth|");
  EXPECT_EQ(read_file(dir / "log"), "first|second|third|fourth|");
}

TEST(AppendLog, OneThatWasReplacedIsMadeAgainOnceADiskHasRoom) {
  const TempDir dir;
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  ::signal(SIGXFSZ, SIG_IGN);
  AppendLog log(dir / "log");
  log.append("first|");
  write_file(dir / "other", "mine");
  rename_path(dir / "other", dir / "log");
  rlimit small = before;
  small.rlim_cur = 3;
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  for (const char* record : {"second|", "third|"}) log.append(record);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_EQ(files_in(dir.path()).size(), 1);  // none of its own halves
  EXPECT_EQ(read_file(dir / "log"), "mine");
  log.append("fourth|");
  EXPECT_EQ(read_file(dir / "log"), "first|second|third|fourth|");
  EXPECT_EQ(read_file(dir / "log.replaced-1"), "mine");
  EXPECT_EQ(files_in(dir.path()).size(), 2);
}

}  // namespace
}  // namespace spanwise
