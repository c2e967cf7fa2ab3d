#include "data/text_files.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include "data/json_record.h"
#include "data/prepare.h"
#include "data/utf8.h"
#include "tests/data/dataset_files.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/user_error.h"

namespace spanwise {
namespace {

namespace fs = std::filesystem;

constexpr const char* kReplacement = "\xEF\xBF\xBD";
constexpr const char* kMark = "\xEF\xBB\xBF";

std::string gzip(const std::string& text) {
  z_stream stream{};
  EXPECT_EQ(deflateInit2(&stream, 6, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY), Z_OK);
  std::string packed(deflateBound(&stream, text.size()) + 64, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = uInt(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(packed.data());
  stream.avail_out = uInt(packed.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  packed.resize(stream.total_out);
  deflateEnd(&stream);
  return packed;
}

std::string zstd(const std::string& text) {
  std::string packed(ZSTD_compressBound(text.size()), '\0');
  ZSTD_CCtx* context = ZSTD_createCCtx();
  ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, 1);  // as the zstd program does
  packed.resize(ZSTD_compress2(context, packed.data(), packed.size(), text.data(), text.size()));
  ZSTD_freeCCtx(context);
  return packed;
}

class TextFilesTest : public testing::Test {
 protected:
  using Texts = std::vector<std::string>;
  std::string file(const std::string& name, const std::string& content) {
    fs::create_directories((dir_ / name).parent_path());
    return write_bytes(dir_ / name, content);
  }
  static Texts read(const TextFileOptions& options) {
    DocumentReader reader(options);
    Texts texts;
    while (const auto document = reader.next()) texts.push_back(document_text(*document, options));
    return texts;
  }
  Texts read(const std::string& path) { return read(TextFileOptions{.inputs = {path}}); }
  std::string error_of(TextFileOptions options) {
    return user_error_of([&] { read(options); });
  }
  /// Of the line `record` behind a good one.
  std::string record_error(const std::string& record) {
    return error_of({.inputs = {file("r.jsonl", "{\"text\": \"good\"}\n" + record + "\n")}});
  }
  std::string replaced_record(const std::string& record) {
    return read({.inputs = {file("r.jsonl", record)}, .invalid_utf8 = InvalidUtf8::kReplace})[0];
  }
  TempDir dir_;
};

TEST_F(TextFilesTest, AByteOrderMarkIsNoText) {
  EXPECT_EQ(read(file("a.txt", kMark + std::string("text"))), Texts{"text"});
  EXPECT_EQ(read(file("a.jsonl", kMark + std::string("{\"text\": \"b\"}\n"))), Texts{"b"});
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "u.txt is UTF-16",
                      error_of({.inputs = {file("u.txt", std::string("\xFF\xFEt\0", 4))}}));
}

TEST_F(TextFilesTest, FieldsThatNobodyReadsMayHoldAnything) {
  const std::string deep = std::string(5000, '[') + std::string(5000, ']');
  for (const std::string& other : {std::string("NaN"), std::string("-Infinity"), std::string("1e999"), deep})
    EXPECT_EQ(read(file("a.jsonl", "{\"n\": " + other + ", \"text\": \"a\", \"m\": " + other + "}")),
              Texts{"a"});
  EXPECT_EQ(read(file("a.jsonl", "{\"n\": \"\\ud800\", \"te\\u0078t\": \"a\\ud83d\\ude42\\n\"}")),
            Texts{"a🙂\n"});
}

TEST_F(TextFilesTest, ABadRecordIsNamedWithLineByteAndReason) {
  for (const auto& [record, named] : std::vector<std::pair<std::string, std::string>>{
           {"{'text':'a'}", "r.jsonl:2: not JSON"},
           {"{\"text\": \"a", "r.jsonl:2: not JSON: a string does not close, at byte 12"},
           {"[1]", "r.jsonl:2: not a JSON object, at byte 1"},
           {"  \"a\"", "r.jsonl:2: not a JSON object, at byte 3"},
           {"{\"text\": \"a\"} {}", "r.jsonl:2: there is more behind the object, at byte 15"},
           {"{\"text\": \"a\"", "r.jsonl:2: not JSON"},
           {"{\"text\": \"a\" \"b\": 1}", "r.jsonl:2: not JSON"},
           {"{\"body\": \"a\"}", "r.jsonl:2: the record has no field \"text\""},
           {"{\"text\": 5}", "r.jsonl:2: the field \"text\" is not a string, at byte 10"},
           {"{\"text\": null}", "r.jsonl:2: the field \"text\" is not a string"},
           {"{\"text\": \"a\", \"text\": \"b\"}", "r.jsonl:2: the field \"text\" comes twice"},
           {"{\"text\": \"\\ud800\"}", "r.jsonl:2: an escape of half a surrogate pair"},
           {"{\"text\": \"\\q\"}", "r.jsonl:2: not JSON"},
           {"{\"text\": \"a\xFF\"}", "r.jsonl:2: byte 29 of the file, 0xff, is not UTF-8"},
           {"{\"text\": \"a\tb\"}", "r.jsonl:2: not JSON"}}) {
    const std::string error = record_error(record);
    EXPECT_PRED_FORMAT2(testing::IsSubstring, named, error) << record;
  }
}

TEST_F(TextFilesTest, BadRecordsCanBeLeftOutAndAreCounted) {
  PrepareOptions options{.output = (dir_ / "x").string()};
  options.text.inputs = {file("a.jsonl", "{\"text\": \"a\"}\nnonsense\n\n{\"text\": 1}\n{\"text\": \"b\"}\n"),
                         file("b.txt", "c"), file("c.txt", "\xC3")};
  options.text.bad_records = BadRecords::kSkip;
  const PrepareResult result = prepare_dataset(options, *make_byte_tokenizer());
  EXPECT_EQ(result.train.num_documents, 3);
  EXPECT_EQ(result.num_bad_records, 3);
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "a.jsonl:2: not a JSON object", result.first_bad_record);
}

TEST_F(TextFilesTest, InvalidUtf8IsRefusedWithItsByteOrReplaced) {
  const std::string path = file("a.txt", "one\ntwo\xFF\n");
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "a.txt:2: byte 8 of the file, 0xff, is not UTF-8",
                      error_of({.inputs = {path}}));
  EXPECT_EQ(read({.inputs = {path}, .invalid_utf8 = InvalidUtf8::kReplace}),
            Texts{fmt::format("one\ntwo{}\n", kReplacement)});
  // Behind a mark and a separator bytes are still those of the file.
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "b.txt:3: byte 11 of the file",
                      error_of({.inputs = {file("b.txt", kMark + std::string("a\n--\nxy\xFF"))},
                                .document_separator = "--"}));
  EXPECT_EQ(replaced_record("{\"text\": \"a\xFF\\ud800b\\\\ud800\\udc00\\ud83d\\ude42\"}"),
            fmt::format("a{0}{0}b\\ud800{0}🙂", kReplacement));
}

