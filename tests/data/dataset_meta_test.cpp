#include "data/dataset_meta.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>

#include "core/crc32c.h"
#include "data/loader.h"
#include "data/prepare.h"
#include "tests/data/dataset_files.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/user_error.h"

namespace spanwise {
namespace {

namespace fs = std::filesystem;

class DatasetMetaTest : public testing::Test {
 protected:
  static DatasetMeta example() {
    return {.bin = {.bytes = 150, .block_bytes = 100, .crc32c = {1, 0xffffffff}},
            .idx = {.bytes = 82, .crc32c = {2}},
            .tokenizer = TokenizerIdentity{.name = "a \"b\"\n\xff.model",
                                           .vocab_size = 300,
                                           .crc32c = 7,
                                           .end_of_document = 2,
                                           .begin_of_document = 1}};
  }
  std::string prepared(const std::string& text) {
    PrepareOptions options{.output = (dir_ / "x").string(), .overwrite = Overwrite::kAllow};
    options.text.inputs = {write_bytes(dir_ / "text.txt", text)};
    prepare_dataset(options, *make_byte_tokenizer());
    return options.output;
  }
  static std::string read_error(const std::string& prefix) {
    return user_error_of([&] {
      const IndexedDataset dataset(prefix);
      std::vector<int32_t> tokens(size_t(dataset.num_tokens()));
      dataset.read(0, dataset.num_tokens(), tokens.data());
    });
  }
  /// What this process has asked its files for.
  static int64_t bytes_read_so_far() {
    std::ifstream io("/proc/self/io");
    std::string name;
    int64_t bytes = -1;
    EXPECT_TRUE(io >> name >> bytes && name == "rchar:");
    return bytes;
  }
  static void flip(const std::string& path, size_t bit) {
    std::string bytes = file_bytes(path);
    bytes[bit / 8] ^= char(1 << bit % 8);
    write_bytes(path, bytes);
  }
  TempDir dir_;
};

TEST_F(DatasetMetaTest, ComesBackAsItWasWritten) {
  DatasetMeta meta = example();
  const DatasetMeta read = parse_meta(print_meta(meta), "x");
  EXPECT_EQ(read.tokenizer->name, "a \"b\"\n?.model");  // a name that is not UTF-8 is only for reading
  meta.tokenizer->name = read.tokenizer->name;
  EXPECT_EQ(read, meta);
  meta.tokenizer.reset();
  EXPECT_EQ(parse_meta(print_meta(meta), "x"), meta);
}

TEST_F(DatasetMetaTest, AnyChangedBitOrCutIsDamage) {
  const std::string text = print_meta(example());
  for (size_t bit = 0; bit < text.size() * 8; ++bit) {
    std::string changed = text;
    changed[bit / 8] ^= char(1 << bit % 8);
    ASSERT_PRED_FORMAT2(testing::IsSubstring, "m.json is damaged",
                        user_error_of([&] { parse_meta(changed, "m.json"); }))
        << bit;
  }
  for (size_t size = 0; size < text.size(); ++size)
    ASSERT_PRED_FORMAT2(testing::IsSubstring, "m.json is damaged",
                        user_error_of([&] { parse_meta(text.substr(0, size), "m.json"); }));
}

TEST_F(DatasetMetaTest, ContentThatWasNeverWrittenIsNamed) {
  const auto message = [](const std::string& from, const std::string& to) {
    std::string text = print_meta(example());
    text.replace(text.find(from), from.size(), to);
    const std::string tail = "  \"meta_crc32c\": \"00000000\"\n}\n";
    text.resize(text.size() - tail.size());
    text += fmt::format("  \"meta_crc32c\": \"{:08x}\"\n}}\n", crc32c(text.data(), text.size()));
    return user_error_of([&] { parse_meta(text, "m.json"); });
  };
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "1 checksums for 2 blocks", message(", \"ffffffff\"", ""));
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "eight hexadecimal", message("\"ffffffff\"", "\"0xffffff\""));
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "block_bytes", message("100", "0"));
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "bin.bytes", message("150", "-5"));
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "its document_start is END_OF_DOCUMENT",
                      message("BEGIN_OF", "END_OF"));
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "dataset 2", message("dataset 1", "dataset 2"));
}

