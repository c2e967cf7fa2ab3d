#include "core/file_io.h"

#include <gtest/gtest.h>

#include <string>

#include "tests/testing/temp_dir.h"
#include "tests/testing/user_error.h"

namespace spanwise {
namespace {

TEST(FileIo, AFullDiskIsAUserErrorNamingFileAndReason) {
  File full("/dev/full", FileMode::kAppend);
  const std::string message = user_error_of([&] { full.write_all("x"); });
  EXPECT_NE(message.find("/dev/full"), std::string::npos) << message;
  EXPECT_NE(message.find("free some space"), std::string::npos) << message;
}

TEST(FileIo, AMissingFileIsNamed) {
  const std::string message = user_error_of([] { read_file("/nowhere/at/all"); });
  EXPECT_NE(message.find("/nowhere/at/all"), std::string::npos) << message;
}

TEST(FileIo, ReadingPastTheEndIsAnError) {
  const TempDir dir;
  write_file(dir / "short", "abc");
  const File file(dir / "short", FileMode::kRead);
  char buffer[4];
  const std::string message = user_error_of([&] { file.read_at(0, buffer, 4); });
  EXPECT_NE(message.find("cut short"), std::string::npos) << message;
}

TEST(FileIo, AppendKeepsWhatIsThereAndCreateEmptiesIt) {
  const TempDir dir;
  write_file(dir / "f", "one");
  File(dir / "f", FileMode::kAppend).write_all(" two");
  EXPECT_EQ(read_file(dir / "f"), "one two");
  File(dir / "f", FileMode::kCreate).write_all("3");
  EXPECT_EQ(read_file(dir / "f"), "3");
}

TEST(FileIo, ReplaceLeavesOnlyTheNewContentAndNoTemporary) {
  const TempDir dir;
  write_file(dir / "f", "old and longer");
  replace_file(dir / "f", "new");
  EXPECT_EQ(read_file(dir / "f"), "new");
  int entries = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(dir.path())) ++entries;
  EXPECT_EQ(entries, 1);
}

TEST(FileIo, DigestCoversFilesLongerThanABlock) {
  const TempDir dir;
  std::string content((size_t{1} << 20) + 5, 'a');
  write_file(dir / "f", content);
  const FileDigest before = digest_file(dir / "f");
  EXPECT_EQ(before.bytes, content.size());
  content.back() = 'b';
  write_file(dir / "f", content);
  EXPECT_NE(digest_file(dir / "f").crc32c, before.crc32c);
}

}  // namespace
}  // namespace spanwise