TEST(Utf8, EveryFormOfInvalidityIsFound) {
  const std::string R = kReplacement;
  for (const auto& [text, valid, replaced] :
       std::vector<std::tuple<std::string, size_t, std::string>>{{"aé€🙂", 10, "aé€🙂"},
                                                                 {"a\x80", 1, "a" + R},
                                                                 {"\xC0\xAF", 0, R + R},
                                                                 {"\xE0\x80\x80", 0, R + R + R},
                                                                 {"\xED\xA0\x80", 0, R + R + R},
                                                                 {"\xF4\x90\x80\x80", 0, R + R + R + R},
                                                                 {"\xF5", 0, R},
                                                                 {"a\xE2\x82", 1, "a" + R},
                                                                 {"\xF0\x9F\x99z", 0, R + "z"},
                                                                 {"\xC3(", 0, R + "("}}) {
    EXPECT_EQ(valid_utf8(text), valid);
    EXPECT_EQ(replace_invalid_utf8(text), replaced);
    EXPECT_EQ(valid_utf8(replaced), replaced.size());
  }
}

TEST_F(TextFilesTest, PackedFilesAreTheirContent) {
  std::string text;
  for (int i = 0; i < 300000; ++i) text += std::to_string(i) + "\n";
  for (const auto pack : {gzip, zstd}) {
    const std::string name = pack == &gzip ? "a.txt.gz" : "a.txt.zst";
    EXPECT_EQ(read(file(name, pack(text))), Texts{text});
    // Packed in two, and put together.
    EXPECT_EQ(read(file(name, pack(text.substr(0, 1000)) + pack(text.substr(1000)))), Texts{text});
    const std::string packed = pack(text);
    for (const size_t size : {size_t{0}, size_t{1}, packed.size() / 2, packed.size() - 1})
      EXPECT_PRED_FORMAT2(testing::IsSubstring, name + " cannot be unpacked",
                          error_of({.inputs = {file(name, packed.substr(0, size))}}))
          << size;
    std::string damaged = packed;
    damaged[damaged.size() / 2] ^= 1;
    EXPECT_PRED_FORMAT2(testing::IsSubstring, name + " cannot be unpacked",
                        error_of({.inputs = {file(name, damaged)}}));
    EXPECT_PRED_FORMAT2(testing::IsSubstring, "cannot be unpacked",
                        error_of({.inputs = {file(name, "text")}}));
  }
  EXPECT_EQ(read(file("b.jsonl.gz", gzip("{\"text\": \"a\"}\n"))), Texts{"a"});
}