TEST_F(DatasetMetaTest, BlocksAreSummedHoweverTheyCome) {
  std::string bytes(1000, '\0');
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = char(i * 7);
  BlockSums whole{.block_bytes = 64}, parts{.block_bytes = 64};
  whole.append(bytes.data(), bytes.size());
  for (size_t at = 0, size = 1; at < bytes.size(); at += size++)
    parts.append(bytes.data() + at, std::min(size, bytes.size() - at));
  EXPECT_EQ(whole, parts);
  EXPECT_EQ(whole.crc32c.size(), 16);
  EXPECT_EQ(whole.crc32c[1], crc32c(bytes.data() + 64, 64));
}

TEST_F(DatasetMetaTest, EveryFlippedBitOfADatasetIsFound) {
  const std::string prefix = prepared("some text of a document");
  ASSERT_EQ(read_error(prefix), "no UserError");
  for (const char* extension : {".bin", ".idx", ".meta.json"}) {
    const std::string path = prefix + extension;
    const size_t bits = fs::file_size(path) * 8;
    // Of the table, whose parser is tried with every bit, one in thirteen.
    for (size_t bit = 0; bit < bits; bit += path.ends_with("json") ? 13 : 1) {
      flip(path, bit);
      ASSERT_PRED_FORMAT2(testing::IsSubstring, prefix, read_error(prefix)) << extension << bit;
      flip(path, bit);
    }
  }
}

TEST_F(DatasetMetaTest, ABlockIsComparedWhenItIsFirstRead) {
  const std::string prefix = prepared(std::string(200, 'x'));
  std::string text = file_bytes(prefix + ".meta.json");
  DatasetMeta meta = parse_meta(text, "");
  BlockSums sums{.block_bytes = 64};
  const std::string bin = file_bytes(prefix + ".bin");
  sums.append(bin.data(), bin.size());
  meta.bin = sums;
  write_bytes(prefix + ".meta.json", print_meta(meta));
  flip(prefix + ".bin", 100 * 8);
  const IndexedDataset dataset(prefix);
  std::vector<int32_t> tokens(32);
  EXPECT_NO_THROW(dataset.read(0, 32, tokens.data()));   // bytes 0 to 64
  EXPECT_NO_THROW(dataset.read(64, 32, tokens.data()));  // bytes 128 to 192
  for (int twice = 0; twice < 2; ++twice)
    EXPECT_PRED_FORMAT2(testing::IsSubstring, "x.bin is damaged: bytes 64 to 128 do not have the checksum",
                        user_error_of([&] { dataset.read(31, 2, tokens.data()); }));
  for (const int threads : {1, 3})
    EXPECT_PRED_FORMAT2(testing::IsSubstring, "bytes 64 to 128",
                        user_error_of([&] { dataset.verify(threads); }));
  flip(prefix + ".bin", 100 * 8);
  int64_t read = 0;
  IndexedDataset(prefix).verify(1, [&](int64_t bytes) { read = bytes; });
  EXPECT_EQ(read, int64_t(bin.size()));
}

TEST_F(DatasetMetaTest, ADatasetWithoutATableIsReadUnverified) {
  const std::string prefix = prepared("text");
  remove_meta(prefix);
  flip(prefix + ".bin", 3);
  EXPECT_EQ(read_error(prefix), "no UserError");
  EXPECT_FALSE(IndexedDataset(prefix).meta());
}

TEST_F(DatasetMetaTest, ATableOfOtherFilesIsRefused) {
  const std::string prefix = prepared("text");
  const std::string meta = file_bytes(prefix + ".meta.json");
  prepared("longer text");
  write_bytes(prefix + ".meta.json", meta);
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "do not belong together", read_error(prefix));
}

