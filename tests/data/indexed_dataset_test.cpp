#include "data/indexed_dataset.h"

#include <gtest/gtest.h>

#include <cmath>

#include "data/statistics.h"
#include "tests/data/dataset_files.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/user_error.h"

namespace spanwise {
namespace {

std::string from_hex(const std::string& hex) {
  std::string bytes;
  for (size_t i = 0; i < hex.size(); i += 2) bytes.push_back(char(std::stoi(hex.substr(i, 2), nullptr, 16)));
  return bytes;
}

/// Documents of 3 and 2 u16 tokens.
const std::string kExampleIndex = from_hex(
    "4d4d49444944580000"
    "0100000000000000"
    "08"
    "0200000000000000"
    "0300000000000000"
    "03000000"
    "02000000"
    "0000000000000000"
    "0600000000000000"
    "0000000000000000"
    "0100000000000000"
    "0200000000000000");

std::vector<int32_t> read_all(const IndexedDataset& dataset) {
  std::vector<int32_t> tokens(dataset.num_tokens());
  dataset.read(0, dataset.num_tokens(), tokens.data());
  return tokens;
}

class IndexedDatasetTest : public testing::Test {
 protected:
  /// The example with `bytes` over its index from `offset` on.
  std::string damaged(size_t offset, const std::string& bytes) {
    const std::string prefix = write_dataset(dir_ / "x", {{1, 2, 3}, {4, 5}}, 1000, Overwrite::kAllow);
    std::string index = file_bytes(prefix + ".idx");
    index.replace(offset, bytes.size(), bytes);
    write_bytes(prefix + ".idx", index);
    return error_of(prefix);
  }
  static std::string error_of(const std::string& prefix) {
    return user_error_of([&] { IndexedDataset dataset(prefix); });
  }
  TempDir dir_;
};

TEST_F(IndexedDatasetTest, WriterProducesTheFormatsExampleByteForByte) {
  const std::string prefix = write_dataset(dir_ / "x", {{1, 2, 3}, {4, 65000}}, 65499);
  EXPECT_EQ(file_bytes(prefix + ".idx"), kExampleIndex);
  EXPECT_EQ(file_bytes(prefix + ".bin"), from_hex("0100020003000400e8fd"));
}

TEST_F(IndexedDatasetTest, ReadsBackWhatWasWrittenInBothWidths) {
  for (const int64_t vocab_size : {65499, 65500}) {
    const std::string prefix =
        write_dataset(dir_ / std::to_string(vocab_size), {{7}, {65498, 0, 2}, {3, 4}}, vocab_size);
    const IndexedDataset dataset(prefix);
    EXPECT_EQ(dataset.dtype(), vocab_size < 65500 ? TokenDtype::kU16 : TokenDtype::kI32);
    EXPECT_EQ(dataset.num_documents(), 3);
    EXPECT_EQ(read_all(dataset), (std::vector<int32_t>{7, 65498, 0, 2, 3, 4}));
    EXPECT_EQ(dataset.document_begin(1), 1);
    EXPECT_EQ(dataset.document_size(1), 3);
    EXPECT_EQ(dataset.document_begin(3), 6);
    std::vector<int32_t> across(3);
    dataset.read(3, 3, across.data());
    EXPECT_EQ(across, (std::vector<int32_t>{2, 3, 4}));
  }
}

TEST_F(IndexedDatasetTest, ADocumentIsTheConcatenationOfItsSequences) {
  // Two sequences (3 and 2 tokens) of i8, one document, with modes behind.
  write_bytes(dir_ / "x.bin", from_hex("0102030405"));
  write_bytes(dir_ / "x.idx", from_hex("4d4d49444944580000"
                                       "0100000000000000"
                                       "02"
                                       "0200000000000000"
                                       "0200000000000000"
                                       "03000000"
                                       "02000000"
                                       "0000000000000000"
                                       "0300000000000000"
                                       "0000000000000000"
                                       "0200000000000000"
                                       "0000"));
  const IndexedDataset dataset((dir_ / "x").string());
  EXPECT_EQ(dataset.num_documents(), 1);
  EXPECT_EQ(dataset.document_size(0), 5);
  EXPECT_EQ(read_all(dataset), (std::vector<int32_t>{1, 2, 3, 4, 5}));
}

TEST_F(IndexedDatasetTest, FindsTheFirstDocumentAtOrBehindAPosition) {
  const IndexedDataset dataset(write_dataset(dir_ / "x", {{1, 2, 3}, {4}, {5, 6}}));
  const std::vector<int64_t> expected{0, 1, 1, 1, 2, 3};
  for (int64_t position = 0; position < 6; ++position)
    EXPECT_EQ(dataset.first_document_at(position), expected[position]);
}

TEST_F(IndexedDatasetTest, EveryFaultOfTheHeaderIsNamed) {
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "x.idx is not an indexed dataset", damaged(0, "X"));
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "version 2", damaged(9, "\2"));
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "floating-point", damaged(17, "\7"));
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "dtype code 9", damaged(17, "\11"));
  EXPECT_PRED_FORMAT2(testing::IsSubstring,
                      "82 bytes, which does not fit the 3 sequences and 3 document boundaries",
                      damaged(18, "\3"));
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "does not fit the 2 sequences and 2 document boundaries",
                      damaged(26, "\2"));
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "does not fit", damaged(18, std::string(8, '\xff')));
}

TEST_F(IndexedDatasetTest, EveryFaultOfTheArraysIsNamed) {
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "sequence 0 has -1 tokens", damaged(34, "\xff\xff\xff\xff"));
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "x.bin is truncated: it has 10 bytes", damaged(38, "\3"));
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "x.bin has 10 bytes, but", damaged(38, "\1"));
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "sequence 1 starts at byte 4", damaged(50, "\4"));
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "begins with 1, not 0", damaged(58, "\1"));
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "document 2 starts at sequence 2, before document 1 at 3",
                      damaged(66, "\3"));
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "ends with 1, not with the number of sequences, 2",
                      damaged(74, "\1"));
}

