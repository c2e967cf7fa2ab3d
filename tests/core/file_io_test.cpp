#include "core/file_io.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
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

// Each of these would wait for ever, or read without end, if it were opened and used as a file is.
TEST(FileIo, APipeADeviceASocketAndADirectoryInPlaceOfAFileAreRefusedAtOnce) {
  const TempDir dir;
  ASSERT_EQ(::mkfifo((dir / "pipe").c_str(), 0600), 0);
  sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
  const std::string socket_path = dir / "socket";
  ASSERT_LT(socket_path.size(), sizeof(address.sun_path));
  std::strcpy(address.sun_path, socket_path.c_str());
  const int listener = ::socket(AF_UNIX, SOCK_STREAM, 0);
  ASSERT_EQ(::bind(listener, reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  ::close(listener);
  const auto refusal = [](const std::filesystem::path& path, FileMode mode) {
    const std::string message = user_error_of([&] { File(path, mode); });
    EXPECT_NE(message.find(path.string()), std::string::npos) << message;
    return message;
  };
  for (const FileMode mode : {FileMode::kRead, FileMode::kCreate, FileMode::kAppend}) {
    EXPECT_NE(refusal(dir / "pipe", mode).find("named pipe"), std::string::npos);
    refusal(dir / "socket", mode);
    refusal(dir.path(), mode);
  }
  EXPECT_NE(refusal("/dev/zero", FileMode::kRead).find("a device"), std::string::npos);
}

TEST(FileIo, ALinkUnderATemporaryNameIsNeverWrittenThrough) {
  const TempDir dir;
  write_file(dir / "precious", "mine");
  std::filesystem::create_symlink(dir / "precious", dir / "link");
  EXPECT_NE(user_error_of([&] { File(dir / "link", FileMode::kCreate); }).find("symbolic link"),
            std::string::npos);
  std::filesystem::create_symlink(dir / "precious", dir / ("f.tmp-" + std::to_string(::getpid())));
  replace_file(dir / "f", "new");
  EXPECT_EQ(read_file(dir / "f"), "new");
  EXPECT_FALSE(std::filesystem::is_symlink(dir / "f"));
  std::filesystem::create_hard_link(dir / "precious", dir / "hard");
  for (const char* name : {"link", "hard", "precious"}) {
    EXPECT_NE(user_error_of([&] { File(dir / name, FileMode::kCreateNew); }).find(name), std::string::npos);
  }
  std::filesystem::create_directory_symlink(dir / "precious", dir / "directory");
  EXPECT_NE(user_error_of([&] { make_new_directory(dir / "directory"); }).find("directory"),
            std::string::npos);
  EXPECT_EQ(read_file(dir / "precious"), "mine");
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