TEST_F(DatasetMetaTest, OfATerabyteTwoBlocksAreReadWhenItIsOpened) {
  // A sparse file: 2 ^ 40 bytes in documents of 2 ^ 30 tokens, with a table that is not looked into.
  const std::string prefix = (dir_ / "x").string();
  constexpr int64_t kTokens = int64_t{1} << 39, kDocument = 1 << 30, kDocuments = kTokens / kDocument;
  write_dataset(dir_ / "small", {{1}});
  std::string idx = file_bytes((dir_ / "small.idx").string()).substr(0, 18);
  const auto put = [&](const auto& value) {
    idx.append(reinterpret_cast<const char*>(&value), sizeof value);
  };
  put(kDocuments);
  put(kDocuments + 1);
  for (int64_t i = 0; i < kDocuments; ++i) put(int32_t(kDocument));
  for (int64_t i = 0; i < kDocuments; ++i) put(i * kDocument * 2);
  for (int64_t i = 0; i <= kDocuments; ++i) put(i);
  write_bytes(prefix + ".idx", idx);
  write_bytes(prefix + ".bin", "");
  if (::truncate((prefix + ".bin").c_str(), kTokens * 2) != 0)
    FAIL() << "no sparse file of 2^40 bytes can be made here; set TMPDIR to a file system that has them";
  DatasetMeta meta{.bin = {.bytes = kTokens * 2}};
  meta.idx.append(idx.data(), idx.size());
  const std::string zeros(size_t(meta.bin.block_bytes), '\0');
  meta.bin.crc32c.assign(size_t(kTokens * 2 / int64_t(zeros.size())), crc32c(zeros.data(), zeros.size()));
  write_bytes(prefix + ".meta.json", print_meta(meta));

  const int64_t before = bytes_read_so_far();
  const Loader loader(
      {.datasets = {{prefix, 1}}, .sequence_length = 4096, .global_batch = 1, .vocab_size = 9, .seed = 1});
  const int64_t read = bytes_read_so_far() - before;
  EXPECT_GE(read, int64_t(idx.size()));
  EXPECT_LE(read, 2 * int64_t(zeros.size()) + (1 << 20));
  EXPECT_EQ(loader.load(0, 0, 1).tokens[0], 0);
}

TEST_F(DatasetMetaTest, AFileThatIsCutWhileItIsReadIsNamed) {
  const std::string prefix = prepared(std::string(20000, 'x'));
  for (const char* extension : {".bin", ".idx"}) {
    const IndexedDataset dataset(prefix);
    const std::string whole = file_bytes(prefix + extension);
    fs::resize_file(prefix + extension, 10);
    std::vector<int32_t> tokens(10000);
    EXPECT_PRED_FORMAT2(testing::IsSubstring, prefix + extension, user_error_of([&] {
                          dataset.read(5000, 10000, tokens.data());
                          dataset.document_begin(0);
                        }));
    write_bytes(prefix + extension, whole);
  }
}

TEST_F(DatasetMetaTest, PipesAndDevicesInPlaceOfFilesAreRefusedAtOnce) {
  const std::string prefix = prepared("text");
  for (const char* extension : {".bin", ".idx", ".meta.json"}) {
    const std::string whole = file_bytes(prefix + extension);
    fs::remove(prefix + extension);
    ASSERT_EQ(mkfifo((prefix + extension).c_str(), 0600), 0);
    EXPECT_PRED_FORMAT2(testing::IsSubstring, "a named pipe", read_error(prefix)) << extension;
    fs::remove(prefix + extension);
    fs::create_symlink("/dev/zero", prefix + extension);
    EXPECT_PRED_FORMAT2(testing::IsSubstring, "a device", read_error(prefix)) << extension;
    fs::remove(prefix + extension);
    write_bytes(prefix + extension, whole);
  }
  ASSERT_EQ(mkfifo((dir_ / "t.model").c_str(), 0600), 0);
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "a named pipe",
                      user_error_of([&] { load_sentencepiece((dir_ / "t.model").string()); }));
}