TEST_F(TextFilesTest, AZstdWindowIsNoLargerThanZstdItselfTakes) {
  // A header that declares a window of 2^log bytes, and "x" as it is.
  const auto packed = [](int log) {
    return std::string("\x28\xB5\x2F\xFD\0", 5) + char((log - 10) << 3) + std::string("\x09\0\0x", 4);
  };
  EXPECT_EQ(read(file("a.txt.zst", packed(27))), Texts{"x"});
  EXPECT_PRED_FORMAT2(
      testing::IsSubstring,
      "a.txt.zst cannot be unpacked: its window is larger than 128 MiB; pack it again without",
      error_of({.inputs = {file("a.txt.zst", packed(28))}}));
}

TEST_F(TextFilesTest, FoldersAndPatternsStandForTheirFilesInOrder) {
  file("d/b.txt", "b");
  file("d/a.md", "a");
  file("d/c/x.jsonl", "{\"text\": \"x\"}");
  file("d/picture.png", "?");
  EXPECT_EQ(read((dir_ / "d").string()), (Texts{"a", "b", "x"}));
  EXPECT_EQ(DocumentReader({.inputs = {(dir_ / "d").string()}}).inputs().num_ignored, 1);
  file("1.txt", "1");
  file("2.txt", "2");
  EXPECT_EQ(read((dir_ / "?.txt").string()), (Texts{"1", "2"}));
  file("[x].txt", "brackets");
  EXPECT_EQ(read((dir_ / "[x].txt").string()), Texts{"brackets"});
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "no input file matches",
                      error_of({.inputs = {(dir_ / "*.none").string()}}));
  fs::create_directory(dir_ / "e");
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "e has no .txt, .md or .jsonl",
                      error_of({.inputs = {(dir_ / "e").string()}}));
}

TEST_F(TextFilesTest, StandardInputIsReadToItsEnd) {
  const int saved = dup(STDIN_FILENO);
  for (const auto format : {TextFormat::kText, TextFormat::kJsonLines}) {
    int ends[2];
    ASSERT_EQ(pipe(ends), 0);
    const std::string content = "{\"text\": \"a\"}\n{\"text\": \"b\"}";
    ASSERT_EQ(write(ends[1], content.data(), content.size()), ssize_t(content.size()));
    close(ends[1]);
    ASSERT_EQ(dup2(ends[0], STDIN_FILENO), STDIN_FILENO);
    close(ends[0]);
    const TextFileOptions options{.inputs = {file("x.txt", "x"), "-"}, .standard_input = format};
    EXPECT_EQ(read(options), format == TextFormat::kText ? Texts({"x", content}) : Texts({"x", "a", "b"}));
    EXPECT_EQ(DocumentReader(options).total_bytes(), 0);
  }
  dup2(saved, STDIN_FILENO);
  close(saved);
}

TEST_F(TextFilesTest, PipesAndDevicesAreRefusedAtOnce) {
  const std::string pipe = (dir_ / "p.txt").string();
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "a named pipe", error_of({.inputs = {pipe}}));
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "standard input, named -", error_of({.inputs = {pipe}}));
  fs::create_symlink("/dev/zero", dir_ / "z.txt");
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "a device", error_of({.inputs = {(dir_ / "z.txt").string()}}));
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "named twice", error_of({.inputs = {"-", "-"}}));
}

TEST_F(TextFilesTest, BlankDocumentsAreCountedWhateverTheyComeFrom) {
  PrepareOptions options{.output = (dir_ / "x").string()};
  options.text.document_separator = "--";
  options.text.inputs = {
      file("a.txt", "--\na\n--\n \n--\n--\nb\n--\n"),  // 2 between separators
      file("b.txt", " \n\t\n"), file("c.txt", ""),     // 2 files
      file("d.jsonl", "{\"text\": \"\"}\n\n{\"text\": \" \\n\"}\n{\"text\": \"c\"}\n")};  // 2
  const PrepareResult result = prepare_dataset(options, *make_byte_tokenizer());
  EXPECT_EQ(result.train.num_documents, 3);
  EXPECT_EQ(result.num_empty_documents, 6);
}

}  // namespace
}  // namespace spanwise