TEST_F(IndexedDatasetTest, MissingAndTruncatedFilesAreNamed) {
  const std::string prefix = write_dataset(dir_ / "x", {{1, 2, 3}, {4, 5}});
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "cannot read " + (dir_ / "none").string() + ".bin: No such file",
                      error_of((dir_ / "none").string()));
  std::filesystem::resize_file(prefix + ".bin", 8);
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "x.bin is truncated: it has 8 bytes", error_of(prefix));
  std::filesystem::resize_file(prefix + ".idx", 20);
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "x.idx is truncated", error_of(prefix));
  std::filesystem::remove(prefix + ".idx");
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "cannot read " + prefix + ".idx: No such file", error_of(prefix));
}

TEST_F(IndexedDatasetTest, ATokenBeyondTheVocabularyIsNamedForAnyNumberOfThreads) {
  std::vector<int32_t> tokens(10000, 3);
  tokens[9000] = 999;
  tokens[4321] = 500;
  const IndexedDataset dataset(write_dataset(dir_ / "x", {tokens}));
  for (const int num_threads : {1, 2, 5}) {
    EXPECT_PRED_FORMAT2(testing::IsSubstring,
                        "x.bin: token 500 at position 4321 is outside the vocabulary of 500 tokens",
                        user_error_of([&] { dataset.check_vocabulary(500, num_threads); }));
    EXPECT_NO_THROW(dataset.check_vocabulary(1000, num_threads));
  }
}

TEST_F(IndexedDatasetTest, ATokenBeyond32BitsIsRefused) {
  write_bytes(dir_ / "x.bin", from_hex("0000000001000000"));
  write_bytes(dir_ / "x.idx", from_hex("4d4d49444944580000"
                                       "0100000000000000"
                                       "05"
                                       "0100000000000000"
                                       "0200000000000000"
                                       "01000000"
                                       "0000000000000000"
                                       "0000000000000000"
                                       "0100000000000000"));
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "token 4294967296 at position 0",
                      user_error_of([&] { read_all(IndexedDataset((dir_ / "x").string())); }));
}

TEST_F(IndexedDatasetTest, ReadingOutsideIsAnInternalError) {
  const IndexedDataset dataset(write_dataset(dir_ / "x", {{1, 2, 3}}));
  std::vector<int32_t> out(4);
  EXPECT_THROW(dataset.read(0, 4, out.data()), Error);
  EXPECT_THROW(dataset.read(-1, 2, out.data()), Error);
  EXPECT_THROW(dataset.document_begin(2), Error);
}

TEST_F(IndexedDatasetTest, FingerprintTellsContentsAndStructureApart) {
  const uint64_t original = IndexedDataset(write_dataset(dir_ / "a", {{1, 2, 3}, {4, 5}})).fingerprint();
  EXPECT_EQ(IndexedDataset(write_dataset(dir_ / "b", {{1, 2, 3}, {4, 5}})).fingerprint(), original);
  EXPECT_NE(IndexedDataset(write_dataset(dir_ / "c", {{1, 2}, {3, 4, 5}})).fingerprint(), original);
  EXPECT_NE(IndexedDataset(write_dataset(dir_ / "d", {{1, 2, 3}, {4, 6}})).fingerprint(), original);
}

TEST_F(IndexedDatasetTest, UnigramEntropyIsThatOfTheFrequencies) {
  EXPECT_NEAR(unigram_entropy(IndexedDataset(write_dataset(dir_ / "x", {{1, 1, 2}, {3}}))), 1.5 * std::log(2),
              1e-12);
  EXPECT_EQ(unigram_entropy(IndexedDataset(write_dataset(dir_ / "y", {{8, 8}}))), 0);
}

TEST_F(IndexedDatasetTest, WriterLeavesNothingBehindUnlessFinished) {
  {
    IndexedDatasetWriter writer((dir_ / "x").string(), 100);
    writer.add_document(std::vector<int32_t>{1, 2});
    writer.seal();
  }
  EXPECT_EQ(num_files(dir_.path()), 0);
}

TEST_F(IndexedDatasetTest, WriterReplacesOnlyWhenAllowed) {
  const std::string prefix = write_dataset(dir_ / "x", {{1}});
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "x.bin exists already",
                      user_error_of([&] { write_dataset(dir_ / "x", {{2}}); }));
  {
    IndexedDatasetWriter writer(prefix, 100, Overwrite::kAllow);
    writer.add_document(std::vector<int32_t>{5, 6});
    EXPECT_EQ(read_all(IndexedDataset(prefix)), std::vector<int32_t>{1});
    writer.finish();
  }
  EXPECT_EQ(read_all(IndexedDataset(prefix)), (std::vector<int32_t>{5, 6}));
  EXPECT_EQ(num_files(dir_.path()), 3);
}

TEST_F(IndexedDatasetTest, WriterRefusesTokensItCannotHold) {
  IndexedDatasetWriter writer((dir_ / "x").string(), 100);
  EXPECT_THROW(writer.add_document(std::vector<int32_t>{100}), Error);
  EXPECT_THROW(writer.add_document(std::vector<int32_t>{-1}), Error);
  EXPECT_THROW(writer.add_document({}), Error);
}

TEST_F(IndexedDatasetTest, WriterNamesAPlaceItCannotWrite) {
  write_bytes(dir_ / "file", "");
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "cannot create directory ",
                      user_error_of([&] { write_dataset(dir_ / "file/x", {{1}}); }));
}

}  // namespace
}  // namespace spanwise