TEST_F(DatasetMetaTest, AnotherTokenizerThanTheOneThatPreparedIsRefused) {
  const std::string prefix = prepared("text");
  const auto tokenizer = make_byte_tokenizer();
  EXPECT_NO_THROW(IndexedDataset(prefix).check_tokenizer(*tokenizer));
  DatasetMeta meta = *IndexedDataset(prefix).meta();
  EXPECT_EQ(meta.tokenizer, identity_of(*tokenizer));
  ++meta.tokenizer->crc32c;
  write_bytes(prefix + ".meta.json", print_meta(meta));
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "was prepared with another tokenizer",
                      user_error_of([&] { IndexedDataset(prefix).check_tokenizer(*tokenizer); }));
}

TEST_F(DatasetMetaTest, TheCursorRefusesDataWithAnotherTable) {
  const std::string prefix = prepared(std::string(300, 'x'));
  const LoaderOptions options{
      .datasets = {{prefix, 1}}, .sequence_length = 8, .global_batch = 2, .vocab_size = 257, .seed = 5};
  DataCursor cursor = Loader(options).cursor(1);
  EXPECT_NE(cursor.datasets[0].contents, 0);
  cursor.datasets[0].contents ^= 1;
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "is not the one of the checkpoint",
                      user_error_of([&] { Loader(options).resume(cursor); }));
  cursor.datasets[0].contents = 0;  // of a checkpoint that does not know
  EXPECT_EQ(Loader(options).resume(cursor), 1);
}

TEST_F(DatasetMetaTest, WhatAKilledWriterLeavesIsReplacedAndCleanedUp) {
  // A process that writes x is killed at each of its steps; the next writer is given its leavings.
  const std::string prefix = (dir_ / "x").string();
  for (const int step : {0, 1, 2}) {
    const pid_t child = fork();
    if (child == 0) {
      try {
        IndexedDatasetWriter writer(prefix, 100);
        writer.add_document(std::vector<int32_t>{1, 2, 3});
        if (step > 0) writer.seal();
        if (step > 1) {  // the renames of finish() but for the last
          fs::rename(prefix + ".meta.json.partial", prefix + ".meta.json");
          fs::rename(prefix + ".bin.partial", prefix + ".bin");
        }
        raise(SIGKILL);
      } catch (...) {  // the rest of the tests is the parent's
      }
      _exit(1);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status));
    ASSERT_GT(num_files(dir_.path()), 0);
    write_bytes(prefix + ".bin.partial-" + std::to_string(child), "of an older version");
    write_dataset(prefix, {{7, 8}});
    remove_partial_files(prefix);
    EXPECT_EQ(num_files(dir_.path()), 3) << step;
    EXPECT_EQ(read_error(prefix), "no UserError");
    for (const char* extension : {".bin", ".idx", ".meta.json"}) fs::remove(prefix + extension);
  }
}

TEST_F(DatasetMetaTest, FilesThatAreNoHalfDatasetStay) {
  write_bytes(dir_ / "x.bin", "weights of something");
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "x.bin exists already, without",
                      user_error_of([&] { write_dataset(dir_ / "x", {{1}}); }));
  write_bytes(dir_ / "x.meta.json", print_meta(example()));
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "x.bin exists already",
                      user_error_of([&] { write_dataset(dir_ / "x", {{1}}); }));
  EXPECT_EQ(file_bytes(dir_ / "x.bin"), "weights of something");
}

TEST_F(DatasetMetaTest, TwoWritersOfOnePrefixExcludeEachOther) {
  IndexedDatasetWriter first((dir_ / "x").string(), 100);
  first.add_document(std::vector<int32_t>{1});
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "is being written by another process",
                      user_error_of([&] { write_dataset(dir_ / "x", {{2}}); }));
  remove_partial_files((dir_ / "x").string());
  first.finish();
  EXPECT_EQ(IndexedDataset((dir_ / "x").string()).num_tokens(), 1);
}

}  // namespace
}  // namespace spanwise
